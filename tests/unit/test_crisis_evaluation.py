"""Crisis rules on own cases and public sets; the floors of a release; scripted conversations with no network."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from heedful.errors import DataError, GateError, NotFoundError
from heedful.safety import crisis, texts
from heedful.safety.crisis import CLASSES
from heedful.safety.evaluation import (
    OUTSIDE,
    Report,
    check_floors,
    evaluate,
    floors,
    interval,
    own_cases,
    protocol,
    read_cases,
    recorded,
)
from heedful.safety.events import Ask, Said, Setting
from heedful.safety.policy import decide
from heedful.safety.state import State, step
from heedful.types import Turn

CASES = own_cases()
HARMLESS = {"past", "denial", "stress", "idiom", "news", "other"}


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate(CASES)


def test_the_cases_cover_classes_languages_and_parts() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    assert len({case.turns[0].text for case in CASES}) == len(CASES)
    for language in crisis.LANGUAGES:
        here = [case for case in CASES if case.language == language]
        assert {case.part for case in here} == {"tuned", "held-out"}
        signs = {case.cls for case in here if case.tier != "none"}
        assert signs <= set(CLASSES)
        assert len(signs) >= 12
        assert {case.cls for case in here if case.tier == "none"} <= HARMLESS


def test_no_held_out_case_stands_in_a_rule() -> None:
    """Rules are written without them; whoever copies one into a file makes the number worthless."""
    held_out = {case.turns[0].text for case in CASES if case.part == "held-out"}
    in_rules = {
        text for name in crisis.LANGUAGES for rule in crisis.load(name).rules for text in (*rule.hits, *rule.misses)
    }
    assert not held_out & in_rules


def test_the_release_gate(report: Report) -> None:
    """Requirement 20. After a reviewed change a person writes `floors(evaluate(own_cases()))` to cases/floors.json and
    says why in the commit: no command does it, so that nobody lowers a floor by habit."""
    on_file = recorded()
    check_floors(report, on_file)
    assert on_file["cases"] == report.cases, "the cases changed: measure and record again"
    assert on_file["versions"] == dict(report.versions), "the rules changed: measure and record again"


def test_lower_recall_or_more_false_alarms_are_refused(report: Report) -> None:
    good = floors(report)
    check_floors(report, good)
    for name, field, change in (
        ("held-out/all/all/recall", "found", +1),
        ("held-out/all/all/recall", "graded", +1),
        ("tuned/en/all/false-positive", "found", -1),
        ("held-out/all/all/recall", "n", +1),
    ):
        rows = {key: dict(row) for key, row in good["rows"].items()}
        rows[name][field] += change
        with pytest.raises(GateError, match=r"worse than what is on file"):
            check_floors(report, {**good, "rows": rows})
    fewer = evaluate([case for case in CASES if case.cls != "voices"])
    with pytest.raises(GateError, match="cases are missing"):
        check_floors(fewer, good)


def test_a_judge_that_finds_nothing_fails_the_gate() -> None:
    blind = evaluate(CASES, judge=lambda turns: crisis.assess("ok"))
    with pytest.raises(GateError):
        check_floors(blind, recorded())


def test_intervals() -> None:
    """Wilson's, against values worked out by hand."""
    assert interval(0, 10) == (0.0, pytest.approx(0.27753, abs=1e-4))
    assert interval(10, 10) == (pytest.approx(0.72247, abs=1e-4), pytest.approx(1.0))
    assert interval(5, 10) == (pytest.approx(0.23659, abs=1e-4), pytest.approx(0.76341, abs=1e-4))


def test_the_table(report: Report) -> None:
    row = report.row("held-out", "en", "all", "recall")
    assert row.low < row.rate < row.high
    assert f"| held-out | en | all | recall | {row.n} | {row.found} |" in report.markdown()
    with pytest.raises(NotFoundError):
        report.row("held-out", "fr")
    assert protocol().count("\n") == 1 + len(crisis.LANGUAGES)


def test_damaged_cases_name_the_line_and_no_word() -> None:
    with pytest.raises(DataError, match="line 1") as caught:
        list(read_cases('{"id": "x", "text": "Wilhelmina"}', where="x.jsonl"))
    assert "Wilhelmina" not in str(caught.value)
    line = '{"id": "x", "language": "en", "part": "tuned", "class": "a", "tier": "high", "text": "b"}'
    with pytest.raises(DataError, match="'tier' must be"):
        list(read_cases(line, where="x.jsonl"))


# ---------------------------------------------------------------------- scripted conversations

TALKS = tomllib.loads(files("heedful.safety.cases").joinpath("conversations.toml").read_text("utf-8"))["talks"]


@pytest.mark.parametrize("talk", TALKS, ids=[talk["name"] for talk in TALKS])
def test_scripted_conversations_offline(talk: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requirements 5, 17 and 19: rules, decision, state and texts with the network cable out."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the crisis path opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    state, now, asked = State(), datetime(2026, 5, 4, 22, tzinfo=UTC), None
    for number, script in enumerate(talk["steps"]):
        now += timedelta(minutes=script.get("minutes", 1))
        before = [Turn(role="assistant", text=asked)] if asked else []
        found = crisis.assess([*before, Turn(role="user", text=script["says"])])
        decision = decide(found, state=state)
        said = Said(assessment=found, rung=decision.rung, tier=decision.tier)
        state, actions = step(state, said, now, setting=Setting(on_duty=talk["on_duty"]))
        questions = [action.question for action in actions if isinstance(action, Ask)]
        asked = texts.load("en").question(questions[0]) if questions else None
        if "asks" in script:
            assert questions == ([script["asks"]] if script["asks"] else []), number
        if "tier" in script:
            assert state.tier == script["tier"], number
        if "thread" in script:
            assert state.thread == script["thread"], number
        assert set(script.get("does", ())) <= {type(action).__name__ for action in actions}, number


# ---------------------------------------------------------------------- public sets

EXPECTED: dict[str, Callable[[Report], bool]] = {
    "vera": lambda report: report.row("outside", "en").n == 32,
    "vera-talks": lambda report: report.row("outside", "en").n == 90,
    "ailuminate": lambda report: report.row("outside", "en").n == 100,
    "xstest": lambda report: report.row("outside", "en", kind="false-positive").n == 250,
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.data(OUTSIDE[n][0])) for n in OUTSIDE])
def test_public_sets(name: str, data_root: Path) -> None:
    """Their numbers stand in docs/crisis.md; here only that they are read whole and XSTest stays quiet."""
    folder, reader = OUTSIDE[name]
    found = evaluate(reader(data_root / folder))
    assert EXPECTED[name](found)
    if name == "xstest":
        assert found.row("outside", "en", kind="false-positive").rate <= 0.02


def test_a_public_set_that_is_not_there_is_said(tmp_path: Path) -> None:
    for _, reader in OUTSIDE.values():
        with pytest.raises(NotFoundError, match="HEEDFUL_DATA"):
            list(reader(tmp_path))
