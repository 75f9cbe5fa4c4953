"""The worker process: loads a back end and writes replies until the server hangs up.

    python -m heedful.server.engine.worker FD

The server starts it and talks to it through an inherited socket. It says nothing on stdout or stderr: what a library
prints or raises may hold words of a conversation, so only its own short sentences go back.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from heedful.errors import EngineError, HeedfulError, UserError
from heedful.registry import Registry
from heedful.server.engine.frames import Channel

BACKENDS: Final = Registry(
    "engine back end",
    {
        "xllamacpp": "heedful.server.engine.llama:LlamaBackend",
        "transformers": "heedful.server.engine.local:TransformersBackend",
        "openai": "heedful.server.engine.remote:RemoteBackend",
        "belief": "heedful.server.engine.readers:BeliefBackend",
        "readers": "heedful.server.engine.readers:ReadersBackend",
    },
)
"""Name -> class with `__init__(options)` and `write`. From outside: `module:class`."""
GATHERED: Final = 0.05
"""Seconds of words that go in one frame. A fast model has five tokens in them, and each frame costs both processes work
that the model's threads then wait for; nobody reads faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request as the worker sees it: `messages` for the model's own template, or a `conversation` record."""

    messages: tuple[Mapping[str, str], ...] = field(repr=False)
    conversation: Mapping[str, Any] | None = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    key: str = ""
    reasons: str = "unwanted"
    aim: str = "reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How a reply ended; its words were given to `emit`. `why`: see `heedful.server.engine.why`."""

    finish: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    plan: Mapping[str, Any] = field(default_factory=dict, repr=False)
    why: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Backend(Protocol):
    """A model. `write` is called from `streams` threads at once.

    Attributes:
        name: what the API calls the model.
        streams: replies at the same time.
        version: hash of its weights; may be missing, or empty where the weights are somewhere else.
    """

    name: str
    streams: int

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        """Write a reply: give its pieces to `emit` and stop soon after `cancelled()` turns true.

        A job with the aim `ahead` has its prompt read into memory and emits nothing; a back end that keeps no prompts
        returns at once.

        Raises:
            EngineError: `refused`, where this job can never work.
        """


class Gathered:
    """Pieces of one reply on their way: the first goes at once, those of the next `seconds` go together.

    No clock of its own: what is held goes with the first piece after that time, or at the end.

    Args:
        send: takes some words.
        clock: seconds, of any beginning.
    """

    def __init__(
        self, send: Callable[[str], None], *, seconds: float = GATHERED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._seconds, self._clock = send, seconds, clock
        self._held: list[str] = []
        self._due = float("-inf")

    def add(self, text: str) -> None:
        """Some more words."""
        if not text:
            return
        self._held.append(text)
        if self._clock() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            self._send("".join(self._held))
            self._held.clear()
            self._due = self._clock() + self._seconds


class Worker:
    """Frames in, replies out."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._stopped: dict[int, threading.Event] = {}

    def serve(self) -> None:
        """Load what the first frame names, then answer until the server hangs up."""
        waiting = self.channel.received() or []
        if not waiting:
            return
        spec, waiting = waiting[0], waiting[1:]
        try:
            backend: Backend = BACKENDS.get(spec["backend"])(spec["options"])
        except Exception as err:
            self.channel.send({"op": "failed", "why": _sentence(err), "again": not isinstance(err, UserError)})
            return
        version = getattr(backend, "version", "")
        self.channel.send({"op": "ready", "model": backend.name, "streams": backend.streams, "version": version})
        pool = ThreadPoolExecutor(max_workers=backend.streams)
        frames: list[dict[str, Any]] | None = waiting
        while frames is not None:
            for frame in frames:
                self._take(frame, backend, pool)
            frames = self.channel.received()

    def _take(self, frame: Mapping[str, Any], backend: Backend, pool: ThreadPoolExecutor) -> None:
        id = int(frame["id"])
        if frame["op"] == "cancel":
            if id in self._stopped:
                self._stopped[id].set()
            return
        self._stopped[id] = threading.Event()
        pool.submit(self._write, id, frame, backend)

    def _write(self, id: int, frame: Mapping[str, Any], backend: Backend) -> None:
        job = Job(
            messages=tuple(frame["messages"]),
            conversation=frame["conversation"],
            options=frame["options"],
            key=frame["key"],
            reasons=frame.get("reasons", "unwanted"),
            aim=frame.get("aim", "reply"),
        )
        stopped = self._stopped[id]

        def send(text: str) -> None:
            if not stopped.is_set():
                self.channel.send({"op": "piece", "id": id, "text": text})

        pieces = Gathered(send)
        try:
            done = backend.write(job, pieces.add, stopped.is_set)
            answer: dict[str, Any] = {"op": "done", "id": id, "finish": done.finish, "plan": dict(done.plan)}
            answer["why"] = dict(done.why)
            answer |= {n: getattr(done, n) for n in ("prompt_tokens", "cached_tokens", "completion_tokens")}
        except Exception as err:
            code = err.code if isinstance(err, EngineError) else "refused" if isinstance(err, UserError) else "failed"
            answer = {"op": "error", "id": id, "code": code, "why": _sentence(err)}
        pieces.flush()
        del self._stopped[id]
        self.channel.send(answer)


def _sentence(err: Exception) -> str:
    """What may be said about an error: our own sentence, or the class of somebody else's."""
    return str(err) if isinstance(err, HeedfulError) else f"The model's library failed ({type(err).__name__})."


def main() -> None:
    """Run on the inherited socket; leave at once when the server is gone, whatever a library is still doing."""
    if "" not in sys.path:
        sys.path.append("")  # the folder that the server was started in: `module:class` beside its configuration
    try:
        Worker(Channel(socket.socket(fileno=int(sys.argv[1])))).serve()
    except OSError:
        pass  # the server hung up
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
