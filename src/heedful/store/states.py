"""Legal changes of state, as data. What is not in a table is refused, whoever asks.

>>> check_thread("ai_assisted", "risk_held", person=False, reason=False)
>>> check_draft("rejected", "approved", person=True, reason=True)
Traceback (most recent call last):
    ...
heedful.errors.TransitionError: A draft cannot go from 'rejected' to 'approved'; that state is final.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from heedful.errors import DataError, TransitionError, nearest, shown

Role = Literal["help_seeker", "clinician", "supervisor", "annotator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
DECIDERS: Final[frozenset[str]] = frozenset({"clinician", "supervisor"})
"""Roles that may decide drafts, own conversations and lower a risk."""

ThreadState = Literal["ai_assisted", "risk_held", "human_owned", "closed"]
DraftState = Literal["drafted", "approved", "edited", "rejected", "expired"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
Purpose = Literal["care", "recording", "quality_review", "training", "research"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
ConsentAction = Literal["given", "withdrawn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One legal change.

    Args:
        who: `person` = only a clinician or supervisor; `anyone` = programs too.
        reason: whether words must say why.
    """

    who: Literal["anyone", "person"] = "anyone"
    reason: Literal["needed", "optional"] = "optional"


THREAD_STEPS: Final[dict[tuple[str, str], Step]] = {
    ("ai_assisted", "risk_held"): Step(),
    ("ai_assisted", "human_owned"): Step(who="person"),
    ("ai_assisted", "closed"): Step(who="person", reason="needed"),
    ("risk_held", "human_owned"): Step(who="person"),
    ("human_owned", "ai_assisted"): Step(who="person", reason="needed"),
    ("human_owned", "risk_held"): Step(),
    ("human_owned", "closed"): Step(who="person", reason="needed"),
}
"""A held conversation is closed or given back only after a person took it. What is closed stays closed."""

DRAFT_STEPS: Final[dict[tuple[str, str], Step]] = {
    ("drafted", "approved"): Step(who="person"),
    ("drafted", "edited"): Step(who="person"),
    ("drafted", "rejected"): Step(who="person", reason="needed"),
    ("drafted", "expired"): Step(),
}

JOB_STEPS: Final[dict[tuple[str, str], Step]] = {
    ("queued", "running"): Step(),
    ("queued", "cancelled"): Step(),
    ("running", "running"): Step(),
    ("running", "queued"): Step(),
    ("running", "done"): Step(),
    ("running", "failed"): Step(),
    ("running", "cancelled"): Step(),
}
"""`running` to `running` is a job of a killed worker that another one takes."""


def check_thread(now: str, to: str, *, person: bool, reason: bool) -> None:
    """Refuse what `THREAD_STEPS` does not have.

    Raises:
        TransitionError: no such step, a program where a person is needed, or no reason where one is needed.
    """
    _check("conversation", THREAD_STEPS, now, to, person=person, reason=reason)


def check_draft(now: str, to: str, *, person: bool, reason: bool) -> None:
    """Refuse what `DRAFT_STEPS` does not have.

    Raises:
        TransitionError: as for `check_thread`.
    """
    _check("draft", DRAFT_STEPS, now, to, person=person, reason=reason)


def check_job(now: str, to: str) -> None:
    """Refuse what `JOB_STEPS` does not have.

    Raises:
        TransitionError: no such step.
    """
    _check("job", JOB_STEPS, now, to, person=False, reason=False)


def check_word(value: object, known: tuple[str, ...], what: str) -> None:
    """Refuse a value that is not one of `known`.

    Raises:
        DataError: it is not.
    """
    if value not in known:
        hint = nearest(value, known) if isinstance(value, str) else ""
        raise DataError(f"{what} must be one of {', '.join(known)}, but it is {shown(value)}.{hint}")


def _check(what: str, steps: dict[tuple[str, str], Step], now: str, to: str, *, person: bool, reason: bool) -> None:
    step = steps.get((now, to))
    if step is None:
        ways = [there for here, there in steps if here == now]
        onward = f"from there it goes to {' or '.join(ways)}" if ways else "that state is final"
        raise TransitionError(f"A {what} cannot go from {shown(now)} to {shown(to)}; {onward}.")
    if step.who == "person" and not person:
        raise TransitionError(f"Only a clinician or supervisor can bring a {what} from {shown(now)} to {shown(to)}.")
    if step.reason == "needed" and not reason:
        raise TransitionError(f"To bring a {what} from {shown(now)} to {shown(to)}, say the reason.")
