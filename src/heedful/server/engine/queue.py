"""Requests that wait, in fair order: callers take turns, so one with many requests does not keep the others waiting."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from heedful.server.engine.base import Ticket


@dataclass(eq=False, kw_only=True)
class Work:
    """A request on its way; times are of the monotonic clock.

    Args:
        wait_until: when waiting has taken too long.
        late_at: when writing has taken too long.
        kill_at: when a worker that was told to stop and does not is killed.
        sent: how often it was given to a worker.
    """

    id: int
    ticket: Ticket
    submitted: float
    wait_until: float
    started: float = 0.0
    late_at: float = float("inf")
    kill_at: float = float("inf")
    sent: int = 0
    first: float | None = None
    parts: list[str] = field(default_factory=list, repr=False)

    @property
    def due(self) -> float:
        """When a worker that has it has to be looked at."""
        return min(self.late_at, self.kill_at)


class FairQueue:
    """Round robin over callers, first come first served within one."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, deque[Work]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._callers.values()))

    def __iter__(self) -> Iterator[Work]:
        for queue in self._callers.values():
            yield from queue

    def put(self, work: Work) -> None:
        """At the end of its caller's line."""
        self._callers.setdefault(work.ticket.request.caller, deque()).append(work)

    def put_back(self, work: Work) -> None:
        """First of all: a worker had it and died."""
        caller = work.ticket.request.caller
        self._callers.setdefault(caller, deque()).appendleft(work)
        self._callers.move_to_end(caller, last=False)

    def take(self, *, wanted: Callable[[Work], bool] = lambda _: True) -> Work | None:
        """The next one; its caller goes to the end of the round. One that is not wanted yet keeps its place, and holds
        up nobody.
        """
        for queue in self._callers.values():
            work = next(filter(wanted, queue), None)
            if work is not None:
                self.remove(work)
                if queue:
                    self._callers.move_to_end(work.ticket.request.caller)
                return work
        return None

    def remove(self, work: Work) -> bool:
        """It is no longer wanted; whether it was here."""
        caller = work.ticket.request.caller
        queue = self._callers.get(caller, deque())
        if work not in queue:
            return False
        queue.remove(work)
        if not queue:
            del self._callers[caller]
        return True
