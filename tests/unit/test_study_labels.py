"""Labels read from replies: hand-made counts, silence is wrong, and no accuracy without the constant row."""

from __future__ import annotations

import dataclasses

import pytest

from heedful import corpora, taxonomy
from heedful.errors import DataError
from heedful.evaluation import emotion
from heedful.evaluation.emotion import LabelReport, label_report

ABC = ("a", "b", "c")


def report(gold: str, *predicted: str, draws: int = 50) -> LabelReport:
    """One letter per reply; `-` = no label. Two replies a dialogue."""
    columns = [[None if x == "-" else x for x in column] for column in (gold, *predicted)]
    clusters = [str(i // 2) for i in range(len(gold))]
    return label_report(columns[0], columns[1:], labels=ABC, clusters=clusters, source="tag", draws=draws)


def test_by_hand() -> None:
    found = report("aaab", "aabb", draws=0)
    scores = {name: e.value for name, e in found.predicted.scores.items()}
    assert scores["accuracy"] == 75.0
    f_a, f_b = 2 * 2 / (3 + 2), 2 * 1 / (1 + 2)
    assert scores["weighted_f1"] == pytest.approx(100 * (3 * f_a + f_b) / 4)
    assert scores["macro_f1_present"] == pytest.approx(100 * (f_a + f_b) / 2)
    assert scores["macro_f1_all"] == pytest.approx(100 * (f_a + f_b) / 3)
    assert found.predicted.recall == {"a": pytest.approx(200 / 3), "b": 100.0, "c": None}
    assert found.predicted.confusion == ((2, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0))
    assert found.constant_label == "a"
    assert found.constant.scores["accuracy"].value == 75.0
    assert found.constant.recall == {"a": 100.0, "b": 0.0, "c": None}
    assert found.gains["accuracy"] is None


def test_equals_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    gold, predicted = "aabbcabcaabb", "abbacabbaacb"
    scores = {n: e.value for n, e in report(gold, predicted, draws=0).predicted.scores.items()}
    for name, how in (("weighted_f1", "weighted"), ("macro_f1_all", "macro")):
        assert scores[name] == pytest.approx(100 * sklearn.f1_score(list(gold), list(predicted), average=how))
    assert scores["accuracy"] == pytest.approx(100 * sklearn.accuracy_score(list(gold), list(predicted)))


def test_silence_is_wrong_and_counted() -> None:
    found = report("aaab", "a---", draws=0)
    assert found.silent == 3
    assert found.predicted.scores["accuracy"].value == 25.0
    assert found.predicted.confusion[0] == (1, 0, 0, 2)


def test_missing_gold_is_left_out_and_counted() -> None:
    found = report("a-ab", "abab", draws=0)
    assert (found.n, found.without_gold) == (3, 1)
    assert found.predicted.scores["accuracy"].value == 100.0


def test_seeds_are_averaged_and_resampled_together() -> None:
    found = report("aabb" * 4, "aabb" * 4, "bbaa" * 4)
    accuracy = found.predicted.scores["accuracy"]
    assert accuracy.value == 50.0
    assert accuracy.seeds == (100.0, 0.0)
    assert accuracy.low == accuracy.high == 50.0  # right in one seed wherever wrong in the other
    alone = report("aabb" * 4, "abab" * 4).predicted.scores["accuracy"]
    twice = report("aabb" * 4, "abab" * 4, "abab" * 4).predicted.scores["accuracy"]
    assert (twice.low, twice.high) == pytest.approx((alone.low, alone.high))


def test_gain_over_the_constant_is_paired() -> None:
    found = report("aaab" * 10, "aaab" * 10, draws=200)
    gain = found.gains["accuracy"]
    assert gain is not None
    assert gain.difference == 25.0
    assert gain.low > 0
    same = report("aaab" * 10, "aaaa" * 10, draws=200).gains["accuracy"]
    assert same is not None
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)


def test_no_accuracy_without_the_constant() -> None:
    """The module's functions that are open to others, and what they return."""
    open_functions = [
        name
        for name, thing in vars(emotion).items()
        if callable(thing) and not name.startswith("_") and getattr(thing, "__module__", "") == emotion.__name__
    ]
    assert sorted(open_functions) == ["Estimate", "LabelReport", "LabelScores", "label_report"]
    needed = {f.name for f in dataclasses.fields(LabelReport) if f.default is dataclasses.MISSING}
    assert {"predicted", "constant", "constant_label"} <= needed
    record = report("aaab", "aaab").to_dict()
    assert set(record["constant"]["scores"]) == set(record["predicted"]["scores"])


@pytest.mark.parametrize(
    ("gold", "predicted", "words"),
    [("--", "ab", "not one"), ("ab", "abc", "one prediction"), ("ad", "ab", "label set")],
)
def test_refusals(gold: str, predicted: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        report(gold, predicted)


@pytest.mark.data("mesc")
def test_constant_neutral_on_the_mesc_test(data_root: object) -> None:
    """context-emotion-rl.md: the reference row, whatever the predictions are."""
    pairs = [pair for conv in corpora.load("mesc", "test") for pair in corpora.pairs(conv)]
    gold = [pair.reply.label("mesc_emotion") for pair in pairs]
    found = label_report(
        gold,
        [["joy"] * len(gold)],
        labels=taxonomy.get("mesc_emotion").names,
        clusters=[pair.conversation_id for pair in pairs],
        source="tag",
        draws=100,
    )
    assert (found.n, found.constant_label, found.gold["neutral"], found.gold["sadness"]) == (454, "neutral", 451, 3)
    assert {name: round(e.value, 2) for name, e in found.constant.scores.items()} == {
        "accuracy": 99.34,
        "weighted_f1": 99.01,
        "macro_f1_present": 49.83,
        "macro_f1_all": 14.24,
    }
    assert {k: v for k, v in found.constant.recall.items() if v is not None} == {"neutral": 100.0, "sadness": 0.0}
