"""The writer of drafts: the server's engine, with the conversation as chat messages and the prompt of a file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any, Final

from heedful.review.drafting import Proposal, Writer
from heedful.server.engine.base import Engine, Message, Options, Request, Ticket
from heedful.store.work import as_name
from heedful.types import Conversation

PROMPT: Final = "draft.txt"
SLACK: Final = 5.0
"""Seconds above the engine's own limits before it is given up."""


def prompt_text(name: str = PROMPT) -> str:
    """A prompt of the folder `prompts`."""
    return files("heedful.server").joinpath("prompts", name).read_text("utf-8").strip()


class EngineWriter:
    """Lets the engine write a draft.

    Args:
        engine: of the server.
        prompt: the system prompt; its hash goes into the reasons of each draft.
        options: how it writes.
        timeout: seconds that waiting and writing may take together.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        prompt: str | None = None,
        options: Options | None = None,
        timeout: float = 420.0,
    ) -> None:
        self.engine, self.timeout = engine, timeout
        self.prompt = prompt_text() if prompt is None else prompt
        self.hash = hashlib.sha256(self.prompt.encode()).hexdigest()[:16]
        self.options = options or Options(max_tokens=200)
        self._open: set[Ticket] = set()
        self._lock = threading.Lock()

    def propose(self, conversation: Conversation, *, key: str) -> Proposal:
        """A draft.

        Raises:
            EngineError: no reply.
        """
        ticket = self.engine.submit(self.request(conversation, key=key))
        with self._lock:
            self._open.add(ticket)
        try:
            done = ticket.result(timeout=self.timeout + SLACK)
        finally:
            with self._lock:
                self._open.discard(ticket)
        return Proposal(
            text=done.text,
            model=as_name(done.model or self.engine.model),
            reasons={
                "prompt": {"name": PROMPT, "hash": self.hash},
                **({"plan": dict(done.plan)} if done.plan else {}),
                "finish": done.finish,
                "tokens": {"prompt": done.prompt_tokens, "cached": done.cached_tokens, "reply": done.completion_tokens},
            },
        )

    def request(self, conversation: Conversation, *, key: str) -> Request:
        """What the engine is asked. Fixed texts of the program are part of what was said.

        Turns of the store's role `system` are left out: nobody but the file gives the model instructions.
        """
        said = [turn for turn in conversation.turns if turn.role in ("user", "assistant")]
        messages = [Message(role="system", content=self.prompt)]
        messages += [Message(role="user" if t.role == "user" else "assistant", content=t.text) for t in said]
        # One prefix a conversation stays warm: the key is that of the conversation, not of the turn.
        return Request(messages=tuple(messages), options=self.options, key=key.partition("/")[0], caller="drafts")

    def cancel(self) -> None:
        """Nobody wants what is being written: the server stops. The jobs are taken again later."""
        with self._lock:
            running = list(self._open)
        for ticket in running:
            ticket.cancel()


class NoteWriter:
    """Lets the engine draft notes and plans: a writer of its own for each, with the prompt of its file.

    Args:
        engine, timeout: see `EngineWriter`.
    """

    def __init__(self, engine: Engine, *, timeout: float = 420.0) -> None:
        options = Options(max_tokens=400)
        self.writers = {
            kind: EngineWriter(engine, prompt=prompt_text(f"{kind}.txt"), options=options, timeout=timeout)
            for kind in ("note", "plan")
        }

    def propose(self, conversation: Conversation, *, key: str) -> Proposal:
        """A draft; the key begins with what it is (`note-`, `plan-`).

        Raises:
            EngineError: no reply.
        """
        return self.writers[key.partition("-")[0]].propose(conversation, key=key)

    def cancel(self) -> None:
        """End what runs."""
        for writer in self.writers.values():
            writer.cancel()


class Permitted:
    """A writer of whose reasons only those are kept that the profile allows.

    Args:
        withheld: keys of the reasons that are dropped before anything is stored.
    """

    def __init__(self, writer: Writer, *, withheld: frozenset[str]) -> None:
        self.writer, self.withheld = writer, withheld

    def propose(self, conversation: Conversation, *, key: str) -> Proposal:
        """See `Writer.propose`."""
        made = self.writer.propose(conversation, key=key)
        return replace(made, reasons=_without(made.reasons, self.withheld)) if self.withheld else made

    def cancel(self) -> None:
        """End what runs, where the writer can."""
        end = getattr(self.writer, "cancel", None)
        if end is not None:
            end()


def _without(reasons: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in reasons.items() if name not in names}
