"""Back ends of a belief that are slow or broken; a module of their own, so that their process starts at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from heedful.server.engine.worker import Job, Written


class Slow:
    """A back end of a belief that never answers in time, and ignores being told to stop."""

    name, streams = "slow", 1

    def __init__(self, options: Mapping[str, Any]) -> None:
        del options

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        time.sleep(600)
        return Written(finish="stop")


class Broken(Slow):
    """One that raises, with words in its message."""

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        raise RuntimeError(str(job.conversation))


class Talkative(Slow):
    """One that says what no belief says."""

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        return Written(finish="stop", why={"thoughts": 7, "immediate": -1, "model": "x"})
