"""Numbers for a supervisor: who has how much to do, how fast people answered, what became of drafts. No words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from statistics import median

from sqlalchemy import select

from heedful.review import crisis
from heedful.store import Store, models
from heedful.store.rows import table_of
from heedful.store.states import DECIDERS
from heedful.store.unit import Unit

DECIDED = ("approved", "edited", "rejected")
TASKS, DECISIONS = table_of(models.Task), table_of(models.Decision)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one clinician has. `name` is a name of staff."""

    user: str
    name: str
    owned: int
    at_risk: int
    tasks: int
    overdue: int
    decided: int


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How fast tasks of one kind were done.

    Args:
        n: done in the period. median: minutes from made to done; None where none was.
        late: of those, done after their time. open, overdue: now.
    """

    kind: str
    n: int
    median: float | None
    late: int
    open: int
    overdue: int


@dataclass(frozen=True, kw_only=True)
class Week:
    """What became of the drafts that people decided in one week, which begins on a Monday."""

    monday: date
    counts: dict[str, int]

    @property
    def n(self) -> int:
        """How many were decided."""
        return sum(self.counts.values())

    def share(self, what: str) -> float | None:
        """Share of one outcome; None where nothing was decided: missing is not zero."""
        return self.counts.get(what, 0) / self.n if self.n else None


def caseload(store: Store, *, days: int = 28) -> tuple[Load, ...]:
    """One row for each clinician and supervisor, the busiest first."""
    with store.read() as unit:
        now = unit.now()
        people = [user for user in unit.users.all() if user.role in DECIDERS and not user.disabled]
        threads = unit.threads.in_state("human_owned", "ai_assisted", "risk_held")
        tasks = unit.tasks.open()
        decided = Counter(row.by for row in _decisions(unit, now - timedelta(days=days)))
    rows = [
        Load(
            user=person.id,
            name=person.name or "",
            owned=sum(t.owner == person.id and t.state == "human_owned" for t in threads),
            at_risk=sum(t.owner == person.id and t.risk_level > 0 for t in threads),
            tasks=sum(t.owner == person.id for t in tasks),
            overdue=sum(t.owner == person.id and t.due_at <= now for t in tasks),
            decided=decided[person.id],
        )
        for person in people
    ]
    return tuple(sorted(rows, key=lambda row: (-row.overdue, -row.owned, -row.tasks, row.name)))


def clocks(store: Store, *, days: int = 28) -> tuple[Clock, ...]:
    """Response clocks of handovers, looks, follow-ups and whatever else was a task."""
    with store.read() as unit:
        now = unit.now()
        columns = (TASKS.c.kind, TASKS.c.created_at, TASKS.c.due_at, TASKS.c.done_at)
        rows = list(unit.execute(select(*columns)))
    since = now - timedelta(days=days)
    kinds = sorted({row.kind for row in rows} | {crisis.TAKEOVER, crisis.LOOK, crisis.FOLLOW_UP})
    out = []
    for kind in kinds:
        here = [row for row in rows if row.kind == kind]
        done = [row for row in here if row.done_at is not None and row.done_at >= since]
        waits = [(row.done_at - row.created_at).total_seconds() / 60 for row in done]
        waiting = [row for row in here if row.done_at is None]
        out.append(
            Clock(
                kind=kind,
                n=len(done),
                median=median(waits) if waits else None,
                late=sum(row.done_at > row.due_at for row in done),
                open=len(waiting),
                overdue=sum(row.due_at <= now for row in waiting),
            )
        )
    return tuple(out)


def weeks(store: Store, *, n: int = 12) -> tuple[Week, ...]:
    """What people decided about drafts in the last `n` weeks, oldest first; weeks without a decision are there too."""
    with store.read() as unit:
        now = unit.now()
        first = monday(now) - timedelta(weeks=n - 1)
        rows = list(_decisions(unit, datetime.combine(first, datetime.min.time(), tzinfo=now.tzinfo)))
    found = Counter((monday(row.at), row.action.removeprefix("draft.")) for row in rows)
    days = [first + timedelta(weeks=k) for k in range(n)]
    return tuple(Week(monday=day, counts={what: found[day, what] for what in DECIDED}) for day in days)


def _decisions(unit: Unit, since: datetime) -> Iterable[models.Decision]:
    actions = [f"draft.{what}" for what in DECIDED]
    statement = select(DECISIONS.c.action, DECISIONS.c.by, DECISIONS.c.at).where(
        DECISIONS.c.at >= since, DECISIONS.c.action.in_(actions)
    )
    return unit.execute(statement)  # type: ignore[return-value]


def monday(at: datetime) -> date:
    """The Monday of a time's week.

    >>> monday(datetime(2026, 11, 22))
    datetime.date(2026, 11, 16)
    """
    return at.date() - timedelta(days=at.weekday())
