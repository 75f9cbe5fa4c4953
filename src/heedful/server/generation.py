"""One reply with the guard around it, streamed or whole.

Nothing leaves before the guard saw it: in a stream words are held until their sentence ends, the guard looks at
everything so far, and only then the sentence goes out. So a stream comes in sentences, not in tokens.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from anyio import to_thread

from heedful.errors import EngineError
from heedful.server.engine.base import Completion, Engine, Request
from heedful.server.guard import Guard, Verdict
from heedful.types._frozen import EMPTY

_END: Final = re.compile(r"[.!?…。！？\n][\"'”’)\]]*(?=\s|$)|[。！？\n]")
"""Where a sentence ends; Chinese writes no blank after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Words that may be shown."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended.

    Args:
        text: the whole reply, as it may be shown.
        finish: `content_filter` = the guard put its own words in place of the model's. Words that it put first change
            nothing here.
        completion: of the engine; None where it was not asked, or stopped.
        facts: what the guard said beside its verdict.
    """

    text: str = field(repr=False)
    finish: Literal["stop", "length", "content_filter"]
    completion: Completion | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: EMPTY)


async def say(
    engine: Engine, guard: Guard, request: Request, *, looked: Verdict | None = None
) -> AsyncIterator[Said | Outcome]:
    """The reply in sentences, then its outcome. Whoever stops reading cancels the generation.

    Where the guard puts words first they come before the model is asked, and an engine that fails behind them is no
    error: the reply ends with the guard's words.

    Args:
        looked: what the guard said of the prompt, where it was asked before.

    Raises:
        EngineError: no reply.
    """
    if looked is None:
        looked = await to_thread.run_sync(guard.before, request.messages)
    if looked.action == "replace":
        yield Said(text=looked.text)
        yield Outcome(text=looked.text, finish="content_filter", facts=looked.facts)
        return
    after = looked.after or guard.after
    if looked.action == "pass":
        async for event in _written(engine, after, request, looked.facts):
            yield event
        return
    lead = f"{looked.text}\n\n"
    yield Said(text=lead)
    shown = ""
    try:
        async for event in _written(engine, after, request, looked.facts):
            if isinstance(event, Outcome):
                event = replace(event, text=lead + event.text)
            else:
                shown += event.text
            yield event
    except EngineError as err:
        rest = "" if shown else looked.otherwise
        if rest:
            yield Said(text=rest)
        yield without(looked, shown + rest, why=err.code, finish="length" if shown else "content_filter")


async def _written(
    engine: Engine, after: Callable[[str], Verdict], request: Request, before: Mapping[str, Any]
) -> AsyncIterator[Said | Outcome]:
    """What the model writes, as far as `after` lets it."""
    text, shown = "", 0
    async with aclosing(engine.generate(request)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            if piece.completion is not None:
                verdict = await to_thread.run_sync(after, piece.completion.text)
                facts = {**before, **verdict.facts}
                if verdict.action == "replace":
                    async for last in _instead(verdict, text[:shown], facts):
                        yield last
                    return
                rest = piece.completion.text[shown:]
                if rest:
                    yield Said(text=rest)
                done = piece.completion
                yield Outcome(text=done.text, finish=done.finish, completion=done, facts=facts)
                return
            text += piece.text
            ready = _ready(text, shown)
            if ready > shown:
                verdict = await to_thread.run_sync(after, text[:ready])
                if verdict.action == "replace":
                    async for last in _instead(verdict, text[:shown], {**before, **verdict.facts}):
                        yield last
                    return
                yield Said(text=text[shown:ready])
                shown = ready


async def say_all(engine: Engine, guard: Guard, request: Request, *, looked: Verdict | None = None) -> Outcome:
    """The whole reply; see `say`.

    Raises:
        EngineError: no reply.
    """
    if looked is None:
        looked = await to_thread.run_sync(guard.before, request.messages)
    if looked.action == "replace":
        return Outcome(text=looked.text, finish="content_filter", facts=looked.facts)
    lead = f"{looked.text}\n\n" if looked.action == "precede" else ""
    try:
        done = await engine.complete(request)
    except EngineError as err:
        if not lead:
            raise
        return without(looked, looked.otherwise, why=err.code)
    verdict = await to_thread.run_sync(looked.after or guard.after, done.text)
    facts = {**looked.facts, **verdict.facts}
    if verdict.action == "replace":
        return Outcome(text=lead + verdict.text, finish="content_filter", completion=done, facts=facts)
    return Outcome(text=lead + done.text, finish=done.finish, completion=done, facts=facts)


def without(
    looked: Verdict, text: str, *, why: str, finish: Literal["length", "content_filter"] = "content_filter"
) -> Outcome:
    """The guard's words first, and no whole reply of a model behind them.

    Args:
        why: a short name, for the caller.
    """
    return Outcome(text=f"{looked.text}\n\n{text}", finish=finish, facts={**looked.facts, "model": why})


async def _instead(verdict: Verdict, shown: str, facts: Mapping[str, Any]) -> AsyncIterator[Said | Outcome]:
    """The guard's words after what was shown already, which passed by itself."""
    words = f"\n\n{verdict.text}" if shown else verdict.text
    yield Said(text=words)
    yield Outcome(text=shown + words, finish="content_filter", facts=facts)


def _ready(text: str, shown: int) -> int:
    """Up to where whole sentences go. A stop at the very end may be half of an ellipsis or a number: it waits."""
    ends = [m.end() for m in _END.finditer(text, shown) if m.end() < len(text) or m[0] in "。！？\n"]
    return max(ends, default=shown)
