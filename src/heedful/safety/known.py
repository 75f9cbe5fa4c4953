"""The record of what is known about the risk of one conversation; `heedful.safety.state` says how it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from heedful.errors import DataError, shown
from heedful.safety.crisis import BEHAVIOURS, TIERS, Behaviour, Tier
from heedful.safety.events import RUNGS, THREADS, Question, Rung, Thread


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question that was asked, and at which tier."""

    question: Question
    at: datetime
    tier: Tier


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known about the risk of one conversation. `to_dict` and `from_dict` are its stored form.

    Args:
        thread: who answers: drafts with approval, nobody until a person comes, a person, or it is closed.
        tier, highest: now, and the highest there ever was.
        level, behaviour: highest rung of ideation and gravest behaviour that were said.
        rung: highest action that was asked for since a person last lowered the level.
        classes: of crisis rules, all that were found so far.
        confirmed: the help-seeker said yes to a plain question, or a person confirmed the level.
        denials: how often it was denied; `refused`: the help-seeker does not want to be asked.
        asked: questions so far, in order; `again_at`, `again_in`: when, or after how many messages, the one more comes.
        first_at, last_at: first and last sign. `clock`: the latest time that was seen.
        due_at: response clock of the takeover or look that waits; `reminded_at`: when people were last told.
        follow_up_at: the next follow-up.
        nobody_said_at: when the help-seeker was last told that nobody is on duty; forgotten in duty hours.
        person_at: since when the help-seeker waits for the person whom they asked for; None = they do not.
        person_due_at: by when that person is to react. person_passed: whether somebody else was told since.
        person_said_at: when the help-seeker was last told what follows.
        accepted: the rung at which a person gave the conversation back; only more than that holds it again.
        language: the help-seeker's.
    """

    thread: Thread = "ai_assisted"
    tier: Tier = "none"
    highest: Tier = "none"
    level: int = 0
    behaviour: Behaviour = "none"
    rung: Rung = "none"
    classes: tuple[str, ...] = ()
    confirmed: bool = False
    denials: int = 0
    refused: bool = False
    asked: tuple[Asked, ...] = ()
    again_at: datetime | None = None
    again_in: int | None = None
    resources_open: bool = False
    owner: str | None = None
    first_at: datetime | None = None
    last_at: datetime | None = None
    clock: datetime | None = None
    due_at: datetime | None = None
    reminded_at: datetime | None = None
    follow_up_at: datetime | None = None
    nobody_said_at: datetime | None = None
    person_at: datetime | None = None
    person_due_at: datetime | None = None
    person_said_at: datetime | None = None
    person_passed: bool = False
    accepted: Rung = "none"
    language: str = "en"

    @property
    def passes_on_at(self) -> datetime | None:
        """When somebody else is told that the owner of this conversation does not react; None = nothing waits."""
        waits = self.thread == "human_owned" and not self.person_passed
        return self.person_due_at if waits else None

    @property
    def risk_level(self) -> int:
        """The tier as a number, 0 to 2, as the store keeps it."""
        return TIERS.index(self.tier)

    @property
    def risk_highest(self) -> int:
        """The highest tier as a number, 0 to 2."""
        return TIERS.index(self.highest)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> State:
        """Back from `to_dict`.

        Raises:
            DataError: it is not such a record.
        """
        try:
            values = {key: _read(key, value) for key, value in found.items()}
            state = cls(**values)
        except (TypeError, ValueError, KeyError) as err:
            raise DataError("A stored risk state is damaged; a person has to look at this conversation.") from err
        words = ((state.thread, THREADS), (state.tier, TIERS), (state.highest, TIERS), (state.rung, RUNGS))
        for value, known in (*words, (state.behaviour, BEHAVIOURS), (state.accepted, RUNGS)):
            if value not in known:
                raise DataError(f"A stored risk state holds {shown(value)} where one of {', '.join(known)} belongs.")
        return state


_TIMES = {"again_at", "first_at", "last_at", "clock", "due_at", "reminded_at", "follow_up_at", "nobody_said_at"}
_TIMES |= {"person_at", "person_due_at", "person_said_at"}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Asked):
        return {"question": value.question, "at": value.at.isoformat(), "tier": value.tier}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read(key: str, value: Any) -> Any:
    if key in _TIMES and value is not None:
        return datetime.fromisoformat(value)
    if key == "asked":
        return tuple(Asked(question=v["question"], at=datetime.fromisoformat(v["at"]), tier=v["tier"]) for v in value)
    return tuple(value) if isinstance(value, list) else value


def rung_of(tier: Tier, level: int, behaviour: Behaviour, *, confirmed: bool = False) -> Rung:
    """The lowest action that a state may have: the C-SSRS ladder mapped to four actions (decision 0045).

    >>> [rung_of("thoughts", level, "none") for level in (1, 2, 3)]
    ['watch', 'safety-plan', 'safety-plan']
    >>> rung_of("immediate", 4, "none"), rung_of("immediate", 5, "none")
    ('warm-handover', 'emergency')
    """
    if tier == "none":
        return "none"
    if tier == "immediate":
        return "emergency" if level >= 5 or behaviour in ("attempt", "preparation") else "warm-handover"
    if confirmed and level >= 3:
        return "warm-handover"
    return "safety-plan" if level >= 2 or behaviour != "none" or confirmed else "watch"


def facts(state: State, now: datetime) -> dict[str, str | int | bool]:
    """The short summary for whoever takes over: facts only, no words of the conversation."""
    since = 0 if state.first_at is None else int((now - state.first_at).total_seconds() // 60)
    return {
        "tier": state.tier,
        "highest": state.highest,
        "level": state.level,
        "behaviour": state.behaviour,
        "rung": state.rung,
        "classes": ", ".join(state.classes),
        "confirmed": state.confirmed,
        "denials": state.denials,
        "refused": state.refused,
        "questions": len(state.asked),
        "minutes_since_first_sign": max(0, since),
        "language": state.language,
    }


def higher(one: Any, other: Any, order: tuple[Any, ...]) -> Any:
    """The one that stands later in `order`."""
    return max(one, other, key=order.index)


def at(state: State, now: datetime) -> State:
    """The state at a time. After a clock was put back, so are all times that were counted by it.

    Time that went by stays gone: a takeover that was due in four minutes is due in four minutes. A follow-up is a time
    of the calendar that a person named, and stays.
    """
    if state.clock is None or now >= state.clock:
        return replace(state, clock=now)
    back = state.clock - now
    moved = {name: getattr(state, name) for name in _TIMES - {"clock", "follow_up_at"}}
    return replace(state, clock=now, **{name: at - back for name, at in moved.items() if at is not None})
