"""What an engine is asked and what it answers. Words are left out of every `repr`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from heedful.errors import DataError, EngineError
from heedful.types import Conversation
from heedful.types._frozen import EMPTY

Role = Literal["system", "user", "assistant"]
ROLES: Final = ("system", "user", "assistant")
StateWord = Literal["starting", "ready", "down"]
Finish = Literal["stop", "length"]
Reasons = Literal["wanted", "unwanted"]
Aim = Literal["reply", "ahead"]
"""To write a reply; or to read the prompt ahead of it, while nobody waits: no words come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a prompt; `user` is the help-seeker."""

    role: Role
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a reply is written.

    Args:
        max_tokens: of the reply.
        temperature: 0 takes the most probable token every time.
        top_p: share of probability that is drawn from.
        seed: equal seeds, equal replies, as far as the back end can; None = another one each time.
        stop: texts that end the reply; they are not part of it.
    """

    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int | None = None
    stop: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or not 0 <= self.temperature <= 2 or not 0 < self.top_p <= 1:
            raise DataError("A reply needs max_tokens >= 1, temperature 0 to 2 and top_p above 0, up to 1.")
        if len(self.stop) > 16 or not all(0 < len(text) <= 200 for text in self.stop):
            raise DataError("A reply takes at most 16 stop texts of 1 to 200 characters.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One reply to write: after `messages`, through the model's own template; or after `conversation`, in the format
    that the model was trained with. One of the two.

    Args:
        reasons: whether it is to say how it came to its words; that costs a little time.
        aim: `ahead` gives way to every reply: it runs while nothing else does, or ends as `cancelled`.
        key: of the conversation: its prefix stays warm, if the back end can.
        caller: whose request it is; callers take turns.
        time_limit, wait_limit: seconds for writing, and for waiting before; None = those of the engine.
    """

    messages: tuple[Message, ...] = field(default=(), repr=False)
    conversation: Conversation | None = field(default=None, repr=False)
    options: Options = Options()
    reasons: Reasons = "unwanted"
    aim: Aim = "reply"
    key: str = ""
    caller: str = ""
    time_limit: float | None = None
    wait_limit: float | None = None

    def __post_init__(self) -> None:
        if bool(self.messages) == (self.conversation is not None):
            raise DataError("A request to the engine has messages or a conversation, one of the two.")

    def record(self) -> dict[str, Any]:
        """As it goes to the worker."""
        options = self.options
        return {
            "messages": [{"role": m.role, "content": m.content} for m in self.messages],
            "conversation": None if self.conversation is None else self.conversation.to_dict(),
            "key": self.key,
            "reasons": self.reasons,
            "aim": self.aim,
            "options": {
                "max_tokens": options.max_tokens,
                "temperature": options.temperature,
                "top_p": options.top_p,
                "seed": options.seed,
                "stop": list(options.stop),
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished reply.

    Args:
        finish: `stop` = the model ended it (or a stop text did), `length` = max_tokens did.
        prompt_tokens, cached_tokens, completion_tokens: cached ones were in memory and cost nothing.
        plan: what the format wrote before the words (a strategy), by label set.
        why: reasons that were wanted, as far as the back end has any (`heedful.server.engine.why`).
        model: what wrote it; `version`: hash of its weights, where it has any here.
        seconds: `waited`, `first` (until the first words, waiting left out), `total`.
    """

    text: str = field(repr=False)
    finish: Finish = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    plan: Mapping[str, Any] = field(default_factory=lambda: EMPTY, repr=False)
    why: Mapping[str, Any] = field(default_factory=lambda: EMPTY, repr=False)
    model: str = ""
    version: str = ""
    seconds: Mapping[str, float] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some more words; the last piece has `completion` and no words."""

    text: str = field(default="", repr=False)
    completion: Completion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """How an engine is.

    Args:
        word: `starting` (requests wait), `ready`, or `down` (requests are refused).
        waiting, running: requests.
        restarts: how often the worker was started again.
        why: of `down`, one sentence.
    """

    word: StateWord
    model: str = ""
    waiting: int = 0
    running: int = 0
    restarts: int = 0
    why: str = ""


Event = Piece | EngineError


class Ticket:
    """A request that was accepted. Threads read it with `pieces` or `result`; event loops with `heard`.

    Args:
        cancel: called once when nobody wants the reply any more.
    """

    def __init__(self, request: Request, *, cancel: Callable[[Ticket], None]) -> None:
        self.request = request
        self._cancel = cancel
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._listener: Callable[[Event], None] | None = None
        self._read = False

    @property
    def done(self) -> bool:
        """Whether a completion or an error came."""
        with self._changed:
            return self._finished()

    def push(self, event: Event) -> None:
        """For engines: one more event. What comes after the end is dropped."""
        with self._changed:
            if self._finished():
                return
            self._events.append(event)
            if self._listener is not None:
                self._listener(event)
            self._changed.notify_all()

    def cancel(self) -> None:
        """Nobody wants it any more; nothing happens if it is done."""
        if not self.done:
            self.push(EngineError("This reply was cancelled.", code="cancelled"))
            self._cancel(self)

    def again(self) -> bool:
        """For engines: forget the pieces, to write the reply once more. False where somebody has read some."""
        with self._changed:
            if self._read and self._events:
                return False
            self._events.clear()
            return True

    def pieces(self, *, timeout: float | None = None) -> Iterator[Piece]:
        """The pieces as they come, for threads. Whoever stops reading cancels.

        Raises:
            EngineError: no reply, or (`late`) nothing for `timeout` seconds.
        """
        at, self._read = 0, True
        try:
            while True:
                with self._changed:
                    if not self._changed.wait_for(lambda seen=at: len(self._events) > seen, timeout):  # type: ignore[misc]
                        raise EngineError("The engine said nothing in time.", code="late")
                    event = self._events[at]
                at += 1
                if isinstance(event, EngineError):
                    raise event
                yield event
                if event.completion is not None:
                    return
        finally:
            self.cancel()

    def result(self, *, timeout: float | None = None) -> Completion:
        """The whole reply, for threads.

        Raises:
            EngineError: no reply, or (`late`) not within `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._finished():
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            last = self._events[-1] if self._finished() else None
        if isinstance(last, Piece) and last.completion is not None:
            return last.completion
        self.cancel()
        raise last if isinstance(last, EngineError) else EngineError("The reply did not come in time.", code="late")

    async def heard(self) -> AsyncIterator[Piece]:
        """The pieces as they come, for event loops. Whoever stops reading cancels.

        Raises:
            EngineError: no reply.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def listen(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens any more
                loop.call_soon_threadsafe(queue.put_nowait, event)

        with self._changed:
            self._read = True
            for event in self._events:
                queue.put_nowait(event)
            self._listener = listen
        try:
            while True:
                event = await queue.get()
                if isinstance(event, EngineError):
                    raise event
                yield event
                if event.completion is not None:
                    return
        finally:
            self.cancel()

    async def finished(self) -> Completion:
        """The whole reply, for event loops. Who is cancelled cancels.

        Raises:
            EngineError: no reply.
        """
        loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def settle(event: Event) -> None:
            if not future.done():
                future.set_result(event)

        def listen(event: Event) -> None:
            if isinstance(event, EngineError) or event.completion is not None:
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens any more
                    loop.call_soon_threadsafe(settle, event)

        with self._changed:
            self._listener = listen
            if self._finished():
                settle(self._events[-1])
        try:
            last: Event = await future
        finally:
            self.cancel()
        if isinstance(last, EngineError):
            raise last
        assert last.completion is not None
        return last.completion

    def _finished(self) -> bool:
        if not self._events:
            return False
        last = self._events[-1]
        return isinstance(last, EngineError) or last.completion is not None


class Engine(Protocol):
    """Writes replies. Everything here returns at once or can be awaited; no model runs in this process."""

    @property
    def model(self) -> str:
        """What the API calls the model."""

    def start(self) -> None:
        """Begin to load."""

    def stop(self, *, drain: float = 0.0) -> None:
        """Let running replies finish for up to `drain` seconds, then end everything."""

    def state(self) -> EngineState:
        """How it is."""

    def submit(self, request: Request) -> Ticket:
        """Accept a request.

        Raises:
            EngineError: `full` or `down`, with the seconds after which it may work.
        """

    def generate(self, request: Request) -> AsyncIterator[Piece]:
        """The pieces of a reply, for event loops."""

    async def complete(self, request: Request) -> Completion:
        """A whole reply, for event loops."""

    def run(self, request: Request, *, timeout: float | None = None) -> Completion:
        """A whole reply, for threads."""


class Submitting:
    """The three ways of asking, on top of `submit`."""

    def submit(self, request: Request) -> Ticket:
        """See `Engine.submit`."""
        raise NotImplementedError

    async def generate(self, request: Request) -> AsyncIterator[Piece]:
        """See `Engine.generate`."""
        heard = self.submit(request).heard()
        async with contextlib.aclosing(heard):  # type: ignore[type-var]
            async for piece in heard:
                yield piece

    async def complete(self, request: Request) -> Completion:
        """See `Engine.complete`."""
        return await self.submit(request).finished()

    def run(self, request: Request, *, timeout: float | None = None) -> Completion:
        """See `Engine.run`."""
        return self.submit(request).result(timeout=timeout)
