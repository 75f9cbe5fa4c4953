"""What belongs together in the timeline of a conversation: an act and the reason that was given for it are one entry.

The store keeps both, since each has its own life: the reason is words and can be erased, the act stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from heedful.store.records import Note, RiskEvent

ACTS: Final = {
    "to_risk_held": "held",
    "to_human_owned": "taken-over",
    "to_ai_assisted": "given-back",
    "to_closed": "closed",
    "risk_lowered": "lowered",
}
"""Kind of a note -> the act that it is the reason of; other kinds are called like their act."""
NEAR: Final = timedelta(seconds=5)
"""Both are written in one transaction, but each asks the clock."""


def joined(notes: Iterable[Note], risks: Iterable[RiskEvent]) -> tuple[tuple[Note, ...], dict[str, str]]:
    """Notes that stand by themselves, and the reason of each act: its id -> words.

    The same words for the same act are kept once; other words for it stand by themselves.
    """
    acts, alone, reasons = list(risks), [], dict[str, str]()
    for note in sorted(notes, key=lambda note: note.at):
        mine = [act for act in acts if _of(note, act)]
        free = next((act for act in mine if act.id not in reasons), None)
        if any(reasons.get(act.id) == note.text for act in mine):
            continue
        if free is None:
            alone.append(note)
        else:
            reasons[free.id] = note.text
    return tuple(alone), reasons


def _of(note: Note, act: RiskEvent) -> bool:
    action = ACTS.get(note.kind, note.kind)
    return action == act.action and note.by == act.person and abs(act.at - note.at) <= NEAR
