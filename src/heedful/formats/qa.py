"""`qa`: question-answer pairs the way ChatMGL's adaptation builds them (chatmgl.md, part B).

    patient: ... <|sep|> therapist: ...

`v1`: a patient turn directly followed by a therapist turn. `v2`: all patient turns so far against all therapist turns
so far, up to and including the reply. `shift`: every turn is the target of the turn before it, whoever speaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from heedful.errors import ConfigError
from heedful.formats.base import Format, before_end, clean, merged
from heedful.formats.sample import Reply, Tokenizer
from heedful.types import Conversation, Turn

SEP = "<|sep|>"
Loader = Literal["v1", "v2", "shift"]


@dataclass(frozen=True, kw_only=True)
class QAFormat(Format):
    """Options:
    loader: `v1`, `v2` or `shift`.
    merge_turns: join runs of one speaker first (`v1_merged` of the spec).
    """

    name: ClassVar[str] = "qa"
    loader: Loader = "v1"
    merge_turns: bool = False

    def __post_init__(self) -> None:
        if self.loader not in ("v1", "v2", "shift"):
            raise ConfigError(f"format.loader must be v1, v2 or shift, but it is '{self.loader}'.")

    @property
    def markers(self) -> tuple[str, ...]:
        return (SEP,)

    def prepare(self, conv: Conversation) -> Conversation:
        return merged(conv) if self.merge_turns else conv

    def targets(self, conv: Conversation) -> list[int]:
        turns = conv.turns
        if self.loader == "shift":
            return list(range(1, len(turns)))
        return [i for i in conv.targets() if turns[i - 1].role == "user"]

    def target_turn(self, conv: Conversation, index: int) -> Turn:
        if self.loader != "v2":
            return conv.turns[index]
        # Cumulative targets: what the therapist said so far belongs to the answer, not to the question.
        said = [t.text.strip() for t in conv.turns[: index + 1] if t.role == "assistant"]
        return replace(conv.turns[index], text=" ".join(said))

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        turns = context.turns[start:]
        asked = [t for t in turns if t.role == "user"] if self.loader == "v2" else list(turns[-1:])
        return "patient: " + " ".join(clean(t, tokenizer, self.markers) for t in asked) + SEP

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        return "", f" therapist: {clean(turn, tokenizer, self.markers)}{tokenizer.eos_token or ''}"

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        return Reply(text=before_end(text, tokenizer).removeprefix("therapist:").strip())
