"""The writer of drafts: the server's engine, and the readers beside it.

A model that talks is given chat messages and the prompt of a file; a run that was trained in a format of its own is
given the conversation. What was looked up stands after the person's last words, so that everything before them stays
warm; a format that has a place for it puts it there.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any, Final, Literal

from heedful.errors import EngineError
from heedful.formats import Format
from heedful.review.drafting import Proposal, Writer
from heedful.server.engine.base import Completion, Engine, Message, Options, Request, Ticket
from heedful.server.readers import Readers
from heedful.store.work import as_name
from heedful.types import Conversation, Turn

PROMPT: Final = "draft.txt"
KNOWLEDGE: Final = "knowledge.txt"
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
        fmt: the format that the model was trained with, where it is one of its own; None = chat messages.
        readers: what is read beside it.
        options: how it writes.
        timeout: seconds that waiting and writing may take together.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        prompt: str | None = None,
        fmt: Format | None = None,
        readers: Readers | None = None,
        options: Options | None = None,
        timeout: float = 420.0,
    ) -> None:
        self.engine, self.timeout, self.fmt, self.readers = engine, timeout, fmt, readers
        self.prompt = prompt_text() if prompt is None else prompt
        self.notes = prompt_text(KNOWLEDGE)
        self.hash = hashlib.sha256(self.prompt.encode()).hexdigest()[:16]
        self.options = options or Options(max_tokens=200)
        self._open: set[Ticket] = set()
        self._lock = threading.Lock()

    def propose(self, conversation: Conversation, *, key: str) -> Proposal:
        """A draft.

        Raises:
            EngineError: no reply.
        """
        if self.readers is not None:
            self._start(conversation, key=key)
        read = self._read(conversation)
        ticket = self.engine.submit(self.request(conversation, key=key, sources=read.get("sources", ())))
        with self._lock:
            self._open.add(ticket)
        try:
            done = ticket.result(timeout=self.timeout + SLACK)
        finally:
            with self._lock:
                self._open.discard(ticket)
        name = as_name(done.model or self.engine.model)
        return Proposal(
            text=done.text,
            model=f"{name}@{done.version}" if done.version else name,
            reasons=self._reasons(done, read),
        )

    def read_ahead(self, conversation: Conversation, *, key: str) -> bool:
        """Let the engine read what the next prompt will begin with, while the help-seeker reads and types. Waits until
        it is read; whether it was: it gives way to every reply.
        """
        coming = Turn(role="user", text=".")  # what follows is not known yet; its mark and role are
        ticket = self._start(replace(conversation, turns=(*conversation.turns, coming)), key=key)
        try:
            return ticket is not None and ticket.result(timeout=self.timeout + SLACK) is not None
        except EngineError:
            return False

    def _start(self, conversation: Conversation, *, key: str) -> Ticket | None:
        """Begin to read a prompt; None where the engine takes no request now."""
        try:
            return self.engine.submit(replace(self.request(conversation, key=key), aim="ahead", reasons="unwanted"))
        except EngineError:
            return None

    def _read(self, conversation: Conversation) -> dict[str, Any]:
        """What the readers say. One that is slow or gone costs its reasons, not the draft; the reasons say so."""
        if self.readers is None:
            return {}
        try:
            return dict(self.readers.read(conversation))
        except EngineError as err:
            return {"not_read": {"what": sorted(self.readers.named), "why": err.code}}

    def _reasons(self, done: Completion, read: Mapping[str, Any]) -> dict[str, Any]:
        why = done.why
        sources = [dict(s) for s in (*read.get("sources", ()), *why.get("sources", ()))]
        # A run whose format writes sources gives back what it was given: once is enough.
        kept = {(s.get("name"), s.get("id"), s.get("text")): s for s in sources if s.get("text")}
        stopped = [{"id": s.get("id", ""), "why": s["why"]} for s in sources if s.get("why") and not s.get("text")]
        about, _, digest = str(why.get("format", "")).partition("#")
        found = {
            "prompt": {"name": PROMPT, "hash": self.hash} if self.fmt is None else {"name": about, "hash": digest},
            # What the model chose itself comes before what usually follows such a conversation.
            "strategy": why.get("strategy") or read.get("strategy"),
            "emotion": read.get("emotion"),
            "sources": list(kept.values()),
            "screened": stopped,
            "plan": dict(done.plan),
            "uncertainty": why.get("uncertainty"),
            "not_read": read.get("not_read"),
            "finish": done.finish,
            "tokens": {"prompt": done.prompt_tokens, "cached": done.cached_tokens, "reply": done.completion_tokens},
        }
        return {key: value for key, value in found.items() if value not in (None, [], {})}

    def request(self, conversation: Conversation, *, key: str, sources: Sequence[Mapping[str, Any]] = ()) -> Request:
        """What the engine is asked. Fixed texts of the program are part of what was said.

        Turns of the store's role `system` are left out: nobody but the file gives the model instructions.
        """
        said = [turn for turn in conversation.turns if turn.role in ("user", "assistant")]
        texts = [str(source["text"]) for source in sources if source.get("text")]
        last = max((at for at, turn in enumerate(said) if turn.role == "user"), default=None)
        # One prefix a conversation stays warm: the key is that of the conversation, not of the turn.
        rest: dict[str, Any] = {
            "options": self.options, "key": key.partition("/")[0], "caller": "drafts", "reasons": "wanted",
        }  # fmt: skip
        if self.fmt is not None:
            if last is not None and texts:
                said[last] = replace(said[last], sources=(*said[last].sources, *sources))
            return Request(conversation=replace(conversation, turns=tuple(said)), **rest)
        messages = [Message(role="system", content=self.prompt)]
        messages += [Message(role="user" if t.role == "user" else "assistant", content=t.text) for t in said]
        if last is not None and texts:
            notes = self.notes.format(items="\n".join(f"- {' '.join(text.split())}" for text in texts))
            messages[last + 1] = Message(role="user", content=f"{said[last].text}\n\n{notes}")
        return Request(messages=tuple(messages), **rest)

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
        evidence: `required` drops emotions without the words that they rest on.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        withheld: frozenset[str],
        evidence: Literal["optional", "required"] = "optional",
    ) -> None:
        self.writer, self.withheld, self.evidence = writer, withheld, evidence

    def propose(self, conversation: Conversation, *, key: str) -> Proposal:
        """See `Writer.propose`."""
        made = self.writer.propose(conversation, key=key)
        kept = _without(made.reasons, self.withheld)
        if self.evidence == "required" and isinstance(kept.get("emotion"), list):
            kept["emotion"] = [mark for mark in kept["emotion"] if isinstance(mark, Mapping) and mark.get("evidence")]
        return replace(made, reasons=kept)

    def read_ahead(self, conversation: Conversation, key: str) -> bool:
        """Read what comes before the next message, where the writer can; whether it did."""
        read = getattr(self.writer, "read_ahead", None)
        return read is not None and bool(read(conversation, key=key))

    def cancel(self) -> None:
        """End what runs, where the writer can."""
        end = getattr(self.writer, "cancel", None)
        if end is not None:
            end()


def _without(reasons: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in reasons.items() if name not in names}
