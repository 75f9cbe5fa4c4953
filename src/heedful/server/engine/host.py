"""WorkerEngine: the server's side of the worker process.

One thread does everything: it starts the process, hands out requests, reads what comes back, looks at the clock and
starts the process again when it dies. Others only put a request into the inbox, or take what a ticket holds, so
nothing that the model does can hold up a page or an event loop.

    submit -> inbox -> queue (fair, bounded) -> worker (at most `streams`) -> ticket
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from heedful.errors import ConfigError, DataError, EngineError
from heedful.server.engine.base import (
    Completion,
    EngineState,
    Finish,
    Piece,
    Request,
    StateWord,
    Submitting,
    Ticket,
)
from heedful.server.engine.frames import Channel
from heedful.server.engine.queue import FairQueue, Work

TRIES: Final = 2
"""A request is given to a worker once, and once more if that one died before anybody read a word."""
HOPELESS: Final = 3
"""Failed starts in a row after which requests are refused instead of kept waiting; starting goes on."""
HEALTHY: Final = 60.0
"""Seconds of life after which a crash is counted as the first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of a worker.

    Args:
        queue_length: requests that may wait.
        time_limit, wait_limit: seconds of writing, and of waiting before.
        load_limit: seconds of loading the model.
        grace: seconds that a worker gets to stop a reply, before it is killed.
        first_pause, longest_pause: seconds before a dead worker is started again; doubled each time.
    """

    queue_length: int = 64
    time_limit: float = 120.0
    wait_limit: float = 300.0
    load_limit: float = 900.0
    grace: float = 20.0
    first_pause: float = 0.2
    longest_pause: float = 30.0

    def __post_init__(self) -> None:
        if self.queue_length < 1 or min(self.time_limit, self.wait_limit, self.load_limit, self.grace) <= 0:
            raise ConfigError("An engine needs a queue of at least 1 and limits above 0 seconds.")


@dataclass(eq=False, kw_only=True)
class _Process:
    """A worker that was started."""

    child: subprocess.Popen[bytes]
    channel: Channel
    begun: float
    streams: int = 0
    version: str = ""
    ending: Literal["lost", "failed", "hopeless", "stopped"] = "lost"
    why: str = "The model's process ended."
    running: dict[int, Work] = field(default_factory=dict)


class WorkerEngine(Submitting):
    """An engine whose model lives in a process of its own.

    Args:
        backend: name of `worker.BACKENDS`, or `module:class`.
        options: of the back end; JSON values.
        model: what the API calls the model.
        limits: of queue and time.
    """

    def __init__(self, backend: str, options: Mapping[str, Any], *, model: str, limits: Limits | None = None) -> None:
        self._backend, self._options, self.model = backend, dict(options), model
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._word: StateWord = "starting"
        self._why, self._restarts, self._waiting, self._average = "", 0, 0, 5.0
        self._queue, self._ids = FairQueue(), itertools.count(1)
        self._inbox: deque[tuple[Literal["submit", "cancel"], Work]] = deque()
        self._thread: threading.Thread | None = None
        self._now: _Process | None = None
        self._stop_at: float | None = None
        # Made when the thread starts: an engine that is only described holds nothing open.
        self._wake: socket.socket
        self._waker: socket.socket

    # ------------------------------------------------------------------ for everybody

    def start(self) -> None:
        """Begin to load; returns at once. A second start does nothing."""
        if self._thread is None:
            self._wake, self._waker = socket.socketpair()
            self._waker.setblocking(False)
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def stop(self, *, drain: float = 0.0) -> None:
        """No more requests; those that are being written get `drain` seconds, then the process ends."""
        with self._lock:
            self._stop_at = time.monotonic() + drain
        if self._thread is not None:
            self._knock()
            self._thread.join(drain + self.limits.grace + 10)
            self._wake.close()
            self._waker.close()

    def state(self) -> EngineState:
        """How it is."""
        process = self._now
        with self._lock:
            running = len(process.running) if process else 0
            return EngineState(
                word=self._word,
                model=self.model,
                waiting=self._waiting,
                running=running,
                restarts=self._restarts,
                why=self._why,
            )

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._now
        return process.child.pid if process else None

    def submit(self, request: Request) -> Ticket:
        """See `Engine.submit`."""
        now = time.monotonic()
        with self._lock:
            if self._stop_at is not None or self._thread is None:
                raise EngineError("The model is not running here.", code="down", retry_after=10)
            if self._word == "down":
                raise EngineError(f"The model cannot be used now. {self._why}".strip(), code="down", retry_after=30)
            if self._waiting >= self.limits.queue_length:
                soon = self._average * self._waiting / max(1, self._now.streams if self._now else 1)
                raise EngineError(
                    "Too many requests wait for the model; try again later.",
                    code="full",
                    retry_after=max(1.0, min(soon, self.limits.wait_limit)),
                )
            self._waiting += 1
            limit = self.limits.wait_limit if request.wait_limit is None else request.wait_limit
            work: Work
            ticket = Ticket(request, cancel=lambda _: self._post("cancel", work))
            work = Work(id=next(self._ids), ticket=ticket, submitted=now, wait_until=now + limit)
            self._post("submit", work)  # with the lock: nothing is put into the inbox after the thread's last look
        return ticket

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        pause, failures = self.limits.first_pause, 0
        while not self._stopping():
            process = self._life()
            if process.ending in ("stopped", "hopeless"):
                self._end_of(process)
                break
            lived = process.streams > 0
            failures = 0 if lived else failures + 1
            if lived and time.monotonic() - process.begun > HEALTHY:
                pause = self.limits.first_pause
            with self._lock:
                self._restarts += 1
                self._word = "down" if failures >= HOPELESS else "starting"
                self._why = process.why if failures >= HOPELESS else ""
            if failures >= HOPELESS:
                self._give_up(process.why)
            self._rest(pause)
            pause = min(2 * pause, self.limits.longest_pause)
        with self._lock:
            if self._word != "down":
                self._word, self._why = "down", "It was stopped."
        while not self._stopping():  # hopeless: refuse what was already in the inbox, until somebody stops us
            self._rest(60.0)
            self._give_up(self._why)
        self._give_up("The server is stopping.")

    def _end_of(self, process: _Process) -> None:
        with self._lock:
            self._word = "down"
            self._why = process.why if process.ending == "hopeless" else "It was stopped."
        self._give_up(self._why)

    def _life(self) -> _Process:
        """One process from start to end; what it was at is back in the queue, or has its error."""
        process = self._spawn()
        self._now = process
        try:
            process.channel.send({"op": "load", "backend": self._backend, "options": self._options})
            while self._turn(process):
                pass
        except (OSError, DataError):  # it died while we spoke to it, or says what is no frame
            process.ending = "stopped" if self._stopping() else process.ending
        finally:
            process.child.kill()
            process.child.wait()
            process.channel.close()
            self._now = None
            self._recover(process)
        return process

    def _turn(self, process: _Process) -> bool:
        """Wait for something to happen, and see to it; False = this process is over."""
        sources = [process.channel.socket, self._wake]
        found, _, _ = select.select(sources, [], [], self._pause(process))
        if self._wake in found:
            self._read_inbox(process)
        if process.channel.socket in found:
            frames = process.channel.received()
            if frames is None:
                return False
            for frame in frames:
                if not self._take(frame, process):
                    return False
        now = time.monotonic()
        if not process.streams and now - process.begun > self.limits.load_limit:
            process.why = "Loading the model took too long."
            return False
        if not self._look_at_clock(process, now):
            return False
        self._hand_out(process, now)
        if self._stop_at is not None and (not process.running or now >= self._stop_at):
            process.ending = "stopped"
            return False
        return True

    def _spawn(self) -> _Process:
        ours, theirs = socket.socketpair()
        ours.settimeout(self.limits.grace)
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "heedful.server.engine.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # Ctrl-C in the terminal is for the server, which lets replies finish.
                start_new_session=True,
            )
        return _Process(child=child, channel=Channel(ours), begun=time.monotonic())

    def _take(self, frame: Mapping[str, Any], process: _Process) -> bool:
        op = frame["op"]
        if op == "ready":
            process.streams, process.version = int(frame["streams"]), str(frame.get("version", ""))
            with self._lock:
                self._word, self._why = "ready", ""
            return True
        if op == "failed":
            process.why = str(frame["why"])
            process.ending = "failed" if frame["again"] else "hopeless"
            return False
        work = process.running.get(int(frame["id"]))
        if work is None:
            return True
        if op == "piece":
            work.first = work.first or time.monotonic()
            work.parts.append(frame["text"])
            work.ticket.push(Piece(text=frame["text"]))
            return True
        del process.running[work.id]
        if op == "done":
            work.ticket.push(Piece(completion=self._completion(work, frame, process.version)))
        else:
            work.ticket.push(EngineError(str(frame["why"]), code=str(frame["code"])))
        return True

    def _completion(self, work: Work, frame: Mapping[str, Any], version: str) -> Completion:
        now = time.monotonic()
        total = now - work.started
        self._average += 0.2 * (total - self._average)
        finish: Finish = "length" if frame["finish"] == "length" else "stop"
        return Completion(
            text="".join(work.parts),
            finish=finish,
            prompt_tokens=int(frame["prompt_tokens"]),
            cached_tokens=int(frame["cached_tokens"]),
            completion_tokens=int(frame["completion_tokens"]),
            plan=dict(frame["plan"]),
            why=dict(frame.get("why") or {}),
            model=self.model,
            version=version,
            seconds={
                "waited": round(work.started - work.submitted, 4),
                "first": round((work.first or now) - work.started, 4),
                "total": round(total, 4),
            },
        )

    def _hand_out(self, process: _Process, now: float) -> None:
        while self._stop_at is None and len(process.running) < process.streams:
            work = self._queue.take(wanted=lambda waiting: not _read_now(process, waiting))
            if work is None:
                return
            self._left_queue()
            if work.ticket.done:
                continue
            if work.ticket.request.aim == "ahead" and (process.running or len(self._queue)):
                work.ticket.push(_gave_way())
                continue
            request = work.ticket.request
            limit = self.limits.time_limit if request.time_limit is None else request.time_limit
            work.sent, work.started, work.late_at, work.first = work.sent + 1, now, now + limit, None
            work.parts.clear()
            process.running[work.id] = work
            try:
                process.channel.send({"op": "generate", "id": work.id, **request.record()})
            except DataError as err:
                del process.running[work.id]
                work.ticket.push(EngineError(str(err), code="refused"))

    def _look_at_clock(self, process: _Process | None, now: float) -> bool:
        """Limits of time; False = the worker does not stop what it was told to stop."""
        for work in [w for w in self._queue if w.wait_until <= now]:
            self._queue.remove(work)
            self._left_queue()
            work.ticket.push(EngineError("This request waited too long for the model.", code="late", retry_after=30))
        for work in list(process.running.values()) if process else ():
            if work.kill_at <= now:
                return False
            if work.late_at <= now:
                work.ticket.push(EngineError("The model took too long for this reply.", code="late"))
                self._tell_to_stop(process, work)
        return True

    def _tell_to_stop(self, process: _Process | None, work: Work) -> None:
        if process is not None and work.id in process.running and work.kill_at == float("inf"):
            late_at, work.late_at = work.late_at, float("inf")
            work.kill_at = time.monotonic() + self.limits.grace
            if work.ticket.request.aim == "ahead":
                # It stops between two pieces of its prompt at the soonest. A slow one is no reason to lose every seat.
                work.kill_at = max(work.kill_at, late_at)
            process.channel.send({"op": "cancel", "id": work.id})

    def _clear_the_way(self, process: _Process, coming: Work) -> None:
        """A reply is wanted: what is read ahead for another conversation ends."""
        for work in list(process.running.values()):
            if work.ticket.request.aim == "ahead" and not _same_talk(work, coming):
                work.ticket.push(_gave_way())
                self._tell_to_stop(process, work)

    def _recover(self, process: _Process) -> None:
        """What a worker had when it ended: once more from the beginning, or an error."""
        for work in reversed(process.running.values()):
            work.kill_at = work.late_at = float("inf")
            if work.ticket.done:
                continue
            if process.ending == "stopped":
                work.ticket.push(EngineError("The server stopped while the reply was written.", code="down"))
            elif work.sent < TRIES and work.ticket.again():
                with self._lock:
                    self._waiting += 1
                self._queue.put_back(work)
            else:
                said = "The model's process ended while it wrote this reply; send it again."
                work.ticket.push(EngineError(said, code="lost", retry_after=1))
        process.running.clear()

    # ------------------------------------------------------------------ small parts of the thread

    def _rest(self, seconds: float) -> None:
        """Wait, and keep the inbox and the clock in view meanwhile."""
        end = time.monotonic() + seconds
        while not self._stopping() and (left := end - time.monotonic()) > 0:
            found, _, _ = select.select([self._wake], [], [], min(left, self._pause(None)))
            if found:
                self._read_inbox(None)
            self._look_at_clock(None, time.monotonic())
            if self._word == "down":
                self._give_up(self._why)

    def _read_inbox(self, process: _Process | None) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)
        self._empty_inbox(process)

    def _empty_inbox(self, process: _Process | None) -> None:
        while self._inbox:
            what, work = self._inbox.popleft()
            if what == "submit":
                self._queue.put(work)
                if process is not None and work.ticket.request.aim == "reply":
                    self._clear_the_way(process, work)
            elif self._queue.remove(work):
                self._left_queue()
            else:
                self._tell_to_stop(process, work)

    def _give_up(self, why: str) -> None:
        self._empty_inbox(None)
        while (work := self._queue.take()) is not None:
            self._left_queue()
            work.ticket.push(EngineError(f"The model cannot be used now. {why}", code="down", retry_after=30))

    def _pause(self, process: _Process | None) -> float:
        """Seconds until the clock has to be looked at, if nothing else happens."""
        times = [w.wait_until for w in self._queue]
        if process is not None:
            times += [w.due for w in process.running.values()]
            if not process.streams:
                times.append(process.begun + self.limits.load_limit)
        if self._stop_at is not None:
            times.append(self._stop_at)
        return max(0.0, min(1.0, min(times, default=float("inf")) - time.monotonic()))

    def _left_queue(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _stopping(self) -> bool:
        return self._stop_at is not None

    def _post(self, what: Literal["submit", "cancel"], work: Work) -> None:
        self._inbox.append((what, work))
        self._knock()

    def _knock(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b"x")


def _same_talk(one: Work, other: Work) -> bool:
    return bool(one.ticket.request.key) and one.ticket.request.key == other.ticket.request.key


def _read_now(process: _Process, work: Work) -> bool:
    """Whether the beginning of its prompt is being read: a second stream would read the same once more."""
    return any(w.ticket.request.aim == "ahead" and _same_talk(w, work) for w in process.running.values())


def _gave_way() -> EngineError:
    return EngineError("A reply was wanted before this prompt was read.", code="cancelled")
