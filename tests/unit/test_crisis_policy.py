"""The decision rule: rules escalate alone, models only add, and the numbers come from a file with its origin."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.errors import ConfigError, NotFoundError
from heedful.safety import crisis
from heedful.safety.crisis import TIERS
from heedful.safety.events import RUNGS
from heedful.safety.policy import Belief, OperatingPoint, decide, load, load_point, parse, threshold
from heedful.safety.state import State

SOURCE = files("heedful.safety").joinpath("policy.toml").read_text("utf-8")
POINT = """model = "belief/1"
thoughts = 0.3
immediate = 0.5
recall_target = 0.95
recall = 0.96
evaluation = "0123456789abcdef"
day = 2026-11-22
"""


@pytest.fixture
def point(tmp_path: Path) -> OperatingPoint:
    path = tmp_path / "point.toml"
    path.write_text(POINT)
    return load_point(path)


@pytest.mark.parametrize(
    ("text", "rung"),
    [
        ("I slept badly.", "none"),
        ("I'm such a burden to everyone.", "watch"),
        ("I think about suicide.", "safety-plan"),
        ("I want to hurt myself.", "safety-plan"),
        ("My husband hits me.", "safety-plan"),
        ("How do I kill myself?", "warm-handover"),
        ("I am going to kill myself.", "warm-handover"),
        ("The voices tell me to kill myself.", "warm-handover"),
        ("I keep having thoughts of hurting my baby.", "warm-handover"),
        ("I am going to kill myself tonight.", "emergency"),
        ("I took too many pills.", "emergency"),
    ],
)
def test_a_rule_escalates_alone(text: str, rung: str) -> None:
    decision = decide(crisis.assess(text))
    assert decision.rung == rung
    assert bool(decision.reasons) == (rung != "none")


def test_a_model_escalates_alone_from_its_operating_point_on(point: OperatingPoint) -> None:
    calm = crisis.assess("I slept badly.")
    for thoughts, immediate, rung in ((0.29, 0.1, "none"), (0.3, 0.1, "safety-plan"), (0.9, 0.5, "warm-handover")):
        belief = Belief(thoughts=thoughts, immediate=immediate, model="belief/1")
        assert decide(calm, belief=belief, point=point).rung == rung


def test_a_number_without_an_origin_is_not_used_and_that_is_said(point: OperatingPoint) -> None:
    calm, belief = crisis.assess("I slept badly."), Belief(thoughts=1, immediate=1, model="belief/2")
    assert decide(calm, belief=belief).notes == ("belief not used: no operating point",)
    assert "another model" in decide(calm, belief=belief, point=point).notes[0]
    assert decide(calm, belief=belief, point=point).rung == "none"


MESSAGES = [
    crisis.assess(text) for text in ("ok", "I'm a burden.", "I want to die.", "I'm going to kill myself tonight.")
]
PROBABILITIES = st.floats(0, 1)


@given(st.sampled_from(MESSAGES), PROBABILITIES, PROBABILITIES, st.sampled_from(TIERS), st.sampled_from(RUNGS))
def test_a_model_never_deescalates(found: Any, thoughts: float, immediate: float, tier: Any, rung: Any) -> None:
    point = OperatingPoint(
        model="m", thoughts=0.3, immediate=0.5, recall_target=0.9, recall=0.9, evaluation="x", day=load_day()
    )
    state = State(tier=tier, rung=rung)
    without = decide(found, state=state)
    with_belief = decide(
        found, belief=Belief(thoughts=thoughts, immediate=immediate, model="m"), point=point, state=state
    )
    assert RUNGS.index(with_belief.rung) >= max(RUNGS.index(without.rung), RUNGS.index(rung))
    assert TIERS.index(with_belief.tier) >= max(TIERS.index(without.tier), TIERS.index(tier))


def load_day() -> Any:
    from datetime import date

    return date(2026, 11, 22)


def test_a_threshold_is_chosen_from_a_recall_target() -> None:
    probabilities = [0.9, 0.8, 0.7, 0.2, 0.6, 0.1]
    signs = [True, True, True, True, False, False]
    assert threshold(probabilities, signs, recall_target=0.75) == (0.7, 0.75)
    assert threshold(probabilities, signs, recall_target=1.0) == (0.2, 1.0)
    for bad in ({"recall_target": 0.0}, {"recall_target": 1.1}):
        with pytest.raises(ConfigError):
            threshold(probabilities, signs, **bad)
    with pytest.raises(ConfigError):
        threshold([0.1], [False], recall_target=0.9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("recall = 0.96", "recall = 0.90", "below its target"),
        ("thoughts = 0.3", "thoughts = 0", "'thoughts' must lie"),
        ("day = 2026-11-22", 'day = "today"', "the day as"),
        ('model = "belief/1"\n', "", "holds day"),
        ("immediate = 0.5", "immediate =", "cannot be read"),
    ],
)
def test_a_damaged_operating_point_is_one_sentence(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "point.toml"
    path.write_text(POINT.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_point(path)
    with pytest.raises(NotFoundError):
        load_point(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('5 = "emergency"', '5 = "watch"', "may not ask for less"),
        ('4 = "warm-handover"', '4 = "safety-plan"', "level 4 asks for less"),
        ('attempt = "emergency"', 'attempt = "watch"', "'attempt' asks for less"),
        ('voices = "warm-handover"', 'voices = "panic"', "must be one of"),
        ('voices = "warm-handover"', 'voicess = "watch"', "no class 'voicess'"),
        ('3 = "safety-plan"\n', "", r"\[levels\] must hold"),
        ('version = "1.0"', "version =", "cannot be used"),
    ],
)
def test_a_policy_that_asks_for_too_little_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(SOURCE.replace(old, new, 1))
    assert parse(SOURCE) == load()


def test_probabilities_are_checked() -> None:
    with pytest.raises(ConfigError, match="probability"):
        Belief(thoughts=1.2, immediate=0, model="m")


def test_an_overflow_is_watched() -> None:
    assert decide(replace(crisis.assess("ok"), overflow=True)).rung == "watch"
