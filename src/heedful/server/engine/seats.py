"""Where llama.cpp keeps conversations: a seat is one of its slots, with memory of its own, and a conversation stays in
its seat. Left alone, llama.cpp looks for the slot whose words are most alike; all our prompts begin with the same
words, so conversations would take each other's slots.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager


class Seats:
    """So many seats; a conversation without one gets that which was left longest ago.

    >>> seats = Seats(2)
    >>> with seats.taken("one") as a, seats.taken("two") as b:
    ...     pass
    >>> with seats.taken("one") as again, seats.taken("three") as other:
    ...     (again == a, other == b)
    (True, True)
    """

    def __init__(self, count: int) -> None:
        self._free: OrderedDict[int, str] = OrderedDict((seat, "") for seat in range(count))
        """Seat -> the conversation in it, left longest ago first."""
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, key: str) -> Iterator[int]:
        """The number of a seat that is this conversation's meanwhile; waits where all are taken."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._free))
            own = next((seat for seat, held in self._free.items() if key and held == key), None)
            seat = next(iter(self._free)) if own is None else own
            del self._free[seat]
        try:
            yield seat
        finally:
            with self._changed:
                for other, held in self._free.items():
                    if held == key:
                        self._free[other] = ""  # the newest is the right one
                self._free[seat] = key
                self._changed.notify()
