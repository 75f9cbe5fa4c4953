"""MESC on invented files: clean text, clues, splits, and the matching of its two releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpora_kit import MESC_ROWS, mesc_json, mesc_row, write_csv

from heedful import corpora
from heedful.errors import DataError, NotFoundError


@pytest.fixture
def mesc_folder(tmp_path: Path) -> Path:
    write_csv(tmp_path / "MESC.csv", MESC_ROWS)
    (tmp_path / "val.json").write_text(json.dumps([mesc_json(1, "Lateness ")]), encoding="utf-8")
    (tmp_path / "test.json").write_text(json.dumps([mesc_json(0, "Old  Keys")]), encoding="utf-8")
    return tmp_path


def test_mesc_text_is_clean_and_clues_are_apart(mesc_folder: Path) -> None:
    test, valid, train = corpora.load("mesc", path=mesc_folder)
    assert [c.split for c in (test, valid, train)] == ["test", "valid", "train"]
    assert [t.text for t in test] == ["I kept the key.", 'To "his" shed.', "Go on.", "What is in it?"]
    assert {t.extra["clues"] for t in test} == {"The lamp is low."}
    assert "clues" not in train.turns[0].extra
    assert test.problem_type == "old keys"
    assert train.problem_type is None
    assert test.group == "S1E4"
    assert (valid.extra["season"], valid.extra["episode"]) == (3, 4)


def test_mesc_labels(mesc_folder: Path) -> None:
    talk = corpora.load("mesc", "test", path=mesc_folder)[0]
    assert [t.label("mesc_emotion") for t in talk] == ["fear", "anger", "neutral", "joy"]
    assert [t.label("mesc_strategy") for t in talk] == [None, None, "Communication Skills", "Open question"]


def test_mesc_pairs_join_runs_and_take_the_last_label(mesc_folder: Path) -> None:
    by_split = {c.split: c for c in corpora.load("mesc", path=mesc_folder)}
    (pair,) = corpora.pairs(by_split["test"])
    assert pair.id == "0/1"
    assert pair.user is not None
    assert pair.user.text == 'I kept the key. To "his" shed.'
    assert pair.user.label("mesc_emotion") == "anger"
    assert pair.reply.label("mesc_emotion") == "joy"
    assert len(pair.context) == 1
    assert corpora.pairs(by_split["valid"]) == []  # the therapist opens and the client has the last word
    (opening,) = corpora.pairs(by_split["valid"], opening=True)
    assert opening.user is None
    assert opening.context.turns == ()


def test_mesc_split_file_wins_and_season_split(mesc_folder: Path) -> None:
    (mesc_folder / "split.json").write_text(json.dumps({"val": [2], "test": [1], "train": [0]}), encoding="utf-8")
    assert [c.split for c in corpora.load("mesc", path=mesc_folder)] == ["train", "test", "valid"]
    by_season = corpora.load("mesc", path=mesc_folder, split_by="season")
    assert [c.split for c in by_season] == ["train", "test", "train"]


def test_mesc_json_that_fits_no_dialogue(mesc_folder: Path) -> None:
    odd = mesc_json(1, "x")
    odd["dialog"][0]["text"] = "Entirely other words."
    (mesc_folder / "val.json").write_text(json.dumps([odd]), encoding="utf-8")
    with pytest.raises(DataError, match=r"val\.json, dialogue 0: expected a dialogue of MESC\.csv .* found none"):
        corpora.load("mesc", path=mesc_folder)


def test_mesc_without_any_split(tmp_path: Path) -> None:
    write_csv(tmp_path / "MESC.csv", MESC_ROWS)
    with pytest.raises(NotFoundError, match=r"Expected 'split\.json'"):
        corpora.load("mesc", path=tmp_path)


def write_json(folder: Path, name: str, dialogues: list[dict[str, Any]]) -> None:
    (folder / name).write_text(json.dumps(dialogues), encoding="utf-8")


def test_mesc_two_scenes_with_the_same_words(mesc_folder: Path) -> None:
    """Scenes 2 and 3 say the same: each JSON dialogue takes one of them, the one of its split if that is known."""
    again = [r | {"Dialogue_ID": "3", "Emotion": "fear"} for r in MESC_ROWS if r["Dialogue_ID"] == "2"]
    write_csv(mesc_folder / "MESC.csv", [*MESC_ROWS, *again])
    write_json(mesc_folder, "train.json", [mesc_json(2, "First"), mesc_json(2, "Second")])
    problems = {c.id: c.problem_type for c in corpora.load("mesc", path=mesc_folder)}
    assert (problems["2"], problems["3"]) == ("first", "second")

    write_json(mesc_folder, "train.json", [mesc_json(2, "First")])
    write_json(mesc_folder, "val.json", [mesc_json(1, "Lateness"), mesc_json(2, "Second")])
    (mesc_folder / "split.json").write_text(json.dumps({"train": [3], "val": [1, 2], "test": [0]}), encoding="utf-8")
    problems = {c.id: c.problem_type for c in corpora.load("mesc", path=mesc_folder)}
    assert (problems["2"], problems["3"]) == ("second", "first")


def test_mesc_a_short_scene_is_not_taken_for_the_beginning_of_a_longer_one(mesc_folder: Path) -> None:
    short = [mesc_row(3, 0, "Client", "No", "neutral", "undefined"), mesc_row(3, 1, "Therapist", "No", "joy", "Others")]
    write_csv(mesc_folder / "MESC.csv", [*short, *MESC_ROWS])
    write_json(mesc_folder, "train.json", [mesc_json(2, "Long")])
    assert {c.id: c.problem_type for c in corpora.load("mesc", path=mesc_folder)}["2"] == "long"


def test_mesc_the_same_dialogue_twice(mesc_folder: Path) -> None:
    write_json(mesc_folder, "train.json", [mesc_json(2, "a"), mesc_json(2, "b")])
    with pytest.raises(DataError, match=r"train\.json, dialogue 1: expected a dialogue .* each dialogue once"):
        corpora.load("mesc", path=mesc_folder)


@pytest.mark.parametrize("absent", ["val.json", "test.json"])
def test_mesc_train_file_does_not_stand_in_for_a_missing_one(mesc_folder: Path, absent: str) -> None:
    write_json(mesc_folder, "train.json", [mesc_json(2, "News")])
    (mesc_folder / absent).unlink()
    with pytest.raises(NotFoundError, match=r"Expected 'split\.json', or 'val\.json' and 'test\.json'"):
        corpora.load("mesc", path=mesc_folder)
    assert len(corpora.load("mesc", path=mesc_folder, split_by="season")) == 3


def test_mesc_counts_are_per_file(mesc_folder: Path) -> None:
    write_json(mesc_folder, "train.json", [mesc_json(2, "News")])
    counts = {c.name: (c.found, c.expected) for c in corpora.validate("mesc", path=mesc_folder).counts}
    assert counts["train.json dialogues matched"] == (1, 815)
    assert counts["val.json dialogues matched"] == (1, 102)
    assert counts["test.json utterances"] == (4, 2_922)
    assert counts["test.json utterances without clues"] == (0, 0)
    (mesc_folder / "train.json").unlink()
    names = {c.name for c in corpora.validate("mesc", path=mesc_folder).counts}
    assert "val.json dialogues matched" in names
    assert not any(name.startswith("train.json") for name in names)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("val.json", {"a": 1}, r"val\.json: expected a list of dialogues"),
        ("val.json", [{"dialog": []}], r"val\.json, dialogue 0: a field is missing"),
        ("val.json", ["x"], r"val\.json, dialogue 0: a field is missing"),
        ("split.json", ["x"], r"split\.json: expected lists of Dialogue_IDs"),
        ("split.json", {"dev": []}, r"split\.json: expected lists of Dialogue_IDs"),
    ],
)
def test_mesc_damaged_json(mesc_folder: Path, name: str, content: Any, message: str) -> None:
    (mesc_folder / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        corpora.load("mesc", path=mesc_folder)


def test_mesc_season_that_is_no_number(mesc_folder: Path) -> None:
    write_csv(mesc_folder / "MESC.csv", [MESC_ROWS[0] | {"Season": "I kept the key."}, *MESC_ROWS[1:]])
    with pytest.raises(DataError, match=r"MESC\.csv, line 2: Season and Episode must be whole numbers\.$"):
        corpora.load("mesc", path=mesc_folder)
