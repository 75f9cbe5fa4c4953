"""Layer 3 of the crisis path: what is known about the risk of a conversation, and what happens next.

`step(state, event, now)` is a pure function: it gives the next state and a list of actions, as data. It needs no model,
no network and no clock of its own. What it guarantees (`tests/unit/test_crisis_state.py` tries it with random orders):

- Words and models can only raise a level. Only a person lowers it, with a name and a reason.
- A denial closes nothing: resources stay open, it is asked once more later in other words, and a person looks.
- No question is asked twice without a new reason, and none after a clear refusal.
- A clock that is put back does no harm: what is due stays as near as it was.

>>> from datetime import datetime, timezone
>>> from heedful.safety import crisis
>>> now = datetime(2026, 1, 1, tzinfo=timezone.utc)
>>> state, actions = step(State(), Said(assessment=crisis.assess("I am going to kill myself tonight.")), now)
>>> state.thread, state.tier
('risk_held', 'immediate')
>>> [type(action).__name__ for action in actions]
['ShowResources', 'InterruptCard', 'HoldThread', 'QueueTakeover', 'Say', 'Ask', 'Log']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from heedful.errors import ConfigError, DataError, TransitionError, shown
from heedful.safety.crisis import BEHAVIOURS, TIERS, Assessment, Behaviour, Tier, assess
from heedful.safety.events import (
    RUNGS,
    STEPS,
    THREADS,
    Action,
    Ask,
    Believed,
    Closed,
    Confirmed,
    Event,
    FollowedUp,
    FollowUp,
    FollowUpSet,
    GivenBack,
    Held,
    HoldThread,
    InterruptCard,
    Log,
    Looked,
    Lowered,
    Question,
    QueueTakeover,
    Raised,
    Rung,
    Said,
    Say,
    Setting,
    ShowResources,
    TakenOver,
    Thread,
    Tick,
)


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
    accepted: Rung = "none"
    language: str = "en"

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


def step(
    state: State, event: Event, now: datetime, *, setting: Setting | None = None
) -> tuple[State, tuple[Action, ...]]:
    """The next state, and what has to be done.

    Args:
        now: with a time zone. Where it lies before the state's clock, that was put back: what is due moves with it.

    Raises:
        TransitionError: a change that `STEPS` does not have, or that lacks a name or a reason.
        ConfigError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ConfigError("The time of a crisis event needs a time zone.")
    run = _Run(state=_at(state, now), now=now, setting=setting or Setting())
    if run.setting.on_duty:
        run.set(nobody_said_at=None)
    _HANDLERS[type(event)](run, event)
    return run.state, tuple(run.actions)


def _at(state: State, now: datetime) -> State:
    """The state at a time. After a clock was put back, so are all times that were counted by it.

    Time that went by stays gone: a takeover that was due in four minutes is due in four minutes. A follow-up is a time
    of the calendar that a person named, and stays.
    """
    if state.clock is None or now >= state.clock:
        return replace(state, clock=now)
    back = state.clock - now
    moved = {name: getattr(state, name) for name in _TIMES - {"clock", "follow_up_at"}}
    return replace(state, clock=now, **{name: at - back for name, at in moved.items() if at is not None})


@dataclass(kw_only=True)
class _Run:
    """One step on its way."""

    state: State
    now: datetime
    setting: Setting
    actions: list[Action] = field(default_factory=list)

    def set(self, **values: Any) -> None:
        self.state = replace(self.state, **values)

    def do(self, *actions: Action) -> None:
        self.actions += actions

    def log(self, event: str, **more: str | int | bool) -> None:
        self.do(Log(event=event, facts={"tier": self.state.tier, "thread": self.state.thread, **more}))

    def move(self, to: Thread) -> None:
        now = self.state.thread
        if (now, to) not in STEPS:
            ways = " or ".join(there for here, there in STEPS if here == now)
            onward = f"from there it goes to {ways}" if ways else "that state is final"
            raise TransitionError(f"A conversation cannot go from '{now}' to '{to}'; {onward}.")
        self.set(thread=to)

    def named(self, by: str, reason: str | None = None, *, what: str) -> None:
        if not by.strip():
            raise TransitionError(f"To {what}, say who does it.")
        if reason is not None and not reason.strip():
            raise TransitionError(f"To {what}, say the reason.")

    # ------------------------------------------------------------------ parts of what follows a sign

    @property
    def speaks(self) -> bool:
        """Whether fixed texts go to the help-seeker: not while a person talks with them, nor after the end."""
        return self.state.thread not in ("human_owned", "closed")

    def say(self, id: Literal["held", "nobody-on-duty", "after-denial"]) -> None:
        if self.speaks:
            self.do(Say(id=id, language=self.state.language))

    def show_resources(self) -> None:
        audience = "harm-from-others" if "harm-from-others" in self.state.classes else "anyone"
        self.set(resources_open=True)
        self.do(ShowResources(country=self.setting.country, language=self.state.language, audience=audience))

    def queue(self, kind: Literal["takeover", "look"], *, overdue: bool = False) -> None:
        minutes = self.setting.response_minutes if kind == "takeover" else self.setting.look_minutes
        due = self.now + timedelta(minutes=minutes)
        if self.state.due_at is not None:  # the clock that runs is never set back
            due = min(due, self.state.due_at) if not overdue else self.state.due_at
        self.set(due_at=due, reminded_at=self.now)
        self.do(QueueTakeover(kind=kind, due=due, overdue=overdue, facts=facts(self.state, self.now)))
        if not overdue:
            self.say_nobody()

    def say_nobody(self) -> None:
        """Once in a stretch of hours in which nobody is on duty."""
        told, since = self.state.nobody_said_at, self.setting.nobody_since
        if self.setting.on_duty or not self.speaks or (told is not None and (since is None or told >= since)):
            return
        self.set(nobody_said_at=self.now)
        self.say("nobody-on-duty")

    def ask(self, question: Question | None) -> None:
        """Ask, unless a person does, it was asked at this tier already, or the help-seeker does not want to be."""
        if question is None or not self.speaks:
            return
        rank = TIERS.index(self.state.tier)
        before = [TIERS.index(a.tier) for a in self.state.asked if a.question == question]
        if (before and max(before) >= rank) or self.state.refused:
            return
        self.set(asked=(*self.state.asked, Asked(question=question, at=self.now, tier=self.state.tier)))
        self.do(Ask(question=question, language=self.state.language))

    def question(self, found: Assessment) -> Question | None:
        """What to ask after this message: never what was just said, nor what is known."""
        classes = set(found.classes)
        if "unsafe" in self.state.classes:
            return None  # that somebody is not safe was said; a person comes
        if "harm-from-others" in classes:
            return "others-safe"
        if "harm-to-others" in classes:
            return "harm-others"
        if "someone-else" in classes and found.level <= 1:
            return "someone-else"
        if found.level >= 2 or found.behaviour != "none" or found.tier == "immediate":
            return "safe-now"
        return None if self.state.level >= 2 or self.state.tier == "immediate" else "thoughts"

    def again(self) -> None:
        """After a denial: once more, later, in other words."""
        if self.state.again_at is None or self.state.refused or self.state.tier == "none" or not self.speaks:
            return
        turns = self.state.again_in is not None and self.state.again_in <= 0
        if turns or self.now >= self.state.again_at:
            self.set(again_at=None, again_in=None)
            self.ask("thoughts-again")


def _said(run: _Run, event: Said) -> None:
    found, before = event.assessment, run.state
    if found.heard_language:
        run.set(language=found.language)
    if before.again_in is not None:
        run.set(again_in=before.again_in - 1)
    tier = higher(found.tier, event.tier, TIERS)
    if found.overflow and tier == "none":
        # Too much to read for the rules: no sign, and no all-clear either.
        run.queue("look")
    asked = bool(before.asked)
    if found.refused and asked and not before.refused:
        # Before anything that a sign of the same message asks for: nobody is asked right after that.
        run.set(refused=True, again_at=None, again_in=None)
        if run.speaks:
            run.queue("look")
    _note(run, found, tier, event.rung)
    if tier != "none":
        _respond(run, found, before, higher(event.rung, _own(found, tier), RUNGS))
    if found.denied and not (found.refused and asked) and (asked or before.tier != "none"):
        _denied(run)
    run.again()
    if found.matches or found.overflow or tier != "none" or run.state.denials != before.denials:
        run.log(
            "said",
            level=found.level,
            behaviour=found.behaviour,
            rules=", ".join(found.rules),
            versions=", ".join(f"{k} {v}" for k, v in found.versions.items()),
            rung=run.state.rung,
            overflow=found.overflow,
        )


def _own(found: Assessment, tier: Tier) -> Rung:
    """The rung of this message alone."""
    return rung_of(tier, found.level, found.behaviour)


def _note(run: _Run, found: Assessment, own: Tier, rung: Rung) -> None:
    """Put what was heard into the state; nothing in it goes down.

    Args:
        own: the tier of what was heard now.
    """
    state = run.state
    signs, tier = own != "none", higher(state.tier, own, TIERS)
    confirmed = state.confirmed or found.affirmed
    level = max(state.level, found.level)
    behaviour = higher(state.behaviour, found.behaviour, BEHAVIOURS)
    least = rung_of(tier, level, behaviour, confirmed=confirmed)
    run.set(
        tier=tier,
        highest=higher(state.highest, tier, TIERS),
        level=level,
        behaviour=behaviour,
        confirmed=confirmed,
        rung=higher(state.rung, higher(rung, least, RUNGS) if signs else "none", RUNGS),
        classes=tuple(dict.fromkeys((*state.classes, *found.classes))),
        first_at=state.first_at or (run.now if signs else None),
        last_at=run.now if signs else state.last_at,
    )


def _respond(run: _Run, found: Assessment, before: State, own: Rung) -> None:
    """What a sign in this message asks for.

    Args:
        own: rung of this message alone. It counts where a person accepted what was known and gave the talk back.
    """
    state = run.state
    run.show_resources()
    asks = state.rung if RUNGS.index(state.rung) > RUNGS.index(state.accepted) else own
    urgent = RUNGS.index(asks) >= RUNGS.index("warm-handover")
    if asks == "emergency":
        run.do(InterruptCard(country=run.setting.country, language=state.language))
    if urgent and state.thread == "ai_assisted":
        run.move("risk_held")
        run.do(HoldThread())
        run.queue("takeover")
        if run.setting.on_duty:  # the other text says that nobody is there, and where somebody is
            run.say("held")
    elif state.thread in ("human_owned", "closed") or state.rung != before.rung or state.due_at is None:
        # Its owner, or somebody where it is closed or not held, learns of a new sign.
        run.queue("takeover" if urgent else "look")
    run.say_nobody()
    if before.refused and not found.refused and TIERS.index(state.tier) > TIERS.index(before.tier):
        run.set(refused=False)  # a new and graver sign is a reason to ask
    if found.level >= 2:
        run.set(again_at=None, again_in=None)  # what would be asked once more was just said
    run.ask(run.question(found))


def _denied(run: _Run) -> None:
    """One denial does not close it."""
    run.set(denials=run.state.denials + 1)
    run.say("after-denial")
    if run.state.tier == "none" or run.state.thread == "human_owned":
        # A person reads it; or it was asked without a sign, for instance by a person. The answer stands in the log.
        return
    if not run.state.resources_open:
        run.show_resources()
    run.queue("look")
    again = any(item.question == "thoughts-again" for item in run.state.asked)
    if not again and run.state.again_at is None and not run.state.refused:
        later = run.now + timedelta(minutes=run.setting.again_minutes)
        run.set(again_at=later, again_in=run.setting.again_turns)


def _believed(run: _Run, event: Believed) -> None:
    """What rules found in this message is in the state already; a model adds what lies above that, or nothing."""
    before = run.state
    above = TIERS.index(event.tier) > TIERS.index(before.tier) or RUNGS.index(event.rung) > RUNGS.index(before.rung)
    if event.tier == "none" or not above:
        return
    nothing = replace(assess(""), language=before.language)  # its words were heard; they are not heard twice
    _note(run, nothing, event.tier, event.rung)
    _respond(run, nothing, before, higher(event.rung, _own(nothing, event.tier), RUNGS))
    run.log("believed", rules=event.model, rung=run.state.rung)


def _tick(run: _Run, event: Tick) -> None:
    run.again()
    state = run.state
    if state.due_at is not None and run.now >= state.due_at:
        every = timedelta(minutes=run.setting.response_minutes)
        if state.reminded_at is None or state.reminded_at < state.due_at or run.now - state.reminded_at >= every:
            run.queue("takeover" if state.thread == "risk_held" else "look", overdue=True)
            run.log("overdue", minutes=int((run.now - state.due_at).total_seconds() // 60))
    if state.follow_up_at is not None and run.now >= state.follow_up_at:
        run.do(FollowUp(due=state.follow_up_at, by=state.owner or ""))


def _raised(run: _Run, event: Raised) -> None:
    run.named(event.by, event.reason, what="raise a level")
    if TIERS.index(event.tier) <= TIERS.index(run.state.tier):
        raise TransitionError(f"The level is '{run.state.tier}' already; to lower it, say so.")
    state = run.state
    least = rung_of(event.tier, state.level, state.behaviour, confirmed=True)
    run.set(
        tier=event.tier,
        highest=higher(state.highest, event.tier, TIERS),
        rung=higher(state.rung, least, RUNGS),
        confirmed=True,
        first_at=state.first_at or run.now,
        last_at=run.now,
    )
    run.show_resources()
    if event.tier == "immediate" and state.thread == "ai_assisted":
        run.move("risk_held")
        run.do(HoldThread())
        run.queue("takeover")
    run.log("raised", by=event.by)


def _lowered(run: _Run, event: Lowered) -> None:
    run.named(event.by, event.reason, what="lower a level")
    if TIERS.index(event.tier) >= TIERS.index(run.state.tier):
        raise TransitionError(f"The level is '{run.state.tier}'; '{event.tier}' is not lower.")
    before = run.state.tier
    # `highest` stays: history is not rewritten.
    run.set(tier=event.tier, rung=rung_of(event.tier, 1, "none"), level=min(run.state.level, 1), behaviour="none")
    run.set(accepted="none")
    if event.tier == "none":
        run.set(level=0, again_at=None, again_in=None)
        if run.state.thread != "risk_held":  # who is held still waits for a person
            run.set(due_at=None, reminded_at=None)
    run.log("lowered", by=event.by, before=before)


def _confirmed(run: _Run, event: Confirmed) -> None:
    run.named(event.by, what="confirm a level")
    run.set(confirmed=True)
    run.log("confirmed", by=event.by)


def _held(run: _Run, event: Held) -> None:
    run.named(event.by, event.reason, what="hold a conversation")
    run.move("risk_held")
    run.set(owner=None)
    run.do(HoldThread())
    run.queue("takeover")
    run.log("held", by=event.by)


def _taken(run: _Run, event: TakenOver) -> None:
    run.named(event.by, what="take a conversation over")
    late = run.state.due_at is not None and run.now > run.state.due_at
    run.move("human_owned")
    run.set(owner=event.by, due_at=None, reminded_at=None, again_at=None, again_in=None)
    run.log("taken-over", by=event.by, late=late)


def _given_back(run: _Run, event: GivenBack) -> None:
    run.named(event.by, event.reason, what="give a conversation back")
    if run.state.tier == "immediate":
        raise TransitionError("A conversation at 'immediate' is not given back; a person lowers the level first.")
    run.move("ai_assisted")
    run.set(owner=None, accepted=run.state.rung)
    run.log("given-back", by=event.by)


def _follow_up_set(run: _Run, event: FollowUpSet) -> None:
    run.named(event.by, what="set a follow-up")
    if event.at.tzinfo is None or event.at <= run.now:
        raise TransitionError("A follow-up needs a time in the future, with a time zone.")
    run.set(follow_up_at=event.at)
    run.do(FollowUp(due=event.at, by=event.by))
    run.log("follow-up-set", by=event.by, at=event.at.isoformat())


def _followed_up(run: _Run, event: FollowedUp) -> None:
    run.named(event.by, what="note a follow-up")
    if run.state.follow_up_at is None:
        raise TransitionError("There is no follow-up to note; set one first.")
    run.set(follow_up_at=None)
    run.log("followed-up", by=event.by)


def _looked(run: _Run, event: Looked) -> None:
    run.named(event.by, what="note a look")
    if run.state.thread != "risk_held":
        run.set(due_at=None, reminded_at=None)
    run.log("looked", by=event.by)


def _closed(run: _Run, event: Closed) -> None:
    run.named(event.by, event.reason, what="close a conversation")
    if run.state.tier != "none" and run.state.thread != "human_owned":
        raise TransitionError("A conversation with an open risk is closed only by a person who took it over.")
    if run.state.follow_up_at is not None:
        raise TransitionError("A follow-up is open; note it or move it to another conversation before closing.")
    run.move("closed")
    run.set(due_at=None, reminded_at=None, again_at=None, again_in=None)
    run.log("closed", by=event.by)


_HANDLERS: Mapping[type[Any], Callable[[_Run, Any], None]] = {
    Said: _said,
    Believed: _believed,
    Tick: _tick,
    Raised: _raised,
    Lowered: _lowered,
    Confirmed: _confirmed,
    Held: _held,
    TakenOver: _taken,
    GivenBack: _given_back,
    FollowUpSet: _follow_up_set,
    FollowedUp: _followed_up,
    Looked: _looked,
    Closed: _closed,
}
