"""Reports of problems: from every page, sealed, dealt with by a supervisor; danger in them is not overlooked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say, send
from review_kit import service
from test_clinic_consents import with_switches

from heedful.review import problems
from heedful.safety.crisis import LANGUAGES, assess, load
from store_kit import Clock

WORDS = "The answer yesterday was zzplantedzz and it hurt."


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock)
    yield made
    made.store.close()


PAGES = {
    "help_seeker": ("/talk", "/me", "/check-ins", "/account", "/inbox"),
    "clinician": ("/inbox", "/tasks"),
    "supervisor": ("/supervision",),
    "admin": ("/admin",),
}


@pytest.mark.parametrize("role", PAGES)
def test_the_way_to_it_is_on_every_page(clinic: Clinic, role: str) -> None:
    client = clinic.begun() if role == "help_seeker" else clinic.client(role)
    for path in PAGES[role]:
        assert 'href="/report"' in client.get(path).text, path  # on a refusal too
    assert 'name="kind"' in client.get("/report").text


def test_without_an_account_it_says_whom_to_reach(clinic: Clinic) -> None:
    client = clinic.site.client()
    for path in ("/sign-in", "/resources"):
        page = client.get(path).text
        assert "Without an account, this is how to reach us: office@clinic.example" in page
        assert 'href="/report"' not in page
    assert client.get("/report").status_code == 303  # the form needs one


def test_a_report_is_read_by_a_supervisor_and_by_nobody_else(clinic: Clinic) -> None:
    answer = send(clinic.begun(), "/report", {"kind": "hurtful", "text": WORDS})
    assert "has arrived" in answer.text
    susan, root = clinic.client("supervisor"), clinic.client("admin")
    assert "open: 1" in susan.get("/supervision").text
    assert WORDS in susan.get("/problems").text
    page = root.get("/admin").text
    assert "Something hurt me" in page
    assert "zzplantedzz" not in page
    for role in ("admin", "clinician", "help_seeker"):
        assert clinic.client(role).get("/problems").status_code == 403
    (found,) = problems.listed(clinic.store)
    assert (found.kind, found.role, found.state) == ("hurtful", "help_seeker", "open")
    with clinic.store.read() as unit:
        (task,) = unit.tasks.open()
        assert task.kind == "report"
        assert "zzplantedzz" not in str(unit.audit.all()) + str(task.text)


def test_it_is_closed_with_an_outcome_and_its_task_with_it(clinic: Clinic) -> None:
    send(clinic.begun(), "/report", {"kind": "wrong", "text": WORDS})
    susan = clinic.client("supervisor")
    (found,) = problems.listed(clinic.store)
    with clinic.store.read() as unit:
        (task,) = unit.tasks.open()
    values = {"version": "1", "outcome": "It was my words."}
    assert send(susan, f"/tasks/{task.id}/done", values, page="/tasks").status_code == 409
    path = f"/problems/{found.id}/close"
    assert send(susan, path, {"version": "1", "outcome": " "}, page="/problems").status_code == 409
    assert send(susan, path, {"version": "1", "outcome": "Spoken with the team."}, page="/problems").status_code == 303
    assert send(susan, path, {"version": "1", "outcome": "Again."}, page="/problems").status_code == 409
    with clinic.store.read() as unit:
        assert unit.tasks.open() == ()
    assert problems.listed(clinic.store)[0].state == "closed"


@pytest.mark.parametrize("values", [{"kind": "hurtful", "text": " "}, {"kind": "fun", "text": "x"}, {"text": "x"}])
def test_what_cannot_be_kept_is_said(clinic: Clinic, values: dict[str, str]) -> None:
    assert send(clinic.begun(), "/report", values).status_code == 400
    assert problems.listed(clinic.store) == ()


def test_danger_in_a_report_opens_the_lines_and_holds_the_conversation(clinic: Clinic) -> None:
    client = clinic.begun()
    say(client, "Hello", "m-1")
    page = send(client, "/report", {"kind": "other", "text": "I am going to kill myself tonight."}).text
    assert "You are not alone with this" in page
    assert "988" in page
    thread = clinic.thread()
    assert (thread.state, thread.risk_level > 0) == ("risk_held", True)
    with clinic.store.read() as unit:
        found = {task.kind: task for task in unit.tasks.open()}
        assert found["takeover"].thread_id == thread.id
        assert (found["takeover"].due_at - unit.now()).total_seconds() == 15 * 60
        assert unit.risk_events.of(thread.id)
    clinic.draft()
    assert clinic.drafts() == []


def test_a_sign_in_a_report_asks_a_person_to_look_where_no_conversation_may_begin(tmp_path: Path, clock: Clock) -> None:
    clinic = with_switches(tmp_path, clock, sensitive_data_consent="on")
    user = clinic.site.ids["help_seeker"]
    words = "I am going to kill myself tonight."
    made = problems.report(clinic.desk.clinic, user=user, role="help_seeker", kind="other", text=words)
    assert made.danger
    with clinic.store.read() as unit:
        assert unit.threads.of(user) == ()
        (task,) = [t for t in unit.tasks.open() if t.kind == "look"]
        assert (task.help_seeker, (task.due_at - unit.now()).total_seconds()) == (user, 15 * 60)
    clinic.store.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_rule_can_be_reported(tmp_path: Path, language: str) -> None:
    at = service(tmp_path)
    found = False
    for rule in load(language).rules:
        for words in rule.hits[:1]:
            at.clock.forward(seconds=2)
            danger = assess(words).tier != "none"
            found = found or danger
            made = problems.report(at.clinic, user=at.anna, role="help_seeker", kind="hurtful", text=words)
            assert made.danger == danger, rule.id
    assert found
    with at.store.read() as unit:
        assert unit.risk_events.of(at.thread)
    at.store.close()


def test_where_the_profile_has_no_button_there_is_none(tmp_path: Path, clock: Clock) -> None:
    clinic = with_switches(tmp_path, clock, report_button="off")
    client = clinic.begun()
    assert 'href="/report"' not in client.get("/talk").text
    assert client.get("/report").status_code == 404
    assert send(client, "/report", {"kind": "other", "text": "x"}, page="/me").status_code == 404
    assert clinic.client("supervisor").get("/problems").status_code == 404
    clinic.store.close()
