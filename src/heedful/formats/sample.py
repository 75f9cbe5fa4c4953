"""Sample: one reply to learn or to write, as tokens; and the rule that cuts context.

A format turns a conversation into samples. Everything behind it (training trees, generation, perplexity) sees only
these, so a new format is correct everywhere as soon as its samples are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from heedful.errors import DataError

Overlong = Literal["error", "skip"]


class Tokenizer(Protocol):
    """What formats need of a tokenizer; every Hugging Face tokenizer has it."""

    eos_token: str | None
    bos_token: str | None
    all_special_tokens: list[str]
    chat_template: str | None

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """Encode `text`; the result has `input_ids`."""

    def get_added_vocab(self) -> dict[str, int]:
        """Entries that stand outside the trained vocabulary, named special tokens included."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of `token_ids`."""

    def apply_chat_template(self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool) -> Any:
        """The model's own way to write a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """What a model with a graph (`heedful.models.graph`) reads beside the prompt of one reply.

    Args:
        context: how many leading tokens of the prompt are the conversation; the rest of it begins the reply.
        cause: token ids of the text behind the global node. The first one only opens the text and is not pooled.
        intention: the same for the local node.
        local: (begin, end) of the prompt's tokens that the local node is linked to; equal where there are none.
        problem: the corpus' name of the seeker's problem, what the monitor learns; None where nobody knows it.
    """

    context: int
    cause: tuple[int, ...] = field(repr=False)
    intention: tuple[int, ...] = field(repr=False)
    local: tuple[int, int]
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One target turn and the input that a model sees for it.

    Args:
        id: `<conversation id>/<turn>`.
        conversation_id: which conversation.
        turn: index of the target turn in it.
        prompt: token ids of the input.
        target: token ids to predict, end token included.
        plan: how many leading target tokens are a plan (strategy token, emotion tag) rather than text; perplexity of
            the text leaves them out (esconv.md, PPL).
        start: first context turn that is still in the prompt; above 0 when older ones were cut.
        text: the reply as plain text, for per-word and per-byte perplexity.
        guide: what a graph reads beside the prompt, from formats that are made for one.
    """

    id: str
    conversation_id: str
    turn: int
    prompt: tuple[int, ...] = field(repr=False)
    target: tuple[int, ...] = field(repr=False)
    plan: int = 0
    start: int = 0
    text: str = field(default="", repr=False)
    guide: Guide | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a format reads out of generated text: the words, and the plan if one was written."""

    text: str = field(repr=False)
    plan: dict[str, str] = field(default_factory=dict, repr=False)


class Window:
    """Chooses where the context of each target starts: oldest turns go first, the target never.

    When a prompt does not fit, the start moves forward until prompt and target fill at most `keep * max_length`, and
    stays there while later targets fit (where not even the last turn alone is that short, as little as possible goes).
    So neighbouring targets share their beginning, which is what lets a long
    conversation be trained and decoded in a few passes instead of one per target. `keep=1.0` cuts as little as
    possible for each target on its own.
    """

    def __init__(self, *, max_length: int, keep: float = 0.5) -> None:
        if max_length < 1 or not 0.0 < keep <= 1.0:
            raise DataError(f"A window needs max_length >= 1 and 0 < keep <= 1, but got {max_length} and {keep}.")
        self.max_length = max_length
        self.keep = keep

    def fit(self, length: Callable[[int], int], *, start: int, last: int) -> int | None:
        """The first start in `start..last` at which `length(start)` fits, or None if even `last` does not."""
        if length(start) <= self.max_length:
            return start
        goal = int(self.keep * self.max_length)
        fitting = None
        for candidate in range(start + 1, last + 1):
            size = length(candidate)
            if size <= goal:
                return candidate
            if fitting is None and size <= self.max_length:
                fitting = candidate
        return fitting
