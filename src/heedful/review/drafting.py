"""The draft worker: takes jobs of the queue, lets a model write, keeps what still answers the last word.

The model is called outside of any transaction, so that a slow or dead one holds up nobody. A worker that is killed
loses nothing: its lease runs out and the job is taken again; the draft and the end of the job are kept together, so
one job makes at most one draft.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Final, Literal, Protocol

from heedful.errors import ConflictError, EngineError, HeedfulError
from heedful.review.clinic import DRAFT_JOB, Clinic
from heedful.review.said import conversation
from heedful.store.records import Job
from heedful.store.unit import Unit
from heedful.types import Conversation


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a model would say, and why.

    Args:
        model: name and version, as the audit takes it: no blanks.
        reasons: for the clinician: strategy and its distribution, emotion, sources with ids, plan, prompt, uncertainty.
    """

    text: str = field(repr=False)
    model: str
    reasons: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Writer(Protocol):
    """Whatever writes a proposal; it may take long, and it may raise `HeedfulError`."""

    def propose(self, conversation: Conversation, *, key: str) -> Proposal: ...


STEP: Final = 20
"""Older turns are left out so many at a time."""
Done = Literal["nothing", "drafted", "dropped", "failed", "lost"]
"""No job; a draft was kept; nobody needed it any more; the model failed; another worker has the job."""


class Drafter:
    """One worker.

    Attributes:
        kinds: the jobs that it takes. counter: what is counted where one failed for good.

    Args:
        name: of this worker, unique among those of all processes.
        lease: how long a job is this worker's; longer than a model may take.
        last: how many turns the model is shown at most; None = all. A few less each time that older ones are left out,
            so that the beginning stays for a while, and with it what the engine remembers of it.
    """

    kinds: ClassVar[tuple[str, ...]] = (DRAFT_JOB,)
    counter: ClassVar[str] = "drafts_failed"

    def __init__(
        self,
        clinic: Clinic,
        writer: Writer,
        *,
        name: str,
        lease: timedelta = timedelta(minutes=3),
        last: int | None = None,
    ) -> None:
        self.clinic, self.writer, self.name, self.lease, self.last = clinic, writer, name, lease, last

    def once(self) -> Done:
        """Take one job, if there is one, and see it through."""
        store = self.clinic.store
        job = store.run(lambda unit: unit.jobs.take(self.name, lease=self.lease, kinds=self.kinds))
        if job is None or job.thread_id is None or job.payload is None:
            return "nothing"
        with store.read() as unit:
            talk = conversation(unit, job.thread_id, last=self.last, step=STEP, strategies="added")
        try:
            made = self.writer.propose(talk, key=self._key(job))
        except HeedfulError as err:
            return self._failed(job, err.code if isinstance(err, EngineError) else type(err).__name__)
        except Exception:
            # A fault of a model or its library must not stop the queue. Its message may quote the prompt: not kept.
            return self._failed(job, "fault")
        if not made.text.strip():
            return self._failed(job, "empty")
        try:
            kept = store.run(lambda unit: self._keep(unit, job, made))
        except ConflictError:
            return "lost"
        return "dropped" if kept is None else "drafted"

    def _key(self, job: Job) -> str:
        return f"{job.thread_id}/{(job.payload or {})['turn']}"

    def _keep(self, unit: Unit, job: Job, made: Proposal) -> object | None:
        unit.jobs.finish(job)
        turn = str((job.payload or {})["turn"])
        return self.clinic.keep_draft(
            unit, job=job.id, turn=turn, text=made.text.strip(), model=made.model, reasons=dict(made.reasons)
        )

    def _failed(self, job: Job, error: str) -> Done:
        def work(unit: Unit) -> Done:
            failed = unit.jobs.fail(job, error=error)
            if failed.state == "failed":
                unit.counters.add(self.counter)
            return "failed"

        try:
            return self.clinic.store.run(work)
        except ConflictError:
            return "lost"
