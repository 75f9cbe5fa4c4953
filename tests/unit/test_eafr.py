"""EAFR: letters of turns, flow between them, and the gold rates of ESConv."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from heedful import corpora, taxonomy
from heedful.errors import DataError, LabelError
from heedful.scoring import initiative
from heedful.scoring.initiative import SET, SeekerRule, flow, initiative_rate, leads, letters, report
from heedful.testing import conversation
from heedful.types import Conversation, Label, Turn


def far(texts: Sequence[str]) -> Any:
    """Unit vectors that differ for all texts, but for those that begin with the same letter."""
    table = np.zeros((len(texts), 256), dtype=np.float32)
    for row, text in enumerate(texts):
        table[row, ord(text[0]) % 256] = 1.0
    return table


RULE = SeekerRule(encode=far)
TALK = conversation(
    "Hello.",  # H
    "Hi.",  # H (Others)
    "Exams begin and nobody sleeps at home anymore.",  # E: new
    "Since when?",  # A
    "Exactly since May, at home, nobody sleeps before exams.",  # F: the like was said (first letter)
    "That is hard.",  # R
    "What should I do?",  # E: question
    "Try a walk.",  # A
    "Thanks.",  # F
    "Goodbye!",  # B
    "See you.",  # B
    labels={
        1: {SET: "Others"},
        3: {SET: "Question"},
        5: {SET: "Reflection of feelings"},
        7: {SET: "Providing Suggestions"},
        9: {SET: "Others"},
    },
    id="one",
)


def told(conv: Conversation, **options: Any) -> str:
    (row,) = RULE([conv])
    return "".join(letter or "?" for letter in letters(conv, row, **options))


def test_letters_of_a_talk() -> None:
    assert told(TALK) == "HHEAFREAFBB"


def test_strategies_that_lead_are_those_of_the_release() -> None:
    names = taxonomy.get(SET).names
    assert [i for i, name in enumerate(names) if leads(name)] == [0, 1, 5, 6]
    with pytest.raises(LabelError, match="has no label 'Questoin'"):
        leads("Questoin")


def test_bye_as_a_word_and_as_part_of_one() -> None:
    by_law = conversation("Why?", "A byelaw says so.", "I see.", labels={1: {SET: "Information"}})
    assert told(by_law) == "EAF"
    assert told(by_law, bye="substring") == "EBB"
    for text in ("bye", "Bye-bye.", "GOODBYE", "good bye then", "ok bye!"):
        assert told(conversation("Why?", "So.", text, labels={1: {SET: "Others"}})) == "ERB"
    early = conversation("Bye?", "No, stay.", labels={1: {SET: "Question"}})
    assert told(early) == "BB"  # a farewell wins over a greeting


def test_a_supporters_turn_without_a_strategy_has_no_letter() -> None:
    assert told(conversation("Why?", "So.", "I see.")) == "E?F"
    assert told(conversation("No.", "So.", "I see.")) == "HHH"  # nobody leads: all of it is greeting
    made = Turn(role="assistant", text="So.", labels=(Label(set=SET, value="Information", source="model"),))
    talk = conversation("Why?", "x")
    assert told(Conversation(id="m", turns=(talk.turns[0], made))) == "EA"  # in a chat the predicted one counts
    with pytest.raises(DataError, match="one value for each of 2 turns"):
        letters(talk, [True])


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("Can you listen", True),
        ("I need some advice", True),
        ("Please stay", True),
        ("Any tips", True),
        ("how should i tell her", True),
        ("What should I do", True),
        ("I needed some air yesterday", False),
        ("You can do that", False),
        ("Thanks", False),
    ],
)
def test_requests(text: str, asks: bool) -> None:
    first = conversation("T.", "So.", text)
    assert RULE([first])[0] == [False, False, asks]


def test_a_turn_is_new_only_if_long_enough_and_unlike_all_before_it() -> None:
    long = "Exams begin and nobody sleeps at home."
    assert RULE([conversation(long)])[0] == [True]
    assert RULE([conversation("Ok.", "So.", long)])[0][2]
    assert not RULE([conversation("Ok.", "Exams, then.", long)])[0][2]  # the supporter brought it up
    assert not RULE([conversation("Ok.", "So.", "Exams begin.")])[0][2]
    assert not SeekerRule(encode=far, words=9)([conversation(long)])[0][0]
    assert SeekerRule(encode=far, floor=1.1)([conversation("Ok.", "Exams, then.", long)])[0][2]
    assert "heuristic" in RULE.note
    assert "0.3" in RULE.note


def test_flow_counts() -> None:
    found = flow([TALK], rule=RULE)
    assert found.counts == {"E": 2, "A": 2, "F": 2, "R": 1, "H": 2, "B": 2}
    assert found.shares == pytest.approx({"E": 2 / 7, "A": 2 / 7, "F": 2 / 7, "R": 1 / 7})
    assert found.transitions == {"ER": 0, "RE": 1, "EA": 2, "AE": 0, "RF": 0, "FR": 1, "AF": 2, "FA": 0}
    assert (found.after_greeting, found.before_farewell) == ({"E": 1}, {"F": 1})
    assert (found.talks, found.turns, found.unlabelled, found.same_speaker) == (1, 11, 0, 0)
    assert [s.turns for s in found.slices] == [3, 2, 2, 2, 2]
    assert [s.initiative for s in found.slices] == pytest.approx([1 / 3, 1 / 2, 1 / 2, 1 / 2, 0])
    assert found.slices[0].supporter == 0.0
    assert found.slices[3].seeker == 0.0
    assert all(s.relaxation is None for s in found.slices)


def test_two_turns_of_one_speaker_are_no_transition() -> None:
    turns = (TALK.turns[2], TALK.turns[6], TALK.turns[3], TALK.turns[5], TALK.turns[8])
    found = flow([Conversation(id="x", turns=turns)], rule=RULE)
    assert found.same_speaker == 2
    assert {k: v for k, v in found.transitions.items() if v} == {"EA": 1, "RF": 1}
    assert found.after_greeting == {}


def test_relaxation_is_averaged_in_the_fifth_of_its_turn() -> None:
    found = flow([TALK], rule=RULE, relaxation={("one", 3): 1.0, ("one", 1): -1.0, ("one", 7): 0.5, ("two", 3): 9.0})
    assert [s.relaxation for s in found.slices] == [-1.0, 1.0, None, 0.5, None]


def test_a_report_has_both_farewells_and_is_json() -> None:
    by_law = conversation("Why?", "A byelaw says so.", "I see.", labels={1: {SET: "Information"}}, id="two")
    found = report([TALK, by_law], rule=RULE)
    assert (found.word.counts["B"], found.substring.counts["B"]) == (2, 4)
    assert found.rate == found.rate_with_opening == pytest.approx(3 / 6)
    record = json.loads(json.dumps(found.to_dict()))
    assert record["substring"]["bye"] == "substring"
    assert "heuristic" in record["word"]["rule"]
    assert "exams" not in json.dumps(record).lower()
    with pytest.raises(DataError, match="at least one conversation"):
        flow([], rule=RULE)


def test_the_rate_counts_labelled_targets_and_openings_on_demand() -> None:
    opens = conversation("What brings you here?", "Noise.", first="assistant", labels={0: {SET: "Question"}})
    assert initiative_rate([opens]) is None
    assert initiative_rate([opens], opening=True) == 1.0
    assert initiative_rate([TALK, opens]) == pytest.approx(2 / 5)


@pytest.mark.data("esconv")
def test_gold_rates_of_esconv() -> None:
    """kemi.md: train 0.481, valid 0.486, test 0.504; with opening turns 0.489, 0.492, 0.510."""
    expected = {"train": (0.481, 0.489), "valid": (0.486, 0.492), "test": (0.504, 0.510)}
    for split, rates in expected.items():
        talks = corpora.load("esconv", split)
        found = (initiative_rate(talks), initiative_rate(talks, opening=True))
        assert tuple(round(rate, 3) for rate in found if rate is not None) == rates


def test_the_module_says_what_it_guesses() -> None:
    assert "heuristic" in (initiative.__doc__ or "")
