"""What can happen in a conversation, and what has to be done then: the words of the state machine, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, get_args

from heedful.errors import ConfigError
from heedful.safety.crisis import Assessment, Tier

Thread = Literal["ai_assisted", "risk_held", "human_owned", "closed"]
THREADS: tuple[Thread, ...] = get_args(Thread)
STEPS: Final[Mapping[tuple[Thread, Thread], str]] = {
    ("ai_assisted", "risk_held"): "a rule or a model noticed something, or a person holds it",
    ("ai_assisted", "human_owned"): "a person takes it",
    ("ai_assisted", "closed"): "a person closes it, with a reason, where no risk is open",
    ("risk_held", "human_owned"): "a person takes it",
    ("human_owned", "ai_assisted"): "a person gives it back, with a reason",
    ("human_owned", "risk_held"): "its owner leaves it to others on duty",
    ("human_owned", "closed"): "a person closes it, with a reason",
}
"""Legal changes of a conversation's state. What is not here is refused."""
Rung = Literal["none", "watch", "safety-plan", "warm-handover", "emergency"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
"""The action ladder, lowest first."""
Question = Literal["thoughts", "thoughts-again", "safe-now", "others-safe", "harm-others", "someone-else"]
QUESTIONS: tuple[Question, ...] = get_args(Question)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the clinic decides.

    Args:
        response_minutes: how long a takeover may wait; 15 is the anchor of the literature.
        look_minutes: how long a look by a person may wait where nothing is held.
        again_minutes, again_turns: after a denial, ask once more after so much time or so many messages.
        on_duty: whether somebody is there to take over now.
        nobody_since: since when nobody has been, where that is known: the help-seeker is told once in that time.
        country: whose crisis lines are shown.
    """

    response_minutes: int = 15
    look_minutes: int = 60
    again_minutes: int = 20
    again_turns: int = 3
    on_duty: bool = True
    nobody_since: datetime | None = None
    country: str = "US"

    def __post_init__(self) -> None:
        for name in ("response_minutes", "look_minutes", "again_minutes", "again_turns"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' must be at least 1, but it is {getattr(self, name)}.")


# ---------------------------------------------------------------------- events


@dataclass(frozen=True, kw_only=True)
class Said:
    """The help-seeker wrote something.

    Args:
        assessment: of that message, with the turn before it, so that a short answer is understood.
        rung, tier: what the decision rule (`heedful.safety.policy`) makes of this message, without what was known
            before: with a tier, the message has a sign of its own. They only raise.
    """

    assessment: Assessment
    rung: Rung = "none"
    tier: Tier = "none"


@dataclass(frozen=True, kw_only=True)
class Believed:
    """A classifier read a message that the rules had read before. It only raises.

    Args:
        tier, rung: what the decision rule makes of it.
        model: name and version, for the log.
    """

    tier: Tier
    rung: Rung
    model: str


@dataclass(frozen=True, kw_only=True)
class PersonAsked:
    """The help-seeker wants to reach a person: by the button, or in words."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Time went by."""


@dataclass(frozen=True, kw_only=True)
class Raised:
    """A person sees more risk than rules do."""

    by: str
    tier: Tier
    reason: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A person lowers the level, for instance after a misunderstanding was explained."""

    by: str
    tier: Tier
    reason: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A person has spoken with the help-seeker and confirms the level."""

    by: str


@dataclass(frozen=True, kw_only=True)
class Held:
    """A person holds the conversation; its owner leaves it to whoever is on duty."""

    by: str
    reason: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class TakenOver:
    """A person takes the conversation."""

    by: str


@dataclass(frozen=True, kw_only=True)
class GivenBack:
    """Its owner gives the conversation back to assisted care."""

    by: str
    reason: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class FollowUpSet:
    """A person sets the time of a follow-up."""

    by: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class FollowedUp:
    """A person did the follow-up."""

    by: str


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A person did what waited: a look, or an answer of the owner. The clock of a held conversation goes on.

    Args:
        what: whether a look was done, or the wish for a person met, or both.
    """

    by: str
    what: Literal["everything", "look", "person"] = "everything"


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A person closes the conversation."""

    by: str
    reason: str = field(repr=False)


Event = (
    Said
    | Believed
    | PersonAsked
    | Tick
    | Raised
    | Lowered
    | Confirmed
    | Held
    | TakenOver
    | GivenBack
    | FollowUpSet
    | FollowedUp
    | Looked
    | Closed
)


# ---------------------------------------------------------------------- actions


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Put this question to the help-seeker, in the words of `heedful.safety.texts`."""

    question: Question
    language: str


@dataclass(frozen=True, kw_only=True)
class ShowResources:
    """Show the crisis lines, and leave them open."""

    country: str
    language: str
    audience: str = "anyone"


@dataclass(frozen=True, kw_only=True)
class InterruptCard:
    """A card that cannot be scrolled past: emergency number, crisis line, one next step."""

    country: str
    language: str


@dataclass(frozen=True, kw_only=True)
class HoldThread:
    """No draft is made and none is sent until a person took the conversation."""


@dataclass(frozen=True, kw_only=True)
class QueueTakeover:
    """A person is told: to take the conversation over, or to look at it. `facts` is the summary; it holds no words."""

    kind: Literal["takeover", "look"]
    due: datetime
    overdue: bool
    facts: Mapping[str, str | int | bool]


@dataclass(frozen=True, kw_only=True)
class QueuePerson:
    """A person is told that somebody wants to reach one.

    Args:
        owner: who has the conversation; None = whoever is on duty.
    """

    due: datetime
    owner: str | None


Saying = Literal["held", "nobody-on-duty", "after-denial", "owner-told", "next-told"]


@dataclass(frozen=True, kw_only=True)
class Say:
    """Show the text `id` of `heedful.safety.texts` to the help-seeker."""

    id: Saying
    language: str


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """Make a task for a person at this time."""

    due: datetime
    by: str


@dataclass(frozen=True, kw_only=True)
class Log:
    """One line for the audit: what happened, levels, rules and versions, who. No words of anybody."""

    event: str
    facts: Mapping[str, str | int | bool]


Action = Ask | ShowResources | InterruptCard | HoldThread | QueueTakeover | QueuePerson | Say | FollowUp | Log
