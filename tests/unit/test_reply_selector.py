"""A selector of replies: it learns which reply fits which state of a talk, says nothing that was not said, and enters a
study like any system."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("nltk")
pytest.importorskip("rapidfuzz")

from conftest import Call
from heedful import corpora
from heedful.classify.selector import is_selector, load_selector, ridge
from heedful.errors import ConfigError, DataError, LeakError, NotFoundError
from heedful.evaluation.study import study
from heedful.evaluation.study_config import StudyConfig
from heedful.evaluation.traces import read_records
from heedful.models.causal import load
from heedful.scoring import Rows, score
from heedful.scoring.all_pairs import overlaps
from heedful.settings import check
from heedful.training.methods import Run, configured
from heedful.types import Conversation, Turn

GREETING = "Hello there, how are you feeling today?"
PARTING = "Thank you for talking, and take good care of yourself."
METHODS = "You could take an overdose of those pills and it would be over."


def talk(number: int, split: str) -> Conversation:
    """A supporter who greets first and parts last; in between it says something that nobody says twice."""
    said = [
        Turn(role="user", text=f"Hi, this is caller {number}."),
        Turn(role="assistant", text=GREETING),
        Turn(role="user", text="Not so well."),
        Turn(role="assistant", text=f"Tell me about matter {number} {number}."),
        Turn(role="user", text="I have to go now."),
        Turn(role="assistant", text=PARTING),
    ]
    return Conversation(id=f"{split}-{number}", turns=tuple(said), split=split, licence="CC0-1.0")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "talks.jsonl"
    counted = itertools.count()
    parts = [("train", 30), ("valid", 6), ("test", 6)]
    talks = [talk(next(counted), split) for split, n in parts for _ in range(n)]
    bad = Turn(role="assistant", text=METHODS)
    talks += [replace(talk(next(counted), "train"), turns=(*talk(0, "train").turns[:3], bad)) for _ in range(9)]
    corpora.write_jsonl(path, talks)
    return path


def trained(corpus: Path, folder: Path, **changes: Any) -> Run:
    values = {
        "method": "selector", "dataset": str(corpus), "features": "state", "l2": [0.01, 10.0], "bootstrap": 50,
        "output_dir": str(folder), "allow_leaks": True, **changes,
    }  # fmt: skip
    method, config = configured(values)
    return method.train(config)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(corpus, tmp_path_factory.mktemp("runs") / "selector")


def test_it_learns_what_is_said_when(run: Run) -> None:
    selector = load_selector(run.folder)
    fresh = talk(99, "test")
    first, last = selector.choose([fresh.before(1), fresh.before(5)])
    assert (first.reply, last.reply) == (GREETING, PARTING)
    assert first.expected > 0


def test_it_picks_nothing_that_the_gate_would_stop(run: Run) -> None:
    assert METHODS not in load_selector(run.folder).replies
    assert run.summary["candidates"]["screened out"] >= 1


def test_the_validation_part_decides_between_penalties(run: Run) -> None:
    tried = {line["l2"]: line["utility"] for line in run.summary["tried"]}
    assert len(tried) == 2
    assert load_selector(run.folder).record["l2"] == max(tried, key=lambda l2: tried[l2])


def test_it_stands_beside_the_one_best_reply(run: Run) -> None:
    found = run.summary["validation"]
    assert found["selector"]["rougeL_published"]["value"] > found["the one best reply"]["rougeL_published"]["value"]


def test_the_folder_says_the_same_after_it_was_read(run: Run) -> None:
    one, two = load_selector(run.folder), load_selector(run.folder)
    assert one.fingerprint == two.fingerprint == run.summary["fingerprint"]
    assert GREETING not in repr(one)
    assert GREETING not in repr(one.choose([talk(1, "test").before(1)]))


def test_files_that_do_not_belong_together_are_refused(corpus: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "one")
    described = json.loads((run.folder / "selector.json").read_text("utf-8"))
    described["replies"][0] = "Something else."
    (run.folder / "selector.json").write_text(json.dumps(described), "utf-8")
    with pytest.raises(DataError, match="do not belong together"):
        load_selector(run.folder)
    (run.folder / "selector.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        load_selector(run.folder)


def test_a_folder_without_one_says_how_to_make_it(tmp_path: Path) -> None:
    assert not is_selector(tmp_path)
    with pytest.raises(NotFoundError, match="method=selector"):
        load_selector(tmp_path)


def test_it_is_no_language_model(run: Run) -> None:
    with pytest.raises(ConfigError, match="picks replies"):
        load(str(run.folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_split": "test"}, "test part"),
        ({"eval_split": "test"}, "test part"),
        ({"eval_split": None}, "eval_split"),
        ({"eval_split": "train"}, "unseen"),
        ({"l2": [0.0]}, "above 0"),
        ({"utility": {"rougel": 1.0}}, "rougeL"),
        ({"utility": {"rougeL": 0.0}}, "above 0"),
        ({"label_set": "esconv"}, "label set"),
        ({"features": "tfidf+state"}, "sparse"),
        ({"min_words": 40}, "at least 2 replies"),
    ],
)
def test_what_makes_no_sense_is_refused(corpus: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        trained(corpus, tmp_path / "run", **changes)


def studied(corpus: Path, run: Run, folder: Path, **changes: Any) -> Any:
    values = {
        "dataset": str(corpus), "split": "test", "systems": {"select": {"model_name_or_path": str(run.folder)}},
        "decodings": {"sampled": {"do_sample": True, "seeds": [1, 2]}}, "metrics": ["published"], "perplexity": False,
        "baselines": ["fixed_reply"], "bootstrap": 50, "output_dir": str(folder), **changes,
    }  # fmt: skip
    return study(check(StudyConfig, values, where="test"))


def test_a_study_measures_it_without_a_language_model(corpus: Path, run: Run, tmp_path: Path) -> None:
    done = studied(corpus, run, tmp_path)
    scores = done.summary["scores"]["sampled"]
    assert scores["select"]["rougeL_published"]["value"] > scores["fixed_reply"]["rougeL_published"]["value"]
    files = [tmp_path / "traces" / f"select.sampled.{seed}.jsonl" for seed in (1, 2)]
    one, two = ([record["reply"] for record in read_records(file)[1]] for file in files)
    assert one == two
    assert set(one) <= set(load_selector(run.folder).replies)
    assert done.report.is_file()


def test_what_it_learnt_from_cannot_judge_it(corpus: Path, run: Run, tmp_path: Path) -> None:
    with pytest.raises(LeakError, match="selector"):
        studied(corpus, run, tmp_path, split="train")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plan": "argmax"}, "takes no 'plan'"),
        ({"format": "chat"}, "takes no 'format'"),
        ({"adapter": False}, "adapter"),
    ],
)
def test_it_takes_nothing_that_it_would_pass_over(
    corpus: Path, run: Run, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    spec = {"select": {"model_name_or_path": str(run.folder), **changes}}
    with pytest.raises(ConfigError, match=said):
        studied(corpus, run, tmp_path, systems=spec)


def test_what_chose_its_penalty_is_said_where_it_is_judged(corpus: Path, run: Run, tmp_path: Path) -> None:
    assert not any("penalty" in limit for limit in studied(corpus, run, tmp_path / "a").summary["limits"])
    here = studied(corpus, run, tmp_path / "b", split="valid", merge_turns=True).summary["limits"]
    assert any("chosen on the part that is judged here" in limit for limit in here)
    assert any("merged" in limit for limit in here)


def test_the_verb_says_what_to_do_with_it(call: Call, corpus: Path, tmp_path: Path) -> None:
    settings = [f"dataset={corpus}", "features=state", "l2=[1]", "bootstrap=20", "allow_leaks=true"]
    code, out, err = call("train", "method=selector", *settings, f"output_dir={tmp_path / 'one'}")
    assert (code, "in a study, systems:" in out + err) == (0, True)


# ------------------------------------------------------------------------------------------------------ the arithmetic


def test_rouge_of_all_pairs_is_rouge_of_each() -> None:
    texts = ["you are so kind", "Kind you are. Are you?", "no", "I hear that you are tired today, and sad."]
    table = overlaps(texts, texts[::-1], weights={"rougeL": 1.0})
    for row, text in enumerate(texts):
        for column, other in enumerate(texts[::-1]):
            one = score(Rows.of(hypotheses=[text], references=[other]), metrics=["rougeL_published"], bootstrap=0)
            assert 100 * table[row, column] == pytest.approx(one.lines[0].value, abs=1e-3)


def test_counts_are_clipped() -> None:
    assert overlaps(["the the the"], ["the cat"], weights={"words": 1.0})[0, 0] == pytest.approx(2 * 1 / 5)
    assert overlaps(["a b a b"], ["a b"], weights={"bigrams": 1.0})[0, 0] == pytest.approx(2 * 1 / 4)


def test_an_empty_text_has_nothing_in_common() -> None:
    weights = {"rougeL": 1.0, "bigrams": 1.0, "words": 1.0}
    assert overlaps(["", "yes"], [""], weights=weights).tolist() == [[0.0], [0.0]]
    with pytest.raises(NotFoundError, match="measure"):
        overlaps(["a"], ["a"], weights={"rouge": 1.0})


def test_ridge_is_a_weighted_mean_of_what_was_seen() -> None:
    """The dual form of the head of `heedful.classify.selector`, and the prediction, are one."""
    draw = np.random.default_rng(0)
    seen, here = draw.normal(size=(20, 4)).astype(np.float32), draw.normal(size=(3, 4)).astype(np.float32)
    utilities = draw.normal(size=(20, 5)).astype(np.float32)
    (weights,) = ridge(seen, utilities, [2.0])
    evidence = here @ seen.T @ np.linalg.inv(seen @ seen.T + 2.0 * np.eye(20))
    assert here @ weights == pytest.approx(evidence @ utilities, abs=1e-4)
