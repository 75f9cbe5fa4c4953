"""The rules that `commons` must keep, on a small invented corpus with one rule broken at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from heedful import corpora
from heedful.corpora import commons
from heedful.corpora.commons import validate_commons
from heedful.types import Conversation, Label, Turn


def labels(**values: str) -> tuple[Label, ...]:
    return tuple(Label(set=name, value=value) for name, value in values.items())


def talk(i: int) -> Conversation:
    seeker = labels(mesc_emotion="fear", hope_act="ID", dmrs_level="0") + labels(
        risk="thoughts" if i < 10 else "denied"
    )
    asked = labels(esconv_strategy="Question", hope_act="YNQ", mesc_emotion="neutral")
    closed = labels(esconv_strategy="Others", hope_act="GT", mesc_emotion="neutral")
    turns = (
        Turn(role="user", text=f"Lantern {i} went out over the harbour tonight.", labels=seeker),
        Turn(role="assistant", text=f"Did lantern {i} ever go out before?", labels=asked),
        *(Turn(role="user", text=f"Wait {i}.{k}", labels=seeker) for k in range(12)),
        Turn(role="assistant", text=f"Good night, keeper {i}.", labels=closed),
    )
    split = ("train", "valid", "test")[i % 3]
    return Conversation(id=f"c{i}", turns=turns, source="commons", split=split, problem_type=f"problem {i % 12}")


GOOD = [talk(i) for i in range(100)]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEEDFUL_DATA", raising=False)


def change(turn: int, edit: Callable[[Turn], Turn], *, talks: int = 1) -> list[Conversation]:
    changed = []
    for c in GOOD[:talks]:
        turns = list(c.turns)
        turns[turn] = edit(turns[turn])
        changed.append(replace(c, turns=tuple(turns)))
    return [*changed, *GOOD[talks:]]


def drop(layer: str) -> Callable[[Turn], Turn]:
    return lambda t: replace(t, labels=tuple(n for n in t.labels if n.set != layer))


def swap(layer: str, value: str) -> Callable[[Turn], Turn]:
    return lambda t: drop(layer)(t).with_labels(Label(set=layer, value=value))


def test_the_good_corpus_passes() -> None:
    found = validate_commons(GOOD, Path())
    assert found.problems == ()
    counts = {c.name: c.found for c in found.counts}
    assert (counts["dialogues"], counts["turns"], counts["problem types"]) == (100, 1_500, 12)
    assert counts["supporter turns on which strategy Question and a question act agree (%)"] == 100
    assert (counts["dialogues with risk disclosed"], counts["dialogues with any risk label"]) == (10, 100)
    assert any("compared with none" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("talks", "message"),
    [
        (GOOD[:99], "dialogues: at least 100 are wanted, found 99."),
        ([replace(c, problem_type="one") for c in GOOD], "problem types: at least 12 are wanted, found 1."),
        ([replace(GOOD[0], split=None), *GOOD[1:]], "1 dialogues have no split."),
        (
            [replace(GOOD[0], turns=GOOD[10].turns[:1] + GOOD[0].turns[14:]), *GOOD[1:]],
            "dialogues with risk disclosed: at least 10 are wanted, found 9.",
        ),
        (change(0, drop("dmrs_level")), "1 user turns have no dmrs_level label, first c0 turn 0."),
        (change(1, drop("hope_act")), "1 assistant turns have no hope_act label, first c0 turn 1."),
        (
            change(1, swap("risk", "denied")),
            "1 risk labels stand on turns that are not the seeker's, first c0 turn 1.",
        ),
        (
            change(1, swap("hope_act", "OD"), talks=30),
            "Only 70 % of the turns with strategy Question whose act is a question; at least 90 % are wanted.",
        ),
        (
            change(14, swap("hope_act", "IRQ"), talks=30),
            "Only 85 % of the supporter turns on which strategy Question and a question act agree; "
            "at least 90 % are wanted.",
        ),
        (
            change(14, swap("esconv_strategy", "Information"), talks=30),
            "Only 70 % of the supporter turns with act GT whose strategy is Others; at least 90 % are wanted.",
        ),
        (
            change(3, lambda t: replace(t, text="so Lantern 5 went out over the harbour tonight")),
            None,
        ),
    ],
)
def test_each_rule_can_fail(talks: list[Conversation], message: str | None) -> None:
    problems = validate_commons(talks, Path()).problems
    if message is None:  # eight shared words are one too few
        assert problems == ()
    else:
        assert message in problems


def test_nine_shared_words_inside_and_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the oldest oak in our lane fell over without any wind"
    twice = change(3, lambda t: replace(t, text=text), talks=2)
    assert "1 pairs of turns share 9 words, first c1 turn 3 and c0 turn 3." in validate_commons(twice, Path()).problems

    folder = tmp_path / "hope"
    folder.mkdir()
    (folder / "1.csv").write_text(f"ID,Type,Utterance,Dialog_Act\n1_0,P,{text},id\n", encoding="utf-8")
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path))
    once = change(3, lambda t: replace(t, text=text))
    found = validate_commons(once, Path())
    assert "1 turns share 9 words with hope, first c0 turn 3." in found.problems
    assert validate_commons(GOOD, Path()).problems == ()


def test_a_broken_corpus_beside_it_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mesc").mkdir()
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path))
    assert any("not compared with 'mesc'" in w for w in validate_commons(GOOD, Path()).warnings)


def test_read_from_a_folder(tmp_path: Path) -> None:
    corpora.write_jsonl(tmp_path / "commons.jsonl.gz", GOOD)
    assert commons.COMMONS.load("valid", path=tmp_path) == [c for c in GOOD if c.split == "valid"]
    report = commons.COMMONS.validate(path=tmp_path)
    assert report.ok, report.problems


def test_the_shipped_corpus_keeps_its_own_rules() -> None:
    place = commons.COMMONS.locate()
    assert place is not None
    assert place.parent.name == "corpora"
    report = corpora.validate("commons")
    assert report.ok, report.problems
    assert report.leaks.findings == ()
    assert {c.licence for c in corpora.load("commons")} == {"CC0-1.0"}


def test_the_counts_of_the_data_card() -> None:
    report = corpora.validate("commons")
    counts = {c.name: c.found for c in report.counts}
    assert (counts["dialogues with risk disclosed"], counts["dialogues with any risk label"]) == (25, 36)


def test_the_example_has_the_source_of_the_labels() -> None:
    sources = {label.source for c in corpora.load("commons") for turn in c for label in turn.labels}
    assert {entry["source"] for entry in commons.INFO.example["labels"]} == sources == {"author"}
