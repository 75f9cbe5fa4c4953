"""The reply gate: each rule against its own cases, and how verdicts come about."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest

from heedful import corpora
from heedful.errors import ConfigError
from heedful.safety import crisis, texts
from heedful.safety.events import Said
from heedful.safety.gate import GateRule, check, load_gate, options, parse
from heedful.safety.state import State, step
from heedful.types import Turn

GATE = load_gate()
CALM = "I slept badly again."


def cases(kind: str) -> list[Any]:
    return [
        pytest.param(rule, text, id=f"{rule.rule.name}-{n}")
        for rule in GATE.rules
        for n, text in enumerate(getattr(rule.rule, kind))
    ]


def said(text: str) -> list[Turn]:
    return [Turn(role="user", text=text)]


def test_every_rule_has_cases_on_both_sides() -> None:
    assert len(GATE.rules) >= 15
    for rule in GATE.rules:
        assert rule.rule.fails, rule.rule.name
        assert rule.rule.passes, rule.rule.name
        assert (rule.when == "always") == (not rule.rule.said)


@pytest.mark.parametrize(("rule", "text"), cases("fails"))
def test_what_must_not_go_out(rule: GateRule, text: str) -> None:
    verdict = check(text, said=said(rule.rule.said or CALM))
    assert rule.rule.name in verdict.rules
    assert verdict.outcome == "block" or verdict.outcome == rule.verdict
    assert not verdict
    if rule.when != "always":
        assert rule.rule.name not in check(text, said=said(CALM)).rules, "the same words are allowed elsewhere"


@pytest.mark.parametrize(("rule", "text"), cases("passes"))
def test_what_may_go_out(rule: GateRule, text: str) -> None:
    assert check(text, said=said(rule.rule.said or CALM)).rules == ()


def test_the_rules_of_risk_toml_are_asked_too() -> None:
    assert check("You should kill yourself.").outcome == "block"
    assert check("Cheer up!", said=said("I want to die.")).outcome == "return"
    assert "silent" in check("", said=said("I want to die.")).rules


def test_the_worst_verdict_counts() -> None:
    verdict = check("You clearly have depression. Don't tell anyone.")
    assert verdict.outcome == "block"
    assert set(verdict.rules) == {"diagnosis", "discourages-help"}


def test_a_person_may_say_that_they_are_one() -> None:
    assert check("I am a therapist.").outcome == "block"
    assert check("I am a therapist.", author="person").outcome == "pass"
    assert check("You clearly have depression.", author="person").outcome == "return"
    with pytest.raises(ConfigError, match="draft or person"):
        check("x", author="robot")  # type: ignore[arg-type]


def test_a_risk_counts_as_long_as_the_state_knows_of_it() -> None:
    """Also when it was said long before the turns that are at hand."""
    text = "Promise me that you rest."
    state, _ = step(State(), Said(assessment=crisis.assess("I want to die.")), datetime(2026, 1, 1, tzinfo=UTC))
    assert check(text, said=said(CALM)).outcome == "pass"
    assert check(text, said=said(CALM), state=state).rules == ("demands-promise",)
    violence, _ = step(State(), Said(assessment=crisis.assess("My husband hits me.")), datetime(2026, 1, 1, tzinfo=UTC))
    assert check("Try couples therapy.", state=violence).rules == ("couples-advice",)


def test_a_risk_in_another_language_counts() -> None:
    assert check("答应我不要这样做。", said=said("我想死")).rules == ("demands-promise",)


def test_our_own_crisis_texts_pass() -> None:
    for language in texts.LANGUAGES:
        loaded = texts.load(language)
        values = {"line": "LINE", "emergency": "112", "minutes": 15, "seen": "2026-11-22 09:30"}
        shown = [*loaded.questions.values(), *(loaded.say(id, **values) for id in loaded.sayings)]
        shown += [" ".join(loaded.options(id, **values)) for id in loaded.choices if "from-others" not in id]
        for text in shown:
            assert check(text, said=said("I want to die.")).rules == (), text
        from_others = [o for id in loaded.choices if "from-others" in id for o in loaded.options(id, **values)]
        for text in from_others:
            assert check(text, said=said("My husband hits me.")).rules == (), text


def test_careful_replies_of_the_embedded_corpus_pass() -> None:
    """1,097 replies that were written with care; what is returned is counted, nothing is blocked."""
    found: list[tuple[str, tuple[str, ...]]] = []
    talks = [talk for part in ("train", "valid", "test") for talk in corpora.load("commons", part)]
    for talk in talks:
        for i in talk.targets():
            verdict = check(talk.turns[i].text, said=talk.turns[:i], author="person")
            if not verdict:
                found.append((verdict.outcome, verdict.rules))
    assert [rules for outcome, rules in found if outcome == "block"] == []
    assert len(found) <= 5, found


def test_options_are_counted() -> None:
    assert options("- a\n- b\n* c\n• d") == 4
    assert options("1) a 2) b 3) c 4) d") == 4
    assert options("I was in 2. grade, and 7. came later.") == 0
    assert options("No list at all - only a dash.") == 0


def test_no_text_in_a_verdict() -> None:
    assert "Wilhelmina" not in repr(check("Don't tell anyone, Wilhelmina."))


SOURCE = files("heedful.safety").joinpath("gate.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('verdict = "block"', 'verdict = "pass"', "where one of return, block belongs"),
        ('when = "crisis"', 'when = "never"', "where one of always"),
        ('of = "draft"', 'of = "robot"', "where one of anyone"),
        ('counts = "options"', 'counts = "all"', "where one of None"),
        ('counts = "options"', "", "either 'patterns' or 'counts'"),
        ('"silent"]', '"loud"]', "names 'loud'"),
        ('name = "guilt"', 'name = "commands"', "two rules are called 'commands'"),
        ('title = "Uses guilt"', 'titel = "x"', "unknown key 'titel'"),
        ('unless = ["reflected"]', 'unless = ["joking"]', "'unless' knows"),
        ('version = "1.0"', "version =", "cannot be used"),
    ],
)
def test_a_damaged_file_is_one_sentence(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(SOURCE.replace(old, new, 1), digest="x")
