"""The queue: a job is there once, a dead worker's job is taken again, and only one worker finishes it."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from heedful.errors import ConflictError, TransitionError
from heedful.store import Store, Unit
from heedful.store.records import Draft, Job
from heedful.store.states import DRAFT_STEPS, JOB_STEPS, THREAD_STEPS, check_draft, check_job, check_thread
from store_kit import Cast, Clock, cast, together

LEASE = timedelta(seconds=30)


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)


def queue(store: Store, who: Cast, key: str = "reply:1", most_attempts: int = 3) -> Job:
    with store.begin() as unit:
        return unit.jobs.add(kind="reply", key=key, thread=who.thread, payload={"n": 1}, most_attempts=most_attempts)


def take(store: Store, worker: str) -> Job | None:
    return store.run(lambda unit: unit.jobs.take(worker, lease=LEASE))


def answer(unit: Unit, who: Cast, job: Job) -> Draft:
    """What a worker does at the end, in one transaction: the draft, and the job it was for."""
    made = unit.drafts.add(
        thread=who.thread, turn=unit.turns.of(who.thread)[0].id, text="Hello.", model="tiny-1", job=job.id
    )
    unit.jobs.finish(job)
    return made


def test_a_job_is_queued_once(store: Store, who: Cast) -> None:
    first = queue(store, who)
    assert queue(store, who) == first
    with store.read() as unit:
        assert unit.jobs.waiting() == 1


def test_eight_submits_at_once_queue_one_job(store: Store, who: Cast) -> None:
    assert together(*[lambda: queue(store, who)] * 8) == [None] * 8
    with store.read() as unit:
        assert unit.jobs.count() == 1


def test_jobs_are_taken_in_order_each_by_one_worker(store: Store, who: Cast, clock: Clock) -> None:
    for n in range(12):
        queue(store, who, f"reply:{n}")
        clock.forward(seconds=1)
    taken: list[str] = []

    def work() -> None:
        for _ in range(3):
            job = take(store, "w")
            assert job is not None
            taken.append(job.key)

    assert together(*[work] * 4) == [None] * 4
    assert sorted(taken) == sorted(f"reply:{n}" for n in range(12))
    assert take(store, "w") is None


def test_a_dead_workers_job_is_taken_again_and_the_dead_one_cannot_finish(
    store: Store, who: Cast, clock: Clock
) -> None:
    """It was only slow, and comes back with its reply: its draft must not be kept beside the other one."""
    queue(store, who)
    slow = take(store, "slow")
    assert slow is not None
    assert take(store, "other") is None
    clock.forward(seconds=31)
    other = take(store, "other")
    assert other is not None
    assert (other.id, other.attempts) == (slow.id, 2)
    with pytest.raises(ConflictError, match="no longer this worker's") as caught, store.begin() as unit:
        answer(unit, who, slow)
    assert caught.value.winner == "other"
    with store.begin() as unit:
        made = answer(unit, who, other)
    with pytest.raises(ConflictError), store.begin() as unit:
        answer(unit, who, slow)
    with store.read() as unit:
        assert unit.drafts.of(who.thread) == (made,)
        assert unit.jobs.get(slow.id).state == "done"
        assert unit.jobs.get(slow.id).payload is None  # words are not kept longer than they are needed


def test_a_worker_that_lives_keeps_its_job(store: Store, who: Cast, clock: Clock) -> None:
    queue(store, who)
    job = take(store, "w")
    assert job is not None
    clock.forward(seconds=20)
    with store.begin() as unit:
        unit.jobs.extend(job, lease=LEASE)
    clock.forward(seconds=20)
    assert take(store, "other") is None
    with store.begin() as unit:
        answer(unit, who, job)


def test_a_job_that_kills_its_workers_fails_in_the_end(store: Store, who: Cast, clock: Clock) -> None:
    job = queue(store, who, most_attempts=2)
    for _ in range(2):
        assert take(store, "w") is not None
        clock.forward(seconds=31)
    assert take(store, "w") is None
    with store.read() as unit:
        assert (unit.jobs.get(job.id).state, unit.jobs.get(job.id).error) == ("failed", "worker_lost")


def test_an_error_queues_the_job_again_until_attempts_are_used(store: Store, who: Cast) -> None:
    queue(store, who, most_attempts=2)
    for state in ("queued", "failed"):
        job = take(store, "w")
        assert job is not None
        with store.begin() as unit:
            assert unit.jobs.fail(job, error="timeout").state == state


def test_a_cancelled_job_cannot_be_finished(store: Store, who: Cast) -> None:
    queue(store, who)
    job = take(store, "w")
    assert job is not None
    with store.begin() as unit:
        unit.jobs.cancel(job.id, by=who.clara)
    with pytest.raises(ConflictError, match="This job is cancelled"), store.begin() as unit:
        answer(unit, who, job)
    with pytest.raises(TransitionError, match="that state is final"), store.begin() as unit:
        unit.jobs.cancel(job.id, by=who.clara)
    with store.read() as unit:
        assert unit.drafts.of(who.thread) == ()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_no_order_of_events_makes_two_replies(store: Store, who: Cast, clock: Clock) -> None:
    """Workers take, die, come back, fail, finish and are cancelled in any order; the clock jumps, backwards too."""

    class Queue(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            with store.read() as unit:
                self.key = f"reply:{unit.jobs.count()}"
            self.job = queue(store, who, self.key)
            self.hands: list[Job] = []
            self.made = 0

        @rule()
        def takes(self) -> None:
            job = store.run(lambda unit: unit.jobs.take("w", lease=LEASE, kinds=["reply"]))
            if job is not None and job.id == self.job.id:
                self.hands.append(job)

        @rule(seconds=st.integers(min_value=-60, max_value=60))
        def time_passes(self, seconds: int) -> None:
            clock.forward(seconds=seconds)

        @rule(data=st.data())
        def finishes(self, data: st.DataObject) -> None:
            if self.hands:
                job = data.draw(st.sampled_from(self.hands))
                try:
                    store.run(lambda unit: answer(unit, who, job))
                    self.made += 1
                except ConflictError:
                    pass

        @rule(data=st.data())
        def fails(self, data: st.DataObject) -> None:
            if self.hands:
                job = data.draw(st.sampled_from(self.hands))
                with contextlib.suppress(ConflictError):
                    store.run(lambda unit: unit.jobs.fail(job, error="boom"))

        @invariant()
        def one_reply_at_most(self) -> None:
            with store.read() as unit:
                drafts = [d for d in unit.drafts.of(who.thread) if d.job_id == self.job.id]
                state = unit.jobs.get(self.job.id).state
            assert len(drafts) == self.made <= 1
            assert (state == "done") == (self.made == 1)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Queue,
        settings=settings(
            max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


STATES = {
    "thread": (THREAD_STEPS, check_thread, ("ai_assisted", "risk_held", "human_owned", "closed")),
    "draft": (DRAFT_STEPS, check_draft, ("drafted", "approved", "edited", "rejected", "expired")),
}


@pytest.mark.parametrize("kind", STATES)
def test_every_change_that_is_not_in_the_table_is_refused(kind: str) -> None:
    steps, check, states = STATES[kind]
    for now in states:
        for to in states:
            if (now, to) in steps:
                check(now, to, person=True, reason=True)
                if steps[now, to].who == "person":
                    with pytest.raises(TransitionError, match="Only a clinician"):
                        check(now, to, person=False, reason=True)
            else:
                with pytest.raises(TransitionError, match="cannot go from"):
                    check(now, to, person=True, reason=True)


def test_jobs_move_by_their_table_too() -> None:
    states = ("queued", "running", "done", "failed", "cancelled")
    for now in states:
        for to in states:
            if (now, to) in JOB_STEPS:
                check_job(now, to)
            else:
                with pytest.raises(TransitionError):
                    check_job(now, to)
