"""What counts, what is said, and whose clocks run: a sign once, a person alone, and nothing that never ends."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from review_kit import Service, service

from heedful.errors import TransitionError
from heedful.review.believing import Believer
from heedful.review.inbox import inbox
from heedful.review.reports import yearly
from heedful.safety.policy import Belief, OperatingPoint

DANGER = "I am going to kill myself tonight."


@pytest.fixture
def at(tmp_path: Path) -> Service:
    return service(tmp_path)


# ---------------------------------------------------------------------- what a message without a sign changes


def _counts(at: Service) -> tuple[Any, ...]:
    year = {count.name: count.total for count in yearly.yearly(at.store, at.clock().year).counts}
    with at.store.read() as unit:
        return year, len(unit.risk_events.of(at.thread)), at.tasks()


def test_a_message_without_a_sign_counts_for_nothing(at: Service) -> None:
    at.say("I wish I was dead.")
    before, turns = _counts(at), len(at.turns())
    for n in range(6):
        at.say(f"I had soup {n}.")
    assert _counts(at) == before
    assert len(at.turns()) == turns + 6, "and it is answered with nothing"


def test_what_a_person_gave_back_stays_given_back(at: Service) -> None:
    at.say("How do I kill myself?")
    at.clinic.take_over(at.thread, by=at.clara)
    at.clinic.give_back(at.thread, by=at.clara, reason="It was about a book.")
    receipt = at.say("I had soup today.")
    assert receipt.outcome is not None
    assert (at.state(), at.tasks(), receipt.outcome.interrupt) == ("ai_assisted", [], False)


def test_a_person_who_talks_is_not_talked_over(tmp_path: Path) -> None:
    at = service(tmp_path, on_duty=lambda now: False)
    at.say("I wish I was dead.")
    at.clinic.take_over(at.thread, by=at.clara)
    at.clinic.write(at.thread, "I am Clara, I am here with you now.", by=at.clara, client_id="c1")
    said = len(at.turns())
    for text in ("Thank you for being here.", "I had some tea.", "I want to die."):
        at.say(text)
    assert [role for role, _ in at.turns()[said:]] == ["user"] * 3


def test_nobody_is_here_is_said_once_a_night(tmp_path: Path) -> None:
    at = service(tmp_path, on_duty=lambda now: 8 <= now.hour < 18)
    while at.clock().hour != 22:
        at.clock.forward(minutes=20)

    def told() -> int:
        return sum("Nobody from our team" in text for _, text in at.turns())

    for night in (1, 2):
        at.say(DANGER)
        for _ in range(60):
            at.clock.forward(minutes=10)
            at.clinic.tick()
        at.say("I want to die.")
        assert told() == night
        at.clock.forward(hours=14)


def test_a_conversation_begins_in_the_language_of_the_account(at: Service) -> None:
    with at.store.begin() as unit:
        hans = unit.users.add(role="help_seeker", name="Hans", language="de", by="setup").id
    receipt = at.clinic.receive(at.clinic.open(hans).id, by=hans, client_id="1", text="ok")
    assert receipt.outcome is not None
    assert receipt.outcome.state.language == "de"


# ---------------------------------------------------------------------- clocks end, and only where they should


def _wait(at: Service, minutes: int) -> None:
    for _ in range(minutes // 5):
        at.clock.forward(minutes=5)
        at.clinic.tick()


def _task(at: Service) -> Any:
    with at.store.read() as unit:
        return unit.tasks.open(thread=at.thread)[0]


def test_a_look_that_was_done_ends_its_clock(at: Service) -> None:
    at.say("I wish I was dead.")
    task = _task(at)
    at.clinic.looked(task.id, by=at.clara, version=task.version, outcome="We spoke by phone.")
    _wait(at, 240)
    assert at.tasks() == []
    at.say("I want to die.")
    assert at.tasks() == ["look"], "a new sign is a new clock"


def test_a_look_does_not_end_the_clock_of_somebody_held(at: Service) -> None:
    at.say("I wish I was dead.")
    task = _task(at)
    at.say(DANGER)
    at.clinic.looked(task.id, by=at.clara, version=task.version, outcome="Seen.")
    assert at.tasks() == ["takeover"]
    _wait(at, 20)
    with at.store.read() as unit:
        assert {k[0]: v for k, v in unit.counters.all().items()}["takeovers_overdue"] >= 1


@pytest.mark.parametrize("how", ["write", "take", "close"])
def test_the_owner_ends_what_waited_in_their_conversation(at: Service, how: str) -> None:
    at.clinic.take_over(at.thread, by=at.clara)
    at.say(DANGER)
    assert at.tasks() == ["takeover"]
    if how == "write":
        at.clinic.write(at.thread, "I am here.", by=at.clara, client_id="c1")
    elif how == "take":
        at.clinic.take_over(at.thread, by=at.clara)
    else:
        at.clinic.close(at.thread, by=at.clara, reason="In care elsewhere.")
    assert at.tasks() == []
    _wait(at, 120)
    assert at.tasks() == []


def test_lowering_to_none_leaves_no_one_held_without_a_clock(at: Service) -> None:
    at.say(DANGER)
    at.clinic.lower_risk(at.thread, "none", by=at.clara, reason="A mistake.")
    assert (at.state(), at.tasks()) == ("risk_held", ["takeover"])
    _wait(at, 20)
    with at.store.read() as unit:
        assert {k[0]: v for k, v in unit.counters.all().items()}["takeovers_overdue"] >= 1


def test_an_overdue_follow_up_is_written_once(at: Service) -> None:
    at.clinic.take_over(at.thread, by=at.clara)
    at.clinic.follow_up(at.thread, at.clock() + timedelta(hours=1), by=at.clara)
    _wait(at, 120)
    with at.store.read() as unit:
        version = unit.threads.get(at.thread).version
    _wait(at, 60)
    with at.store.read() as unit:
        assert unit.threads.get(at.thread).version == version
    assert at.tasks() == ["follow_up"]


def test_a_damaged_state_stops_no_clock_of_others_and_is_looked_at(at: Service) -> None:
    with at.store.begin() as unit:
        bob = unit.users.add(role="help_seeker", name="Bob", by="setup").id
    broken = at.clinic.open(bob).id
    at.say(DANGER)
    with at.store.begin() as unit:
        unit.threads.raise_risk(broken, 0, by="test", state={"crisis": {"thread": "ai_assisted", "other": 1}})
    rows = inbox(at.store)
    assert [(row.thread.id, row.damaged) for row in rows] == [(broken, True), (at.thread, False)]
    _wait(at, 20)
    with at.store.read() as unit:
        assert [task.kind for task in unit.tasks.open(thread=broken)] == ["look"]
        assert {k[0]: v for k, v in unit.counters.all().items()}["takeovers_overdue"] >= 2
    assert at.clinic.receive(broken, by=bob, client_id="1", text=DANGER).thread.state == "risk_held"
    assert not any(row.damaged for row in inbox(at.store))


def test_a_damaged_state_refuses_no_message(at: Service) -> None:
    with at.store.begin() as unit:
        unit.threads.raise_risk(at.thread, 0, by="test", state={"crisis": {"tier": "low"}})
    assert at.say(DANGER).thread.state == "risk_held"


# ---------------------------------------------------------------------- the second reader


POINT = OperatingPoint(
    model="m", thoughts=0.5, immediate=0.9, recall_target=0.7, recall=0.7, evaluation="x", day=date(2026, 1, 1)
)


class Sure:
    """Believes the worst."""

    point = POINT

    def __call__(self, said: Any) -> Belief:
        return Belief(thoughts=0.95, immediate=0.95, model="m")


def test_what_is_believed_about_a_closed_conversation_still_reaches_somebody(tmp_path: Path) -> None:
    at = service(tmp_path, on_duty=lambda now: False)
    at.clinic.belief = Sure()
    at.say("It is all the same now.")
    at.clinic.take_over(at.thread, by=at.clara)
    at.clinic.close(at.thread, by=at.clara, reason="Moved away.")
    said = len(at.turns())
    assert Believer(at.clinic, name="b").once() == "raised"
    assert (at.state(), at.tasks(), len(at.turns())) == ("closed", ["takeover"], said)


def test_a_reading_that_cannot_be_kept_is_counted(at: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise TransitionError("no")

    at.clinic.belief = Sure()
    at.say("It is all the same now.")
    monkeypatch.setattr(at.clinic, "keep_belief", refuse)
    reader, done = Believer(at.clinic, name="b"), []
    for _ in range(4):
        done.append(reader.once())
        at.clock.forward(minutes=5)
    assert done == ["failed", "failed", "failed", "nothing"]
    with at.store.read() as unit:
        assert {k[0]: v for k, v in unit.counters.all().items()}["beliefs_failed"] == 1


def test_a_job_whose_workers_all_died_is_counted(at: Service) -> None:
    at.clinic.belief = Sure()
    at.say("It is all the same now.")
    for _ in range(4):
        at.store.run(lambda unit: unit.jobs.take("dead", lease=timedelta(minutes=1), kinds=["belief"]))
        at.clock.forward(minutes=2)
    with at.store.read() as unit:
        assert {k[0]: v for k, v in unit.counters.all().items()}["beliefs_failed"] == 1
