"""The timeline of a conversation: each act once, with its reason, who, and in the reader's language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say

from heedful.server.routes.inbox import look
from heedful.server.timeline import joined
from heedful.server.words import LANGUAGES, load
from heedful.store.records import Note, RiskEvent
from store_kit import Clock

AT = datetime(2026, 11, 22, 9, tzinfo=UTC)


@pytest.fixture
def acted(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    """Everything that a person can do with a conversation, some of it twice."""
    clinic = make_clinic(tmp_path, clock=clock)
    anna, clara, desk = clinic.begun(), clinic.site.ids["clinician"], clinic.desk.clinic
    say(anna, "I slept badly.", "m1")
    clinic.draft()
    say(anna, "I am going to kill myself tonight.", "m2")
    thread = clinic.thread().id
    steps: list[Any] = [
        lambda: desk.take_over(thread, by=clara),
        lambda: desk.lower_risk(thread, "none", by=clara, reason="We spoke."),
        lambda: desk.give_back(thread, by=clara, reason="All fine."),
        lambda: desk.raise_risk(thread, "thoughts", by=clara, reason="What she says."),
        lambda: desk.hold(thread, by=clara, reason="I look."),
        lambda: desk.take_over(thread, by=clara),
        lambda: desk.close(thread, by=clara, reason="Done."),
    ]
    for step in steps:
        clock.forward(minutes=1)
        step()
    yield clinic
    clinic.store.close()


def rows(clinic: Clinic) -> list[tuple[str, str, str]]:
    with clinic.store.read() as unit:
        return [entry[1:] for entry in reversed(look(unit, clinic.desk, clinic.thread().id).timeline)]


def test_each_act_stands_once_with_its_reason(acted: Clinic) -> None:
    found = [row for row in rows(acted) if row[1] == "clara"]
    assert found == [
        ("Taken over: Immediate", "clara", ""),
        ("Risk lowered: No sign", "clara", "We spoke."),
        ("Given back: No sign", "clara", "All fine."),
        ("Risk raised: Thoughts", "clara", "What she says."),
        ("Held: Thoughts", "clara", "I look."),
        ("Taken over: Thoughts", "clara", ""),
        ("Closed: Thoughts", "clara", "Done."),
    ]


def test_no_row_of_the_page_is_there_twice(acted: Clinic) -> None:
    with acted.store.read() as unit:
        timeline = look(unit, acted.desk, acted.thread().id).timeline
    assert max(Counter(timeline).values()) == 1
    page = acted.client("clinician").get(f"/inbox/{acted.thread().id}").text
    for reason in ("We spoke.", "All fine.", "I look.", "Done."):
        assert page.count(reason) == 1


def test_what_the_program_did_is_not_said_to_be_somebodys(acted: Clinic) -> None:
    assert ("Draft expired", "the program", "") in rows(acted)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_act_has_a_word_in_every_language(language: str) -> None:
    acts = ("said", "believed", "overdue", "raised", "lowered", "confirmed", "held", "taken-over", "given-back")
    for act in (*acts, "follow-up-set", "followed-up", "looked", "closed"):
        assert load(language).has(f"event.{act}"), act


def note(text: str, *, kind: str = "lowered", seconds: float = 0, by: str = "c") -> Note:
    return Note(
        id=f"n{seconds}{kind}{text}", thread_id="t", kind=kind, text=text, by=by, at=AT + timedelta(seconds=seconds)
    )


def act(id: str, *, seconds: float = 0, action: str = "lowered") -> RiskEvent:
    return RiskEvent(
        id=id, thread_id="t", turn_id=None, level=0, source="person", action=action, rules=(), person="c",
        at=AT + timedelta(seconds=seconds),
    )  # fmt: skip


def test_nothing_that_was_said_is_lost() -> None:
    """Other words, another person, another act or another time: each stands by itself."""
    others = (note("other"), note("we spoke", by="d"), note("we spoke", kind="to_closed"), note("we spoke", seconds=60))
    alone, reasons = joined(
        (note("we spoke"), note("we spoke", kind="risk_lowered", seconds=0.1), *others), (act("a"),)
    )
    assert reasons == {"a": "we spoke"}
    assert set(alone) == set(others)


def test_two_acts_of_one_kind_keep_their_own_reasons() -> None:
    acts = (act("a"), act("b", seconds=1))
    alone, reasons = joined((note("first"), note("second", seconds=1)), acts)
    assert reasons == {"a": "first", "b": "second"}
    assert alone == ()
    assert joined((), tuple(replace(one, action="held") for one in acts)) == ((), {})
