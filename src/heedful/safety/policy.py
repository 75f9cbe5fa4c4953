"""The decision rule of the crisis path: what is done about what was found. It is a file of its own, `policy.toml`.

A rule can escalate alone. A model can escalate alone, where an operating point says from which probability on. A model
can never de-escalate: whatever it says, a decision is never below what rules and the state ask for.

>>> from heedful.safety import crisis
>>> decide(crisis.assess("I wish I was dead.")).rung
'watch'
>>> decide(crisis.assess("How do I kill myself?")).rung
'warm-handover'
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from heedful.errors import ConfigError, NotFoundError
from heedful.safety.crisis import BEHAVIOURS, CLASSES, TIERS, Assessment, Tier
from heedful.safety.events import RUNGS, Rung
from heedful.safety.state import State, rung_of


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What a calibrated classifier says about the last turns.

    Args:
        thoughts, immediate: upper ends of the intervals of the probability of that tier or a higher one. The upper end
            is what counts: an uncertain model is read as the worse.
        model: name and version of the model, as in its operating point.
    """

    thoughts: float
    immediate: float
    model: str

    def __post_init__(self) -> None:
        for name in ("thoughts", "immediate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"A belief's '{name}' must be a probability from 0 to 1, not {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """From which probability on a model escalates, and where that number comes from.

    Args:
        model: the one it was chosen for; no other is read with it.
        thoughts, immediate: thresholds.
        recall_target: what was asked for; `recall`: what was measured on the evaluation set.
        evaluation: hash of that set; `day`: when it was chosen.
    """

    model: str
    thoughts: float
    immediate: float
    recall_target: float
    recall: float
    evaluation: str
    day: date

    def __post_init__(self) -> None:
        for name in ("thoughts", "immediate", "recall_target", "recall"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"An operating point's '{name}' must lie above 0 and at most at 1.")
        if self.recall < self.recall_target:
            raise ConfigError(
                f"This operating point reached a recall of {self.recall:.3f}, below its target of "
                f"{self.recall_target:.3f}; choose lower thresholds."
            )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The tables of `policy.toml`."""

    version: str
    hash: str
    levels: Mapping[int, Rung] = field(repr=False)
    behaviours: Mapping[str, Rung] = field(repr=False)
    classes: Mapping[str, Rung] = field(repr=False)
    belief: Mapping[str, Rung] = field(repr=False)
    overflow: Rung = "watch"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to be done. `tier` and `rung` go into `Said`.

    Args:
        reasons: what asked for this rung: `level 4`, `class voices`, `belief immediate`, `state`.
        notes: what was not used, and why.
        version: of the policy, for the log.
    """

    tier: Tier
    rung: Rung
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    version: str


def decide(
    assessment: Assessment,
    *,
    belief: Belief | None = None,
    point: OperatingPoint | None = None,
    state: State | None = None,
    policy: Policy | None = None,
) -> Decision:
    """What is to be done about a message.

    Args:
        belief: of a classifier, where one runs; it only adds.
        point: its operating point. A belief without one, or of another model, is not used and the decision says so.
        state: of the conversation; the decision is never below it.
    """
    rules = policy or load()
    asks: list[tuple[Rung, str]] = []
    tier: Tier = assessment.tier
    if tier != "none":
        asks.append((rung_of(tier, assessment.level, assessment.behaviour), f"tier {tier}"))
        if assessment.level:
            asks.append((rules.levels[assessment.level], f"level {assessment.level}"))
        if assessment.behaviour != "none":
            asks.append((rules.behaviours[assessment.behaviour], f"behaviour {assessment.behaviour}"))
        asks += [(rules.classes[name], f"class {name}") for name in assessment.classes if name in rules.classes]
    if assessment.overflow:
        asks.append((rules.overflow, "overflow"))
    believed, notes = _believed(belief, point)
    if believed != "none":
        asks.append((rules.belief[believed], f"belief {believed}"))
        tier = max(tier, believed, key=TIERS.index)
    if state is not None:
        asks.append((state.rung, "state"))
        tier = max(tier, state.tier, key=TIERS.index)
    rung: Rung = max((asked for asked, _ in asks), key=RUNGS.index, default="none")
    reasons = tuple(why for asked, why in asks if asked == rung and rung != "none")
    return Decision(tier=tier, rung=rung, reasons=reasons, notes=notes, version=f"{rules.version}/{rules.hash}")


def _believed(belief: Belief | None, point: OperatingPoint | None) -> tuple[Tier, tuple[str, ...]]:
    if belief is None:
        return "none", ()
    if point is None:
        return "none", ("belief not used: no operating point",)
    if point.model != belief.model:
        return "none", ("belief not used: the operating point is that of another model",)
    if belief.immediate >= point.immediate:
        return "immediate", ()
    return ("thoughts" if belief.thoughts >= point.thoughts else "none"), ()


def threshold(probabilities: Sequence[float], signs: Sequence[bool], *, recall_target: float) -> tuple[float, float]:
    """The highest threshold that reaches a recall on a labelled set, and the recall it reaches.

    Args:
        probabilities: of each message; `signs`: whether there is one.

    Raises:
        ConfigError: different lengths, no message with a sign, or a target outside of (0, 1].

    >>> threshold([0.9, 0.6, 0.4, 0.2], [True, True, True, False], recall_target=0.66)
    (0.6, 0.6666666666666666)
    """
    if len(probabilities) != len(signs) or not any(signs):
        raise ConfigError("A threshold needs one probability for each message, and at least one message with a sign.")
    if not 0 < recall_target <= 1:
        raise ConfigError(f"A recall target lies above 0 and at most at 1, not at {recall_target}.")
    found = sorted((p for p, sign in zip(probabilities, signs, strict=True) if sign), reverse=True)
    needed = next(n for n in range(1, len(found) + 1) if n / len(found) >= recall_target - 1e-12)
    at = found[needed - 1]
    return at, sum(p >= at for p in found) / len(found)


def load_point(path: str | Path) -> OperatingPoint:
    """An operating point from a TOML file with the fields of `OperatingPoint`.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: a field lacks or makes no sense, or the recall is below its target.
    """
    try:
        found = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as err:
        raise NotFoundError(f"There is no operating point '{path}'.") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"The operating point {path} cannot be read: {err}.") from err
    names = {item.name for item in fields(OperatingPoint)}
    if set(found) != names or not isinstance(found["day"], date):
        raise ConfigError(f"An operating point holds {', '.join(sorted(names))}, the day as 2026-11-22 without quotes.")
    return OperatingPoint(**found)


@cache
def load() -> Policy:
    """heedful's own policy.

    Raises:
        ConfigError: the file is not of the form that its head describes, or asks for too little.
    """
    return parse(files("heedful.safety").joinpath("policy.toml").read_text("utf-8"))


def parse(text: str) -> Policy:
    """A policy from the text of a TOML file.

    Raises:
        ConfigError: as for `load`.
    """
    try:
        found = tomllib.loads(text)
        tables = {name: _table(found, name) for name in ("levels", "behaviours", "classes", "belief", "overflow")}
        policy = Policy(
            version=found["version"],
            hash=hashlib.sha256(text.encode()).hexdigest()[:16],
            levels={int(level): rung for level, rung in tables["levels"].items()},
            behaviours=tables["behaviours"],
            classes=tables["classes"],
            belief=tables["belief"],
            overflow=tables["overflow"]["action"],
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, AttributeError) as err:
        raise ConfigError(f"The crisis policy cannot be used: {type(err).__name__} {err}.") from err
    _check(policy)
    return policy


def _table(found: Mapping[str, Any], name: str) -> dict[str, Rung]:
    for key, rung in found[name].items():
        if rung not in RUNGS:
            raise ConfigError(f"The crisis policy: [{name}] {key} must be one of {', '.join(RUNGS)}.")
    return cast("dict[str, Rung]", found[name])


def _check(policy: Policy) -> None:
    rank = RUNGS.index
    wanted = (
        (set(policy.levels), set(range(1, 6)), "levels"),
        (set(policy.behaviours), set(BEHAVIOURS[1:]), "behaviours"),
        (set(policy.belief), set(TIERS[1:]), "belief"),
    )
    for have, need, name in wanted:
        if have != need:
            raise ConfigError(f"The crisis policy: [{name}] must hold {', '.join(map(str, sorted(need, key=str)))}.")
    if stray := set(policy.classes) - set(CLASSES):
        raise ConfigError(f"The crisis policy: there is no class '{min(stray)}'.")
    if any(rank(policy.levels[low]) > rank(policy.levels[high]) for low, high in pairwise(sorted(policy.levels))):
        raise ConfigError("The crisis policy: a higher rung of ideation may not ask for less.")
    for level, rung in policy.levels.items():
        if rank(rung) < rank(rung_of("immediate" if level >= 4 else "thoughts", level, "none")):
            raise ConfigError(f"The crisis policy: level {level} asks for less than the state machine does by itself.")
    for behaviour in BEHAVIOURS[1:]:
        least = rung_of("thoughts" if behaviour == "self-injury" else "immediate", 0, behaviour)
        if rank(policy.behaviours[behaviour]) < rank(least):
            raise ConfigError(f"The crisis policy: '{behaviour}' asks for less than the state machine does by itself.")
