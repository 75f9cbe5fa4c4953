"""`heedful eval support` and `heedful eval steer`: figures of a finished study, and what a forced label changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nltk")

from conftest import Call
from heedful import corpora
from heedful.errors import DataError, NotFoundError
from heedful.evaluation import support as module
from heedful.evaluation.steer import SteerConfig, difference, steer
from heedful.evaluation.study import study
from heedful.evaluation.study_config import StudyConfig
from heedful.evaluation.support import GOLD, support
from heedful.formats import make
from heedful.models.causal import add_markers
from heedful.scoring.initiative import leads
from heedful.scoring.support_metrics import gold_replies
from heedful.settings import check
from heedful.testing import tiny_model
from heedful.training.methods import configured
from heedful.types import Conversation


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "joint"
    causal = tiny_model()
    add_markers(causal, make("strategy").markers)
    causal.model.save_pretrained(str(folder))
    causal.tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("study")
    system = {"model_name_or_path": str(run), "format": "strategy"}
    values = {
        "dataset": "commons", "split": "test", "max_conversations": 3, "metrics": ["length"], "bootstrap": 20,
        "baselines": [], "decodings": {"greedy": {"max_new_tokens": 6}}, "examples": 0, "dtype": "float32",
        "perplexity": False, "output_dir": str(where),
        "systems": {"own": {**system, "plan": "argmax"}, "asks": {**system, "plan": "Question"}},
    }  # fmt: skip
    study(check(StudyConfig, values))
    return where


class Says:
    """A simulated seeker with one answer, as many words as it was told."""

    fingerprint = "says"

    def __init__(self, run: str) -> None:
        self.text = " ".join(["word"] * int(run))

    def next(self, contexts: Sequence[Conversation]) -> list[str | None]:
        return [self.text for _ in contexts]


class Length:
    """e(u) = number of words."""

    heldout: dict[str, Any] = {"all": {"n": 1}}  # noqa: RUF012
    fingerprint = "length"

    def __call__(self, texts: Sequence[str]) -> Any:
        return np.array([float(len(text.split())) for text in texts])


def test_the_corpus_stands_beside_every_system(folder: Path) -> None:
    done = support(folder)
    talks = corpora.load("commons", "test")[:3]
    gold = [leads(str(r.strategy)) for r in gold_replies(talks)]
    rows = done.summary["systems"]
    assert list(rows) == [GOLD, "own", "asks"]
    assert rows[GOLD]["metrics"]["proactivity"]["value"] == pytest.approx(np.mean(gold))
    assert rows["asks"]["metrics"]["proactivity"]["value"] == 1.0
    assert rows["asks"]["metrics"]["proactivity"]["distance"] == pytest.approx(1 - np.mean(gold))
    assert rows["own"]["metrics"]["relaxation"]["value"] is None  # missing is not zero
    assert done.summary["differences"]["asks"]["proactivity"]["value"] == pytest.approx(1 - np.mean(gold))
    assert done.summary["replies"] == len(gold)
    written = (folder / "support.json").read_text("utf-8")
    assert not [t.text for c in talks for t in c.turns if len(t.text) > 25 and t.text in written]


def test_relaxation_is_the_fall_of_e_beside_what_the_person_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RunSeeker", Says)
    monkeypatch.setattr(module, "_felt", lambda *args: Length())
    done = support(folder, simulator="2", systems=["own"], max_conversations=2)
    talks = corpora.load("commons", "test")[:2]
    falls = [
        len(said[-1].split()) - 2
        for reply in gold_replies(talks)
        for conv in talks
        if conv.id == reply.conversation_id
        if (said := [t.text for t in conv.turns[: reply.turn] if t.role == "user"])
    ]
    for name in (GOLD, "own"):
        found = done.summary["systems"][name]["metrics"]["relaxation"]
        assert found["value"] == pytest.approx(np.mean(falls))
    recorded = done.summary["recorded"]["metrics"]["relaxation"]
    assert recorded["value"] != done.summary["systems"][GOLD]["metrics"]["relaxation"]["value"]
    assert done.summary["conversations"] == 2


def test_the_verb_prints_a_table_and_refuses_what_is_not_there(folder: Path, call: Call, tmp_path: Path) -> None:
    code, out, _ = call("eval", "support", str(folder))
    assert code == 0
    for said in (GOLD, "own", "asks", "Proactivity", "no simulator", "support.json"):
        assert said in out
    code, out, _ = call("eval", "support", str(folder), "--systems", "asks", "--json")
    assert list(json.loads(out)["systems"]) == [GOLD, "asks"]
    code, _, err = call("eval", "support", str(folder), "--systems", "oracle")
    assert (code, "no system 'oracle'; it has own, asks" in err) == (2, True)
    with pytest.raises(NotFoundError, match="There is no study in"):
        support(tmp_path)


def test_a_study_of_another_corpus_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    file = other / "traces" / "own.greedy.13.jsonl"
    head, first, *rest = file.read_text("utf-8").splitlines()
    changed = json.dumps({**json.loads(first), "reference": "Something else."})
    file.write_text("\n".join([head, changed, *rest]) + "\n", "utf-8")
    with pytest.raises(DataError, match="the corpus has another reply now than the study had"):
        support(other)


def test_difference_is_one_minus_the_common_part() -> None:
    assert difference([], []) == 0
    assert difference(["a", "b"], ["a", "b"]) == 0
    assert difference(["a", "b", "c", "d"], ["x", "b", "d"]) == 0.5
    assert difference(["a"], []) == 1


@pytest.mark.slow
def test_forced_labels_are_compared_with_the_own_choice_and_with_each_other(run: Path, call: Call) -> None:
    arguments = ["eval", "steer", str(run), "dataset=commons", "format=strategy", "max_conversations=1"]
    code, out, _ = call(*arguments, f"output_dir={run.parent / 'e'}", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["all_pairs"]["pairs"] == 28
    assert set(found["against_own"]) == set(found["labels"])
    for row in (found["all_pairs"], *found["against_own"].values()):
        assert 0 <= row["changed"]["value"] <= 100
        assert 0 <= row["difference"]["value"] <= 100
    assert found["all_pairs"]["difference"]["value"] > 0  # an untrained model writes other words after another mark
    assert json.loads((run.parent / "e" / "steer.json").read_text("utf-8")) == found
    for key in ("decoding.do_sample=true", "plan=gold", "metrics=[bleu2]"):  # nothing is accepted and ignored
        code, _, err = call(*arguments, key)
        assert (code, f"unknown key '{key.split('.')[0].split('=')[0]}" in err) == (2, True), err
    code, _, err = call("eval", "steer", str(run), "dataset=commons", "format=chat")
    assert (code, "needs a format whose replies begin with one marker" in err) == (2, True)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("reader") / "scorer"
    method, config = configured(
        {
            "method": "scorer", "dataset": "commons", "label_set": "esconv_strategy", "roles": ["assistant"],
            "features": "tfidf", "output_dir": str(where),
        }
    )  # fmt: skip
    method.train(config)
    return where


def test_a_reader_says_whether_the_forced_label_is_read_in_the_reply(run: Path, reader: Path, tmp_path: Path) -> None:
    values = {
        "model_name_or_path": str(run), "dataset": "commons", "format": "strategy", "max_conversations": 2,
        "max_new_tokens": 4, "min_new_tokens": 2, "dtype": "float32", "reader": str(reader),
        "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    plain = steer(check(SteerConfig, values, where="test")).summary
    assert plain["read"]["chance"] == 12.5
    assert set(plain["read"]["labels"]) == set(plain["labels"])
    assert plain["read"]["any"]["value"] == pytest.approx(
        np.mean([found["value"] for found in plain["read"]["labels"].values()])
    )
    assert 0 < plain["read"]["corpus"]["value"] <= 100
    strong = steer(check(SteerConfig, {**values, "guidance_scale": 4.0}, where="test")).summary
    assert strong["guidance_scale"] == 4.0
    assert strong["all_pairs"] != plain["all_pairs"], "the scale reaches the words"
    assert strong["read"]["corpus"] == plain["read"]["corpus"]


def test_a_reader_of_other_labels_or_of_the_future_is_refused(run: Path, reader: Path, call: Call) -> None:
    arguments = ["eval", "steer", str(run), "dataset=commons", "format=strategy"]
    record = reader / "scorer.json"
    before = record.read_text("utf-8")
    record.write_text(before.replace('"target": "this"', '"target": "next"'), "utf-8")
    try:
        code, _, err = call(*arguments, f"reader={reader}")
    finally:
        record.write_text(before, "utf-8")
    assert (code, "reader needs a scorer of replies (target: this)" in err) == (2, True), err


def test_drawn_replies_differ_by_the_label_alone(tmp_path: Path) -> None:
    """Under labels that mean the same to the model the same words are drawn; under another stream they are not."""
    causal = tiny_model()
    markers = make("strategy").markers
    add_markers(causal, markers)
    rows = causal.model.get_input_embeddings().weight
    with torch.no_grad():
        rows[causal.tokenizer.convert_tokens_to_ids(list(markers))] = rows[0].clone()
    causal.model.save_pretrained(str(tmp_path / "run"))
    causal.tokenizer.save_pretrained(str(tmp_path / "run"))
    values = {
        "model_name_or_path": str(tmp_path / "run"), "dataset": "commons",
        "format": {"name": "strategy", "context_strategies": False},
        "max_conversations": 2, "do_sample": True, "dtype": "float32",
        "max_new_tokens": 12, "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    found = steer(check(SteerConfig, values, where="test")).summary
    assert found["all_pairs"]["difference"]["value"] == 0
    assert all(row["difference"]["value"] == 0 for row in found["against_own"].values())
    assert found["other_draw"]["difference"]["value"] > 20
    greedy = steer(check(SteerConfig, {**values, "do_sample": False}, where="test")).summary
    assert greedy["other_draw"] is None
