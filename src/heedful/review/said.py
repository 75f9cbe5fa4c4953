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


def conversation(unit: Unit, thread: str, *, last: int | None = None, step: int = 1) -> Conversation:
    """The turns of a thread as a `Conversation`; its id is the thread's.

    Args:
        last: only so many turns at the end; None = all.
        step: older turns are left out so many at a time. A beginning that moves with every turn would be read anew by
            a model each time, and the longer the conversation, the longer it would take.
    """
    if last is None:
        turns = unit.turns.of(thread)
    else:
        newest = unit.turns.last(thread, 1)
        out = -(-(newest[0].sequence - last) // step) * step if newest else 0
        turns = unit.turns.of(thread, after=out) if out > 0 else unit.turns.of(thread)
    return Conversation(id=thread, turns=tuple(map(as_turn, turns)), source="clinic")
