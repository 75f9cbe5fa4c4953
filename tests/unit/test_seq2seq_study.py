"""An encoder-decoder as a system of evaluations, studies and suites beside a causal model on `commons`, and in chat."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nltk")

from pairs_kit import save_pair

from heedful import corpora, taxonomy
from heedful.agents.plan_mix import MIX
from heedful.cli import main
from heedful.errors import ConfigError
from heedful.evaluation.comparison import compare
from heedful.evaluation.config import EvalConfig
from heedful.evaluation.run import evaluate
from heedful.evaluation.steer import SteerConfig, steer
from heedful.evaluation.study import Study, study
from heedful.evaluation.study_config import StudyConfig
from heedful.evaluation.suites import Suite, study_of
from heedful.evaluation.traces import read_records
from heedful.models.causal import load
from heedful.settings import check
from heedful.testing import STRATEGY_SET, save_tiny
from heedful.training.methods import Run, configured

# The format's markers are new tokens, so peft keeps the whole table beside the adapter and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")

STRATEGIES = taxonomy.get(STRATEGY_SET).names
VANILLA = {"name": "joined", "predict": False, "context_strategies": False}


def trained(root: Path, name: str, **more: Any) -> Run:
    """Two steps on ten talks of `commons`."""
    values = {
        "method": "seq2seq", "model_name_or_path": str(root / "bot"), "dataset": "commons", "max_steps": 2,
        "max_train_conversations": 10, "eval_split": None, "precision": "fp32", "warmup_steps": 0,
        "learning_rate": 0.01, "output_dir": str(root / name), **more,
    }  # fmt: skip
    method, config = configured(values)
    return method.train(config)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("second-host")
    save_pair(found / "bot")
    save_tiny(found / "causal")
    trained(found, "joint")
    trained(found, "vanilla", format=VANILLA)
    return found


def values(root: Path, name: str, **more: Any) -> dict[str, Any]:
    joint = str(root / "joint")
    return {
        "dataset": "commons", "split": "test", "max_conversations": 2, "metrics": ["published"], "bootstrap": 20,
        "systems": {
            "causal": {"model_name_or_path": str(root / "causal"), "format": "chat"},
            "vanilla": {"model_name_or_path": str(root / "vanilla")},
            "joint": {"model_name_or_path": joint, "plan": "argmax"},
            "sampled": {"model_name_or_path": joint, "plan": {"choose": "sample", "temperature": 3.0, "top_p": 1.0}},
            "oracle": {"model_name_or_path": joint, "plan": "gold"},
            "forced": {"model_name_or_path": joint, "plan": "Information"},
        },
        "decodings": {
            "sampled": {"max_new_tokens": 6, "min_new_tokens": 2, "do_sample": True, "top_p": 0.9, "seeds": [1, 2]},
            "beams": {"max_new_tokens": 6, "num_beams": 2},
        },
        "baselines": ["fixed_reply"], "labels": {STRATEGY_SET: {"tag": True}}, "output_dir": str(root / name), **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def done(root: Path) -> Study:
    return study(check(StudyConfig, values(root, "study"), where="test"))


def traces(folder: Path, name: str) -> list[dict[str, Any]]:
    return read_records(folder / "traces" / f"{name}.jsonl")[1]


def test_every_system_replies_at_the_same_places(done: Study) -> None:
    names = ["causal", "vanilla", "joint", "sampled", "oracle", "forced"]
    places = {name: [t["id"] for t in traces(done.folder, f"{name}.sampled.1")] for name in names}
    assert len({tuple(sorted(found)) for found in places.values()}) == 1
    assert len(places["joint"]) > 5
    assert all(done.summary["scores"]["beams"][name] for name in names)
    about = {row["name"]: row for row in done.summary["systems"]}
    assert about["joint"]["format"].startswith("joined/v1#")
    assert (about["joint"]["max_length"], about["causal"]["max_length"]) == (160, 1024)


def test_traces_hold_the_plan_with_its_probabilities(done: Study) -> None:
    for name in ("joint", "sampled", "oracle", "forced"):
        for trace in traces(done.folder, f"{name}.sampled.1"):
            found = trace["plan"]["probabilities"][STRATEGY_SET]
            assert list(found) == list(STRATEGIES)
            assert sum(found.values()) == pytest.approx(1.0, abs=1e-3)
            if name == "joint":
                assert trace["plan"][STRATEGY_SET] == max(found, key=lambda label: found[label])
            assert not any(f"[{label}]" in trace["reply"] for label in STRATEGIES)
    assert {t["plan"][STRATEGY_SET] for t in traces(done.folder, "forced.sampled.1")} == {"Information"}
    assert not any(t.get("plan") for t in traces(done.folder, "vanilla.sampled.1"))
    gold = {
        f"{c.id}/{i}": c.turns[i].label(STRATEGY_SET) for c in corpora.load("commons", "test")[:2] for i in c.targets()
    }
    assert {t["id"]: t["plan"][STRATEGY_SET] for t in traces(done.folder, "oracle.sampled.1")} == gold


def test_strategies_are_scored_where_the_system_decides(done: Study) -> None:
    reports = {row["system"]: row for row in done.summary["labels"][STRATEGY_SET]["sampled"] if row["source"] == "tag"}
    assert set(reports) == {"joint", "sampled"}


def test_perplexity_is_one_number_for_all_plans_of_a_run_and_counts_whole_replies(done: Study) -> None:
    scores = done.summary["scores"]["sampled"]
    found = {name: scores[name]["ppl_token"]["value"] for name in ("vanilla", "joint", "sampled", "oracle")}
    assert found["joint"] == found["sampled"] == found["oracle"] != found["vanilla"]
    _, rows = read_records(done.folder / "likelihood" / "joint.jsonl")
    assert max(row["text_tokens"] for row in rows) > 40  # training cuts there, and a study does not
    total = sum(row["text_nll"] for row in rows) / sum(row["text_tokens"] for row in rows)
    assert found["joint"] == pytest.approx(np.exp(total), rel=1e-6)
    assert "ppl_plan" in scores["joint"]
    assert "ppl_plan" not in scores["vanilla"]


def test_a_study_that_was_stopped_goes_on_with_the_same_words(root: Path, done: Study) -> None:
    folder = root / "stopped"
    only = {"systems": {"joint": values(root, "x")["systems"]["joint"]}, "compare": [], "branches": 4}
    only["decodings"] = {"sampled": values(root, "x")["decodings"]["sampled"]}
    config = check(StudyConfig, values(root, "stopped", **only), where="test")
    study(config)
    path = folder / "traces" / "joint.sampled.1.jsonl"
    whole = path.read_text("utf-8")
    path.write_text("".join(whole.splitlines(keepends=True)[:4]), "utf-8")
    study(config)
    again = {t["id"]: t["reply"] for t in traces(folder, "joint.sampled.1")}
    assert again == {json.loads(line)["id"]: json.loads(line)["reply"] for line in whole.splitlines()[1:]}
    # Other batches and other neighbours, the same words.
    assert again == {t["id"]: t["reply"] for t in traces(done.folder, "joint.sampled.1")}


def test_an_evaluation_sets_a_run_beside_its_base(root: Path) -> None:
    done = evaluate(
        EvalConfig(
            model_name_or_path=str(root / "joint"), max_conversations=1, plan="argmax", baselines=["fixed_reply"],
            metrics=["bleu2"], decoding={"max_new_tokens": 4}, bootstrap=10, output_dir=str(root / "eval"),
        )
    )  # fmt: skip
    assert [row["name"] for row in done.summary["systems"]] == ["trained", "base", "fixed_reply"]
    assert done.report.is_file()


def test_steering_works_on_it(root: Path) -> None:
    config = SteerConfig(
        model_name_or_path=str(root / "joint"), dataset="commons", max_conversations=1, max_new_tokens=4,
        min_new_tokens=2, output_dir=str(root / "steer"),
    )  # fmt: skip
    assert steer(config).summary["labels"] == list(STRATEGIES)


def test_a_suite_takes_it_as_a_system(root: Path) -> None:
    system = {"model_name_or_path": str(root / "joint"), "make": "heedful train recipes/esconv-blenderbot.yaml"}
    systems = {"blenderbot_joint": {**system, "plan": "argmax"}, "blenderbot_oracle": {**system, "plan": "gold"}}
    shared = {key: value for key, value in values(root, "suite").items() if key not in ("systems", "labels")}
    toy = check(Suite, {"title": "A toy suite", "labels": STRATEGY_SET, "systems": systems, "study": shared})
    made = compare(toy, study_of(toy, "toy"))
    assert list(made.summary["strategies"]["systems"]) == ["blenderbot_joint"]
    assert made.summary["strategies"]["handed"] == ["blenderbot_oracle"]
    assert made.page.is_file()


def test_a_mix_is_fitted_with_it_and_used(root: Path) -> None:
    method, config = configured(
        {
            "method": "scorer", "dataset": "commons", "label_set": STRATEGY_SET, "roles": ["assistant"],
            "target": "next", "features": "state", "context": 1, "output_dir": str(root / "next"),
        }
    )  # fmt: skip
    method.train(config)
    method, config = configured(
        {
            "method": "mix", "model_name_or_path": str(root / "joint"), "dataset": "commons", "split": "valid",
            "ask": [str(root / "next")], "output_dir": str(root / "mix"),
        }
    )  # fmt: skip
    method.train(config)
    assert (root / "mix" / MIX).is_file()
    systems = {"mixed": {"model_name_or_path": str(root / "joint"), "plan": {"mix": str(root / "mix")}}}
    decodings = {"greedy": {"max_new_tokens": 3}}
    more = {"systems": systems, "compare": [], "decodings": decodings, "max_conversations": 1, "perplexity": False}
    done = study(check(StudyConfig, values(root, "mixed", **more), where="test"))
    assert all(t["plan"]["probabilities"] for t in traces(done.folder, f"mixed.greedy.{done.summary['seed']}"))


def test_chat_opens_it(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("i slept badly.\n/plan Question\nsince march.\n/why\n/quit\n"))
    main(["chat", str(root / "joint"), "--max-new-tokens", "5", "--show-plan"])
    out, err = capsys.readouterr()
    assert out.count("    > ") == 2
    assert "* Question" in err
    assert "stage: " in err
    assert '"format": "joined/v1#' in out


def test_whoever_cannot_work_with_it_says_who_can(root: Path) -> None:
    with pytest.raises(ConfigError, match="only method: seq2seq, chat, evaluations and studies"):
        load(str(root / "joint"))
    bare = {"bare": {"model_name_or_path": str(root / "bot")}}
    with pytest.raises(ConfigError, match="format: joined"):
        study(check(StudyConfig, values(root, "bare", systems=bare, labels={}), where="test"))


def test_sixteen_bits_will_do_as_in_the_shipped_suite(root: Path) -> None:
    """Weights of a LoRA run and of a full one, trained under autocast; replies, plans and perplexity in bf16."""
    trained(root, "lora", delta="lora", lora_rank=4, precision="bf16")
    trained(root, "autocast", precision="bf16")
    systems = {name: {"model_name_or_path": str(root / name), "plan": "argmax"} for name in ("lora", "autocast")}
    config = values(root, "half", systems=systems, dtype="bfloat16", max_conversations=1)
    done = study(check(StudyConfig, config, where="test"))
    for name in systems:
        row = next(about for about in done.summary["systems"] if about["name"] == name)
        assert row["dtype"] == "bfloat16"
        assert np.isfinite(done.summary["scores"]["sampled"][name]["ppl_token"]["value"])
        assert all(
            sum(t["plan"]["probabilities"][STRATEGY_SET].values()) for t in traces(done.folder, f"{name}.beams.13")
        )
