"""What a clinician sees first: who needs somebody, the highest risk first, then who has waited longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from heedful.review import crisis
from heedful.review.checkins import Struck, struck
from heedful.review.watching import Watch, watch
from heedful.store import Store
from heedful.store.records import Draft, StoredTurn, Task, Thread
from heedful.store.unit import Unit


@dataclass(frozen=True, kw_only=True)
class Row:
    """One conversation.

    Args:
        waiting_since: when the first message came that nobody has answered; None where the last word is ours.
        draft: the one that waits for a decision.
        due_at: the nearest clock of its tasks; `overdue` says whether it has run out.
        damaged: what was known about the risk cannot be read; somebody has to look.
        watch: whether somebody of staff looks at it while it runs.
        struck: answers in check-ins that ask for a person.
    """

    thread: Thread
    help_seeker: str | None = field(repr=False)
    owner: str | None = field(repr=False)
    tier: str
    waiting_since: datetime | None
    draft: Draft | None = field(repr=False)
    tasks: tuple[Task, ...]
    due_at: datetime | None
    overdue: bool
    watch: Watch
    damaged: bool = False
    struck: tuple[Struck, ...] = field(default=(), repr=False)

    def calls(self, user: str | None) -> bool:
        """Whether its help-seeker asked for a person, and `user` is the one to react, or one of those who are."""
        asked = [task for task in self.tasks if task.kind in crisis.PERSONS]
        return any(task.owner in (None, user) for task in asked)

    def waited(self, now: datetime) -> timedelta:
        """How long the first unanswered message has waited."""
        return timedelta() if self.waiting_since is None else max(timedelta(), now - self.waiting_since)


def inbox(store: Store, *, owner: str | None = None) -> tuple[Row, ...]:
    """Open conversations in the order in which they should be looked at.

    Damaged ones first, then held ones, then by tier, then who asked for a person, then overdue clocks, then who waits,
    longest first. All of it is
    read at one moment.

    Args:
        owner: only those of this clinician.
    """
    with store.read() as unit:
        now = unit.now()
        drafts = {draft.thread_id: draft for draft in unit.drafts.open()}
        names: dict[str, str | None] = {}
        rows = [
            _row(unit, thread, drafts.get(thread.id), names, now)
            for thread in unit.threads.in_state("ai_assisted", "risk_held", "human_owned")
            if owner is None or thread.owner == owner
        ]
    return tuple(sorted(rows, key=lambda row: _rank(row, now)))


def _rank(row: Row, now: datetime) -> tuple[bool, bool, int, bool, bool, float, str]:
    held = row.thread.state == "risk_held"
    asked = any(task.kind in crisis.PERSONS for task in row.tasks)
    return (
        not row.damaged,
        not held,
        -row.thread.risk_level,
        not asked,
        not row.overdue,
        -row.waited(now).total_seconds(),
        row.thread.id,
    )


def _row(unit: Unit, thread: Thread, draft: Draft | None, names: dict[str, str | None], now: datetime) -> Row:
    tasks = unit.tasks.open(thread=thread.id)
    turns = unit.turns.last(thread.id, 50)
    last = max((turn.created_at for turn in turns if turn.role == "user"), default=None)
    due = min((task.due_at for task in tasks), default=None)
    return Row(
        thread=thread,
        help_seeker=_name(unit, thread.help_seeker, names),
        owner=_name(unit, thread.owner, names) if thread.owner else None,
        tier=crisis.known(unit, thread).tier,
        damaged=crisis.damaged(thread),
        waiting_since=waiting_since(turns),
        draft=draft,
        tasks=tasks,
        due_at=due,
        overdue=due is not None and due <= now,
        watch=watch(thread, last=last, now=now),
        # Such an answer raises the highest risk there was for good; nobody else's check-ins are read for a list.
        struck=struck(unit, thread.help_seeker) if thread.risk_highest > 0 else (),
    )


def _name(unit: Unit, user: str, names: dict[str, str | None]) -> str | None:
    if user not in names:
        found = unit.users.find(user)
        names[user] = found.name if found else None
    return names[user]


def waiting_since(turns: Sequence[StoredTurn]) -> datetime | None:
    """When the first message came that no person of ours has answered; fixed texts answer nothing."""
    since: datetime | None = None
    for turn in turns:
        if turn.role == "user":
            since = since or turn.created_at
        elif turn.author is not None:
            since = None
    return since
