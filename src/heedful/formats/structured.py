"""`structured`: context, emotion and user input as marked fields (context-emotion-rl.md; the layout is our choice).

    <|context|> client: ... therapist: ... <|emotion|> depression <|user|> ... <|therapist|> neutral <|response|> ...

The per-turn fields are not part of the next turn's context, so samples of one conversation branch off a common trunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from heedful import taxonomy
from heedful.errors import DataError
from heedful.formats.base import Format, opening
from heedful.formats.sample import Reply, Tokenizer
from heedful.types import Conversation, Role, Turn

CONTEXT, EMOTION, USER, THERAPIST, RESPONSE = "<|context|>", "<|emotion|>", "<|user|>", "<|therapist|>", "<|response|>"
SPEAKERS: dict[Role, str] = {"system": "note:", "user": "client:", "assistant": "therapist:"}
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

    def __post_init__(self) -> None:
        super().__post_init__()
        taxonomy.get(self.emotion_set)

    @property
    def markers(self) -> tuple[str, ...]:
        return (CONTEXT, EMOTION, USER, THERAPIST, RESPONSE)

    @property
    def reads(self) -> Mapping[str, tuple[Role, str]]:
        roles: dict[str, Role] = {"use_emotion": "user", "emit_emotion": "assistant"}
        return {option: (role, self.emotion_set) for option, role in roles.items() if getattr(self, option)}

    def speakers(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        return tuple(SPEAKERS.values())

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "labels": taxonomy.get(self.emotion_set).hash}

    def prepare(self, conv: Conversation) -> Conversation:
        return conv.merged()

    def targets(self, conv: Conversation) -> list[int]:
        return [i for i in conv.targets() if conv.turns[i - 1].role == "user"]

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        if not context.turns[start:]:
            raise DataError("The structured format answers a turn, but the conversation so far is empty.")
        *earlier, last = context.turns[start:]
        text = opening(tokenizer)
        if self.use_context:
            text += CONTEXT + "".join(f" {SPEAKERS[t.role]} {self.words(t, tokenizer)}" for t in earlier)
        if self.use_emotion:
            text += f"{EMOTION} {last.label(self.emotion_set) or UNKNOWN}"
        return text + f"{USER} {self.words(last, tokenizer)}{THERAPIST}"

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        tag = f" {turn.label(self.emotion_set) or UNKNOWN}" if self.emit_emotion else ""
        return tag + RESPONSE, f" {self.words(turn, tokenizer)}{tokenizer.eos_token or ''}"

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        tag, found, words = self.before_end(text, tokenizer).partition(RESPONSE)
        if not found:
            return Reply(text=tag.strip())
        # A model may write anything before the marker; only a label of the set is a plan.
        emotion = taxonomy.get(self.emotion_set).resolve(tag) if self.emit_emotion else None
        return Reply(text=words.strip(), plan={self.emotion_set: emotion} if emotion else {})
