"""Under a research protocol: who looks at a running conversation, and the rule that ends the study's part of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import HOUSE as CLINIC
from clinic_kit import Clinic, make_clinic, say, send
from test_clinic_consents import with_switches

from heedful.errors import ConfigError
from heedful.review import watching
from heedful.server import house
from store_kit import Clock

HOUSE = CLINIC + '[approval_number]\nnumber = "REC-7"\nperson = "R. Adeyemi"\nday = 2026-01-01\n'
"""Before its approval is on file no help-seeker can begin."""
DANGER = "I am going to kill myself tonight."
THOUGHTS = "Sometimes I think about suicide."


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def study(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(
        tmp_path, clock=clock, profiles=("research",), house=HOUSE, session_idle=10**6, session_absolute=10**6
    )
    yield made
    made.store.close()


def tasks(clinic: Clinic) -> list[str]:
    with clinic.store.read() as unit:
        return [task.kind for task in unit.tasks.open()]


def drafted(clinic: Clinic) -> bool:
    with clinic.store.read() as unit:
        return any(job.kind == "draft" for job in unit.jobs.of(clinic.thread().id))


# ---------------------------------------------------------------------- staff monitoring


def test_a_running_conversation_that_nobody_looks_at_is_shown(study: Clinic, clock: Clock) -> None:
    say(study.begun(), "Hello", "m-1")
    clara, susan, thread = study.client("clinician"), study.client("supervisor"), study.thread().id
    assert "nobody is looking" in clara.get("/inbox").text
    assert "nobody is looking at: 1" in susan.get("/supervision").text
    clara.get(f"/inbox/{thread}")  # to open it is to look
    assert "somebody is looking" in clara.get("/inbox").text
    assert "nobody is looking at: 0" in susan.get("/supervision").text
    clock.forward(minutes=2)
    assert "nobody is looking" in clara.get("/inbox").text
    page = clara.get(f"/inbox/{thread}").text
    assert f'data-path="/api/inbox/{thread}/watch"' in page
    clock.forward(seconds=100)
    head = {"x-csrf-token": server_kit.csrf(page)}
    assert clara.post(f"/api/inbox/{thread}/watch", headers=head).status_code == 204
    clock.forward(seconds=100)
    assert "somebody is looking" in clara.get("/inbox").text
    clock.forward(minutes=30)
    assert "is looking" not in clara.get("/inbox").text  # nothing runs any more


def test_the_audit_is_told_who_watches_and_not_every_half_minute(study: Clinic, clock: Clock) -> None:
    say(study.begun(), "Hello", "m-1")
    thread, clara, susan = study.thread().id, study.site.ids["clinician"], study.site.ids["supervisor"]
    for by in (clara, clara, susan, susan, clara):
        watching.look(study.store, thread, by=by)
        clock.forward(seconds=30)
    with study.store.read() as unit:
        seen = [e.actor for e in unit.audit.of(f"thread:{thread}") if e.action == "thread.watched"]
    assert seen == [clara, susan, clara]


def test_only_staff_can_watch(study: Clinic) -> None:
    client = study.begun()
    say(client, "Hello", "m-1")
    head = {"x-csrf-token": server_kit.csrf(client.get("/talk").text)}
    assert client.post(f"/api/inbox/{study.thread().id}/watch", headers=head).status_code == 403


def test_without_the_switch_nobody_is_watched_watching(tmp_path: Path, clock: Clock) -> None:
    clinic = make_clinic(tmp_path, clock=clock)
    say(clinic.begun(), "Hello", "m-1")
    clara = clinic.client("clinician")
    clara.get(f"/inbox/{clinic.thread().id}")
    assert clinic.thread().watched_at is None
    assert "is looking" not in clara.get("/inbox").text
    assert "nobody is looking at" not in clinic.client("supervisor").get("/supervision").text
    clinic.store.close()


# ---------------------------------------------------------------------- the stop rule


def test_at_the_tier_of_the_rule_drafts_stop_for_good_and_the_talk_goes_on(study: Clinic) -> None:
    client = study.begun()
    say(client, "Hello", "m-1")
    study.draft()
    say(client, DANGER, "m-2")
    assert study.thread().drafts_stopped == "stop-rule"
    assert [d.state for d in study.drafts()] == ["expired"]
    told = [text for role, text in study.turns() if role == "system"]
    assert len(told) == 1
    assert "its part in this conversation ends here" in told[0]
    assert "stays open" in told[0]
    assert "takeover" in tasks(study)  # the crisis path has asked for a person already
    desk, clara, thread = study.desk.clinic, study.site.ids["clinician"], study.thread().id
    assert "the stop rule of the protocol" in study.client("clinician").get(f"/inbox/{thread}").text
    desk.take_over(thread, by=clara)
    desk.lower_risk(thread, "none", by=clara, reason="We spoke.")
    desk.give_back(thread, by=clara, reason="We spoke.")
    assert say(client, "I am still here.", "m-3").status_code == 303
    assert not drafted(study)
    say(client, DANGER, "m-4")
    assert len([text for role, text in study.turns() if role == "system"]) == 1  # told once


def test_a_lower_tier_of_the_clinics_own_rule_asks_for_a_person(tmp_path: Path, clock: Clock) -> None:
    rule = 'stop_tier = "thoughts"\n'
    clinic = make_clinic(tmp_path, clock=clock, profiles=("research",), house=rule + HOUSE)
    say(clinic.begun(), THOUGHTS, "m-1")
    assert clinic.thread().state == "ai_assisted"
    assert clinic.thread().drafts_stopped == "stop-rule"
    assert not drafted(clinic)
    assert "stop_rule" in tasks(clinic)
    clinic.desk.clinic.take_over(clinic.thread().id, by=clinic.site.ids["clinician"])
    assert "stop_rule" not in tasks(clinic)
    clinic.store.close()


@pytest.mark.parametrize(("kinds", "stops"), [(("hurtful", "wrong"), True), (("hurtful", "technical"), False)])
def test_so_many_reports_stop_it_too(tmp_path: Path, clock: Clock, kinds: tuple[str, ...], stops: bool) -> None:
    clinic = with_switches(tmp_path, clock, stop_rule="on")
    clinic.store.close()
    (tmp_path / "again").mkdir()
    text = (tmp_path / "own.toml").read_text("utf-8")
    (tmp_path / "again" / "own.toml").write_text(text, "utf-8")
    own = (str(tmp_path / "again" / "own.toml"),)
    clinic = make_clinic(tmp_path / "again", clock=clock, profiles=own, house="stop_reports = 2\n" + HOUSE)
    client = clinic.begun()
    say(client, "Hello", "m-1")
    for kind in kinds:
        assert clinic.thread().drafts_stopped is None
        send(client, "/report", {"kind": kind, "text": "That was not right."})
    assert (clinic.thread().drafts_stopped == "stop-rule") is stops
    clinic.store.close()


def test_without_the_switch_nothing_stops(tmp_path: Path, clock: Clock) -> None:
    clinic = make_clinic(tmp_path, clock=clock)
    client = clinic.begun()
    say(client, DANGER, "m-1")
    assert clinic.thread().drafts_stopped is None
    assert all("its part in this conversation" not in text for _, text in clinic.turns())
    clinic.store.close()


@pytest.mark.parametrize("wrong", [{"stop_tier": "none"}, {"stop_reports": -1}, {"stop_reports": True}])
def test_a_rule_that_cannot_be_used_is_refused_at_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="stop_"):
        house.parse(wrong, where="clinic.toml")
