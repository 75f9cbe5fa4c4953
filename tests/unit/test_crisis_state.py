"""The state machine of risk: scripted conversations, illegal changes, and random orders of events."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heedful.errors import ConfigError, DataError, NotFoundError, TransitionError
from heedful.safety import crisis, events, texts
from heedful.safety import state as machine
from heedful.safety.crisis import TIERS, Assessment
from heedful.safety.events import (
    RUNGS,
    Action,
    Ask,
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
    QueuePerson,
    QueueTakeover,
    Raised,
    Said,
    Say,
    Setting,
    ShowResources,
    TakenOver,
    Tick,
)
from heedful.safety.person import asks_for_person, cases
from heedful.safety.state import State, facts, rung_of, step
from heedful.store.states import THREAD_STEPS
from heedful.types import Turn

START = datetime(2026, 5, 4, 22, 0, tzinfo=UTC)
NIGHT = Setting(on_duty=False)


class Talk:
    """A conversation that goes through the machine, minute by minute."""

    def __init__(self, setting: Setting | None = None) -> None:
        self.state, self.now, self.setting = State(), START, setting or Setting()
        self.asked: str | None = None

    def on(self, event: Event, *, minutes: float = 1) -> tuple[Action, ...]:
        self.now += timedelta(minutes=minutes)
        self.state, actions = step(self.state, event, self.now, setting=self.setting)
        self.asked = next((texts.load("en").question(a.question) for a in actions if isinstance(a, Ask)), None)
        return actions

    def says(self, text: str, *, minutes: float = 1) -> tuple[Action, ...]:
        before = [Turn(role="assistant", text=self.asked)] if self.asked else []
        return self.on(Said(assessment=crisis.assess([*before, Turn(role="user", text=text)])), minutes=minutes)


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions]


def of(kind: type[Any], actions: tuple[Action, ...]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


# ---------------------------------------------------------------------- scripted conversations


def test_everyday_talk_asks_for_nothing() -> None:
    talk = Talk()
    assert talk.says("My boss is killing me with this deadline.") == ()
    assert talk.state.tier == "none"
    assert not talk.state.resources_open


def test_one_denial_does_not_close_it() -> None:
    """Requirement 5: acknowledged, resources stay open, asked once more later in other words, a person looks."""
    talk = Talk()
    first = talk.says("I'm just a burden to everyone.")
    assert [a.question for a in of(Ask, first)] == ["thoughts"]
    assert of(ShowResources, first)
    denied = talk.says("No.")
    assert [a.id for a in of(Say, denied)] == ["after-denial"]
    assert [a.kind for a in of(QueueTakeover, denied)] == ["look"]
    assert not of(Ask, denied), "not at once"
    assert talk.state.denials == 1
    assert talk.state.tier == "thoughts"
    assert talk.state.resources_open
    talk.says("Work was long.")
    talk.says("I ate something.")
    again = talk.says("And the weather is bad.")
    assert [a.question for a in of(Ask, again)] == ["thoughts-again"]
    assert texts.load("en").question("thoughts") != texts.load("en").question("thoughts-again")
    talk.says("no")
    for _ in range(10):
        assert not of(Ask, talk.says("We talk about something else.", minutes=30)), "once more, not more often"
    assert talk.state.denials == 2
    assert talk.state.tier == "thoughts"


def test_it_is_asked_again_after_a_time_too() -> None:
    talk = Talk()
    talk.says("There is no way out.")
    talk.says("no")
    assert not of(Ask, talk.on(Tick(), minutes=5))
    assert [a.question for a in of(Ask, talk.on(Tick(), minutes=20))] == ["thoughts-again"]


def test_a_yes_confirms_and_raises() -> None:
    talk = Talk()
    talk.says("I can't go on anymore.")
    assert talk.state.rung == "watch"
    talk.says("yes")
    assert talk.state.confirmed
    assert talk.state.level == 2
    assert talk.state.rung == "safety-plan"


def test_a_refusal_ends_the_asking_and_nothing_else() -> None:
    """Requirement 6: no question after a clear refusal, until there is a new and graver sign."""
    talk = Talk()
    talk.says("I can't go on anymore.")
    refused = talk.says("I don't want to talk about that.")
    assert talk.state.refused
    assert of(QueueTakeover, refused)
    for text in ("I am a burden.", "There is no way out.", "ok"):
        assert not of(Ask, talk.says(text, minutes=40))
    assert talk.state.resources_open
    assert [a.question for a in of(Ask, talk.says("I'm going to kill myself tonight."))] == ["safe-now"]


def test_the_same_question_needs_a_new_reason() -> None:
    talk = Talk()
    assert of(Ask, talk.says("I'm a burden to everyone."))
    assert not of(Ask, talk.says("I am such a burden."))
    assert not of(Ask, talk.says("I can't go on anymore."))


def test_immediate_holds_the_thread_and_starts_the_clock() -> None:
    """Requirement 11, and 9: nothing else is discussed until a person came."""
    talk = Talk()
    actions = talk.says("I'm going to kill myself tonight.")
    assert kinds(actions)[:4] == ["ShowResources", "InterruptCard", "HoldThread", "QueueTakeover"]
    queued = of(QueueTakeover, actions)[0]
    assert queued.due == talk.now + timedelta(minutes=15)
    assert queued.facts["level"] == 5
    assert [a.id for a in of(Say, actions)] == ["held"]
    assert talk.state.thread == "risk_held"
    assert not of(QueueTakeover, talk.on(Tick(), minutes=10))
    overdue = of(QueueTakeover, talk.on(Tick(), minutes=6))
    assert [a.overdue for a in overdue] == [True]
    assert not of(QueueTakeover, talk.on(Tick(), minutes=1)), "told once in a while, not with every tick"
    assert of(QueueTakeover, talk.on(Tick(), minutes=15))
    taken = talk.on(TakenOver(by="dana"))
    assert of(Log, taken)[0].facts["late"] is True
    assert (talk.state.thread, talk.state.owner) == ("human_owned", "dana")


def test_out_of_hours_says_so() -> None:
    """Requirement 17."""
    talk = Talk(NIGHT)
    said = [a.id for a in of(Say, talk.says("I'm going to kill myself tonight."))]
    assert said == ["nobody-on-duty"]
    words = texts.load("en").say("nobody-on-duty", line="988", emergency="911")
    assert "988" in words
    assert "Nobody" in words


def test_out_of_hours_is_said_once_until_somebody_was_there() -> None:
    talk = Talk(NIGHT)
    talk.says("I'm going to kill myself tonight.")
    rest: list[Action] = []
    for _ in range(100):
        rest += talk.on(Tick(), minutes=5)
    rest += talk.says("I want to die.")
    assert of(QueueTakeover, tuple(rest)), "people are reminded"
    assert not of(Say, tuple(rest)), "the help-seeker is not"
    talk.setting = Setting(on_duty=False, nobody_since=talk.now)
    assert [a.id for a in of(Say, talk.says("I took too many pills."))] == ["nobody-on-duty"], "another night"
    other = Talk(NIGHT)
    other.says("I'm a burden.")
    other.setting = Setting()
    other.on(Tick(), minutes=600)
    other.setting = NIGHT
    assert [a.id for a in of(Say, other.says("I want to kill myself tonight.", minutes=600))] == ["nobody-on-duty"]


def test_while_a_person_talks_the_program_is_silent() -> None:
    for setting in (Setting(), NIGHT):
        talk = Talk(setting)
        talk.says("I wish I was dead.")
        talk.on(TakenOver(by="dana"))
        talk.asked = texts.load("en").question("thoughts")
        for text in ("No, I'm not suicidal.", "ok", "we can talk", "about work", "I want to die.", "don't ask me that"):
            assert not of(Ask, actions := talk.says(text))
            assert not of(Say, actions)
            assert bool(of(QueueTakeover, actions)) == (text == "I want to die.")


@pytest.mark.parametrize(
    "messages",
    [
        ("My boyfriend hits me every day.", "No, he is here."),
        ("I'm going to kill myself tonight.", "We are drinking tea.", "She made soup."),
        ("I wish I was dead.", "stop asking me", "I had tea"),
        ("I'm a burden to everyone.", "stop asking me, I'm going to kill myself tonight"),
        ("I want to kill myself.", "I'm such a burden."),
    ],
)
def test_nothing_is_asked_that_was_answered_or_refused(messages: tuple[str, ...]) -> None:
    talk = Talk()
    assert of(Ask, talk.says(messages[0]))
    assert [of(Ask, talk.says(text)) for text in messages[1:]] == [[] for _ in messages[1:]]


@pytest.mark.parametrize("quiet", ["Ja", "ok", "No", "nein", "Danke", "🙂"])
def test_the_language_stays_until_words_say_otherwise(quiet: str) -> None:
    talk = Talk()
    talk.state = State(language="de")
    talk.says("Ich will mich heute Nacht umbringen.")
    talk.asked = None
    talk.says(quiet)
    assert talk.state.language == "de"
    talk.says("I would like to go on in English, if that is fine with you.")
    assert talk.state.language == "en"
    talk.says("Quiero morir.")
    assert talk.state.language == "es", "the rule that found something speaks it"


def test_what_a_person_accepted_holds_only_with_more() -> None:
    talk = Talk()
    method = Said(assessment=crisis.assess("How do I kill myself?"), rung="warm-handover")
    talk.on(method)
    talk.on(TakenOver(by="dana"))
    talk.on(GivenBack(by="dana", reason="It was about a book."))
    signs = talk.state.last_at
    assert talk.says("I had soup today.") == ()
    assert (talk.state.thread, talk.state.last_at) == ("ai_assisted", signs)
    talk.says("I'm a burden.")
    assert talk.state.thread == "ai_assisted", "less than what was accepted"
    talk.on(method)
    assert talk.state.thread == "risk_held", "the same once more is a new sign"


def test_venting_does_not_lower() -> None:
    talk = Talk()
    talk.says("I'm going to end my life.")
    talk.says("Forget I said anything, I was just venting. I'm fine, really.")
    assert talk.state.tier == "immediate"
    assert talk.state.denials == 1


def test_only_a_person_lowers_with_name_and_reason() -> None:
    talk = Talk()
    talk.says("I'm going to end my life.")
    for bad in (Lowered(by="", tier="none", reason="x"), Lowered(by="dana", tier="none", reason=" ")):
        with pytest.raises(TransitionError):
            step(talk.state, bad, talk.now)
    with pytest.raises(TransitionError, match="not lower"):
        step(talk.state, Lowered(by="dana", tier="immediate", reason="x"), talk.now)
    talk.on(TakenOver(by="dana"))
    talk.on(Lowered(by="dana", tier="thoughts", reason="It was about the lease."))
    assert (talk.state.tier, talk.state.highest) == ("thoughts", "immediate"), "history is not rewritten"
    talk.on(GivenBack(by="dana", reason="Safety plan made."))
    assert talk.state.thread == "ai_assisted"
    assert of(HoldThread, talk.says("I want to kill myself tonight."))


def test_violence_gets_its_own_question_and_resources() -> None:
    """Requirement 15."""
    actions = Talk().says("My husband hits me.")
    assert [a.question for a in of(Ask, actions)] == ["others-safe"]
    assert of(ShowResources, actions)[0].audience == "harm-from-others"


def test_follow_up_and_closing_need_a_person() -> None:
    """Requirement 16."""
    talk = Talk()
    talk.says("I want to die.")
    with pytest.raises(TransitionError, match="took it over"):
        talk.on(Closed(by="dana", reason="done"))
    talk.on(TakenOver(by="dana"))
    with pytest.raises(TransitionError, match="future"):
        talk.on(FollowUpSet(by="dana", at=START))
    at = talk.now + timedelta(days=1)
    assert of(FollowUp, talk.on(FollowUpSet(by="dana", at=at)))
    with pytest.raises(TransitionError, match="follow-up is open"):
        talk.on(Closed(by="dana", reason="done"))
    assert of(FollowUp, talk.on(Tick(), minutes=60 * 24 + 5))
    talk.on(FollowedUp(by="dana"))
    with pytest.raises(TransitionError, match="no follow-up"):
        talk.on(FollowedUp(by="dana"))
    with pytest.raises(TransitionError, match="reason"):
        talk.on(Closed(by="dana", reason=""))
    talk.on(Closed(by="dana", reason="In care elsewhere."))
    assert talk.state.thread == "closed"


def test_a_sign_in_a_closed_conversation_is_not_lost() -> None:
    talk = Talk()
    talk.on(Closed(by="dana", reason="Finished."))
    actions = talk.says("I want to kill myself.")
    assert talk.state.thread == "closed"
    assert of(ShowResources, actions)
    assert of(QueueTakeover, actions)
    assert of(QueueTakeover, talk.on(Tick(), minutes=90)), "and somebody is reminded"


def test_its_owner_learns_of_new_signs() -> None:
    talk = Talk()
    talk.on(TakenOver(by="dana"))
    actions = talk.says("I took too many pills.")
    assert of(QueueTakeover, actions)
    assert not of(Ask, actions), "a person is there and asks"
    assert talk.state.thread == "human_owned"


def test_a_message_that_was_not_read_whole_is_looked_at() -> None:
    flood = " ".join(f"my sister said {n} i want to kill {n} myself and die {n} tonight." for n in range(2000))
    found = crisis.assess(flood)
    assert found.overflow
    quiet = Assessment(**{**found.__dict__, "tier": "none", "matches": (), "classes": (), "level": 0})
    state, actions = step(State(), Said(assessment=quiet), START)
    assert of(QueueTakeover, actions)[0].kind == "look"
    assert state.tier == "none"


def test_a_person_or_a_policy_may_raise() -> None:
    talk = Talk()
    actions = talk.on(Said(assessment=crisis.assess("ok"), tier="immediate", rung="warm-handover"))
    assert talk.state.thread == "risk_held"
    assert of(QueueTakeover, actions)
    other = Talk()
    other.on(Raised(by="dana", tier="immediate", reason="Voice on the phone."))
    assert other.state.thread == "risk_held"
    with pytest.raises(TransitionError, match="already"):
        other.on(Raised(by="dana", tier="thoughts", reason="x"))
    other.on(Confirmed(by="dana"))
    assert other.state.confirmed


def test_an_owner_leaves_it_to_others() -> None:
    talk = Talk()
    talk.on(TakenOver(by="dana"))
    actions = talk.on(Held(by="dana", reason="End of my shift."))
    assert (talk.state.thread, talk.state.owner) == ("risk_held", None)
    assert of(QueueTakeover, actions)
    with pytest.raises(TransitionError, match="cannot go from 'risk_held'"):
        talk.on(GivenBack(by="dana", reason="x"))


def test_a_clock_that_is_put_back_does_no_harm() -> None:
    talk = Talk()
    talk.says("I'm going to kill myself tonight.")
    left = talk.state.due_at - talk.now  # type: ignore[operator]
    talk.on(Tick(), minutes=-60 * 24 * 365)
    assert talk.state.due_at - talk.now == left  # type: ignore[operator]
    assert of(QueueTakeover, talk.on(Tick(), minutes=16))
    # A clock that jumps ahead reminds too early, which is harmless, and goes on after it was set right.
    late = Talk()
    late.says("I'm going to kill myself tonight.")
    assert of(QueueTakeover, late.on(Tick(), minutes=60 * 24 * 365))
    late.on(Tick(), minutes=-60 * 24 * 365)
    assert of(QueueTakeover, late.on(Tick(), minutes=16))


def test_time_needs_a_zone() -> None:
    with pytest.raises(ConfigError, match="time zone"):
        step(State(), Tick(), datetime(2026, 1, 1))


def test_it_works_without_any_model() -> None:
    """Layers 1 and 3 import nothing of models; nothing here was given one."""
    import subprocess
    import sys

    code = (
        "import sys, heedful.safety.state; "
        "print([m for m in ('torch', 'transformers', 'heedful.models', 'heedful.classify') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_no_words_of_anybody_in_actions_or_repr() -> None:
    talk = Talk()
    actions = talk.says("I want to die because of Wilhelmina.")
    actions += talk.on(Raised(by="dana", tier="immediate", reason="Wilhelmina called."))
    assert "Wilhelmina" not in repr((talk.state, actions))
    assert "Wilhelmina" not in repr(Raised(by="dana", tier="immediate", reason="Wilhelmina called."))
    assert "Wilhelmina" not in json.dumps(talk.state.to_dict())


# ---------------------------------------------------------------------- tables and stored form


def test_the_table_is_that_of_the_store() -> None:
    assert set(machine.STEPS) == set(THREAD_STEPS)


def test_a_state_survives_the_store() -> None:
    talk = Talk()
    for text in ("I'm a burden.", "no", "I am going to kill myself tonight."):
        talk.says(text)
        assert State.from_dict(json.loads(json.dumps(talk.state.to_dict()))) == talk.state
    assert (talk.state.risk_level, talk.state.risk_highest) == (2, 2)


@pytest.mark.parametrize(
    "damage", [{"tier": "low"}, {"thread": None}, {"due_at": "soon"}, {"other": 1}, {"asked": [{}]}]
)
def test_a_damaged_state_is_said(damage: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        State.from_dict({**State().to_dict(), **damage})


def test_the_ladder_never_falls_with_more() -> None:
    for level in range(5):
        for tier in TIERS:
            for behaviour in crisis.BEHAVIOURS:
                assert RUNGS.index(rung_of(tier, level, behaviour)) <= RUNGS.index(rung_of(tier, level + 1, behaviour))


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="response_minutes"):
        Setting(response_minutes=0)


# ---------------------------------------------------------------------- texts


def test_every_language_says_the_same_things() -> None:
    loaded = [texts.load(language) for language in texts.LANGUAGES]
    for other in loaded[1:]:
        assert set(other.choices) == set(loaded[0].choices)
        for id, text in other.sayings.items():
            assert texts.placeholders(text) == texts.placeholders(loaded[0].sayings[id])
        for id, options in other.choices.items():
            assert [texts.placeholders(o) for o in options] == [texts.placeholders(o) for o in loaded[0].choices[id]]


LEADING = (
    "you are not",
    "you're not",
    "aren't",
    "don't you",
    "surely",
    "hopefully",
    "nicht wahr",
    "doch nicht",
    "¿verdad",
    "没有吧",
)


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_questions_are_neutral_and_options_are_few(language: str) -> None:
    """Requirements 4 and 10."""
    loaded = texts.load(language)
    for question in events.QUESTIONS:
        words = loaded.question(question)
        assert words.rstrip().endswith(("?", "？"))
        assert not any(pull in words.lower() for pull in LEADING)
        assert len(words) < 220
    for id in ("thoughts", "thoughts-again"):
        # The rules understand the answer to it.
        found = crisis.assess(
            [
                Turn(role="assistant", text=loaded.question(id)),
                Turn(role="user", text={"en": "yes", "es": "sí", "de": "ja", "zh": "有"}[language]),
            ]
        )  # type: ignore[arg-type]
        assert found.affirmed
    first = {"en": "First", "es": "Primero", "de": "Zuerst", "zh": "首先"}[language]
    for id in loaded.choices:
        options = loaded.options(id, line="LINE", emergency="112")
        assert 1 <= len(options) <= 3
        assert options[0].startswith(first)


def test_no_text_is_shown_with_a_hole() -> None:
    with pytest.raises(ConfigError, match="'line'"):
        texts.load("en").say("held", minutes=15, emergency="911")
    with pytest.raises(NotFoundError):
        texts.load("en").say("bye")
    with pytest.raises(NotFoundError):
        texts.load("en").options("four")
    with pytest.raises(NotFoundError):
        texts.load("fr")
    assert texts.nearest_language("zh-Hant") == "zh"


# ---------------------------------------------------------------------- any order of events

MESSAGES = (
    "ok", "no", "yes", "I don't want to talk about that.", "I want to die.", "I'm a burden.",
    "I'm going to kill myself tonight.",
    "I am not suicidal, just venting.", "My husband hits me.", "haha", "I used to be suicidal years ago.",
)  # fmt: skip
ASKED = "Are you having thoughts of suicide?"
ASSESSED = [crisis.assess([Turn(role="assistant", text=ASKED), Turn(role="user", text=text)]) for text in MESSAGES]


HAND_OVERS = (TakenOver(by="dana"), Held(by="dana", reason="shift"), GivenBack(by="dana", reason="ok"))


class AnyOrder(RuleBasedStateMachine):
    """Events in any order, at any time, the clock put back now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.now = State(), START
        self.lowered, self.asked, self.told = False, [], False

    def happens(self, event: Event, minutes: int) -> None:
        before = self.state
        self.now += timedelta(minutes=minutes)
        try:
            self.state, actions = step(self.state, event, self.now, setting=Setting(on_duty=minutes % 2 == 0))
        except TransitionError:
            assert self.state is before
            return
        person = not isinstance(event, Said | Tick | PersonAsked)
        if not isinstance(event, Lowered):
            assert TIERS.index(self.state.tier) >= TIERS.index(before.tier), "nothing else lowers"
            assert RUNGS.index(self.state.rung) >= RUNGS.index(before.rung)
            assert self.state.level >= before.level
        assert TIERS.index(self.state.highest) >= TIERS.index(before.highest)
        assert before.thread == self.state.thread or (before.thread, self.state.thread) in machine.STEPS
        if not person:
            assert self.state.thread in (before.thread, "risk_held"), "no program releases or closes"
            assert self.state.owner == before.owner
            assert self.state.resources_open >= before.resources_open
        if before.refused and self.state.tier == before.tier:
            assert not of(Ask, actions)
        if isinstance(event, Said) and event.assessment.refused and before.asked:
            assert not of(Ask, actions), "not right after a refusal"
        if before.thread == "human_owned" and isinstance(event, Said | Tick):
            assert not of(Ask, actions)
            assert not of(Say, actions)
        if isinstance(event, Said) and event.assessment.tier == "none" and not event.assessment.matches:
            assert self.state.thread == before.thread, "a message without a sign holds nothing"
            quiet = ("tier", "level", "rung", "classes", "last_at", "due_at", "confirmed")
            if not event.assessment.denied and self.state.clock != before.clock and minutes >= 0:
                assert all(getattr(self.state, name) == getattr(before, name) for name in quiet)
                assert not of(QueueTakeover, actions)
                assert not of(Log, actions)
        told = [a for a in of(Say, actions) if a.id == "nobody-on-duty"]
        if not isinstance(event, PersonAsked):  # who asks for a person is told again, after a while
            assert not told or (minutes % 2 == 1 and not self.told), "once in a stretch without anybody"
        elif of(Say, actions) and before.person_said_at and before.clock and self.now >= before.clock:
            assert self.now - before.person_said_at >= timedelta(minutes=15), "not twice in a short stretch"
        self.told = minutes % 2 == 1 and (self.told or bool(told))
        for ask in of(Ask, actions):
            key = (ask.question, self.state.tier)
            assert key not in self.asked
            self.asked.append(key)
        if isinstance(event, Lowered):
            self.asked = [key for key in self.asked if key[1] == self.state.tier]
        if self.state.denials > before.denials and self.state.tier != "none" and before.thread != "human_owned":
            assert of(QueueTakeover, actions), "a denial queues a person"
            assert self.state.resources_open
        if before.due_at and before.clock and self.state.due_at and self.state.clock and not person:
            assert self.state.due_at - self.state.clock <= before.due_at - before.clock, "no clock runs backwards"
        if isinstance(event, Said) and event.assessment.tier != "none":
            assert of(ShowResources, actions)
        json.dumps(self.state.to_dict())

    @rule(found=st.sampled_from(ASSESSED), minutes=st.integers(-30, 60))
    def said(self, found: Assessment, minutes: int) -> None:
        self.happens(Said(assessment=found), minutes)

    @rule(minutes=st.integers(-500, 500))
    def tick(self, minutes: int) -> None:
        self.happens(Tick(), minutes)

    @rule(minutes=st.integers(-5, 60))
    def ask_for_a_person(self, minutes: int) -> None:
        waited = self.state.person_at is not None
        self.happens(PersonAsked(), minutes)
        assert waited or self.state.person_at or self.state.thread in ("risk_held", "closed")

    @rule(tier=st.sampled_from(TIERS), by=st.sampled_from(["dana", ""]), minutes=st.integers(0, 5))
    def lower(self, tier: Any, by: str, minutes: int) -> None:
        self.happens(Lowered(by=by, tier=tier, reason="explained"), minutes)

    @rule(tier=st.sampled_from(TIERS[1:]))
    def raise_it(self, tier: Any) -> None:
        self.happens(Raised(by="dana", tier=tier, reason="heard"), 1)

    @rule(
        event=st.sampled_from(
            [TakenOver(by="dana"), Held(by="dana", reason="shift"), GivenBack(by="dana", reason="ok")]
        )
    )
    def hand_over(self, event: Event) -> None:
        self.happens(event, 1)

    @rule(hours=st.integers(-2, 30))
    def follow_up(self, hours: int) -> None:
        self.happens(FollowUpSet(by="dana", at=self.now + timedelta(hours=hours)), 1)

    @rule()
    def followed_up(self) -> None:
        self.happens(FollowedUp(by="dana"), 1)

    @precondition(lambda self: len(self.asked) > 1)
    @rule(reason=st.sampled_from(["finished", ""]))
    def close(self, reason: str) -> None:
        self.happens(Closed(by="dana", reason=reason), 1)

    @invariant()
    def facts_hold_no_words(self) -> None:
        assert all(isinstance(value, str | int | bool) for value in facts(self.state, self.now).values())

    @invariant()
    def an_immediate_risk_is_never_left_to_a_program(self) -> None:
        if self.state.tier == "immediate":
            assert self.state.thread != "ai_assisted"


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_a_denial_after_the_end_is_looked_at_too() -> None:
    """Nobody owns what is closed, so nobody would see that the answer to an open question came after it."""
    talk = Talk()
    talk.says("I'm going to kill myself tonight.")
    talk.on(TakenOver(by="dana"))
    talk.on(Closed(by="dana", reason="finished"))
    actions = talk.says("I am not suicidal, just venting.")
    assert talk.state.denials == 1
    assert [a.kind for a in of(QueueTakeover, actions)] == ["look"]
    assert not of(Say, actions), "a closed conversation is not spoken into"


# ---------------------------------------------------------------------- who asks for a person


def _owned(setting: Setting | None = None) -> Talk:
    talk = Talk(setting)
    talk.says("I had soup.")
    talk.on(TakenOver(by="dana"))
    return talk


def test_who_asks_for_a_person_is_told_what_follows_and_the_owner_is_told() -> None:
    talk = _owned()
    actions = talk.on(PersonAsked())
    assert [a.id for a in of(Say, actions)] == ["owner-told"]
    assert [(a.owner, a.due - talk.now) for a in of(QueuePerson, actions)] == [("dana", timedelta(minutes=15))]
    assert talk.on(PersonAsked(), minutes=5) == (), "not twice in a short stretch"
    assert [a.id for a in of(Say, talk.on(PersonAsked(), minutes=15))] == ["owner-told"]


def test_an_owner_who_does_not_react_is_not_the_only_one_who_knows() -> None:
    talk = _owned()
    talk.on(PersonAsked())
    assert not of(QueuePerson, talk.on(Tick(), minutes=14))
    assert [a.owner for a in of(QueuePerson, talk.on(Tick(), minutes=2))] == [None]
    assert not of(QueuePerson, talk.on(Tick(), minutes=60)), "once"
    assert [a.id for a in of(Say, talk.on(PersonAsked()))] == ["next-told"]


@pytest.mark.parametrize("reaction", [Looked(by="dana"), TakenOver(by="erin"), Looked(by="erin", what="person")])
def test_a_reaction_ends_it(reaction: Event) -> None:
    talk = _owned()
    talk.on(PersonAsked())
    if isinstance(reaction, TakenOver):
        talk.on(Held(by="dana", reason="shift"))
    talk.on(reaction)
    assert talk.state.person_at is None
    assert not of(QueuePerson, talk.on(Tick(), minutes=60))


def test_a_look_at_something_else_is_no_reaction() -> None:
    talk = _owned()
    talk.on(PersonAsked())
    talk.on(Looked(by="erin", what="look"))
    assert of(QueuePerson, talk.on(Tick(), minutes=60))


def test_out_of_hours_it_says_so() -> None:
    actions = _owned(NIGHT).on(PersonAsked())
    assert [a.id for a in of(Say, actions)] == ["nobody-on-duty"]
    assert of(QueuePerson, actions), "somebody finds it in the morning"


def test_who_is_held_waits_for_a_person_already() -> None:
    talk = Talk()
    talk.says("I'm going to kill myself tonight.")
    assert talk.on(PersonAsked()) == ()


@pytest.mark.parametrize("language", cases())
def test_a_wish_for_a_person_is_heard_in_words(language: str) -> None:
    about = cases()[language]
    assert not [text for text in about["yes"] if not asks_for_person(text)]
    assert not [text for text in about["no"] if asks_for_person(text)]
    assert asks_for_person("I slept badly. " * 900 + about["yes"][0]), "at the end of a long message, too"


def test_cards_interrupt_only_in_an_emergency() -> None:
    assert not of(InterruptCard, Talk().says("I want to die."))
    assert of(InterruptCard, Talk().says("I'm going to kill myself tonight."))
