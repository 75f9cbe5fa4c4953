"""The screen: every rule of the file against its own texts, and how texts, stories and hidden letters are read."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.safety import load_rules, load_screen
from heedful.safety.screen import screen_hash
from heedful.types import Label, Turn

RULES = load_screen().rules


def texts(kind: str) -> list[Any]:
    return [
        pytest.param(rule, text, id=f"{rule.name}-{n}") for rule in RULES for n, text in enumerate(getattr(rule, kind))
    ]


def test_every_rule_has_texts_on_both_sides() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES) >= 10
    assert all(rule.blocks and rule.passes for rule in RULES)


@pytest.mark.parametrize(("rule", "text"), texts("blocks"))
def test_what_a_rule_must_stop(rule: Any, text: str) -> None:
    assert load_screen().why(text) is not None
    assert rule.stops(text)
    hidden = text.upper().replace("'", "’").replace(" ", " \n")
    assert load_screen().why(hidden) is not None
    assert load_screen().why(f"_{text}_ and so on") is not None, "marks around words hide nothing"
    assert (load_screen().why(stories=[text]) is None) <= rule.shown, (
        "stories are read by all rules that are not `shown`"
    )


@pytest.mark.parametrize(("rule", "text"), texts("passes"))
def test_what_no_rule_stops(rule: Any, text: str) -> None:
    assert load_screen().why(text) is None


def test_disclosures_are_stopped_too() -> None:
    """What risk.toml takes for a disclosure is not knowledge either, in a story as well."""
    assert load_screen().why("There is no point in living.") is not None
    assert load_screen().why("calm words", stories=["I wish I was never born."]) is not None


def test_letters_that_nobody_sees_hide_nothing() -> None:
    assert load_screen().why("over​dose") == "means"


def test_rules_for_what_is_shown_leave_stories_alone() -> None:
    assert load_screen().why("damn") == "profanity"
    assert load_screen().why("quiet", stories=["damn"]) is None


def test_the_first_rule_of_the_file_is_named() -> None:
    assert load_screen().why("damn", "a rope") == "means"
    assert load_screen().why() is None
    assert load_screen().hash == screen_hash()


def test_disclosed_looks_back_over_the_window_and_at_labels() -> None:
    rules = load_rules()
    risky, calm = Turn(role="user", text="I want to die."), Turn(role="user", text="ok")
    assert rules.disclosed([risky, calm, calm])
    assert not rules.disclosed([risky, *[calm] * rules.window])
    assert not rules.disclosed([Turn(role="assistant", text="Do you want to die?"), calm])
    assert rules.disclosed([Turn(role="user", text="yes", labels=(Label(set="risk", value="thoughts"),))])
