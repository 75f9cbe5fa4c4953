"""Engines without a model: one in this process, and a back end for a real worker process.

>>> from heedful.server.engine.base import Message, Request
>>> engine = ScriptedEngine(["That sounds hard.", "What kept you awake?"])
>>> engine.start()
>>> engine.run(Request(messages=(Message(role="user", content="I slept badly."),))).text
'That sounds hard.'
>>> engine.stop()
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from heedful.errors import EngineError
from heedful.server.engine.base import Completion, EngineState, Piece, Request, StateWord, Submitting, Ticket
from heedful.server.engine.worker import Job, Written


class ScriptedEngine(Submitting):
    """Says what is written down, in turn and from the beginning again.

    Args:
        replies: what it says.
        delay: seconds before the first word.
        pace: seconds between words.
        failures: number of a request (from 0) -> the error it gets instead.
        queue_length: requests that may wait.
        streams: replies at the same time.
        state: what `state` says; `down` refuses requests.

    `seen` holds the requests in the order in which they came; `ahead` those that only read, which get no words.
    """

    def __init__(
        self,
        replies: Sequence[str] = ("I hear you.",),
        *,
        delay: float = 0.0,
        pace: float = 0.0,
        failures: Mapping[int, EngineError] | None = None,
        queue_length: int = 64,
        streams: int = 2,
        state: StateWord = "ready",
        model: str = "scripted",
    ) -> None:
        self.model, self.replies, self.delay, self.pace = model, tuple(replies), delay, pace
        self.failures, self.queue_length, self.streams, self.word = dict(failures or {}), queue_length, streams, state
        self.seen: list[Request] = []
        self.ahead: list[Request] = []
        self._lock = threading.Lock()
        self._waiting = self._running = 0
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """See `Engine.start`."""
        self._pool = self._pool or ThreadPoolExecutor(max_workers=self.streams, thread_name_prefix="scripted")

    def stop(self, *, drain: float = 0.0) -> None:
        """See `Engine.stop`."""
        end = time.monotonic() + drain
        while self.state().running and time.monotonic() < end:
            time.sleep(0.01)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def state(self) -> EngineState:
        """See `Engine.state`."""
        with self._lock:
            return EngineState(word=self.word, model=self.model, waiting=self._waiting, running=self._running)

    def submit(self, request: Request) -> Ticket:
        """See `Engine.submit`."""
        if self.word == "down" or self._pool is None:
            raise EngineError("The scripted engine is down.", code="down", retry_after=1)
        if request.aim == "ahead":
            self.ahead.append(request)
            read = Ticket(request, cancel=lambda _: None)
            read.push(Piece(completion=Completion(text="", model=self.model)))
            return read
        with self._lock:
            if self._waiting >= self.queue_length:
                raise EngineError("Too many requests wait for the model; try again.", code="full", retry_after=1)
            number = len(self.seen)
            self.seen.append(request)
            self._waiting += 1
        ticket = Ticket(request, cancel=lambda _: None)
        self._pool.submit(self._say, ticket, number)
        return ticket

    def _say(self, ticket: Ticket, number: int) -> None:
        with self._lock:
            self._waiting -= 1
            self._running += 1
        try:
            begun = time.monotonic()
            if number in self.failures:
                ticket.push(self.failures[number])
                return
            time.sleep(self.delay)
            text, words = self.replies[number % len(self.replies)], 0
            for piece in _words(text):
                if ticket.done:  # cancelled
                    return
                ticket.push(Piece(text=piece))
                words += 1
                time.sleep(self.pace)
            done = Completion(
                text=text,
                prompt_tokens=sum(len(m.content.split()) for m in ticket.request.messages),
                completion_tokens=words,
                model=self.model,
                seconds={"total": time.monotonic() - begun},
            )
            ticket.push(Piece(completion=done))
        finally:
            with self._lock:
                self._running -= 1


class ScriptedBackend:
    """A back end for the worker process, so that its crashes are real ones. It answers with the last message.

    Options: `pace` (seconds between words), `words` (how many), `fail` (what goes wrong at loading: `load` raises,
    `hang` sleeps). In a message, the word `KILL` kills the process, `HANG` ignores cancelling, `RAISE` raises.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        if options.get("fail") == "load":
            raise OSError("a message that could hold anything")
        if options.get("fail") == "hang":
            time.sleep(3600)
        self.pace, self.words = float(options.get("pace", 0.0)), int(options.get("words", 0))
        self.name, self.streams = "scripted-worker", int(options.get("streams", 1))

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        """See `Backend`."""
        said = str(job.messages[-1]["content"])
        text = " ".join(["word"] * self.words) if self.words else said
        count = 0
        for piece in _words(text):
            if cancelled() and "HANG" not in said:
                break
            emit(piece)
            count += 1
            time.sleep(self.pace)
            if "KILL" in said and count == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            if "RAISE" in said and count == 2:
                raise RuntimeError(said)
        while "HANG" in said:
            time.sleep(1)
        return Written(finish="stop", prompt_tokens=len(said.split()), completion_tokens=count)


def _words(text: str) -> list[str]:
    parts = text.split(" ")
    return [part if at == 0 else f" {part}" for at, part in enumerate(parts)]
