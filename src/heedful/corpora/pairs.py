"""Reply pairs: what the help-seeker said, what the supporter answered. The unit of MESC's 454-pair test."""

from __future__ import annotations

from dataclasses import dataclass

from heedful.types import Conversation, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Turn `index` of a merged conversation as the reply to the turn before it.

    Args:
        conversation: the merged conversation, with the reply and what follows still in it; use `context` for models.
        index: place of the reply in it.
    """

    conversation: Conversation
    index: int

    @property
    def conversation_id(self) -> str:
        """Id of the conversation."""
        return self.conversation.id

    @property
    def id(self) -> str:
        """`<conversation id>/<index>`, as in a trace."""
        return f"{self.conversation.id}/{self.index}"

    @property
    def context(self) -> Conversation:
        """Everything before the reply, the user's last turn included; nothing after it."""
        return self.conversation.before(self.index)

    @property
    def user(self) -> Turn | None:
        """The turn that is answered; None where the supporter opens the talk."""
        before = self.conversation.turns[self.index - 1] if self.index else None
        return before if before is not None and before.role == "user" else None

    @property
    def reply(self) -> Turn:
        """The supporter's turn."""
        return self.conversation.turns[self.index]


def pairs(conversation: Conversation, *, opening: bool = False) -> list[Pair]:
    """One pair for each merged supporter turn that answers a merged user turn.

    Runs of turns by one role are joined first (`Conversation.merged`), so a label is that of the run's last turn.

    Args:
        conversation: merged or not.
        opening: also give the supporter's turn that opens a talk (`user` is None there).
    """
    merged = conversation.merged()
    found = [Pair(conversation=merged, index=i) for i in merged.targets(opening=opening)]
    return [pair for pair in found if pair.user is not None or (opening and pair.index == 0)]
