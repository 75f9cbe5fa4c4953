"""Known minors: their own notice, a break in time, and hardly anything kept about their age."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say, send

from store_kit import Clock

BREAK = "Take a break now and then"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def california(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    """Minors have a notice of their own and a timer of three hours; adults have no timer."""
    made = make_clinic(tmp_path, clock=clock, profiles=("us-ca",), session_idle=10**6, session_absolute=10**6)
    yield made
    made.store.close()


def aged(clinic: Clinic, born: str) -> Any:
    client = clinic.client("help_seeker")
    send(client, "/talk/begin", page="/talk")
    send(client, "/talk/age", {"born": born}, page="/talk")
    return client


def kept(clinic: Clinic) -> int | None:
    with clinic.store.read() as unit:
        return unit.users.get(clinic.site.ids["help_seeker"]).adult_from  # type: ignore[no-any-return]


def test_a_minor_is_told_what_a_minor_should_be_told_and_to_take_a_break(california: Clinic, clock: Clock) -> None:
    client = aged(california, "2012")
    page = client.get("/talk").text
    assert BREAK in page
    assert "may not be right for some young people" in page
    assert kept(california) == 2031  # the year from which they count as an adult, and no more
    say(client, "Hello", "m-1")
    clock.forward(minutes=179)
    assert client.get("/api/talk/turns").json()["notices"] == []
    clock.forward(minutes=1)
    (text,) = client.get("/api/talk/turns").json()["notices"]
    assert BREAK in text
    assert client.get("/api/talk/turns").json()["notices"] == []


def test_of_an_adult_no_year_is_kept_and_no_break_is_asked_for(california: Clinic, clock: Clock) -> None:
    client = aged(california, "1980")
    assert BREAK not in client.get("/talk").text
    assert kept(california) == 0
    clock.forward(hours=4)
    assert client.get("/api/talk/turns").json()["notices"] == []


@pytest.mark.parametrize("born", ["", "1850", "2027", "x"])
def test_a_year_that_cannot_be_is_asked_again(california: Clinic, born: str) -> None:
    client = california.client("help_seeker")
    send(client, "/talk/begin", page="/talk")
    assert send(client, "/talk/age", {"born": born}, page="/talk").status_code == 400
    assert kept(california) is None
    assert 'name="born"' in client.get("/talk").text


def test_the_answer_is_given_once_and_staff_can_mend_it(california: Clinic) -> None:
    client = aged(california, "2012")
    send(client, "/talk/age", {"born": "1980"}, page="/talk")
    assert kept(california) == 2031
    clara, anna = california.client("clinician"), california.site.ids["help_seeker"]
    assert '<span class="tag">minor</span>' in clara.get("/people").text
    send(clara, f"/people/{anna}/age", {"minor": "no"}, page="/people")
    assert kept(california) == 0
    assert send(clara, f"/people/{california.site.ids['admin']}/age", page="/people").status_code == 409


def test_staff_says_so_at_the_invitation_and_the_link_stays_good(california: Clinic) -> None:
    clara = california.client("clinician")
    page = send(clara, "/people", {"name": "zoe", "language": "en", "minor": "yes"}).text
    with california.store.read() as unit:
        zoe = unit.users.by_name("zoe")
    assert zoe is not None
    assert zoe.adult_from == 9999
    send(clara, f"/people/{zoe.id}/age", {"minor": "no"}, page="/people")
    path = "/invitation/" + page.split("/invitation/", 1)[1].split('"')[0].split("<")[0]
    assert california.site.client().get(path).status_code == 200


def test_where_only_the_timer_knows_minors_nobody_is_asked_their_age(tmp_path: Path, clock: Clock) -> None:
    clinic = make_clinic(tmp_path, clock=clock, session_idle=10**6, session_absolute=10**6)  # strict
    client = clinic.begun()
    assert 'name="text"' in client.get("/talk").text
    clinic.store.run(lambda unit: unit.users.set_age(clinic.site.ids["help_seeker"], 2031, by="test"))
    say(client, "Hello", "m-1")
    clock.forward(minutes=180)
    (text,) = client.get("/api/talk/turns").json()["notices"]
    assert BREAK in text  # the text of the timer that is for them
    clinic.store.close()
