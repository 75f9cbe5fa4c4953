"""A stored conversation as the rest of heedful knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

from heedful.store.records import StoredTurn
from heedful.store.unit import Unit
from heedful.types import Conversation, Label, Turn
from heedful.types.conversation import Role


def as_turn(turn: StoredTurn) -> Turn:
    """One stored turn; pages call it by its `sequence`, which is kept in `extra`."""
    return Turn(role=cast(Role, turn.role), text=turn.text, extra={"sequence": turn.sequence})


def conversation(
    unit: Unit,
    thread: str,
    *,
    last: int | None = None,
    step: int = 1,
    strategies: Literal["left", "added"] = "left",
) -> Conversation:
    """The turns of a thread as a `Conversation`; its id is the thread's.

    Args:
        last: only so many turns at the end; None = all.
        step: older turns are left out so many at a time. A beginning that moves with every turn would be read anew by
            a model each time, and the longer the conversation, the longer it would take.
        strategies: `added` labels replies that were sent as a model wrote them with the strategy that it had chosen.
            Words that a person changed have none: nobody knows whether it is still the same.
    """
    out = 0
    if last is not None:
        newest = unit.turns.last(thread, 1)
        out = -(-(newest[0].sequence - last) // step) * step if newest else 0
    turns = unit.turns.of(thread, after=out) if out > 0 else unit.turns.of(thread)
    chosen = _chosen(unit, thread) if strategies == "added" else {}
    made = (replace(as_turn(t), labels=(chosen[t.id],)) if t.id in chosen else as_turn(t) for t in turns)
    return Conversation(id=thread, turns=tuple(made), source="clinic")


def _chosen(unit: Unit, thread: str) -> dict[str, Label]:
    """Id of a sent turn -> the strategy that the model had chosen for it."""
    found = {}
    for draft in unit.drafts.of(thread, state="approved"):
        strategy = draft.reasons.get("strategy")
        if draft.sent_turn_id is None or not isinstance(strategy, Mapping):
            continue
        if strategy.get("by") == "model" and strategy.get("set") and strategy.get("name"):
            label = Label(set=str(strategy["set"]), value=str(strategy["name"]), source="model")
            found[draft.sent_turn_id] = label
    return found
