"""The published numbers of the real corpora, where they are at hand."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from heedful import corpora
from heedful.corpora.stats import stats


def valid(name: str) -> dict[str, int]:
    report = corpora.validate(name)
    assert report.ok, report.problems
    assert report.files_ok == len(corpora.get(name).info.files) + len(corpora.get(name).info.optional_files)
    return {c.name: c.found for c in report.counts}


@pytest.mark.data("esconv")
def test_esconv() -> None:
    found = valid("esconv")
    assert [found[f"{s} dialogues"] for s in ("train", "valid", "test")] == [910, 195, 195]
    assert [found[f"{s} target turns"] for s in ("train", "valid", "test")] == [12_271, 2_621, 2_801]
    assert [found[f"{s} target turns with opening"] for s in ("train", "valid", "test")] == [12_759, 2_722, 2_895]


@pytest.mark.data("esconv")
def test_esconv_test_targets_by_strategy() -> None:
    talks = corpora.load("esconv", "test")
    counts = Counter(c.turns[i].label("esconv_strategy") for c in talks for i in c.targets())
    assert counts == {
        "Question": 566,
        "Providing Suggestions": 507,
        "Others": 457,
        "Affirmation and Reassurance": 434,
        "Self-disclosure": 264,
        "Reflection of feelings": 235,
        "Information": 186,
        "Restatement or Paraphrasing": 152,
    }


@pytest.mark.data("esconv")
def test_esconv_surveys() -> None:
    talks = corpora.load("esconv")
    both = [
        (first, last)
        for c in talks
        if (first := c.survey["initial_emotion_intensity"]) is not None
        and (last := c.survey["final_emotion_intensity"]) is not None
    ]
    assert len(both) == 1_150
    assert round(sum(a for a, _ in both) / 1_150, 2) == 4.07
    assert round(sum(b for _, b in both) / 1_150, 2) == 2.07
    assert len({c.extra["orig_index"] for c in talks}) == 1_300


@pytest.mark.data("esconv")
def test_esconv_strategies_by_fifth() -> None:
    fifths = stats(corpora.load("esconv", "train")).fifths["esconv_strategy"]
    totals = [sum(n[k] for n in fifths.values()) for k in range(5)]
    shares = {value: [round(100 * n[k] / totals[k], 1) for k in range(5)] for value, n in fifths.items()}
    assert shares["Question"] == [47.2, 19.2, 13.0, 10.9, 5.5]
    assert shares["Providing Suggestions"] == [2.7, 15.2, 25.4, 22.0, 14.0]


@pytest.mark.data("esconv")
def test_esconv_overlaps() -> None:
    found = {(f.kind, f.splits): f.count for f in corpora.find_leaks(corpora.load("esconv")).findings}
    assert found["situation", ("train", "test")] == 2
    assert ("near-copy", ("train", "test")) not in found


@pytest.mark.data("esconv")
def test_esconv_failed_part() -> None:
    talks = corpora.load("esconv", part="failed")
    assert len(talks) == 196
    assert sum(c.survey["final_emotion_intensity"] is None for c in talks) == 54


@pytest.mark.data("mesc")
def test_mesc() -> None:
    found = valid("mesc")
    assert [found[f"{s} pairs"] for s in ("train", "valid", "test")] == [3_721, 445, 454]
    assert [found[f"{s} dialogues"] for s in ("train", "valid", "test")] == [815, 102, 102]
    assert (found["test pairs, therapist neutral"], found["test pairs, therapist sadness"]) == (451, 3)


@pytest.mark.data("mesc")
def test_mesc_pairs_by_label() -> None:
    pairs = [p for c in corpora.load("mesc", "test") for p in corpora.pairs(c)]
    client = Counter(p.user.label("mesc_emotion") for p in pairs if p.user)
    assert client == {
        "neutral": 182,
        "anger": 108,
        "depression": 94,
        "disgust": 31,
        "joy": 21,
        "sadness": 15,
        "fear": 3,
    }
    strategy = Counter(p.reply.label("mesc_strategy") for p in pairs)
    assert strategy.most_common(3) == [("Open question", 189), ("Interpretation", 66), ("Restatement", 57)]


@pytest.mark.data("mesc")
def test_mesc_clues_hold_no_utterance() -> None:
    turns = [t for s in ("valid", "test") for c in corpora.load("mesc", s) for t in c]
    assert len(turns) == 5_636
    # Every clue is a sentence about the scene; a wrong cut would leave a piece of the utterance in front.
    assert {t.extra["clues"].split()[0] for t in turns} == {"The"}


@pytest.mark.data("mesc")
def test_mesc_by_season_has_no_leak() -> None:
    assert corpora.find_leaks(corpora.load("mesc", split_by="season")).leaks == ()


@pytest.mark.data("hope_samples")
def test_hope() -> None:
    found = valid("hope")
    assert (found["sessions"], found["utterances"], found["raw act yna"]) == (8, 479, 31)


@pytest.mark.data("counsel_chat")
def test_counsel_chat() -> None:
    assert valid("counsel_chat")["train answers"] == 1_839


@pytest.mark.data("annomi")
def test_annomi() -> None:
    assert valid("annomi")["rows of the full file"] == 13_551


@pytest.mark.data("psydef")
def test_psydef() -> None:
    assert valid("psydef")["labelled rows"] == 371


@pytest.mark.slow
@pytest.mark.data("empathetic_dialogues")
def test_empathetic_dialogues_in_a_minute() -> None:
    start = time.monotonic()
    assert valid("empathetic_dialogues")["utterances"] == 107_247
    assert time.monotonic() - start < 60


@pytest.mark.slow
@pytest.mark.data("esconv", "mesc", "empathetic_dialogues", "counsel_chat", "annomi")
def test_commons_shares_no_nine_words_with_any_of_them() -> None:
    report = corpora.validate("commons")
    assert report.ok, report.problems
