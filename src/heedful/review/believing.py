"""The second reader: each message that was acknowledged is read once more, by a classifier, after the rules.

The rules have read a message before it is acknowledged, so nothing waits for this. The classifier is called outside of
any transaction. What it says can raise a risk, and nothing else; where it is slow, broken or gone, the rules stand.
A job for each message lies in the store: a worker that is killed loses none.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from heedful.errors import ConflictError, HeedfulError
from heedful.review.clinic import BELIEF_JOB, SAID, Believes, Clinic
from heedful.review.said import as_turn
from heedful.safety.policy import Belief
from heedful.store.records import Job
from heedful.store.unit import Unit
from heedful.types import Turn

Done = Literal["nothing", "raised", "heard", "failed", "lost"]
"""No message to read; a risk was raised; nothing was added; the classifier failed; another worker has the message."""


class Believer:
    """One worker.

    Args:
        name: of this worker, unique among those of all processes.
        lease: how long a message is this worker's; longer than a reading may take.
    """

    def __init__(self, clinic: Clinic, *, name: str, lease: timedelta = timedelta(minutes=2)) -> None:
        self.clinic, self.name, self.lease = clinic, name, lease

    def once(self) -> Done:
        """Read one message, if one waits."""
        store, belief = self.clinic.store, self.clinic.belief
        if belief is None:
            return "nothing"
        job = store.run(lambda unit: unit.jobs.take(self.name, lease=self.lease, kinds=[BELIEF_JOB]))
        if job is None or job.payload is None:
            return "nothing"
        turn = str(job.payload["turn"])
        try:
            with store.read() as unit:
                said = _up_to(unit, turn)
            believed = belief(said)
        except HeedfulError as err:
            return self._failed(job, type(err).__name__)
        except Exception:
            # Its message may quote what was said: not kept.
            return self._failed(job, "fault")
        try:
            return store.run(lambda unit: self._keep(unit, job, turn, believed, belief))
        except ConflictError:
            return "lost"
        except HeedfulError as err:
            return self._failed(job, type(err).__name__)

    def _keep(self, unit: Unit, job: Job, turn: str, believed: Belief, belief: Believes) -> Done:
        unit.jobs.finish(job)
        outcome = self.clinic.keep_belief(unit, turn=turn, believed=believed, point=belief.point)
        return "heard" if outcome is None else "raised"

    def _failed(self, job: Job, error: str) -> Done:
        def work(unit: Unit) -> Done:
            if unit.jobs.fail(job, error=error).state == "failed":
                unit.counters.add("beliefs_failed")  # a message that no classifier has read
            return "failed"

        try:
            return self.clinic.store.run(work)
        except ConflictError:
            return "lost"


def _up_to(unit: Unit, turn: str) -> tuple[Turn, ...]:
    """A message and those before it; what came later is not shown."""
    read = unit.turns.get(turn)
    turns = unit.turns.of(read.thread_id, after=max(0, read.sequence - SAID))
    return tuple(as_turn(t) for t in turns if t.sequence <= read.sequence and t.role != "system")
