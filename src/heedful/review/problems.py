"""Reports of problems: somebody says what went wrong, a supervisor deals with it. The words are sealed.

Who lists reports (an export of incidents, the admin's page) gets facts without words: `listed`. Only the page of the
supervisor shows what was written. A report of a help-seeker is read by the crisis rules, as a message is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from heedful.errors import DataError
from heedful.review import crisis
from heedful.review.clinic import Clinic
from heedful.safety.crisis import TIERS, assess
from heedful.store import Store
from heedful.store.records import ProblemReport
from heedful.store.states import Role
from heedful.store.unit import Unit
from heedful.types import Turn

TASK: Final = "report"
"""Kind of the task that a report makes. It holds no words; it is closed with its report."""
LONGEST: Final = 4000


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A report without its words."""

    id: str
    at: datetime
    kind: str
    role: str
    state: Literal["open", "closed"]
    closed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A report that was kept; `danger` = the crisis rules found a sign in it, and a person was asked to look."""

    report: ProblemReport
    danger: bool = False


def report(clinic: Clinic, *, user: str, role: Role, kind: str, text: str) -> Reported:
    """Keep a report and ask a supervisor to deal with it.

    Raises:
        DataError: no such kind, nothing in it, or too long.
    """
    words = text.strip()
    if not words or len(words) > LONGEST or "\x00" in words:
        raise DataError(f"A report has 1 to {LONGEST:,} characters.")

    def work(unit: Unit) -> Reported:
        made = unit.reports.add(user=user, role=role, kind=kind, text=words)
        due = unit.now() + timedelta(minutes=clinic.policy.look_minutes)
        unit.tasks.add(kind=TASK, due_at=due, by=user, text=made.id)
        unit.counters.add("problems_reported")
        if role != "help_seeker":
            return Reported(report=made)
        threads = [thread for thread in unit.threads.of(user) if thread.state != "closed"]
        for thread in threads:
            clinic.stop_if_due(unit, thread)
        return Reported(report=made, danger=_danger(clinic, unit, user, words, threads[-1].id if threads else None))

    return clinic.store.run(work)


def _danger(clinic: Clinic, unit: Unit, user: str, words: str, thread: str | None) -> bool:
    found = assess([Turn(role="user", text=words)])
    if found.tier == "none":
        return False
    urgent = found.tier == TIERS[-1]
    minutes = clinic.policy.response_minutes if urgent else clinic.policy.look_minutes
    due = unit.now() + timedelta(minutes=minutes)
    unit.tasks.add(kind=crisis.LOOK, due_at=due, by=crisis.PROGRAM, thread=thread, help_seeker=user)
    unit.audit.add(crisis.PROGRAM, "report.danger", f"user:{user}", tier=found.tier, rules=sorted(found.rules)[:20])
    return True


def close(store: Store, id: str, *, by: str, outcome: str, version: int) -> ProblemReport:
    """A supervisor dealt with it; its task is done too.

    Raises:
        ConflictError: somebody closed it before.
        TransitionError: `by` is no clinician or supervisor, or there is no outcome.
    """

    def work(unit: Unit) -> ProblemReport:
        made = unit.reports.close(id, by=by, outcome=outcome, version=version)
        for task in unit.tasks.open():
            if task.kind == TASK and task.text == id:
                unit.tasks.done(task.id, by=by, version=task.version)
        return made

    return store.run(work)


def listed(store: Store, *, since: datetime | None = None) -> tuple[Listed, ...]:
    """All reports without their words, oldest first; `since` = those made at or after a time."""
    with store.read() as unit:
        found = unit.reports.all()
    return tuple(
        Listed(
            id=r.id,
            at=r.created_at,
            kind=r.kind,
            role=r.role,
            state="open" if r.state == "open" else "closed",
            closed_at=r.closed_at,
        )
        for r in reversed(found)
        if since is None or r.created_at >= since
    )
