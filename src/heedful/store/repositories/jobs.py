"""The generation queue. A worker holds a job for a while; if it dies, another one takes the job; only one finishes.

Each taking raises `attempts`, and finishing needs the number that the worker was given: a worker that was thought dead
and comes back finds that the job is no longer its own, and its whole transaction, draft included, is undone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import Text, bindparam, or_, select

from heedful.errors import ConflictError
from heedful.store import models
from heedful.store.columns import Moment
from heedful.store.prepared import Prepared
from heedful.store.records import Job
from heedful.store.repositories.base import Repository, new_id
from heedful.store.rows import table_of
from heedful.store.states import JobState, check_job


@cache
def _free(kinds: tuple[str, ...]) -> Prepared:
    """The oldest job of these kinds that is free; skipping those that another worker is taking at this moment."""
    c = table_of(models.Job).c
    free = or_(c.state == "queued", (c.state == "running") & (c.lease_until <= bindparam("now", type_=Moment())))
    which = [or_(*(c.kind == kind for kind in kinds))] if kinds else []
    asked = select(c.id).where(free, *which).order_by(c.created_at, c.id).limit(1)
    return Prepared(asked.with_for_update(skip_locked=True))


@cache
def _in_states(states: tuple[str, ...]) -> Prepared:
    """Jobs of a conversation in one of these states."""
    jobs = table_of(models.Job)
    here = jobs.c.thread_id == bindparam("thread_id", type_=Text())
    which = or_(*(jobs.c.state == state for state in states))
    return Prepared(select(jobs).where(here, which).order_by(jobs.c.created_at, jobs.c.id))


class Jobs(Repository[Job]):
    """Jobs of the queue, by key."""

    model, record, noun = models.Job, Job, "job"

    def add(
        self,
        *,
        kind: str,
        key: str,
        thread: str | None = None,
        payload: Mapping[str, Any] | None = None,
        most_attempts: int = 3,
    ) -> Job:
        """Queue a job, once: with a key that is there already, the job that is there comes back.

        Args:
            key: what it is for, `reply:<turn id>`.
        """
        job = Job(
            id=new_id(),
            kind=kind,
            key=key,
            thread_id=thread,
            payload=None if payload is None else dict(payload),
            most_attempts=most_attempts,
            created_at=self.work.now(),
        )
        self._check_alive(job)
        if self.work.insert_new(self.table, self.codec.write_record(job, self.work.keys), key="key"):
            return job
        there = self._one(key=key)
        assert there is not None
        return there

    def of(self, thread: str, *, states: Sequence[JobState] = ("queued", "running")) -> tuple[Job, ...]:
        """Jobs of one conversation in these states, oldest first."""
        rows = self.work.rows(_in_states(tuple(states)), thread_id=thread)
        return tuple(self.codec.read(row, self.work.keys) for row in rows)

    def waiting(self) -> int:
        """How many jobs nobody has taken yet: the measure for back-pressure."""
        return len(self.work.execute(select(self.table.c.id).where(self.table.c.state == "queued")).all())

    def place(self, job: Job) -> int:
        """Its place among the jobs of its kind that nobody has taken yet; 1 = the next one, 0 = it does not wait."""
        c = self.table.c
        waiting = select(c.id).where(c.state == "queued", c.kind == job.kind).order_by(c.created_at, c.id)
        found = list(self.work.execute(waiting).scalars())
        return found.index(job.id) + 1 if job.id in found else 0

    def mark(self, id: str, error: str) -> None:
        """It ended, and nobody gets what it made: why, as a short name."""
        self._set(id, error=error)

    def take(self, worker: str, *, lease: timedelta, kinds: Sequence[str] = ()) -> Job | None:
        """The oldest job that is free, or whose worker let its lease run out; None = nothing to do.

        A job that failed its last attempt this way is set to `failed` and passed over.
        """
        now, free = self.work.now(), _free(tuple(kinds))
        while found := self.work.rows(free, now=now):
            job = self.get(found[0][0])
            if job.attempts >= job.most_attempts:
                self._to(job, "failed", error="worker_lost", finished_at=now, payload=None)
                self.work.counted[f"{job.kind}s_failed", str(now.year)] += 1
                continue
            values = {
                "attempts": job.attempts + 1,
                "worker": worker,
                "lease_until": now + lease,
                "started_at": now,
            }
            return self._to(job, "running", **values)
        return None

    def extend(self, job: Job, *, lease: timedelta) -> Job:
        """The worker is alive and needs longer.

        Raises:
            ConflictError: the job was cancelled, or another worker has it.
        """
        return self._to(self._held(job), "running", lease_until=self.work.now() + lease)

    def finish(self, job: Job) -> Job:
        """It is done. In the same transaction as what it made, so that both are kept or neither.

        Raises:
            ConflictError: the job was cancelled, or another worker has it: undo what was made.
        """
        return self._to(self._held(job), "done", finished_at=self.work.now(), payload=None, lease_until=None)

    def fail(self, job: Job, *, error: str) -> Job:
        """It went wrong; it is queued again while attempts are left. `error` is a short name, never a message.

        Raises:
            ConflictError: the job was cancelled, or another worker has it.
        """
        held = self._held(job)
        if held.attempts < held.most_attempts:
            return self._to(held, "queued", error=error, worker=None, lease_until=None)
        self.work.say(held.worker or "worker", "job.failed", f"job:{job.id}", error=error)
        return self._to(held, "failed", error=error, finished_at=self.work.now(), payload=None, lease_until=None)

    def cancel(self, id: str, *, by: str) -> Job:
        """Nobody needs it any more. A worker that is at it cannot finish.

        Raises:
            TransitionError: it is done, failed or cancelled already.
        """
        job = self.get(id)
        self.work.say(by, "job.cancelled", f"job:{id}")
        return self._to(job, "cancelled", finished_at=self.work.now(), payload=None, lease_until=None)

    def _held(self, job: Job) -> Job:
        """The job as it stands, if it is still the caller's."""
        now = self.get(job.id)
        if now.state != "running" or now.attempts != job.attempts:
            raise self._taken(now)
        return now

    def _to(self, job: Job, state: JobState, **values: Any) -> Job:
        check_job(job.state, state)
        if not self._set(job.id, {"state": job.state, "attempts": job.attempts}, state=state, **values):
            raise self._taken(self.get(job.id))
        return replace(job, state=state, **values)

    def _taken(self, now: Job) -> ConflictError:
        return ConflictError(
            f"This job is {now.state} (attempt {now.attempts}); it is no longer this worker's. Drop what it made.",
            winner=now.worker,
            state=now.state,
        )
