"""An answer that asks for a person stands on top, in inbox and conversation, with its value and its course."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say, send

from store_kit import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock, session_idle=40 * 86_400, session_absolute=40 * 86_400)
    yield made
    made.store.close()


def phq9(client: Any, ninth: int | None) -> None:
    answers = {f"q{n}": "1" for n in range(1, 9)} | ({} if ninth is None else {"q9": str(ninth)})
    assert send(client, "/check-ins/phq9", answers).status_code == 200


def day(clinic: Clinic) -> str:
    return str(clinic.desk.house.local(clinic.desk.now()))


def text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))


def test_it_stands_in_the_inbox_and_on_top_of_the_conversation(clinic: Clinic) -> None:
    anna, clara = clinic.begun(), clinic.client("clinician")
    phq9(anna, 2)
    at, path = day(clinic), f"/inbox/{clinic.thread().id}"
    inbox, page = clara.get("/inbox").text, clara.get(path).text
    line = f"Low mood (PHQ-9), question 9: 2 of 3 {at}, answered for the first time"
    assert line in text(inbox)
    assert f"An answer in a check-in asks for a person: {line}" in text(page)
    (target,) = set(re.findall(r'href="(?:/inbox/\w+)?(#c-\w+)"', inbox + page))
    assert f'<details id="{target[1:]}" open>' in page
    assert page.index("asks for a person") < page.index('id="turns-title"')
    assert '<b class="late">More than half the days (2)</b>' in page  # the answer itself, marked
    assert "Thoughts" in inbox  # a sign of its own, whatever the sum is


def test_its_course_is_said_and_one_denial_does_not_hide_it(clinic: Clinic, clock: Clock) -> None:
    anna, clara = clinic.begun(), clinic.client("clinician")
    dates = []
    for ninth in (1, 3, 0):
        dates.append(day(clinic))
        phq9(anna, ninth)
        clock.forward(minutes=24 * 60)
        said = text(clara.get("/inbox").text)
        if ninth == 3:
            assert f"question 9: 3 of 3 {dates[1]}, higher than 1 on {dates[0]}" in said
    assert f"question 9: 0 of 3 {dates[2]}, lower than 3 on {dates[1]}" in text(clara.get("/inbox").text)
    phq9(anna, None)  # left out, it says nothing
    assert "question 9: 0 of 3" in text(clara.get("/inbox").text)
    phq9(anna, 0)
    assert "question 9" not in text(clara.get("/inbox").text)


def test_others_have_no_such_line(clinic: Clinic) -> None:
    anna = clinic.begun()
    say(anna, "I slept badly.", "m-1")
    phq9(anna, 0)
    assert "question 9:" not in text(clinic.client("clinician").get("/inbox").text)
    assert "question 9:" not in text(anna.get("/talk").text)


@pytest.mark.parametrize(
    ("language", "message", "checkin", "item"),
    [
        ("en", "Sign of risk in a message", "Sign of risk in a check-in", "question 9: 1 of 3"),
        ("de", "Anzeichen von Gefahr in einer Nachricht", "Anzeichen von Gefahr in einem Bogen", "Frage 9: 1 von 3"),
        ("es", "Señal de riesgo en un mensaje", "Señal de riesgo en un cuestionario", "pregunta 9: 1 de 3"),
    ],
)
def test_the_timeline_says_where_a_sign_stood(
    clinic: Clinic, language: str, message: str, checkin: str, item: str
) -> None:
    anna, clara = clinic.begun(), clinic.client("clinician")
    send(clara, "/language", {"language": language, "back": "/inbox"}, page="/inbox")
    phq9(anna, 1)
    path = f"/inbox/{clinic.thread().id}"
    page = text(clara.get(path).text)
    assert checkin in page
    assert message not in page
    assert item in page
    say(anna, "I wish I was dead.", "m-1")
    assert message in text(clara.get(path).text)
