"""Staff monitoring: which running conversations nobody of staff is looking at.

A conversation runs while its help-seeker wrote in the last half hour. It is watched while somebody of staff has it
open: the page says so again every half minute, so after two minutes without a word of it nobody is looking.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal

from heedful.store import Store
from heedful.store.records import Thread
from heedful.store.unit import Unit

RUNS: Final = timedelta(minutes=30)
SEEN: Final = timedelta(minutes=2)
Watch = Literal["quiet", "watched", "unwatched"]


def watch(thread: Thread, *, last: datetime | None, now: datetime) -> Watch:
    """How a conversation stands.

    Args:
        last: when its help-seeker last wrote; None = never.
    """
    if thread.state == "closed" or last is None or now - last >= RUNS:
        return "quiet"
    seen = thread.watched_at
    return "watched" if seen is not None and now - seen < SEEN else "unwatched"


def look(store: Store, thread: str, *, by: str) -> None:
    """Somebody of staff has it open now.

    Raises:
        NotFoundError: no such conversation. TransitionError: `by` is no clinician or supervisor.
    """
    store.run(lambda unit: unit.threads.watched(thread, by=by))


def unwatched(unit: Unit) -> tuple[Thread, ...]:
    """Running conversations that nobody looks at, highest risk first."""
    now = unit.now()
    found = unit.threads.in_state("ai_assisted", "risk_held", "human_owned")
    return tuple(t for t in found if watch(t, last=last_word(unit, t.id), now=now) == "unwatched")


def last_word(unit: Unit, thread: str) -> datetime | None:
    """When the help-seeker last wrote, among the newest messages."""
    return max((turn.created_at for turn in unit.turns.last(thread, 20) if turn.role == "user"), default=None)
