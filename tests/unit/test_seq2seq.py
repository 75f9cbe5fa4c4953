"""`method: seq2seq`: BlenderBot-small trained from a configuration to a run that chat, evaluations and studies open."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pairs_kit import pair, save_pair
from training_kit import Crash, Killed, assert_same_run, losses, metrics
from transformers import TrainerCallback

from heedful import corpora
from heedful.errors import ConfigError, UserError
from heedful.formats import make
from heedful.models.causal import add_markers, load
from heedful.models.decoding import Decoding
from heedful.models.forward import likelihood
from heedful.models.generate import generate
from heedful.models.merged import merged
from heedful.models.pairs import pair_logits, pair_tensors
from heedful.testing import conversations, save_tiny
from heedful.training.methods import Run, configured
from heedful.training.seq2seq import Seq2SeqConfig, replies_of
from heedful.types import Conversation

# The format's markers are new tokens, so peft keeps the whole table beside the adapter and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")


def talks() -> list[Conversation]:
    """Eight to train on, three to choose by, three to test on; every turn is labelled."""
    parts = [("train", 8), ("valid", 3), ("test", 3)]
    return [
        replace(c, split=split) for seed, (split, n) in enumerate(parts) for c in conversations(n, seed + 1, turns=6)
    ]


class Bench:
    """A tiny BlenderBot-small with dropout, a corpus, and runs beside them."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "talks.jsonl"
        self.model = save_pair(root / "bot", dropout=0.1)
        corpora.write_jsonl(self.data, talks())

    def values(self, name: str, **more: Any) -> dict[str, Any]:
        """Settings of a run in `name`: 24 replies, 3 steps an epoch, every step logged."""
        return {
            "method": "seq2seq", "model_name_or_path": str(self.model), "dataset": str(self.data), "precision": "fp32",
            "per_device_train_batch_size": 8, "learning_rate": 0.01, "warmup_steps": 0, "logging_steps": 1,
            "save_steps": 100, "allow_leaks": True, "output_dir": str(self.root / name), **more,
        }  # fmt: skip

    def run(self, name: str, *callbacks: TrainerCallback, **more: Any) -> Run:
        """Train."""
        method, config = configured(self.values(name, **more))
        return method.train(config, callbacks=callbacks)


def started(values: dict[str, Any]) -> Run:
    """Train as `values` say."""
    method, config = configured(values)
    return method.train(config)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("seq2seq"))


@pytest.fixture(scope="module")
def joint(bench: Bench) -> Run:
    return bench.run("joint")


# ------------------------------------------------------------------ what is learnt


def test_targets_are_cut_with_one_more_for_the_strategy(bench: Bench) -> None:
    causal = pair(bench.root / "cut")
    add_markers(causal, make("joined").markers)
    whole = replies_of(talks(), make("joined"), causal.tokenizer, max_length=160, max_target_length=1000)
    cut = replies_of(talks(), make("joined"), causal.tokenizer, max_length=160, max_target_length=12)
    assert [s.target for s in cut.rows] == [s.target[:13] for s in whole.rows]
    assert cut.cut == sum(len(s.target) > 13 for s in whole.rows) > 0 == whole.cut
    assert max(len(s.prompt) for s in whole.rows) == 160
    assert cut.target_tokens == sum(len(s.target) for s in cut.rows)


def test_the_first_loss_is_the_mean_over_all_target_tokens(bench: Bench) -> None:
    """Strategy included, words and strategies alike among the whole vocabulary, by a sum over single rows."""
    quiet = save_pair(bench.root / "quiet")
    run = bench.run("first", model_name_or_path=str(quiet), max_steps=1, per_device_train_batch_size=24)
    causal = load(str(quiet), accept="any")
    add_markers(causal, make("joined").markers)
    train = [c for c in talks() if c.split == "train"]
    rows = replies_of(train, make("joined"), causal.tokenizer, max_length=160, max_target_length=40).rows
    assert len(rows) == 24
    total = 0.0
    for sample in rows:
        with torch.no_grad():
            logits = causal.model(
                input_ids=torch.tensor([sample.prompt]), decoder_input_ids=torch.tensor([[1, *sample.target[:-1]]])
            ).logits[0].double()  # fmt: skip
        total -= sum(float(logits[k].log_softmax(0)[token]) for k, token in enumerate(sample.target))
    assert losses(run.folder) == [pytest.approx(total / sum(len(s.target) for s in rows), rel=1e-5)]
    assert run.summary["tokens"] == sum(len(s) for s in rows)


def test_batches_may_be_cut_into_passes(bench: Bench) -> None:
    quiet = str(bench.root / "quiet")
    save_pair(Path(quiet))
    one = bench.run("whole", model_name_or_path=quiet, max_steps=3)
    two = bench.run(
        "parts", model_name_or_path=quiet, max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    assert losses(two.folder) == pytest.approx(losses(one.folder), rel=1e-4)


def test_validation_is_the_perplexity_of_words_after_the_gold_strategy(bench: Bench, joint: Run) -> None:
    causal = load(str(joint.folder), accept="any")
    add_markers(causal, make("joined").markers)
    held = [c for c in talks() if c.split == "valid"]
    rows = replies_of(held, make("joined"), causal.tokenizer, max_length=160, max_target_length=40).rows
    found = likelihood(causal, rows)
    expected = sum(x.text_nll for x in found) / sum(x.text_tokens for x in found)
    last = metrics(joint.folder)[-1]
    assert last["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert last["eval_perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    with torch.no_grad():
        z = pair_logits(causal.model, pair_tensors(causal, rows))[:, 0, -8:]
    right = sum(causal.marks[int(k)] == s.target[0] for k, s in zip(z.argmax(1), rows, strict=True))
    assert last["eval_plan_accuracy"] == pytest.approx(right / len(rows))
    assert joint.summary["best_eval_loss"] == last["eval_loss"]


def test_it_learns(bench: Bench) -> None:
    found = losses(bench.run("learns", max_steps=30, eval_split=None).folder)
    assert sum(found[-3:]) < 0.8 * sum(found[:3])


# ------------------------------------------------------------------ the run


def test_the_run_says_what_happened_and_opens_as_a_transformers_folder(joint: Run) -> None:
    from transformers import AutoModelForSeq2SeqLM

    summary = json.loads((joint.folder / "summary.json").read_text("utf-8"))
    assert (summary["method"], summary["steps"], summary["planned_steps"]) == ("seq2seq", 6, 6)
    assert summary["trainable_parameters"] == summary["parameters"]
    assert summary["format"].startswith("joined/v1#")
    assert summary["replies_cut"] > 0
    assert "not a therapist" in (joint.folder / "README.md").read_text("utf-8")
    model = AutoModelForSeq2SeqLM.from_pretrained(str(joint.folder))
    causal = load(str(joint.folder), accept="any")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, causal.model.state_dict()[name])


def test_vanilla_adds_nothing_to_the_vocabulary(bench: Bench) -> None:
    spec = {"name": "joined", "predict": False, "context_strategies": False}
    run = bench.run("vanilla", format=spec, max_steps=2)
    causal = load(str(run.folder), accept="any")
    assert len(causal.tokenizer) == len(load(str(bench.model), accept="any").tokenizer)
    assert "eval_plan_accuracy" not in metrics(run.folder)[-1]


def test_a_dry_run_counts_without_weights(bench: Bench, joint: Run) -> None:
    method, config = configured(bench.values("dry"))
    plan = method.plan(config)
    assert (plan["targets"], plan["steps"], plan["eval_targets"]) == (24, 6, 9)
    assert plan["data_hash"] == joint.summary["data_hash"]
    assert plan["memory_bytes"] > 0
    assert not (bench.root / "dry").exists()


@pytest.mark.parametrize("more", [{}, {"delta": "lora", "lora_rank": 4}, {"eval_steps": 2, "save_steps": 2}])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(bench: Bench, more: dict[str, Any]) -> None:
    name = "-".join(["run", *map(str, more.values())])
    whole = bench.run(name, **{"save_steps": 2, **more})
    with pytest.raises(Killed):
        bench.run(f"{name}-killed", Crash(4), **{"save_steps": 2, **more})
    with pytest.raises(UserError, match="--resume"):
        bench.run(f"{name}-killed", **{"save_steps": 2, **more})
    again = bench.run(f"{name}-killed", **{"save_steps": 2, "resume_from_checkpoint": True, **more})
    assert again.summary["tokens"] == whole.summary["tokens"]
    assert again.summary["continued"][0]["from_step"] == 2
    assert_same_run(again.folder, whole.folder)


@pytest.mark.parametrize("delta", ["lora", "dora", "bias"])
def test_a_delta_method_trains_the_strategies_everywhere(bench: Bench, delta: str) -> None:
    """The rows of the eight are read by encoder and decoder and written by the output layer; all move together."""
    more = {} if delta == "bias" else {"lora_rank": 4}
    run = bench.run(f"delta-{delta}", delta=delta, max_steps=3, **more)
    assert 0 < run.summary["trainable_parameters"] < run.summary["parameters"]
    base, causal = load(str(run.folder), adapter=False, accept="any"), load(str(run.folder), accept="any")
    add_markers(causal, make("joined").markers)
    inner = causal.model.get_base_model()
    marks = torch.tensor(causal.marks)
    tables = [inner.model.encoder.embed_tokens(marks), inner.model.decoder.embed_tokens(marks)]
    torch.testing.assert_close(tables[0], tables[1])
    assert (tables[0] - base.model.get_input_embeddings()(marks)).abs().max() > 1e-3
    states = torch.randn(3, 16)
    torch.testing.assert_close(inner.lm_head(states)[:, -8:], states @ tables[0].T)
    due = [s for c in talks()[:2] for s in make("joined").samples(c, causal.tokenizer, max_length=60)]
    plain = likelihood(causal, due)
    with merged(causal.model):
        together = likelihood(causal, due)
    assert [x.text_nll for x in together] == pytest.approx([x.text_nll for x in plain], rel=1e-5)
    assert [x.text_nll for x in likelihood(base, due)] != pytest.approx([x.text_nll for x in plain], rel=1e-3)


def test_gradient_checkpointing_changes_no_loss(bench: Bench) -> None:
    quiet = str(save_pair(bench.root / "quiet"))
    one = bench.run("plain", model_name_or_path=quiet, max_steps=2, eval_split=None)
    two = bench.run("saving", model_name_or_path=quiet, max_steps=2, eval_split=None, gradient_checkpointing=True)
    assert losses(two.folder) == pytest.approx(losses(one.folder), rel=1e-5)


def test_a_run_starts_from_a_run_and_keeps_its_format(bench: Bench) -> None:
    spec = {"name": "joined", "context_strategies": False}
    first = bench.run("stage-one", delta="lora", format=spec, max_steps=1, eval_split=None)
    second = bench.run("stage-two", delta="lora", model_name_or_path=str(first.folder), max_steps=1, eval_split=None)
    assert second.summary["format"] == make(spec).fingerprint
    assert second.summary["base_run"]["folder"] == str(first.folder)
    assert load(str(second.folder), accept="any").encodes


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"format": "strategy"}, "format: joined"),
        ({"keep_context": 0.7}, "no effect"),
        ({"overlong": "skip"}, "no effect"),
        ({"train_split": "test"}, "test part"),
        ({"train_split": None, "eval_split": None}, "test part"),
        ({"max_length": 513}, "built for 512|max_length"),
        ({"max_target_length": 600}, None),
    ],
)
def test_what_makes_no_sense_is_refused(bench: Bench, more: dict[str, Any], said: str | None) -> None:
    if said is None:  # no reply is that long, so nothing is wrong
        assert bench.run("long-room", max_steps=1, eval_split=None, **more).summary["replies_cut"] == 0
        return
    values = bench.values("refused", **more)
    if "max_length" in more:
        long = [replace(c, turns=tuple(replace(t, text="x " * 300) for t in c.turns)) for c in talks()]
        corpora.write_jsonl(bench.root / "long.jsonl", long)
        values["dataset"] = str(bench.root / "long.jsonl")
    with pytest.raises(UserError, match=said):
        started(values)


def test_each_method_names_the_other(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method: sft"):
        bench.run("causal", model_name_or_path=str(save_tiny(tmp_path / "causal")))
    with pytest.raises(ConfigError, match="method: seq2seq"):
        started({**bench.values("pair"), "method": "sft"})


def test_defaults_are_those_of_the_released_code() -> None:
    config = Seq2SeqConfig()
    assert (config.max_length, config.max_target_length, config.per_device_train_batch_size) == (160, 40, 16)
    assert (config.learning_rate, config.warmup_steps, config.num_train_epochs) == (3e-5, 100, 2)
    assert (config.weight_decay, config.max_grad_norm, config.seed, config.delta) == (0.01, 1.0, 13, "full")


PUBLISHED = {
    "add_bias_logits": False, "add_final_layer_norm": False, "classif_dropout": 0.0, "do_blenderbot_90_layernorm": True,
    "extra_layer_norm": False, "extra_pos_embeddings": 0, "force_bos_token_to_be_generated": False,
    "forced_eos_token_id": 2, "gradient_checkpointing": False, "layernorm_variant": "xlm", "length_penalty": 0.65,
    "max_length": 128, "min_length": 20, "no_repeat_ngram_size": 3, "encoder_no_repeat_ngram_size": 3,
    "normalize_before": False, "normalize_embedding": True, "num_beams": 10, "num_hidden_layers": 8,
    "static_position_embeddings": False, "unk_token_id": 3, "variant": "xlm",
}  # fmt: skip
"""What a `config.json` of that age says besides: settings of generation among others, which newer versions move."""


def test_weights_of_2021_are_opened_trained_and_saved(bench: Bench, tmp_path: Path) -> None:
    """`pytorch_model.bin`, no safetensors, settings of generation in `config.json`, no `generation_config.json`."""
    from safetensors.torch import load_file

    folder = save_pair(tmp_path / "old")
    weights = load_file(str(folder / "model.safetensors"))
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **PUBLISHED}), "utf-8")
    run = bench.run("old", model_name_or_path=str(folder), max_steps=1)
    causal = load(str(run.folder), accept="any")
    add_markers(causal, make("joined").markers)
    due = [s for c in talks()[:1] for s in make("joined").samples(c, causal.tokenizer, max_length=60)]
    settings = Decoding(max_new_tokens=5)
    found = [made.written for batch in generate(causal, due, settings) for made in batch]
    assert all(len(written.tokens) <= 5 for written in found)  # its min_length of 20 and its ten beams are not ours
