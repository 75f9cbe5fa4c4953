"""What back ends share: messages as a conversation, old turns left out, and stop texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from heedful.errors import DataError, EngineError
from heedful.formats import Format, Sample, Tokenizer
from heedful.types import Conversation, Turn

STEP = 8
"""Old turns are left out in steps of so many: each step moves the beginning, and what moved is read anew."""


def conversation_of(messages: Sequence[Mapping[str, str]]) -> tuple[str, Conversation]:
    """(system text, the rest as a conversation): the system messages at the beginning are the system text."""
    at = 0
    while at < len(messages) and messages[at]["role"] == "system":
        at += 1
    turns = tuple(Turn(role=m["role"], text=m["content"]) for m in messages[at:])  # type: ignore[arg-type]
    return "\n\n".join(m["content"] for m in messages[:at]), Conversation(id="request", turns=turns, source="server")


def sample_of(
    fmt: Format, conversation: Conversation, tokenizer: Tokenizer, *, max_length: int, new_tokens: int, key: str
) -> Sample:
    """The prompt for the next reply; what does not fit is left out at the old end.

    Raises:
        EngineError: `refused`, where the last message alone does not fit.
    """
    try:
        due = fmt.due(conversation, tokenizer, name=key or "reply", max_length=max_length, new_tokens=new_tokens)
        if not due.start:
            return due
        start = min(-(-due.start // STEP) * STEP, len(conversation) - 1)
        shorter = replace(conversation, turns=conversation.turns[start:])
        return fmt.due(shorter, tokenizer, name=key or "reply", max_length=max_length, new_tokens=new_tokens)
    except DataError as err:
        raise EngineError(str(err), code="refused") from None


class Stops:
    """Passes words on until a stop text comes; what may be the beginning of one is held back.

    >>> said = []
    >>> stops = Stops(["END"], said.append)
    >>> stops.feed("one E"), stops.feed("N two EN"), stops.feed("D three")
    (False, False, True)
    >>> "".join(said)
    'one EN two '
    """

    def __init__(self, stops: Sequence[str], emit: Callable[[str], None]) -> None:
        self.stops, self._emit, self._held = tuple(stops), emit, ""
        self.hit = False

    def feed(self, text: str) -> bool:
        """Some more words; whether a stop text was met."""
        if self.hit:
            return True
        self._held += text
        ends = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self._pass(min(ends))
            self._held, self.hit = "", True
            return True
        longest = 0
        for stop in self.stops:
            tails = (n for n in range(min(len(stop) - 1, len(self._held)), 0, -1) if self._held.endswith(stop[:n]))
            longest = max(longest, next(tails, 0))
        self._pass(len(self._held) - longest)
        return False

    def finish(self) -> None:
        """No more words: what was held back is none of a stop text."""
        self._pass(len(self._held))

    def _pass(self, size: int) -> None:
        if size:
            self._emit(self._held[:size])
            self._held = self._held[size:]
