"""The response-act head: what it learns in stage 1, how it gets to stage 2, and figures that never stand alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import load_file

from heedful import corpora
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.formats import make, pack
from heedful.formats.tree import TokenTree
from heedful.models.forward import states_and_logits, tensors
from heedful.taxonomy import get as label_set
from heedful.testing import conversation, conversations, save_tiny, tiny_model
from heedful.training import act_table
from heedful.training.config import ActHeadConfig
from heedful.training.methods import Run, configured
from heedful.training.rl.acts import (
    HEADS,
    figures,
    load_act_head,
    new_act_head,
    open_act_head,
    path_means,
    save_heads,
)
from heedful.training.rl.collect import prompts_of
from heedful.training.rl.experience import Prompt
from heedful.training.sft import Collator
from heedful.types import Conversation, Label

pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
ACTS = "hope_act"
HEAD = {"label_set": ACTS, "dropout": 0.0, "coef": 1.0}


def acted(conv: Conversation, name: str) -> Conversation:
    """Therapists ask (YNQ) and clients tell (ID): what the speaker before gives away."""
    turns = tuple(
        replace(t, labels=(Label(set=ACTS, value="YNQ" if t.role == "assistant" else "ID"),)) for t in conv.turns
    )
    return replace(conv, id=f"{name}-{conv.id}", turns=turns, split=name)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reader")
    save_tiny(root / "model")
    talks = [acted(c, "train") for c in conversations(5, seed=1)] + [
        acted(c, "valid") for c in conversations(3, seed=2)
    ]
    corpora.write_jsonl(root / "talks.jsonl", talks)
    return root


def go(bench: Path, name: str, **values: Any) -> Run:
    method, config = configured(
        {
            "method": "sft", "model_name_or_path": str(bench / "model"), "dataset": str(bench / "talks.jsonl"),
            "format": {"name": "reader", "window": 1}, "precision": "fp32", "lora_rank": 4, "learning_rate": 1e-2,
            "per_device_train_batch_size": 8, "max_steps": 12, "eval_steps": 6, "save_steps": 6,
            "output_dir": str(bench / name), "act_head": HEAD, **values,
        }
    )  # fmt: skip
    return method.train(config)


@pytest.fixture(scope="module")
def first(bench: Path) -> Run:
    """Stage 1."""
    return go(bench, "first", max_steps=24, eval_steps=12, save_steps=12)


def test_stage_1_learns_the_act_and_prints_it_beside_its_floors(first: Run) -> None:
    found = first.summary["acts"]
    assert (found["split"], found["label_set"], found["sessions"]) == ("valid", ACTS, 3)
    assert set(found["rows"]) == {"act_head", "majority", "speaker", "next_speaker"}
    assert found["rows"]["act_head"]["accuracy"]["value"] > found["rows"]["majority"]["accuracy"]["value"] + 10
    assert found["rows"]["act_head"]["accuracy"]["low"] is not None
    weights = load_file(str(first.folder / "adapter_model.safetensors"))
    assert not any("act_head" in name for name in weights)  # peft and transformers open the adapter as ever
    head, name = open_act_head(first.folder)
    assert (head.labels, name) == (label_set(ACTS).names, ACTS)


def test_without_a_weight_the_head_is_measured_and_not_trained(bench: Path) -> None:
    run = go(bench, "idle", act_head={**HEAD, "coef": 0.0}, max_steps=2, eval_steps=None)
    head, _ = open_act_head(run.folder)
    fresh = new_act_head(ActHeadConfig(**HEAD), 32, seed=13)
    for name, value in head.state_dict().items():
        torch.testing.assert_close(value, fresh.state_dict()[name])
    assert run.summary["acts"]["n"] == 22


def test_a_resumed_stage_1_is_the_same(bench: Path, first: Run) -> None:
    go(bench, "resumed", max_steps=6, lr_scheduler_type="constant")
    whole = go(bench, "whole", lr_scheduler_type="constant")
    again = go(bench, "resumed", max_steps=12, resume_from_checkpoint=True, lr_scheduler_type="constant")
    for file in (HEADS, "adapter_model.safetensors"):
        ours, theirs = load_file(str(again.folder / file)), load_file(str(whole.folder / file))
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=0)


def test_stage_2_begins_with_the_head_of_stage_1(bench: Path, first: Run) -> None:
    values: dict[str, Any] = {
        "method": "ppo", "model_name_or_path": str(first.folder), "rewards": ["bleu1"], "rollout_batch_size": 4,
        "mini_batch_size": 4, "num_iterations": 1, "max_new_tokens": 6, "max_steps": 1, "eval_steps": None,
        "probe_prompts": 2, "learning_rate": 1e-9, "format": None, "per_device_train_batch_size": 4,
    }  # fmt: skip
    run = go(bench, "second", **values)
    ours, theirs = load_file(str(run.folder / HEADS)), load_file(str(first.folder / HEADS))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=0)
    assert "value.out.weight" in ours
    assert run.summary["acts"]["rows"]["act_head"] == first.summary["acts"]["rows"]["act_head"]
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= rows[0]["act_accuracy"] <= 1
    assert rows[0]["act_loss"] > 0
    probes = [json.loads(line) for line in (run.folder / "probes.jsonl").read_text().splitlines()]
    assert all(row["plan"][ACTS] in label_set(ACTS).names for row in probes)
    with pytest.raises(ConfigError, match=r"knows the acts of 'hope_act'.*mesc_strategy"):
        go(bench, "third", **{**values, "act_head": {"label_set": "mesc_strategy"}})


def test_the_released_way_runs_from_end_to_end(bench: Path, first: Run) -> None:
    quirks = {
        "kl_relu": True, "kl_scale": 0.001, "lm_on_samples": True, "pad_prompts": 60, "act_sees_reply": True,
        "ban_seen_tokens": True, "values_shifted": True, "cross_sessions": True, "special_tokens_in_reward": True,
    }  # fmt: skip
    run = go(
        bench, "released", method="ppo", model_name_or_path=str(first.folder), rewards=["bleu1"], format=None,
        rollout_batch_size=4, mini_batch_size=1, per_device_train_batch_size=1, num_iterations=2, max_new_tokens=5,
        min_new_tokens=5, top_k=6, top_p=0.9, ptx_coef=1.0, max_steps=1, eval_steps=None, compat=quirks,
        eval_split=None,
    )  # fmt: skip
    row = json.loads((run.folder / "metrics.jsonl").read_text())
    assert (row["length"], row["updates"], row["truncated"]) == (5.0, 8.0, 1.0)
    assert row["ptx_loss"] > 0
    plain = json.loads((first.folder / "summary.json").read_text())
    assert run.summary["data_hash"] != plain["data_hash"]


def test_stage_1_without_any_act_is_refused(bench: Path) -> None:
    with pytest.raises(DataError, match="carries an act of 'mesc_strategy'"):
        go(bench, "none", act_head={"label_set": "mesc_strategy"})


# ------------------------------------------------------------------ where the head looks


def test_stage_1_and_stage_2_average_over_the_same_tokens() -> None:
    """Samples that share their beginning in one tree, in one row, beside a longer row."""
    causal, fmt = tiny_model(), make("chat")
    talks = [acted(c, "train") for c in conversations(2, seed=4)]
    samples = [fmt.samples(c, causal.tokenizer, max_length=4000) for c in talks]
    trees = [TokenTree.merge(group) for group in samples]
    flat = [s for group in samples for s in group]
    batch = Collator(causal.pad_id, {s.id: i for i, s in enumerate(flat)})(trees)
    assert sorted(batch["act"].tolist()) == list(range(len(flat)))
    assert "act_at" not in Collator(causal.pad_id)(trees)
    for attention in (True, False):
        with torch.no_grad():
            used = batch if attention else {k: v for k, v in batch.items() if k != "attention"}
            states, _ = states_and_logits(causal.model, used)
            found = path_means(states, used, used["act_at"])
            for mean, act in zip(found, batch["act"].tolist(), strict=True):
                sample = flat[act]
                out = causal.model(input_ids=torch.tensor([sample.prompt]), output_hidden_states=True)
                torch.testing.assert_close(mean, out.hidden_states[-1][0].mean(0), atol=1e-4, rtol=0)


def test_a_branch_does_not_see_its_neighbour() -> None:
    causal, fmt = tiny_model(), make({"name": "structured", "use_emotion": False, "emit_emotion": False})
    talk = conversation("Hi.", "Yes?", "Noise.", "I see.")
    samples = fmt.samples(talk, causal.tokenizer, max_length=400)
    packed = pack([TokenTree.merge(samples)], pad_id=causal.pad_id)
    assert packed.attention is not None
    batch = tensors(packed)
    with torch.no_grad():
        states, _ = states_and_logits(causal.model, batch)
        first = torch.tensor([list(packed.owner).index(i) for i in range(2)])
        found = path_means(states, batch, first)
        for mean, sample in zip(found, samples, strict=True):
            out = causal.model(input_ids=torch.tensor([sample.prompt]), output_hidden_states=True)
            torch.testing.assert_close(mean, out.hidden_states[-1][0].mean(0), atol=1e-4, rtol=0)


# ------------------------------------------------------------------ kept and measured


def test_heads_are_kept_with_the_names_of_their_acts(tmp_path: Path) -> None:
    head = new_act_head(ActHeadConfig(label_set=ACTS), 8, seed=1)
    save_heads(tmp_path, {"act": head}, label_set=ACTS)
    found, name = open_act_head(tmp_path)
    assert (name, found.labels) == (ACTS, head.labels)
    torch.testing.assert_close(found.layers[0].weight, head.layers[0].weight)
    other = new_act_head(ActHeadConfig(label_set="mesc_strategy"), 8, seed=1)
    with pytest.raises(ConfigError, match="knows the acts of 'hope_act'"):
        load_act_head(other, tmp_path, "mesc_strategy")
    empty = tmp_path / "empty"
    empty.mkdir()
    save_heads(empty, {}, label_set=None)
    assert list(empty.iterdir()) == []
    assert not load_act_head(head, empty, ACTS)
    with pytest.raises(NotFoundError, match="has no act head"):
        open_act_head(empty)


def rows_of(*acts: str, name: str) -> list[Prompt]:
    """Prompts of one session whose utterances have these acts; clients and therapists take turns."""
    talk = conversation(*("word" for _ in acts), id=name, labels={i: {ACTS: act} for i, act in enumerate(acts)})
    fmt = make("reader")
    return prompts_of([talk], fmt, fmt.samples(talk, tiny_model().tokenizer, max_length=400))


def test_floors_by_hand() -> None:
    """Training: after a client YNQ YNQ, after a therapist ID GC ID; so overall the most frequent is YNQ or ID."""
    train = rows_of("ID", "YNQ", "ID", "YNQ", "ID", "IRQ", name="train")
    held = [*rows_of("ID", "YNQ", "GC", name="a"), *rows_of("ID", "IRQ", "ID", name="b")]
    found = figures(held, ["YNQ", "GC", "YNQ", "YNQ"], train, labels=label_set(ACTS).names, label_set=ACTS)
    value = {name: row["accuracy"]["value"] for name, row in found["rows"].items()}
    # gold: YNQ GC IRQ ID
    assert value == {"act_head": 50.0, "majority": 25.0, "speaker": 50.0, "next_speaker": 50.0}
    assert (found["n"], found["sessions"]) == (4, 2)
    assert found["recall"]["GC"] == 100.0
    assert found["recall"]["CD"] is None
    assert found["rows"]["act_head"]["macro_f1"]["value"] == pytest.approx(100 * (0.5 + 1.0) / 12)


def test_the_table_of_several_runs(bench: Path, first: Run) -> None:
    method, config = configured(
        {
            "method": "heedful.training.act_table:ACTS", "systems": {"sft": str(first.folder)},
            "dataset": str(bench / "talks.jsonl"), "eval_split": "valid", "output_dir": str(bench / "acts"),
        }
    )  # fmt: skip
    said: list[str] = []
    run = method.train(config, say=said.append)
    assert run.summary["systems"]["sft"]["rows"] == first.summary["acts"]["rows"]
    text = (run.folder / "README.md").read_text()
    assert "always the most frequent act" in text
    assert "no model knows who" in text
    assert said[-1].startswith("next act, accuracy: sft ")
    places = [json.loads(line) for line in (run.folder / "acts.jsonl").read_text().splitlines()]
    assert len(places) == run.summary["systems"]["sft"]["n"]
    assert set(places[0]) == {"id", "gold", "sft"}
    with pytest.raises(act_table.UserError, match="holds a table already"):
        method.train(config)
