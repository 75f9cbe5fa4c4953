"""`structured`: context, emotion and user input as marked fields (context-emotion-rl.md; the layout is our choice).

    <|context|> client: ... therapist: ... <|emotion|> depression <|user|> ... <|therapist|> neutral <|response|> ...

The per-turn fields are not part of the next turn's context, so samples of one conversation branch off a common trunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from heedful.errors import DataError
from heedful.formats.base import Format, before_end, clean, merged
from heedful.formats.sample import Reply, Tokenizer
from heedful.types import Conversation, Turn

CONTEXT, EMOTION, USER, THERAPIST, RESPONSE = "<|context|>", "<|emotion|>", "<|user|>", "<|therapist|>", "<|response|>"
SPEAKERS = {"system": "note:", "user": "client:", "assistant": "therapist:"}
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class StructuredFormat(Format):
    """Options (the switches are the paper's ablations):
    use_context: write the earlier turns.
    use_emotion: write the emotion of the turn that is answered.
    emit_emotion: let the model write the supporter's emotion before the reply.
    emotion_set: label set of the emotions.
    """

    name: ClassVar[str] = "structured"
    use_context: bool = True
    use_emotion: bool = True
    emit_emotion: bool = True
    emotion_set: str = "mesc_emotion"

    @property
    def markers(self) -> tuple[str, ...]:
        return (CONTEXT, EMOTION, USER, THERAPIST, RESPONSE)

    def prepare(self, conv: Conversation) -> Conversation:
        return merged(conv)

    def targets(self, conv: Conversation) -> list[int]:
        return [i for i in conv.targets() if conv.turns[i - 1].role == "user"]

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        if not context.turns[start:]:
            raise DataError("The structured format answers a turn, but the conversation so far is empty.")
        *earlier, last = context.turns[start:]
        text = ""
        if self.use_context:
            text += CONTEXT + "".join(f" {SPEAKERS[t.role]} {clean(t, tokenizer, self.markers)}" for t in earlier)
        if self.use_emotion:
            text += f"{EMOTION} {last.label(self.emotion_set) or UNKNOWN}"
        return text + f"{USER} {clean(last, tokenizer, self.markers)}{THERAPIST}"

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        tag = f" {turn.label(self.emotion_set) or UNKNOWN}" if self.emit_emotion else ""
        return tag + RESPONSE, f" {clean(turn, tokenizer, self.markers)}{tokenizer.eos_token or ''}"

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        tag, found, words = before_end(text, tokenizer).partition(RESPONSE)
        if not found:
            return Reply(text=tag.strip())
        plan = {self.emotion_set: tag.strip()} if tag.strip() not in ("", UNKNOWN) else {}
        return Reply(text=words.strip(), plan=plan)
