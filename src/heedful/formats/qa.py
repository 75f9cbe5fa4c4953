"""`qa`: question-answer pairs the way ChatMGL's adaptation builds them (chatmgl.md, part B).

    patient: ... <|sep|> therapist: ...

`v1`: a patient turn directly followed by a therapist turn. `v2`: one sample for every patient turn that some reply
follows; its input is all patient turns so far, its target all therapist turns up to that reply (several patient turns
in a row share the reply that follows them). `shift`: every turn is the target of the turn before it, whoever speaks;
`patient:` and `therapist:` name who does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from heedful.formats.base import Format, opening
from heedful.formats.sample import Reply, Tokenizer
from heedful.types import Conversation, Role, Turn

SEP = "<|sep|>"
SPEAKERS: dict[Role, str] = {"system": "note:", "user": "patient:", "assistant": "therapist:"}
Loader = Literal["v1", "v2", "shift"]


@dataclass(frozen=True, kw_only=True)
class QAFormat(Format):
    """Options:
    loader: `v1`, `v2` or `shift`.
    merge_turns: join runs of one speaker first (`v1_merged` of the spec).
    """

    name: ClassVar[str] = "qa"
    version: ClassVar[int] = 2
    loader: Loader = "v1"
    merge_turns: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        return (SEP,)

    def speakers(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        return tuple(SPEAKERS.values())

    def prepare(self, conv: Conversation) -> Conversation:
        return conv.merged() if self.merge_turns else conv

    def targets(self, conv: Conversation) -> list[int]:
        turns = conv.turns
        if self.loader == "shift":
            return list(range(1, len(turns)))
        if self.loader == "v2":
            # The place after each patient turn, whoever speaks there: the reply may come later.
            last = max(conv.targets(), default=0)
            return [i for i in range(1, last + 1) if turns[i - 1].role == "user"]
        return [i for i in conv.targets() if turns[i - 1].role == "user"]

    def target_turn(self, conv: Conversation, index: int) -> Turn:
        if self.loader != "v2":
            return conv.turns[index]
        # Cumulative targets: what the therapist said so far belongs to the answer, not to the question.
        reply = next(i for i in conv.targets() if i >= index)
        said = [t.text.strip() for t in conv.turns[: reply + 1] if t.role == "assistant"]
        return replace(conv.turns[reply], text=" ".join(said))

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        turns = context.turns[start:]
        asked = [t for t in turns if t.role == "user"] if self.loader == "v2" else list(turns[-1:])
        speaker = SPEAKERS[asked[-1].role if asked else "user"]
        return f"{opening(tokenizer)}{speaker} {' '.join(self.words(t, tokenizer) for t in asked)}{SEP}"

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        return "", f" {SPEAKERS[turn.role]} {self.words(turn, tokenizer)}{tokenizer.eos_token or ''}"

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        text = self.before_end(text, tokenizer)
        speaker = next((s for s in SPEAKERS.values() if text.startswith(s)), "")
        return Reply(text=text.removeprefix(speaker).strip())
