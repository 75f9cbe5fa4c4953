"""Reports of problems: somebody says what went wrong, a supervisor deals with it. The words are sealed.

Who lists reports (an export of incidents, the admin's page) gets facts without words: `listed`. Only the page of the
supervisor shows what was written. A report of a help-seeker is read by the crisis rules, as a message is: a sign in it
holds their conversation and starts its clock, and a person is asked to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from heedful.errors import DataError, TransitionError
from heedful.review import crisis
from heedful.review.clinic import Clinic
from heedful.safety import events
from heedful.safety.crisis import TIERS, Assessment, assess
from heedful.safety.policy import decide
from heedful.store import Store
from heedful.store.records import ProblemReport
from heedful.store.states import Role
from heedful.store.unit import Unit
from heedful.store.work import as_name
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

    found = assess([Turn(role="user", text=words)]) if role == "help_seeker" else None
    danger = found if found is not None and found.tier != "none" else None
    thread = None if danger is None else _conversation(clinic, user)

    def work(unit: Unit) -> Reported:
        made = unit.reports.add(user=user, role=role, kind=kind, text=words)
        due = unit.now() + timedelta(minutes=clinic.policy.look_minutes)
        unit.tasks.add(kind=TASK, due_at=due, by=user, text=made.id)
        unit.counters.add("problems_reported")
        if danger is not None:
            _happen(clinic, unit, user, danger, thread)
        if role == "help_seeker":
            for mine in [t for t in unit.threads.of(user) if t.state != "closed"]:
                clinic.stop_if_due(unit, mine)
        return Reported(report=made, danger=danger is not None)

    return clinic.store.run(work)


def _conversation(clinic: Clinic, user: str) -> str | None:
    """The open conversation, or a new one; None where it may not begin yet: then a task has to do."""
    try:
        return clinic.open(user).id
    except TransitionError:
        return None


def _happen(clinic: Clinic, unit: Unit, user: str, found: Assessment, thread: str | None) -> None:
    """What a message with this sign would lead to, and at the least a task for a person."""
    urgent = found.tier == TIERS[-1]
    rules = [as_name(rule) for rule in sorted(found.rules)[:20]]
    unit.audit.add(crisis.PROGRAM, "report.danger", f"user:{user}", tier=found.tier, rules=rules)
    if thread is not None:
        now = unit.threads.raise_risk(thread, 0, by=user)  # its row is ours until the end
        try:
            asked = decide(found, state=crisis.state_of(now))
        except DataError:
            pass  # what is stored about the conversation is damaged: the task below is not
        else:
            said = events.Said(assessment=found, rung=asked.rung, tier=asked.tier)
            setting = clinic.policy.setting(unit.now())
            if now.state != "closed":
                crisis.happen(unit, now, said, setting=setting, lines=clinic.policy.lines)
    kinds = (crisis.TAKEOVER,) if urgent else (crisis.TAKEOVER, crisis.LOOK)
    if thread is not None and any(task.kind in kinds for task in unit.tasks.open(thread=thread)):
        return
    minutes = clinic.policy.response_minutes if urgent else clinic.policy.look_minutes
    due = unit.now() + timedelta(minutes=minutes)
    unit.tasks.add(kind=crisis.LOOK, due_at=due, by=crisis.PROGRAM, thread=thread, help_seeker=user)


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
