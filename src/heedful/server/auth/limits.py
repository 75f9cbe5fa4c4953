"""Limits in memory: how many requests a minute, and how long to wait after a wrong password.

Both keep a bounded number of entries and forget the one that was quiet longest. They belong to one server process and
are gone after a restart; the cost of a guess (argon2id) is not. Decision 0051 says why nobody can be locked out for
ever.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

MOST: Final = 20_000
"""Entries kept; about 4 MB."""

E = TypeVar("E")


class _Bounded(Generic[E]):
    def __init__(self, most: int) -> None:
        self.most = most
        self.entries: OrderedDict[str, E] = OrderedDict()

    def get(self, key: str) -> E | None:
        return self.entries.get(key)

    def put(self, key: str, entry: E) -> None:
        self.entries[key] = entry
        self.entries.move_to_end(key)
        while len(self.entries) > self.most:
            self.entries.popitem(last=False)


class Buckets:
    """At most `per_minute` requests of one key, evenly refilled; a quarter of a minute may come at once.

    Args:
        clock: seconds that only grow; for tests.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic, most: int = MOST) -> None:
        self.rate, self.size, self._clock = per_minute / 60, max(1.0, per_minute / 4), clock
        self._lock, self._known = threading.Lock(), _Bounded[tuple[float, float]](most)

    def take(self, key: str) -> float:
        """0 and one request less, or the seconds until the next one is due."""
        now = self._clock()
        with self._lock:
            left, at = self._known.get(key) or (self.size, now)
            left = min(self.size, left + (now - at) * self.rate)
            if left < 1:
                self._known.put(key, (left, now))
                return (1 - left) / self.rate
            self._known.put(key, (left - 1, now))
            return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """After `free` failures in a row each further one doubles the pause, from `first` up to `longest` seconds.

    After `forget` quiet seconds the count begins anew.
    """

    free: int
    first: float
    longest: float
    forget: float


RULES: Final[dict[str, Rule]] = {
    "address": Rule(free=20, first=1, longest=900, forget=3600),
    "account": Rule(free=5, first=1, longest=30, forget=3600),
    "device": Rule(free=5, first=1, longest=900, forget=3600),
    "factor": Rule(free=5, first=2, longest=300, forget=3600),
    "setup": Rule(free=5, first=2, longest=900, forget=3600),
}
"""`account` has a short longest pause on purpose: strangers fill it, and its owner must get in all the same. `device`
is a browser that signed in to this account before; only its own failures count against it. Who meets `factor` knew the
password."""


class Backoff:
    """Pauses after failures, by kind (`RULES`) and key."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, most: int = MOST) -> None:
        self._clock = clock
        self._lock, self._known = threading.Lock(), _Bounded[tuple[int, float]](most)

    def pause(self, kind: str, key: str) -> float:
        """Seconds until the next attempt is looked at; 0 = now."""
        with self._lock:
            return self._left(kind, key)

    def failed(self, kind: str, key: str) -> None:
        """One more failure."""
        with self._lock:
            count, _ = self._now(kind, key)
            self._known.put(f"{kind}:{key}", (count + 1, self._clock()))

    def undo(self, kind: str, key: str) -> None:
        """One failure less: it was counted beforehand, so that guesses sent all at once do not slip through."""
        with self._lock:
            count, at = self._now(kind, key)
            self._known.put(f"{kind}:{key}", (max(0, count - 1), at))

    def worked(self, kind: str, key: str) -> None:
        """It went well: the count begins anew."""
        with self._lock:
            self._known.entries.pop(f"{kind}:{key}", None)

    def _now(self, kind: str, key: str) -> tuple[int, float]:
        count, at = self._known.get(f"{kind}:{key}") or (0, 0.0)
        return (0, at) if self._clock() - at > RULES[kind].forget else (count, at)

    def _left(self, kind: str, key: str) -> float:
        rule = RULES[kind]
        count, at = self._now(kind, key)
        if count < rule.free:
            return 0.0
        return max(0.0, at + min(rule.longest, rule.first * 2.0 ** min(count - rule.free, 30)) - self._clock())
