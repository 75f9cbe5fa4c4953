"""How a draft that is not there yet stands: waiting, being written, failed, or blocked, for whoever waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from heedful.errors import ConflictError, TransitionError
from heedful.review.clinic import DRAFT_JOB, Clinic
from heedful.store.records import Job, StoredTurn, Thread
from heedful.store.unit import Unit

Word = Literal["queued", "writing", "stalled", "failed"]
SEEN: Final = ("queued", "running", "failed", "done", "cancelled")
CAUSES: Final = frozenset({"late", "full", "down", "lost", "worker_lost", "refused", "empty", "gate"})
"""Errors that pages have words for; any other is a fault."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One job of a model.

    Args:
        word: `stalled` = its worker is gone, and another one takes it.
        place: in the queue; 1 = next, 0 = it does not wait.
        since: it waits, is written, or has failed.
        attempt, most: which attempt it is, and how many there are.
        cause: why the last attempt failed: one of `CAUSES`, or `fault`; empty = none has.
    """

    word: Word
    place: int
    since: datetime
    attempt: int
    most: int
    cause: str = ""

    @property
    def open(self) -> bool:
        """Whether a draft may still come by itself."""
        return self.word != "failed"


def of_reply(unit: Unit, thread: Thread) -> Progress | None:
    """Of the draft that would answer the last word; None = nobody waits for one."""
    last = last_word(unit, thread.id)
    if last is None or thread.state != "ai_assisted" or thread.drafts_stopped:
        return None
    mine = [job for job in _jobs(unit, thread.id, DRAFT_JOB) if job.key.split(":")[1] == last.id]
    return _read(unit, max(mine, key=_newest)) if mine else None


def of_note(unit: Unit, thread: str, kind: str) -> Progress | None:
    """Of the newest note or plan that a model was asked for (`kind` of its jobs)."""
    found = _jobs(unit, thread, kind)
    return _read(unit, max(found, key=_newest)) if found else None


def again(clinic: Clinic, thread: str, *, by: str) -> Job:
    """Let the model try once more to draft a reply; asked twice, it tries once.

    Raises:
        TransitionError: no draft is wanted here now, or `by` is no clinician or supervisor.
        ConflictError: one is there, or on its way.
    """

    def work(unit: Unit) -> Job:
        unit.need_person(by, "ask for a draft")
        here = unit.threads.raise_risk(thread, 0, by=by)  # its row is ours until the end
        last, stands = last_word(unit, thread), of_reply(unit, here)
        if last is None or here.state != "ai_assisted" or here.drafts_stopped or not clinic.policy.drafts:
            raise TransitionError("No draft is wanted here now; take the conversation over and write yourself.")
        waits = any(draft.state == "drafted" for draft in unit.drafts.of(thread))
        if waits or (stands is not None and stands.open):
            raise ConflictError("A draft is there already, or on its way.")
        made = len([job for job in _jobs(unit, thread, DRAFT_JOB) if job.key.split(":")[1] == last.id])
        payload = {"turn": last.id}
        return unit.jobs.add(kind=DRAFT_JOB, key=f"draft:{last.id}:{made}", thread=thread, payload=payload)

    return clinic.store.run(work)


def last_word(unit: Unit, thread: str) -> StoredTurn | None:
    """The help-seeker's newest message, where no person of ours has answered it."""
    for turn in reversed(unit.turns.last(thread, 50)):
        if turn.role == "user":
            return turn
        if turn.author is not None:
            return None
    return None


def _jobs(unit: Unit, thread: str, kind: str) -> list[Job]:
    return [job for job in unit.jobs.of(thread, states=SEEN) if job.kind == kind]


def _newest(job: Job) -> tuple[bool, datetime, str]:
    """What may still come counts before what has ended; two of one moment are told apart by the number in their key."""
    return job.state in ("queued", "running"), job.created_at, job.key


def _read(unit: Unit, job: Job) -> Progress | None:
    cause = "" if job.error is None else job.error if job.error in CAUSES else "fault"
    rest: dict[str, Any] = {"attempt": max(1, job.attempts), "most": job.most_attempts, "cause": cause}
    if job.state == "queued":
        attempt = {**rest, "attempt": job.attempts + 1}
        return Progress(word="queued", place=unit.jobs.place(job), since=job.created_at, **attempt)
    if job.state == "running":
        late = job.lease_until is not None and job.lease_until <= unit.now()
        since = job.started_at or job.created_at
        return Progress(word="stalled" if late else "writing", place=0, since=since, **rest)
    if job.state == "failed" or (job.state == "done" and cause):
        return Progress(word="failed", place=0, since=job.finished_at or job.created_at, **rest)
    return None
