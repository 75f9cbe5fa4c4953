"""A help-seeker whose conversation a person has asks for a person: they are answered at once, and somebody reacts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import HOUSE, Clinic, make_clinic, say, send
from review_kit import Service, service

from heedful.errors import ConflictError
from heedful.review.inbox import inbox
from heedful.store import audit
from store_kit import Clock

WISH = "Please, I want to talk to a person."


@pytest.fixture
def at(tmp_path: Path) -> Service:
    made = service(tmp_path, local=lambda moment: moment.strftime("%H:%M"))
    made.say("I slept badly.")
    made.clinic.take_over(made.thread, by=made.clara)
    return made


def tasks(at: Service) -> list[tuple[str, str | None]]:
    with at.store.read() as unit:
        return [(task.kind, task.owner) for task in unit.tasks.open(thread=at.thread)]


def wait(at: Service, minutes: int) -> None:
    for _ in range(minutes):
        at.clock.forward(minutes=1)
        at.clinic.tick()


@pytest.mark.parametrize("how", ["button", "words"])
def test_it_is_answered_at_once_by_a_fixed_text_and_the_owner_is_told(at: Service, how: str) -> None:
    seen = at.clock().strftime("%H:%M")
    at.clock.forward(minutes=10)
    before = len(at.turns())
    if how == "button":
        at.clinic.ask_person(at.thread, by=at.anna)
    else:
        at.say(WISH)
    *_, (role, text) = at.turns()
    assert role == "system"
    assert f"(last here: {seen})" in text
    assert "within 15 minutes" in text
    assert "988 answers now" in text
    assert "911" in text
    assert tasks(at) == [("person_asked", at.clara)]
    at.clinic.ask_person(at.thread, by=at.anna)
    at.say(WISH)
    assert len([1 for role, _ in at.turns()[before:] if role == "system"]) == 1, "not twice in a short stretch"
    assert tasks(at) == [("person_asked", at.clara)]
    assert audit.verify(at.store).state == "ok"


def test_an_owner_who_does_not_react_is_not_the_only_one_who_knows(at: Service) -> None:
    at.clinic.ask_person(at.thread, by=at.anna)
    with pytest.raises(ConflictError):
        at.clinic.hold(at.thread, by=at.carl, reason="I am here.")
    wait(at, 16)
    assert sorted(tasks(at), key=str) == [("person_asked", at.clara), ("person_waits", None)]
    wait(at, 60)
    assert len(tasks(at)) == 2, "told once"
    at.clinic.hold(at.thread, by=at.carl, reason="I am here.")
    at.clinic.take_over(at.thread, by=at.carl)
    assert tasks(at) == []
    wait(at, 60)
    assert tasks(at) == []


def test_the_owners_answer_ends_it(at: Service) -> None:
    at.clinic.ask_person(at.thread, by=at.anna)
    at.clinic.write(at.thread, "I am here.", by=at.clara, client_id="c-1")
    assert tasks(at) == []
    wait(at, 60)
    assert tasks(at) == []
    at.clinic.ask_person(at.thread, by=at.anna)
    assert tasks(at) == [("person_asked", at.clara)], "a new wish is a new clock"


def test_whoever_did_it_otherwise_ends_its_clock_too(at: Service) -> None:
    at.clinic.ask_person(at.thread, by=at.anna)
    with at.store.read() as unit:
        (task,) = unit.tasks.open(thread=at.thread)
    at.clinic.looked(task.id, by=at.carl, version=task.version, outcome="I phoned her.")
    wait(at, 60)
    assert tasks(at) == []


def test_given_back_unanswered_it_still_waits(at: Service) -> None:
    at.clinic.ask_person(at.thread, by=at.anna)
    at.clinic.give_back(at.thread, by=at.clara, reason="end of shift")
    assert sorted(tasks(at), key=str) == [("person_asked", at.clara), ("person_waits", None)], "now it is anybody's"
    (row,) = inbox(at.store)
    assert row.calls(at.carl)
    wait(at, 60)
    assert len(tasks(at)) == 2, "told once"


def test_given_back_after_it_was_passed_on_nobody_is_told_twice(at: Service) -> None:
    at.clinic.ask_person(at.thread, by=at.anna)
    wait(at, 16)
    at.clinic.give_back(at.thread, by=at.clara, reason="end of shift")
    assert len(tasks(at)) == 2


# ---------------------------------------------------------------------- pages


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=Clock(), session_idle=86_400, session_absolute=86_400)
    yield made
    made.store.close()


def owned(clinic: Clinic) -> tuple[Any, Any, str]:
    anna, clara = clinic.begun(), clinic.client("clinician")
    say(anna, "I slept badly.", "m-1")
    path = f"/inbox/{clinic.thread().id}"
    send(clara, f"{path}/take", page=path)
    return anna, clara, path


def test_the_pages_of_both_say_it(clinic: Clinic) -> None:
    anna, clara, path = owned(clinic)
    send(anna, "/talk/person", page="/talk")
    page = anna.get("/talk").text
    assert "A person of our team has this conversation (last here:" in page
    assert "clara has this conversation and was told at" in page
    assert "988" in page
    assert anna.get("/api/talk/turns").json()["word"] == "asked"
    inbox = clara.get("/inbox").text
    assert "<title>(1) Inbox" in inbox
    assert '<span class="late">Asked for a person</span>' in inbox
    mine = clara.get(path).text
    assert "<title>(1) anna" in mine
    assert "anna asks for a person. Write to them now" in mine
    assert "<title>Inbox" in clinic.client("supervisor").get("/inbox").text  # it is not theirs yet
    send(clara, f"{path}/write", {"text": "I am here.", "client_id": "c-1"}, page=path)
    assert "<title>Inbox" in clara.get("/inbox").text
    assert "clara answers you now" in anna.get("/talk").text


def test_the_next_person_on_duty_sees_it(clinic: Clinic) -> None:
    anna, _, path = owned(clinic)
    send(anna, "/talk/person", page="/talk")
    clinic.store.clock.forward(minutes=16)
    clinic.tick()
    susan = clinic.client("supervisor")
    assert "<title>(1) Inbox" in susan.get("/inbox").text
    assert "Owner does not react" in susan.get("/tasks").text
    assert "clara does not react" in susan.get(path).text
    assert "has not reacted since" in anna.get("/talk").text


def test_out_of_hours_both_texts_say_that_nobody_is_there(tmp_path: Path) -> None:
    clinic = make_clinic(tmp_path, clock=Clock(), house=HOUSE.replace('hours = "always"', ""))
    anna, _, _ = owned(clinic)
    send(anna, "/talk/person", page="/talk")
    role, text = clinic.turns()[-1]
    assert role == "system"
    assert text.startswith("Nobody from our team is here at this hour.")
    assert "was told at" not in anna.get("/talk").text
    clinic.store.close()


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("Ich möchte mit einem Menschen sprechen.", "Ein Mensch aus unserem Team hat dieses Gespräch"),
        ("Quiero hablar con una persona.", "lleva esta conversación"),
    ],
)
def test_it_is_said_in_the_language_that_was_heard(clinic: Clinic, wish: str, words: str) -> None:
    anna, _, _ = owned(clinic)
    say(anna, wish, "m-2")
    assert words in clinic.turns()[-1][1]
