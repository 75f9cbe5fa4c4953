"""Consents of a help-seeker: one answer per purpose, each revocable, no until somebody says yes.

What a missing answer stops is a policy of the clinic (`Policy.consents`): `care` = no conversation begins; `recording`
= no transcript is used beyond the conversation itself (docs/decisions/0063-recording.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from heedful.review import crisis
from heedful.review.clinic import Clinic
from heedful.store.records import Consent
from heedful.store.states import PURPOSES, ConsentAction, Purpose
from heedful.store.unit import Unit

WITHDRAWN = "consent_withdrawn"
"""Kind of the task that a withdrawal makes while a conversation is open."""
NOT_ENFORCED: Final[tuple[Purpose, ...]] = ("quality_review", "research")
"""Purposes whose answer changes nothing in this program: nobody is asked. Who answered before can take it back."""
Answer = Literal["given", "withdrawn", "none"]


@dataclass(frozen=True, kw_only=True)
class State:
    """How one purpose stands; `none` = never asked or never answered, which counts as no."""

    purpose: Purpose
    answer: Answer = "none"
    at: datetime | None = None
    version: str = ""
    history: tuple[Consent, ...] = field(default=(), repr=False)


def states(unit: Unit, user: str) -> tuple[State, ...]:
    """All purposes that are asked or were answered, in the order of the ledger's words."""
    entries = unit.consents.of(user)
    out = []
    for purpose in PURPOSES:
        mine = tuple(entry for entry in entries if entry.purpose == purpose)
        if purpose in NOT_ENFORCED and not mine:
            continue
        last = mine[-1] if mine else None
        answer: Answer = "none" if last is None else "given" if last.action == "given" else "withdrawn"
        at, version = (last.at, last.version) if last else (None, "")
        out.append(State(purpose=purpose, answer=answer, at=at, version=version, history=mine))
    return tuple(out)


def answer(
    clinic: Clinic, user: str, purpose: Purpose, action: ConsentAction, *, wording: str, version: str, language: str
) -> bool:
    """Write down an answer of the help-seeker; the same answer again is no second one.

    Where care rests on it, taking it back ends the drafts of an open conversation and tells the team; the talk itself
    goes on until a person has spoken with them.

    Returns:
        Whether it was new.
    """

    def work(unit: Unit) -> bool:
        now = next(state for state in states(unit, user) if state.purpose == purpose)
        if now.answer == action:
            return False
        unit.consents.add(
            user=user, purpose=purpose, action=action, wording=wording, version=version, language=language, by=user
        )
        if action == "withdrawn" and purpose == "care" and "care" in clinic.policy.consents:
            _rest(clinic, unit, user)
        return True

    return clinic.store.run(work)


def _rest(clinic: Clinic, unit: Unit, user: str) -> None:
    for thread in unit.threads.of(user):
        if thread.state == "closed":
            continue
        if unit.threads.stop_drafts(thread.id, "consent", by=user):
            crisis.expire_drafts(unit, thread.id, by=crisis.PROGRAM)
        if not any(task.kind == WITHDRAWN for task in unit.tasks.open(thread=thread.id)):
            due = unit.now() + timedelta(minutes=clinic.policy.look_minutes)
            unit.tasks.add(kind=WITHDRAWN, due_at=due, by=user, thread=thread.id)
