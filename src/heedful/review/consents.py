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
from heedful.review.policy import Policy
from heedful.store.records import Consent
from heedful.store.states import PURPOSES, ConsentAction, Purpose
from heedful.store.unit import Unit

WITHDRAWN = "consent_withdrawn"
"""Kind of the task that a withdrawal makes while a conversation is open."""
ALWAYS: Final[frozenset[Purpose]] = frozenset({"training"})
"""Purposes that are asked under every profile: without a yes nothing is exported to learn from."""
Answer = Literal["given", "withdrawn", "none"]
Basis = Literal["service", "consent", "no_consent"]
"""Why messages are kept: answering needs them, and nobody is asked; the person agreed; or they did not (any more)."""


@dataclass(frozen=True, kw_only=True)
class State:
    """How one purpose stands; `none` = never answered, which counts as no.

    Args:
        asked: whether the answer changes anything here; one that was given before can be taken back in any case.
    """

    purpose: Purpose
    answer: Answer = "none"
    at: datetime | None = None
    version: str = ""
    asked: bool = True
    history: tuple[Consent, ...] = field(default=(), repr=False)


def asked(policy: Policy) -> frozenset[Purpose]:
    """Purposes whose answer changes something here; for others a "no" would stand beside what goes on all the same."""
    return policy.consents | ALWAYS


def basis(unit: Unit, user: str, policy: Policy) -> Basis:
    """Why the messages of somebody are kept."""
    if "care" not in policy.consents:
        return "service"
    return "consent" if unit.consents.current(user)["care"] else "no_consent"


def states(unit: Unit, user: str, policy: Policy) -> tuple[State, ...]:
    """All purposes that are asked, and those that were answered before, in the order of the ledger's words."""
    effective, entries = asked(policy), unit.consents.of(user)
    out = []
    for purpose in PURPOSES:
        mine = tuple(entry for entry in entries if entry.purpose == purpose)
        if purpose not in effective and not mine:
            continue
        last = mine[-1] if mine else None
        answer: Answer = "none" if last is None else "given" if last.action == "given" else "withdrawn"
        at, version = (last.at, last.version) if last else (None, "")
        counts = purpose in effective
        out.append(State(purpose=purpose, answer=answer, at=at, version=version, asked=counts, history=mine))
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
        now = next(state for state in states(unit, user, clinic.policy) if state.purpose == purpose)
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
