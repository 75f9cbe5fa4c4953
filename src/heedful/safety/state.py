"""Layer 3 of the crisis path: what is known about the risk of a conversation, and what happens next.

`step(state, event, now)` is a pure function: it gives the next state and a list of actions, as data. It needs no model,
no network and no clock of its own. What it guarantees (`tests/unit/test_crisis_state.py` tries it with random orders):

- Words and models can only raise a level. Only a person lowers it, with a name and a reason.
- A denial closes nothing: resources stay open, it is asked once more later in other words, and a person looks.
- No question is asked twice without a new reason, and none after a clear refusal.
- Who asks for a person is told what follows; where the owner does not react, somebody else is told.
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
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from heedful.errors import ConfigError, TransitionError
from heedful.safety.crisis import BEHAVIOURS, TIERS, Assessment, Tier, assess
from heedful.safety.events import (
    RUNGS,
    STEPS,
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
    PersonAsked,
    Question,
    QueuePerson,
    QueueTakeover,
    Raised,
    Rung,
    Said,
    Say,
    Saying,
    Setting,
    ShowResources,
    TakenOver,
    Thread,
    Tick,
)
from heedful.safety.known import Asked, State, at, facts, higher, rung_of

__all__ = ["Asked", "State", "facts", "higher", "rung_of", "step"]


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
    run = _Run(state=at(state, now), now=now, setting=setting or Setting())
    if run.setting.on_duty:
        run.set(nobody_said_at=None)
    _HANDLERS[type(event)](run, event)
    return run.state, tuple(run.actions)


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

    def reacted(self) -> None:
        """A person is there for who asked for one."""
        self.set(person_at=None, person_due_at=None, person_said_at=None, person_passed=False)

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

    def say(self, id: Saying) -> None:
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


def _person_asked(run: _Run, event: PersonAsked) -> None:
    """Who asks is told what follows, and somebody is told. A held conversation waits for a person already."""
    state = run.state
    if state.thread in ("risk_held", "closed"):
        return
    quiet = timedelta(minutes=run.setting.response_minutes)
    if state.person_at is None:
        due = run.now + quiet
        run.set(person_at=run.now, person_due_at=due, person_passed=False)
        run.do(QueuePerson(due=due, owner=state.owner))
        run.log("person-asked")
    if state.thread != "human_owned":  # there the page says it, and a text of the program would be no answer
        return
    if state.person_said_at is None or run.now - state.person_said_at >= quiet:
        run.set(person_said_at=run.now)
        told: Saying = "next-told" if state.person_passed else "owner-told"
        if not run.setting.on_duty:
            run.set(nobody_said_at=run.now)
            told = "nobody-on-duty"
        # The one text that the program says in a conversation that a person has: it was asked for.
        run.do(Say(id=told, language=state.language))


def _pass_on(run: _Run) -> None:
    """Its owner does not react: the next person is told, once."""
    due = run.state.passes_on_at
    if due is not None and run.now >= due:
        run.set(person_passed=True)
        run.do(QueuePerson(due=run.now + timedelta(minutes=run.setting.response_minutes), owner=None))
        run.log("person-waits")


def _tick(run: _Run, event: Tick) -> None:
    run.again()
    _pass_on(run)
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
    run.reacted()  # now it waits for anybody, with the clock of a handover
    run.do(HoldThread())
    run.queue("takeover")
    run.log("held", by=event.by)


def _taken(run: _Run, event: TakenOver) -> None:
    run.named(event.by, what="take a conversation over")
    late = run.state.due_at is not None and run.now > run.state.due_at
    run.move("human_owned")
    run.set(owner=event.by, due_at=None, reminded_at=None, again_at=None, again_in=None)
    run.reacted()
    run.log("taken-over", by=event.by, late=late)


def _given_back(run: _Run, event: GivenBack) -> None:
    run.named(event.by, event.reason, what="give a conversation back")
    if run.state.tier == "immediate":
        raise TransitionError("A conversation at 'immediate' is not given back; a person lowers the level first.")
    run.move("ai_assisted")
    run.set(owner=None, accepted=run.state.rung)
    state = run.state
    if state.person_at is not None and not state.person_passed:
        # Who asked for a person still waits for one, and whoever was told is gone: now it is anybody's.
        run.set(person_passed=True)
        run.do(QueuePerson(due=state.person_due_at or run.now, owner=None))
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
    if event.what != "person" and run.state.thread != "risk_held":
        run.set(due_at=None, reminded_at=None)
    if event.what != "look":
        run.reacted()
    run.log("looked", by=event.by)


def _closed(run: _Run, event: Closed) -> None:
    run.named(event.by, event.reason, what="close a conversation")
    if run.state.tier != "none" and run.state.thread != "human_owned":
        raise TransitionError("A conversation with an open risk is closed only by a person who took it over.")
    if run.state.follow_up_at is not None:
        raise TransitionError("A follow-up is open; note it or move it to another conversation before closing.")
    run.move("closed")
    run.set(due_at=None, reminded_at=None, again_at=None, again_in=None)
    run.reacted()
    run.log("closed", by=event.by)


_HANDLERS: Mapping[type[Any], Callable[[_Run, Any], None]] = {
    Said: _said,
    Believed: _believed,
    PersonAsked: _person_asked,
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
