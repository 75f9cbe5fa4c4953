"""`recipes/chatmgl-hope.yaml` on invented sessions and a tiny model; and scores with the prompt before the reply."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from corpora_kit import write_csv
from study_kit import config, prepare

from heedful.evaluation.study import study
from heedful.formats import make
from heedful.models.delta import DeltaSettings, attach, lora, trainable
from heedful.pipeline import read, run
from heedful.scoring import Rows, score
from heedful.settings import check
from heedful.testing import save_tiny
from heedful.training.config import TrainConfig

RECIPE = Path(__file__).parents[2] / "recipes" / "chatmgl-hope.yaml"


def options() -> list[list[str]]:
    """Every choice with every other one that it meets in a stage."""
    loaders, acts = ("v1", "v2", "shift", "v1_merged"), ("none", "prefix", "joint")
    found = [[f"loader={a}", f"acts={b}"] for a, b in itertools.product(loaders, acts)]
    found += [[f"method={m}", f"delta={d}"] for m in ("sft", "ppo") for d in ("lora", "rslora", "dora", "full", "bias")]
    return [*found, ["dataset=mesc", "split=folders", "acts=joint", "act_set=mesc_strategy"], ["fold=3", "seed=7"]]


@pytest.mark.parametrize("words", options(), ids=" ".join)
def test_every_choice_is_a_recipe(words: list[str]) -> None:
    found = read(RECIPE, words)
    given = dict(word.split("=") for word in words)
    names = [step.name for step in found.steps]
    assert names == (["sft", "judge", "ppo", "test_ppo"] if given.get("method") == "ppo" else ["sft", "test"])
    sft: Any = found.step("sft").config
    assert sft.delta == given.get("delta", "lora")
    assert sft.seed == int(given.get("seed", 42))
    fmt: Any = make(sft.format)
    assert fmt.acts == given.get("acts", "none")
    assert (fmt.loader, fmt.merge_turns) == (given.get("loader", "v1")[:2].replace("sh", "shift"),
                                             given.get("loader") == "v1_merged")  # fmt: skip
    folds = {} if given.get("split") == "folders" else {"folds": 4, "fold": int(given.get("fold", 0))}
    assert all(getattr(step.config, "dataset_options", folds) == folds for step in found.steps)


def test_lora_of_the_recipe_trains_less_than_a_twentieth_of_the_model() -> None:
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    sft: Any = read(RECIPE, []).step("sft").config
    settings = DeltaSettings(
        rank=sft.lora_rank,
        alpha=sft.lora_alpha,
        dropout=sft.lora_dropout,
        target_modules=sft.lora_target,
        new_tokens=(7,),
    )
    smollm2 = LlamaConfig(
        vocab_size=49153, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    counted = {}
    for name, shape in (("smollm2-135m", smollm2), ("gpt2-large", GPT2Config(n_embd=1280, n_layer=36, n_head=20))):
        with torch.device("meta"):
            model = attach(AutoModelForCausalLM.from_config(shape), lora(settings), name="lora")
        counted[name] = trainable(model)
        assert 0 < counted[name][0] / counted[name][1] < 0.05
        layers = {n for n, p in model.named_parameters() if p.requires_grad and "lora_" in n}
        assert layers
        assert all("attn" in layer for layer in layers)
    # q and o: 576 <-> 576, k and v: 576 -> 192, both ways of rank 8, in 30 layers; and one new token of 576.
    assert counted["smollm2-135m"][0] == 30 * 8 * (2 * (576 + 576) + 2 * (576 + 192)) + 576


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # the format's markers are new tokens
def test_the_recipe_from_sessions_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "hope").mkdir(parents=True)
    for number in range(8):
        rows = [
            {"ID": f"{number}_{i}", "Type": "TP"[i % 2], "Utterance": f"Line {i} of {number}.", "Dialog_Act": "id"}
            for i in range(6)
        ]
        write_csv(tmp_path / "data" / "hope" / f"{number}.csv", rows)
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path / "data"))
    words = [
        *("method=sft", "loader=v2", "delta=lora", "acts=joint", "new_tokens=4", "epochs=1"),
        *(f"model={save_tiny(tmp_path / 'tiny')}", f"output_dir={tmp_path / 'runs'}"),
        *("test.metrics=[rouge1, length]", "test.baselines=[fixed_reply]", "test.bootstrap=10"),
        *("test.labels.hope_act.tag=true", "sft.precision=fp32"),
    ]
    done = run(read(RECIPE, words))
    assert [(row.stage, row.state) for row in done.rows] == [("sft", "done"), ("test", "done")]
    summary = json.loads((tmp_path / "runs" / "test" / "summary.json").read_text())
    assert list(summary["scores"]) == ["greedy", "beams2", "beams4", "released"]
    for scores in summary["scores"].values():
        assert list(scores) == ["base", "base_echo", "sft", "sft_echo", "fixed_reply"]
        assert scores["sft_echo"]["rouge1"]["n"] == scores["sft"]["rouge1"]["n"] == 4  # two sessions, two patient lines
    assert {r["source"] for r in summary["labels"]["hope_act"]["greedy"]} == {"tag"}
    trained = json.loads((tmp_path / "runs" / "sft" / "summary.json").read_text())
    assert (trained["method"], trained["delta"]) == ("sft", "lora")
    assert check(TrainConfig, {"format": "qa"}, where="x").dataset == "commons"  # the recipe left defaults alone


def test_prompt_echo_scores_input_and_reply_together(tmp_path: Path) -> None:
    prepare(tmp_path)
    few: dict[str, Any] = {
        "decodings": {
            "greedy": {"max_new_tokens": 3},
            "drawn": {"max_new_tokens": 3, "do_sample": True, "seeds": [1, 2]},
        },
        "metrics": ["rouge1", "length"],
        "rewards": [{"name": "study_kit:words"}],
        "heldout": [],
        "labels": {"mesc_emotion": {"tag": True}},
        "baselines": ["fixed_reply"],
        "bootstrap": 20,
    }
    done = study(config(tmp_path, "echo", score_prompt_echo=True, **few))
    summary = done.summary
    assert [s["name"] for s in summary["systems"]] == ["base", "base_echo", "sft", "sft_echo", "fixed_reply"]
    lines = [json.loads(line) for line in (done.folder / "traces" / "sft.greedy.13.jsonl").read_text().splitlines()]
    records = [line for line in lines if "header" not in line]
    assert not list((done.folder / "traces").glob("*echo*"))  # nothing is written twice
    marks = ("<|context|>", "<|emotion|>", "<|user|>", "<|therapist|>")
    texts = []
    for record in records:
        prompt = record["prompt"]
        for mark in marks:
            prompt = prompt.replace(mark, "")
        texts.append(f"{prompt.strip()} {record['reply']}".strip())
    rows = Rows.of(texts, [r["reference"] for r in records], clusters=[r["conversation_id"] for r in records])
    expected = score(rows, metrics=["rouge1", "length"], bootstrap=0)
    found = summary["scores"]["greedy"]
    assert found["sft_echo"]["rouge1"]["value"] == pytest.approx(expected.value("rouge1"))
    assert found["sft_echo"]["length"]["value"] == pytest.approx(expected.value("length"))
    assert found["sft_echo"]["length"]["value"] > found["sft"]["length"]["value"]
    assert set(summary["scores"]["drawn"]["sft_echo"]["rouge1"]["seeds"]) == {"1", "2"}
    # Rewards, likelihoods, labels and samples are those of replies.
    assert set(found["sft_echo"]) == {"rouge1", "length"}
    assert {r["system"] for r in summary["labels"]["mesc_emotion"]["greedy"]} == {"base", "sft"}
    assert not any("echo" in name for example in summary["examples"] for name in example["replies"])
    assert any("_echo" in limit for limit in summary["limits"])
    assert "sft_echo" in done.report.read_text("utf-8")
    # The same study without it differs in nothing else.
    plain = study(config(tmp_path, "plain", **few)).summary
    assert plain["scores"]["greedy"]["sft"] == found["sft"]
    assert not any("_echo" in limit for limit in plain["limits"])


def test_prompt_echo_needs_its_name(tmp_path: Path) -> None:
    run_of = {"model_name_or_path": "somewhere"}
    with pytest.raises(Exception, match="two systems are called 'sft_echo'"):
        config(tmp_path, systems={"sft": run_of, "sft_echo": run_of}, score_prompt_echo=True, labels={})
    config(tmp_path, systems={"sft": run_of, "sft_echo": run_of}, labels={})
