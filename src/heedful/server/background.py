"""Work that goes on beside the requests: a thread that does something again and again, and can be woken and stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from heedful.errors import BusyError
from heedful.server import logs

LONGEST_PAUSE: Final = 60.0
"""Seconds between attempts where one fails after the other."""


class Repeated:
    """One thread.

    Args:
        work: called again and again; True = there may be more to do, so it is called again at once.
        pause: seconds between calls otherwise, and after the first failure; each further failure doubles it.
        name: of the thread.

    Attributes:
        failures: in a row. idle: whether it waits, and nobody woke it yet.
    """

    def __init__(self, work: Callable[[], bool], *, pause: float, name: str) -> None:
        self.work, self.pause, self.name = work, pause, name
        self._awake, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.failures = 0
        self.idle = False

    @property
    def running(self) -> bool:
        """Whether its thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin; nothing happens if it runs."""
        if self.running:
            return
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to do now."""
        self.idle = False  # whoever looks for somebody else to wake does not choose this one again
        self._awake.set()

    def stop(self, *, timeout: float = 10.0) -> bool:
        """End after the present call; whether it ended in time."""
        self._over.set()
        self._awake.set()
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.running

    def _run(self) -> None:
        while not self._over.is_set():
            self._awake.clear()
            if self._once() and not self._over.is_set():
                continue
            self.idle = not self._awake.is_set()
            self._awake.wait(min(LONGEST_PAUSE, self.pause * 2 ** min(self.failures, 10)))
            self.idle = False

    def _once(self) -> bool:
        try:
            more = self.work()
        except Exception as err:
            # One bad job or a full disk must not end the clock of the crisis path; the class of the error is enough.
            if not isinstance(err, BusyError):
                logs.fault(err, thread=self.name)
            self.failures += 1
            return False
        self.failures = 0
        return more
