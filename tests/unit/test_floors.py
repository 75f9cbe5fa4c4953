"""Floors: trivial predictors and replies by hand on invented talks, what is kept, the verb; ESConv's printed digits."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import Call
from heedful import corpora, taxonomy
from heedful.errors import ConfigError, DataError, LabelError, NotFoundError
from heedful.evaluation.floors import Floors, floors, read_floors, read_predictions
from heedful.evaluation.progress import strategy_progress
from heedful.evaluation.reply_floors import RANDOM, RANDOM_OF_GOLD
from heedful.evaluation.strategy_floors import COUNT_TABLE, LOGISTIC, MAJORITY, STRATEGY_FLOORS, Spot, spots
from heedful.scoring import Rows, compare, score
from heedful.scoring.published import FIXED_REPLY
from heedful.testing import conversation, conversations
from heedful.types import Conversation

SET = "esconv_strategy"
LABELS = taxonomy.get(SET).names


def labelled(id: str, *labels: str | None, split: str = "train") -> Conversation:
    """The seeker speaks first; each label is one of a supporter turn."""
    texts = [f"{'word' if i % 2 == 0 else 'answer'} {id} {i}" for i in range(2 * len(labels))]
    marks = {2 * k + 1: {SET: label} for k, label in enumerate(labels) if label}
    return conversation(*texts, id=id, labels=marks, split=split)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A file of invented talks, a third of them for testing."""
    talks = [replace(c, split="test" if i % 3 == 0 else "train") for i, c in enumerate(conversations(40, 3))]
    corpora.write_jsonl(tmp_path / "talks.jsonl", talks)
    return tmp_path / "talks.jsonl"


# ------------------------------------------------------------------------------------------------------- predictors


def test_a_spot_knows_only_what_came_before() -> None:
    talk = conversation(
        *"abcdefghij",
        id="t",
        first="assistant",
        labels={0: {SET: "Others"}, 4: {SET: "Information"}, 8: {SET: "Others"}},
    )
    assert [s.turn for s in spots([talk], SET)] == [2, 4, 6, 8]
    opening, *_, last = spots([talk], SET, opening=True)
    assert (opening.turn, opening.speaker, opening.said, opening.recent, opening.history) == (0, "none", None, (), ())
    assert (last.label, last.reply, last.said, last.recent) == ("Others", "i", "h", tuple("defgh"))
    assert (last.history, last.back(1), last.back(2), last.back(3)) == (
        ("Others", "Information"),
        "Information",
        "Others",
        "none",
    )
    assert (last.slice, replace(last, turn=43).slice, replace(last, turn=4_000).slice) == (2, 10, 10)


def test_the_majority_of_the_training_part() -> None:
    train = spots([labelled("a", "Information", "Others", "Others"), labelled("b", None, "Question")], SET)
    guess = MAJORITY.predict(train, spots([labelled("c", "Question", "Others")], SET), LABELS)
    assert guess.predicted == ("Others", "Others")
    columns = [LABELS.index(name) for name in ("Others", "Question")]
    np.testing.assert_allclose(guess.shares[:, columns], [[0.5, 0.25]] * 2, atol=1e-5)
    assert guess.shares.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_the_count_table_breaks_ties_by_first_sight_and_falls_back_to_the_majority() -> None:
    train = spots(
        [
            labelled("a", "Question", "Others"),
            labelled("b", "Question", "Information"),
            labelled("c", "Question", "Information"),
            labelled("d", "Question", "Others"),
            labelled("e", "Others", "Self-disclosure"),
        ],
        SET,
    )
    test = spots([labelled("x", "Question", "Question"), labelled("y", "Others", "Others", "Others")], SET)
    guess = COUNT_TABLE.predict(train, test, LABELS)
    # Others and Information both follow Question twice, and Others was seen first; "after Others, turn 5" is new.
    assert guess.predicted == ("Question", "Others", "Question", "Self-disclosure", "Question")
    assert guess.note == "turns in a cell that training never saw: 1"


def test_the_regression_learns_what_the_words_say() -> None:
    pytest.importorskip("sklearn")
    train = [
        conversation(f"{word} number {i}", "x", id=f"{word}-{i}", labels={1: {SET: label}})
        for i in range(12)
        for word, label in (("lonely", "Reflection of feelings"), ("advice", "Providing Suggestions"))
    ]
    test = [
        conversation("so lonely", "x", id="l", labels={1: {SET: "Others"}}),
        conversation("some advice", "x", id="a"),
    ]
    for name in ("logistic", "logistic_text", "logistic_balanced"):
        guess = STRATEGY_FLOORS.get(name).predict(spots(train, SET), spots(test, SET), LABELS)
        assert guess.predicted == ("Reflection of feelings", "Providing Suggestions"), name
        assert guess.shares.shape == (2, 8)
        assert guess.shares.sum(axis=1) == pytest.approx([1.0, 1.0])
        assert (guess.shares[:, LABELS.index("Others")] == 0).all()  # never seen in training


def test_balanced_regression_names_rare_labels_more_often() -> None:
    pytest.importorskip("sklearn")
    # "Information" is rare after both words, but after "how" less so.
    marks = [("how", "Information")] * 12 + [("how", "Question")] * 28 + [("well", "Information")] * 2
    marks += [("well", "Question")] * 38
    train = [conversation(word, "x", id=str(i), labels={1: {SET: label}}) for i, (word, label) in enumerate(marks)]
    asked = spots(train, SET)
    plain, balanced = (
        STRATEGY_FLOORS.get(f"logistic{end}").predict(asked, asked, LABELS).predicted for end in ("", "_balanced")
    )
    assert set(plain) == {"Question"}
    assert [set(balanced[:40]), set(balanced[40:])] == [{"Information"}, {"Question"}]


@pytest.mark.parametrize(
    ("train", "why"),
    [
        ([labelled("a", None)], "no supporter turn of the training part has a label"),
        ([labelled("a", "Others", "Others")], "have the same label"),
        ([labelled("a", "Others", "Question")], "no word stands before 3 turns"),
    ],
)
def test_what_a_regression_cannot_learn_from(train: Sequence[Conversation], why: str) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(DataError, match=why):
        LOGISTIC.predict(spots(train, SET), spots([labelled("t", "Others")], SET), LABELS)


# ---------------------------------------------------------------------------------------------------------- replies


def test_drawn_replies_depend_on_the_seed_alone_and_know_the_strategy_where_told() -> None:
    train = spots([labelled(f"t{i}", "Question", "Others", "Information") for i in range(9)], SET)
    test = spots([labelled("x", "Others", "Self-disclosure", None, "Question")], SET)
    assert RANDOM.write(train, test, 1) == RANDOM.write(train, test, 1) != RANDOM.write(train, test, 2)
    by_reply = {spot.reply: spot.label for spot in train}
    replies = RANDOM_OF_GOLD.write(train, test, 1)
    # No training reply discloses, and one turn has no label: nothing is drawn for them, and nothing is made up.
    assert [reply and by_reply[reply] for reply in replies] == ["Others", None, None, "Question"]


# ----------------------------------------------------------------------------------------------------- the function


def test_every_floor_of_a_file_with_intervals_and_seeds(corpus: Path) -> None:
    found = floors(str(corpus), seeds=(0, 1, 2), bootstrap=50)
    test = corpora.load(str(corpus), "test")
    gold = [c.turns[i].label(SET) for c in test for i in c.targets()]
    assert found.turns == len(gold)
    assert found.unlabelled == gold.count(None) > 0
    assert found.notes == (
        f"{gold.count(None)} of {len(gold)} turns have no label and no place in the strategy floors.",
    )
    assert found.settings["label_set"] == SET
    assert sum(found.gold.values()) == len(gold) - gold.count(None)
    assert [f.name for f in found.strategies] == [
        "majority", "count_table", "logistic", "logistic_text", "logistic_balanced",
    ]  # fmt: skip
    for floor in found.strategies:
        assert floor.reason is None, floor
        for name, m in floor.scores.items():
            assert m.n == len(gold) - gold.count(None)
            assert m.value is not None
            assert m.low is not None
            assert m.high is not None
            assert m.low <= m.high, name
            assert m.seeds == ()
    drawn, fixed = found.floor("random_reply").scores["bleu1"], found.floor("fixed_reply").scores["bleu1"]
    assert len(set(drawn.seeds)) == 3
    assert drawn.value == pytest.approx(np.mean(drawn.seeds))
    assert drawn.spread == pytest.approx(np.std(drawn.seeds, ddof=1))
    assert (fixed.seeds, fixed.spread) == ((), None)
    references = [c.turns[i].text for c in test for i in c.targets()]
    by_hand = score(Rows.of([FIXED_REPLY] * len(gold), references), metrics=["bleu1"], bootstrap=0).value("bleu1")
    assert fixed.value == pytest.approx(by_hand)
    few = found.floor("gold_reply").scores["distinct1_per1000"]
    assert (few.value, few.reason) == (None, "needs at least 1000 replies")


def test_opening_turns_count_only_when_asked(corpus: Path) -> None:
    test = corpora.load(str(corpus), "test")
    opened = sum(c.turns[0].role == "assistant" for c in test)
    without, with_them = (floors(str(corpus), opening=o, seeds=[0], bootstrap=0).turns for o in (False, True))
    assert with_them - without == opened > 0


def test_numbers_are_kept_and_read_again_only_for_the_same_question(corpus: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "kept", []
    first = floors(str(corpus), seeds=[0], bootstrap=20, folder=folder)
    again = floors(str(corpus), seeds=[0], bootstrap=20, folder=folder, say=said.append)
    assert again == first == read_floors(folder) == Floors.from_dict(first.to_dict())
    assert said == [f"read from {folder}"]
    said.clear()
    floors(str(corpus), seeds=[1], bootstrap=20, folder=folder, say=said.append)
    assert "strategy floor: majority" in said
    talks = list(corpora.load(str(corpus)))
    corpora.write_jsonl(corpus, talks[1:])
    said.clear()
    floors(str(corpus), seeds=[1], bootstrap=20, folder=folder, say=said.append)
    assert "strategy floor: majority" in said  # other data
    (folder / "floors.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match=r"damaged.*--fresh"):
        read_floors(folder)
    said.clear()
    floors(str(corpus), seeds=[1], bootstrap=20, folder=folder, say=said.append)
    assert "strategy floor: majority" in said
    for name in ("floors.json", "predictions.json"):
        assert stat.S_IMODE(os.stat(folder / name).st_mode) == 0o600


def test_kept_files_hold_labels_and_numbers_but_no_turn(corpus: Path, tmp_path: Path) -> None:
    floors(str(corpus), seeds=[0], bootstrap=0, folder=tmp_path / "kept")
    written = "".join(p.read_text("utf-8") for p in (tmp_path / "kept").iterdir())
    spoken = {turn.text for c in corpora.load(str(corpus)) for turn in c.turns if len(turn.text.split()) > 2}
    assert spoken
    assert not [text for text in spoken if text in written]


def test_predictions_serve_a_paired_comparison(corpus: Path, tmp_path: Path) -> None:
    found = floors(str(corpus), seeds=[0], bootstrap=0, folder=tmp_path)
    kept = read_predictions(tmp_path)
    majority, regression = kept.rows("majority"), kept.rows("logistic")
    test = compare(majority, regression, metrics=["accuracy"], bootstrap=20)[0]
    values = [found.floor(name).scores["accuracy"].value for name in ("majority", "logistic")]
    assert [test.first, test.second] == pytest.approx(values)
    talks = {c.id: c for c in corpora.load(str(corpus), "test")}
    for id, gold in zip(kept.ids, kept.gold, strict=True):
        talk, turn = id.rsplit("/", 1)
        assert talks[talk].turns[int(turn)].label(SET) == gold
    with pytest.raises(NotFoundError, match="no predictions of 'oracle'"):
        kept.rows("oracle")


def test_without_scikit_learn_the_rest_is_there(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    found = floors(str(corpus), seeds=[0], bootstrap=0)
    assert "pip install 'heedful[eval]'" in str(found.floor("logistic").reason)
    assert found.floor("count_table").scores["accuracy"].value is not None


def test_a_corpus_without_strategies_says_what_is_missing(tmp_path: Path) -> None:
    talks = [
        replace(conversation("a b", "c d e", id=str(i), labels={1: {"mesc_emotion": "joy"}}), split=split)
        for i, split in enumerate(("train", "test", "train", "test"))
    ]
    path = tmp_path / "talks.jsonl"
    corpora.write_jsonl(path, talks)
    found = floors(str(path), seeds=[0], bootstrap=0)
    assert found.strategies == ()
    assert "no label set whose name ends in _strategy" in found.notes[0]
    assert "carry: mesc_emotion" in found.notes[0]
    assert found.floor("random_reply_of_gold_strategy").reason == "needs the labels of a label set"
    assert found.floor("fixed_reply").scores["f1"].value is not None
    other = floors(str(path), label_set="esconv_strategy", seeds=[0], bootstrap=0)
    assert "no supporter turn of this part carries a label of 'esconv_strategy'" in other.notes[0]
    named = floors(str(path), label_set="mesc_emotion", seeds=[0], bootstrap=0)
    assert named.floor("majority").scores["accuracy"].value == 100.0
    assert "same label" in str(named.floor("logistic").reason)
    with pytest.raises(NotFoundError, match="esconv_strategi"):
        floors(str(path), label_set="esconv_strategi")


def test_wrong_use(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one seed"):
        floors(str(corpus), seeds=[])
    with pytest.raises(ConfigError, match="several labels of"):
        floors(str(corpus), label_set=next(n for n in taxonomy.names() if taxonomy.get(n).cardinality == "multi"))
    with pytest.raises(NotFoundError, match="--out"):
        read_floors(tmp_path / "nowhere")
    silent = tmp_path / "silent.jsonl"
    corpora.write_jsonl(silent, [conversation("alone", id=s, split=s) for s in ("train", "test")])
    with pytest.raises(DataError, match="no supporter turn"):
        floors(str(silent), options={"one_sided": "keep"})
    with pytest.raises(NotFoundError, match="no floor 'best'"):
        floors(str(corpus), seeds=[0], bootstrap=0).floor("best")


# ---------------------------------------------------------------------------------------------------------- the verb


def test_the_verb(corpus: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("eval", "floors", corpus, "--seeds", 2, "--bootstrap", 20)
    code, out, err = call(*words)
    assert (code, "strategy floor: majority" in err) == (0, True)
    for text in ("count table", "macro-F1", "one fixed reply", "±", "numbers: runs/floors/talks-test"):
        assert text in out
    assert "…" not in out
    code, out, _ = call(*words, "--json")
    found = json.loads(out)
    assert code == 0
    assert found == json.loads((tmp_path / "runs/floors/talks-test/floors.json").read_text("utf-8"))
    code, _, err = call(*words, "--published")
    assert code == 2
    assert "--published is about the test part of esconv" in err
    code, _, err = call("eval", "floors", corpus, "--split", "dev")
    assert code == 2
    assert "dev" in err


# ------------------------------------------------------------------------------------------------------- progress


def test_progress_by_hand() -> None:
    talk = labelled("a", "Question", "Question", None, "Others", "Others")  # 10 turns, targets at 1, 3, 5, 7, 9
    found = strategy_progress([talk], {"a/1": "Question", "a/3": "Others", "a/7": None, "a/9": "Others"})
    assert found.n == (1, 1, 0, 1, 1)
    assert (found.unlabelled, found.silent) == (1, 1)
    assert found.gold["Question"] == (100.0, 100.0, None, 0.0, 0.0)
    assert found.gold["Others"] == (0.0, 0.0, None, 100.0, 100.0)
    assert found.predicted is not None
    assert found.predicted["Others"] == (0.0, 100.0, None, None, 100.0)
    assert found.distance == (0.0, 100.0, None, None, 0.0)
    assert json.loads(json.dumps(found.to_dict()))["n"] == [1, 1, 0, 1, 1]
    assert strategy_progress([talk]).predicted is None
    assert strategy_progress([talk], parts=1).gold["Question"] == (50.0,)
    with pytest.raises(ConfigError, match="parts is 0"):
        strategy_progress([talk], parts=0)
    with pytest.raises(LabelError, match="1 labels are not in the label set"):
        strategy_progress([talk], {"a/1": "Hugging"})


# -------------------------------------------------------------------------------------------------------- real data

PRINTED = {
    # esconv.md and anchors.md: accuracy, macro-F1, weighted-F1, preference bias, as many digits as they print.
    False: {
        "majority": ("20.2", "4.2", "6.8", None),
        "count_table": ("30.1", "22.0", "27.2", None),
        "logistic": ("30.8", "23.5", "28.7", "0.52"),
        "logistic_text": ("28.8", "20.4", "26.2", None),
    },
    True: {
        "majority": (None, "4.47", "7.78", None),
        "count_table": (None, "22.47", "28.46", None),
        "logistic": ("32.0", "23.94", "29.95", "0.51"),
        "logistic_text": (None, "20.97", "27.18", None),
        "logistic_balanced": ("27.9", "25.07", "29.07", "0.38"),
    },
}
NAMES = ("accuracy", "macro_f1", "weighted_f1", "preference_bias")


def assert_printed(value: float, printed: str, slack: float, what: object) -> None:
    digits = len(printed.partition(".")[2])
    assert abs(value - float(printed)) <= 0.5 * 10**-digits + slack, (what, value, printed)


@pytest.mark.data("esconv")
@pytest.mark.parametrize("opening", [False, True])
def test_counting_floors_of_esconv_to_the_printed_digit(opening: bool) -> None:
    train, test = (spots(corpora.load("esconv", s), SET, opening=opening) for s in ("train", "test"))
    for floor in ("majority", "count_table"):
        guess = STRATEGY_FLOORS.get(floor).predict(train, test, LABELS)
        check_row(test, guess.predicted, PRINTED[opening][floor], 1e-9, (opening, floor))


@pytest.mark.slow
@pytest.mark.data("esconv")
@pytest.mark.parametrize("opening", [False, True])
def test_learned_floors_of_esconv_to_the_printed_digit(opening: bool) -> None:
    train, test = (spots(corpora.load("esconv", s), SET, opening=opening) for s in ("train", "test"))
    for floor, printed in PRINTED[opening].items():
        if floor.startswith("logistic"):
            guess = STRATEGY_FLOORS.get(floor).predict(train, test, LABELS)
            # Where lbfgs stops depends on the processor: a handful of turns may fall otherwise (docs/evaluation.md).
            check_row(test, guess.predicted, printed, 0.15, (opening, floor))


def check_row(
    test: Sequence[Spot], predicted: Sequence[str], printed: Sequence[str | None], slack: float, what: object
) -> None:
    rows = Rows.of(gold=[s.label for s in test], predicted=predicted, labels=LABELS)
    table = score(rows, metrics=NAMES, bootstrap=0)
    for name, digits in zip(NAMES, printed, strict=True):
        value = table.value(name)
        assert value is not None
        if digits is not None:
            assert_printed(value, digits, slack / 10 if name == "preference_bias" else slack, (what, name))


@pytest.mark.data("esconv")
def test_drawn_replies_of_esconv_to_the_printed_digit() -> None:
    train, test = (spots(corpora.load("esconv", s), SET) for s in ("train", "test"))
    references = [spot.reply for spot in test]
    names = ("bleu1", "bleu2", "bleu4", "rougeL_published")
    for floor, printed in ((RANDOM, ("13.2", "3.2", "0.3", "10.3")), (RANDOM_OF_GOLD, ("14.7", "3.9", "0.5", "12.3"))):
        table = score(Rows.of(floor.write(train, test, 0), references), metrics=names, bootstrap=0)
        for name, digits in zip(names, printed, strict=True):
            # The second row prints B-2 3.9, and this draw has 3.845: three of its four figures agree.
            assert_printed(table.value(name) or 0.0, digits, 0.01, (floor.title, name))


@pytest.mark.data("esconv")
def test_progress_of_esconv_is_the_table_of_the_specification() -> None:
    found = strategy_progress(corpora.load("esconv", "train"))
    assert [round(v or 0, 1) for v in found.gold["Question"]] == [47.2, 19.2, 13.0, 10.9, 5.5]
    assert [round(v or 0, 1) for v in found.gold["Others"]] == [11.0, 6.7, 10.8, 16.8, 45.3]
    assert sum(found.n) == 12_271
