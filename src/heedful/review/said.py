"""A stored conversation as the rest of heedful knows it."""

from __future__ import annotations

from typing import cast

from heedful.store.records import StoredTurn
from heedful.store.unit import Unit
from heedful.types import Conversation, Turn
from heedful.types.conversation import Role


def as_turn(turn: StoredTurn) -> Turn:
    """One stored turn."""
    return Turn(role=cast(Role, turn.role), text=turn.text)


def conversation(unit: Unit, thread: str, *, last: int | None = None) -> Conversation:
    """The turns of a thread as a `Conversation`; its id is the thread's.

    Args:
        last: only so many turns at the end; None = all.
    """
    turns = unit.turns.of(thread) if last is None else unit.turns.last(thread, last)
    return Conversation(id=thread, turns=tuple(map(as_turn, turns)), source="clinic")
