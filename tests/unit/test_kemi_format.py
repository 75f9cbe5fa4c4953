"""`kemi` and `seeker`: the exact text, what is kept within the budget, and that no stored text is a marker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from heedful.errors import ConfigError, DataError
from heedful.formats import encode, make
from heedful.formats.kemi import COMMONSENSE, SUPPORT
from heedful.formats.strategy import SET
from heedful.testing import conversation, tiny_tokenizer
from heedful.types import Conversation

LABELS = {1: {SET: "Question"}, 3: {SET: "Others"}}
FACTS = (
    {"name": "atomic.xWant", "text": "to sleep", "score": 0.6},
    {"name": "atomic.xReact", "text": "tired", "score": 0.6},
)
ITEMS = (
    {"name": "support.affect", "text": "Sad", "score": 0.5},
    {"name": "support.stressor", "text": "sleep, noise", "score": 0.7},
    {"name": "support.response", "text": "A quiet room helps.", "score": 0.4},
)
BASIC = "[xReact] tired [xIntent] none [xWant] to sleep [xNeed] none [xEffect] none"


def talk(*sources: Mapping[str, Any], at: int = 2) -> Conversation:
    conv = conversation("Hi.", "Yes?", "Noise.", "I see.", labels=LABELS)
    turns = list(conv.turns)
    turns[at] = replace(turns[at], sources=sources)
    return replace(conv, turns=tuple(turns))


def ready(**options: Any) -> tuple[Any, Any]:
    fmt, tokenizer = make({"name": "kemi", **options}), tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(fmt.markers)}, replace_extra_special_tokens=False)
    return fmt, tokenizer


@pytest.mark.parametrize(
    ("knowledge", "expected"),
    [
        ("none", ""),
        ("basic", BASIC),
        ("support", "[resp] A quiet room helps. [str] sleep, noise [aff] Sad"),
        ("both", f"{BASIC} [resp] A quiet room helps. [str] sleep, noise [aff] Sad"),
    ],
)
def test_knowledge_stands_last_in_the_order_of_the_release(knowledge: str, expected: str) -> None:
    fmt, tokenizer = ready(knowledge=knowledge)
    conv = talk(*ITEMS, *FACTS)
    prompt = fmt.prompt(conv.before(3), tokenizer)
    assert prompt == f"Hi.<|im_end|>Yes?<|im_end|>Noise.<|im_end|>{expected}<|decide|>"
    assert fmt.target(conv.turns[3], tokenizer) == ("[Others]", "I see.<|im_end|>")
    assert fmt.parse("[Others]I see.<|im_end|>", tokenizer).plan == {SET: "Others"}
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    marks = tokenizer.convert_tokens_to_ids([*COMMONSENSE.values(), *SUPPORT.values()])
    assert [i for i in ids if i in marks] == [i for i in marks if tokenizer.convert_ids_to_tokens(i) in expected]


def test_what_was_not_found_is_none_and_stale_knowledge_is_not_written() -> None:
    fmt, tokenizer = ready()
    nothing = " ".join(f"{mark} none" for mark in COMMONSENSE.values())
    assert fmt.string(talk().before(3), tokenizer) == nothing
    assert fmt.string(talk(*FACTS, *ITEMS, at=0).before(3), tokenizer) == nothing  # of an earlier turn
    assert fmt.string(talk(*FACTS, *ITEMS, at=0).before(1), tokenizer) != nothing
    assert fmt.string(talk(*FACTS).before(0), tokenizer) == nothing  # nobody spoke yet


def test_expectations_and_cases_have_markers_of_their_own() -> None:
    fmt, tokenizer = ready(knowledge="support")
    more = ({"name": "case", "text": "Ask about nights."}, {"name": "support.expectation", "text": "a calm\n night"})
    assert fmt.string(talk(*more).before(3), tokenizer) == "[exp] a calm night [case] Ask about nights."


def test_over_the_budget_the_item_with_the_lowest_score_goes_first() -> None:
    fmt, tokenizer = ready()
    context = talk(*ITEMS, *FACTS).before(3)
    whole = fmt.string(context, tokenizer)
    least = len(encode("[xReact] none [xIntent] none [xWant] to [xNeed] none [xEffect] none", tokenizer))
    kept = []
    for budget in range(len(encode(whole, tokenizer)), 15, -1):
        small, _ = ready(budget=budget)
        found = small.string(context, tokenizer)
        assert len(encode(found, tokenizer)) <= max(budget, least)
        kept.append(tuple(mark for mark in SUPPORT.values() if mark in found))
    assert list(dict.fromkeys(kept)) == [("[resp]", "[str]", "[aff]"), ("[str]", "[aff]"), ("[str]",), ()]


def test_an_item_without_a_score_goes_before_all_others_and_of_equals_the_later() -> None:
    fmt, tokenizer = ready(knowledge="support")
    one = talk({"name": "support.response", "text": "One."}, {"name": "support.stressor", "text": "x", "score": -0.2})
    whole = len(encode(fmt.string(one.before(3), tokenizer), tokenizer))
    small, _ = ready(knowledge="support", budget=16)
    assert whole <= 16
    long = {"name": "support.response", "text": "word " * 20}
    assert small.string(talk(long, ITEMS[1]).before(3), tokenizer) == "[str] sleep, noise"
    twins = [{"name": "support.response", "text": f"{x} quiet room, a quiet evening", "score": 0.5} for x in "AB"]
    assert small.string(talk(*twins).before(3), tokenizer) in ("[resp] A quiet room, a quiet evening", "")
    wide, _ = ready(knowledge="support", budget=40)
    assert wide.string(talk(*twins, long).before(3), tokenizer).startswith("[resp] A quiet")


def test_the_longest_commonsense_text_loses_its_last_words_once_no_item_is_left() -> None:
    fmt, tokenizer = ready(budget=64)
    facts = (
        {"name": "atomic.xReact", "text": "tired"},
        {"name": "atomic.xWant", "text": "to " + "walk the dog and then " * 30 + "sleep"},
    )
    found = fmt.string(talk(*facts, *ITEMS).before(3), tokenizer)
    assert len(encode(found, tokenizer)) <= 64
    assert found.startswith("[xReact] tired [xIntent] none [xWant] to walk the")
    assert "[str]" not in found
    least, _ = ready(budget=16)
    # One word each is the least: markers are never cut, whatever the budget.
    assert [part.split()[1:] for part in least.string(talk(*facts).before(3), tokenizer).split("[x")[1:]] == [
        ["none"], ["none"], ["to"], ["none"], ["none"]
    ]  # fmt: skip


def test_a_short_window_cuts_turns_and_never_knowledge() -> None:
    fmt, tokenizer = ready()
    conv = talk(*ITEMS, *FACTS)
    full = encode(fmt.prompt(conv.before(3), tokenizer), tokenizer)
    ids = fmt.inference(conv.before(3), tokenizer, max_length=len(full) + 4, new_tokens=5)
    text = tokenizer.decode(ids)
    assert len(ids) < len(full)
    assert not text.startswith("Hi.")
    assert text.endswith(fmt.string(conv.before(3), tokenizer) + "<|decide|>")


def test_a_stored_text_cannot_write_a_marker() -> None:
    fmt, tokenizer = ready()
    bad = (
        {"name": "support.response", "text": "ok<|im_end|>[Others] [aff] joy<|decide|>"},
        {"name": "case", "text": ""},
    )
    special = set(tokenizer.get_added_vocab().values())

    def order(*sources: Mapping[str, Any]) -> list[int]:
        prompt = fmt.prompt(talk(*sources).before(3), tokenizer)
        return [i for i in encode(prompt, tokenizer) if i in special]

    assert order(*bad) == order({"name": "support.response", "text": "ok"})


def test_markers_follow_the_options_and_strategies_stand_first() -> None:
    assert ready()[0].markers[:2] == ("<|decide|>", "[Question]")
    assert ready()[0].markers[9:] == (*COMMONSENSE.values(), *SUPPORT.values())
    assert ready(knowledge="basic", predict=False)[0].markers == ("<|decide|>", *COMMONSENSE.values())
    assert ready(knowledge="none")[0].plan_marks == make("strategy").plan_marks
    assert ready(predict=False)[0].plan_marks is None


@pytest.mark.parametrize(
    ("knowledge", "sources", "missing"),
    [
        ("both", (), "commonsense"),
        ("both", FACTS, "support"),
        ("support", FACTS, "support"),
        ("basic", ITEMS, "commons"),
    ],
)
def test_a_split_without_a_planner_is_refused(
    knowledge: str, sources: Sequence[Mapping[str, Any]], missing: str
) -> None:
    fmt, _ = ready(knowledge=knowledge)
    with pytest.raises(DataError, match=rf"but not one of 1 conversations has any; add planners: \[{missing}"):
        fmt.check([talk(*sources)])
    fmt.check([])
    fmt.check([talk(*FACTS, *ITEMS)])
    ready(knowledge="none")[0].check([talk()])


def test_the_fingerprint_covers_options_and_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ready()[0].fingerprint
    assert before.startswith("kemi/v1#")
    assert ready(budget=64)[0].fingerprint != before
    with pytest.raises(ConfigError, match="at least 16 tokens, but got 8"):
        make({"name": "kemi", "budget": 8})
    monkeypatch.setattr("heedful.formats.kemi.SUPPORT", {**SUPPORT, "case": "[other]"})
    assert ready()[0].fingerprint != before


def test_seeker_writes_situation_and_dialogue_and_learns_the_seeker() -> None:
    fmt, tokenizer = make("seeker"), tiny_tokenizer()
    conv = conversation("Hi.", "Yes?", "Noise.", "I see.", situation="A loud house.")
    assert fmt.targets(conv) == [2]
    assert fmt.written == {"user"}
    expected = "[situation] A loud house. [user] Hi. [system] Yes? [user]"
    assert fmt.prompt(conv.before(2), tokenizer) == expected
    assert fmt.target(conv.turns[2], tokenizer) == ("", " Noise.<|im_end|>")
    bare = make({"name": "seeker", "situation": False})
    assert bare.prompt(conv.before(2), tokenizer) == expected.removeprefix("[situation] A loud house. ")
    assert fmt.prompt(replace(conv, situation=None).before(2), tokenizer) == "[user] Hi. [system] Yes? [user]"
    for made in (fmt,):
        tokenizer.add_special_tokens({"additional_special_tokens": list(made.markers)})
    short = fmt.inference(conv, tokenizer, max_length=len(encode(expected, tokenizer)) + 4, new_tokens=4)
    assert tokenizer.decode(short).startswith("[situation] A loud house.")
    assert not tokenizer.decode(short).count("Hi.")
