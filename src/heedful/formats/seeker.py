"""`seeker`: the next turn of the help-seeker, from the situation and the dialogue: the user simulator of KEMI.

    [situation] I lost my job. [user] I cannot sleep. [system] Since when? [user] Since May. <eos>

The layout is that of the released simulator (kemi.md, part B; USi, a BlenderBot-small there). The situation is known
before the talk begins and stays when older turns are cut. Nothing of a supporter is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from heedful.formats.base import Format, opening
from heedful.formats.sample import Reply, Tokenizer
from heedful.types import Conversation, Role, Turn

SITUATION = "[situation]"
SPEAKERS: dict[Role, str] = {"system": "[note]", "user": "[user]", "assistant": "[system]"}


@dataclass(frozen=True, kw_only=True)
class SeekerFormat(Format):
    """Options:
    situation: write the help-seeker's own summary from before the talk, where a corpus has one.
    """

    name: ClassVar[str] = "seeker"
    situation: bool = True

    @property
    def markers(self) -> tuple[str, ...]:
        return (*((SITUATION,) if self.situation else ()), *SPEAKERS.values())

    @property
    def written(self) -> frozenset[Role]:
        return frozenset({"user"})

    def targets(self, conv: Conversation) -> list[int]:
        return conv.targets(role="user")

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        about = Turn(role="user", text=context.situation or "") if self.situation else None
        known = [f"{SITUATION} {self.words(about, tokenizer)}"] if about is not None and about.text.strip() else []
        said = [f"{SPEAKERS[turn.role]} {self.words(turn, tokenizer)}" for turn in context.turns[start:]]
        return opening(tokenizer) + " ".join([*known, *said, SPEAKERS["user"]])

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        return "", f" {self.words(turn, tokenizer)}{tokenizer.eos_token or ''}"

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        return Reply(text=self.before_end(text, tokenizer))
