"""A draft that is not there yet: the clinician sees whether it waits, is written, failed, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say, send

from heedful.errors import EngineError
from store_kit import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock, session_idle=86_400, session_absolute=86_400)
    yield made
    made.store.close()


def written(clinic: Clinic) -> tuple[Any, str]:
    """After a message: the clinician's client, and the path of the conversation."""
    say(clinic.begun(), "I slept badly.", "m-1")
    return clinic.client("clinician"), f"/inbox/{clinic.thread().id}"


def status(client: Any, path: str) -> str:
    """What stands where the draft will be, without marks."""
    found = re.search(r'<div id="(?:drafting|noting)"(.*?)</div>', client.get(path).text, re.DOTALL)
    assert found
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", found[1].partition(">")[2])).strip()


def fails(clinic: Clinic, code: str) -> None:
    def propose(conversation: Any, *, key: str) -> Any:
        raise EngineError("It said something.", code=code)

    clinic.writer.propose = propose  # type: ignore[method-assign]


def test_it_says_that_it_waits_and_at_which_place(clinic: Clinic, clock: Clock) -> None:
    others = []
    for n in range(2):
        user = clinic.site.accounts.add(role="help_seeker", name=f"other{n}", password=server_kit.PASSWORD, by="setup")
        thread = clinic.desk.clinic.open(user.id)
        others.append(clinic.desk.clinic.receive(thread.id, by=user.id, client_id="m", text="Hello"))
        clock.forward(minutes=1)
    clara, path = written(clinic)
    assert status(clara, path).startswith("The draft waits for the model; place 3 in the queue. Since: less than a")
    clinic.draft()
    clock.forward(minutes=4)
    assert "place 2 in the queue. Since: 4 min." in status(clara, path)


def test_it_says_that_it_is_written_and_since_when(clinic: Clinic, clock: Clock) -> None:
    clara, path = written(clinic)
    clinic.store.run(lambda unit: unit.jobs.take("w", lease=timedelta(minutes=10), kinds=("draft",)))
    clock.forward(minutes=3)
    assert status(clara, path) == "A draft is being written. Since: 3 min."
    clock.forward(minutes=10)
    assert status(clara, path).startswith("What wrote the draft has stopped; it is taken up again.")
    clinic.draft()
    assert clinic.writer.reply in clara.get(path).text


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("late", "it took longer than the time limit"),
        ("down", "no model is running"),
        ("full", "too many requests were waiting"),
        ("strange", "something went wrong in the model"),
    ],
)
def test_a_draft_that_failed_says_why_and_what_to_do(clinic: Clinic, code: str, why: str) -> None:
    clara, path = written(clinic)
    fails(clinic, code)
    clinic.draft()
    said = status(clara, path)
    assert "waits for the model; place 1" in said
    assert "Attempt 2 of 3." in said
    assert why in said
    for _ in range(2):
        clinic.draft()
    said = status(clara, path)
    assert said.startswith("There is no draft. Attempts: 3.")
    assert why in said
    assert "Take the conversation over and write yourself" in said
    assert "It said something" not in clara.get(path).text
    del clinic.writer.propose
    send(clara, f"{path}/draft", page=path)
    assert "place 1 in the queue" in status(clara, path)
    assert send(clara, f"{path}/draft", page=path).status_code == 409  # asked twice, it tries once
    clinic.draft()
    assert clinic.writer.reply in clara.get(path).text
    assert send(clara, f"{path}/draft", page=path).status_code == 409


def test_a_draft_that_the_gate_blocked_is_said_to_be(clinic: Clinic) -> None:
    clara, path = written(clinic)
    clinic.writer.reply = "I am a real person."
    clinic.draft()
    assert "the reply gate blocked what the model wrote" in status(clara, path)


def test_nothing_is_said_where_nobody_waits_for_a_draft(clinic: Clinic) -> None:
    clara, path = written(clinic)
    fails(clinic, "down")
    for _ in range(3):
        clinic.draft()
    send(clara, f"{path}/take", page=path)
    assert status(clara, path) == "There is no draft."
    assert send(clara, f"{path}/draft", page=path).status_code == 409
    anna = clinic.client("help_seeker")
    assert anna.post(f"{path}/draft").status_code in (403, 404)


@pytest.mark.parametrize(("language", "words"), [("de", "Platz 1 in der Reihe"), ("es", "puesto 1 en la cola")])
def test_in_the_readers_language(clinic: Clinic, language: str, words: str) -> None:
    clara, path = written(clinic)
    send(clara, "/language", {"language": language, "back": "/inbox"}, page="/inbox")
    assert words in status(clara, path)


def test_a_note_says_how_it_stands_too(clinic: Clinic) -> None:
    clara, path = written(clinic)
    send(clinic.client("help_seeker"), "/consents/recording", {"answer": "given"})
    at = f"{path}/notes"
    clinic.desk.noter.writer = clinic.writer
    send(clara, f"{at}/draft", {"kind": "note"}, page=at)
    assert "place 1 in the queue" in status(clara, at)
    fails(clinic, "late")
    for _ in range(3):
        clinic.note()
    assert "it took longer than the time limit" in status(clara, at)
    assert "Write it by hand, or ask again." in status(clara, at)
    del clinic.writer.propose
    send(clara, f"{at}/draft", {"kind": "note"}, page=at)
    clinic.note()
    assert clinic.writer.reply in clara.get(at).text
