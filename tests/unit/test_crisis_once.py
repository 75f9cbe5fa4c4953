"""Fixed texts of the crisis path: each event says its own, once, whatever the clock or the language does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from review_kit import Service, service

from heedful.errors import DataError
from heedful.review import crisis, problems
from heedful.review.crisis import Lines
from heedful.safety import events
from heedful.safety.crisis import assess
from heedful.safety.policy import decide
from heedful.safety.state import State
from heedful.store.records import StoredTurn
from heedful.types import Turn

DANGER = "I am going to kill myself tonight."
GERMAN = "Ich will mich heute Nacht umbringen."


@pytest.fixture
def at(tmp_path: Path) -> Service:
    return service(tmp_path)  # its clock stands still unless a test moves it: everything is one second


def told(at: Service) -> list[str]:
    return [text for role, text in at.turns() if role == "assistant"]


def handed_back(at: Service) -> None:
    at.clinic.take_over(at.thread, by=at.clara)
    at.clinic.lower_risk(at.thread, "none", by=at.clara, reason="We spoke.")
    at.clinic.give_back(at.thread, by=at.clara, reason="We spoke.")


def report(at: Service, text: str) -> None:
    """Danger in a report: an event without a message."""
    problems.report(at.clinic, user=at.anna, role="help_seeker", kind="other", text=text)


def test_two_events_of_one_second_both_speak(at: Service) -> None:
    """The second one was taken for the first one done again, and nobody was told that they were held."""
    report(at, DANGER)
    being_told = told(at)[0]
    assert "988" in being_told
    handed_back(at)
    report(at, DANGER)
    assert at.state() == "risk_held"
    assert told(at).count(being_told) == 2


def test_two_languages_in_one_second_are_no_conflict(at: Service) -> None:
    report(at, DANGER)
    first = told(at)
    handed_back(at)
    report(at, GERMAN)
    assert at.state() == "risk_held"
    assert len(told(at)) > len(first)
    assert told(at)[len(first) :] != first


def happen(at: Service, unit: Any, *, line: str = "988", turn: StoredTurn | None = None) -> list[StoredTurn]:
    thread = unit.threads.raise_risk(at.thread, 0, by=crisis.PROGRAM)
    found = assess([Turn(role="user", text=DANGER)])
    asked = decide(found, state=State())
    said = events.Said(assessment=found, rung=asked.rung, tier=asked.tier)
    done = crisis.happen(
        unit,
        thread,
        said,
        setting=at.clinic.policy.setting(unit.now()),
        lines=lambda _: Lines(line=line, emergency="911"),
        turn=turn,
    )
    return list(done.said)


def test_an_event_that_is_done_again_after_a_rollback_finds_the_same_ids(at: Service) -> None:
    ids: list[list[str]] = []

    def cut_off() -> None:
        with at.store.begin() as unit:
            ids.append([turn.client_id for turn in happen(at, unit)])
            raise RuntimeError("power cut")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="power cut"):
            cut_off()
        at.clock.forward(seconds=90)  # the second try is later: a time would make another message of it
    assert ids[0] == ids[1] != []
    assert told(at) == []


def test_a_text_that_was_kept_stands_though_its_words_changed_meanwhile(at: Service) -> None:
    """A second reader hears the same message later, and a clinic may have changed a crisis line in between."""
    with at.store.begin() as unit:
        turn = unit.turns.add(thread=at.thread, client_id="m-1", role="user", text=DANGER, author=at.anna)
        first = happen(at, unit, turn=turn)
    assert any("988" in said.text for said in first)
    handed_back(at)
    with at.store.begin() as unit:
        again = happen(at, unit, turn=turn, line="555 0100")
    assert set(again) <= set(first)
    with at.store.read() as unit:
        assert [len(unit.audit.of(f"turn:{said.id}")) for said in first] == [1] * len(first)


def test_a_message_sent_twice_is_answered_once(at: Service) -> None:
    at.say(DANGER, client_id="m-1")
    first = told(at)
    at.clock.forward(seconds=30)
    at.say(DANGER, client_id="m-1")
    assert told(at) == first


@pytest.mark.parametrize("id", ["crisis:v3:say:owner-told:en", "stop:1", "notice:1:when-asked", "draft:1"])
def test_nobody_puts_words_where_a_text_of_the_program_will_stand(at: Service, id: str) -> None:
    """Such ids can be guessed: a message under one of them was taken for the fixed text, which then was never said."""
    for text in ("I slept badly.", DANGER):
        with pytest.raises(DataError, match="like one of the program"):
            at.clinic.receive(at.thread, by=at.anna, client_id=id, text=text)
    at.clinic.take_over(at.thread, by=at.clara)
    with pytest.raises(DataError, match="like one of the program"):
        at.clinic.write(at.thread, "I am here.", by=at.clara, client_id=id)
    assert at.turns() == []


def test_a_person_who_is_asked_for_speaks_whatever_ids_were_tried(at: Service) -> None:
    at.say("I slept badly.")
    at.clinic.take_over(at.thread, by=at.clara)
    for version in range(40):
        id = f"crisis:v{version}:say:owner-told:en"
        with pytest.raises(DataError):
            at.clinic.receive(at.thread, by=at.anna, client_id=id, text="I am here.")
    at.clinic.ask_person(at.thread, by=at.anna)
    assert "988 answers now" in at.turns()[-1][1]
