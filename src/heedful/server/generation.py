"""One reply with the guard around it, streamed or whole.

Nothing leaves before the guard saw it: in a stream words are held until their sentence ends, the guard looks at
everything so far, and only then the sentence goes out. So a stream comes in sentences, not in tokens.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from anyio import to_thread

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
        finish: `content_filter` = the guard put its own words in place of the model's.
        completion: of the engine; None where it was not asked, or stopped.
        facts: what the guard said beside its verdict.
    """

    text: str = field(repr=False)
    finish: Literal["stop", "length", "content_filter"]
    completion: Completion | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: EMPTY)


async def say(engine: Engine, guard: Guard, request: Request) -> AsyncIterator[Said | Outcome]:
    """The reply in sentences, then its outcome. Whoever stops reading cancels the generation.

    Raises:
        EngineError: no reply.
    """
    looked = await to_thread.run_sync(guard.before, request.messages)
    if looked.action == "replace":
        yield Said(text=looked.text)
        yield Outcome(text=looked.text, finish="content_filter", facts=looked.facts)
        return
    text, shown = "", 0
    async with aclosing(engine.generate(request)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            if piece.completion is not None:
                verdict = await to_thread.run_sync(guard.after, piece.completion.text)
                facts = {**looked.facts, **verdict.facts}
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
                verdict = await to_thread.run_sync(guard.after, text[:ready])
                if verdict.action == "replace":
                    async for last in _instead(verdict, text[:shown], {**looked.facts, **verdict.facts}):
                        yield last
                    return
                yield Said(text=text[shown:ready])
                shown = ready


async def say_all(engine: Engine, guard: Guard, request: Request) -> Outcome:
    """The whole reply.

    Raises:
        EngineError: no reply.
    """
    looked = await to_thread.run_sync(guard.before, request.messages)
    if looked.action == "replace":
        return Outcome(text=looked.text, finish="content_filter", facts=looked.facts)
    done = await engine.complete(request)
    verdict = await to_thread.run_sync(guard.after, done.text)
    facts = {**looked.facts, **verdict.facts}
    if verdict.action == "replace":
        return Outcome(text=verdict.text, finish="content_filter", completion=done, facts=facts)
    return Outcome(text=done.text, finish=done.finish, completion=done, facts=facts)


async def _instead(verdict: Verdict, shown: str, facts: Mapping[str, Any]) -> AsyncIterator[Said | Outcome]:
    """The guard's words after what was shown already, which passed by itself."""
    words = f"\n\n{verdict.text}" if shown else verdict.text
    yield Said(text=words)
    yield Outcome(text=shown + words, finish="content_filter", facts=facts)


def _ready(text: str, shown: int) -> int:
    """Up to where whole sentences go. A stop at the very end may be half of an ellipsis or a number: it waits."""
    ends = [m.end() for m in _END.finditer(text, shown) if m.end() < len(text) or m[0] in "。！？\n"]
    return max(ends, default=shown)
