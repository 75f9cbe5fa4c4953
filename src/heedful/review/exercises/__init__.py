"""Structured exercises as data: steps with a question each. A clinic edits or adds files in `$HEEDFUL_HOME/exercises`.

Nothing here is scored and no model reads it: what a person writes is theirs, and a clinician sees it if they share it.

>>> sorted(known())
['activity-plan', 'grounding', 'safety-plan', 'thought-record', 'values-card']
>>> get("thought-record").check({"situation": "A letter came.", "belief_before": 70})["belief_before"]
70
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

from heedful.errors import ConfigError, DataError, nearest
from heedful.review._data import Shelf, keys, texts

FOLDER = "exercises"
Kind = Literal["text", "list", "scale", "read"]
"""One answer in words, several short ones, a number from 0 to 100, or nothing but something to read."""
LONGEST = 4000
MOST = 20


@dataclass(frozen=True, kw_only=True)
class StepText:
    """A step in one language; `help` may be empty."""

    title: str
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an exercise."""

    id: str
    kind: Kind
    text: Mapping[str, StepText] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """An exercise.

    Args:
        title, intro: language -> words.
        crisis: whether it belongs to the crisis path, and stands first when somebody is in danger.
        plan: whether it is a plan, which a professional signs where a profile asks for it.
    """

    id: str
    version: str
    source: str
    crisis: bool
    plan: bool
    steps: tuple[Step, ...]
    title: Mapping[str, str] = field(repr=False)
    intro: Mapping[str, str] = field(repr=False)

    def check(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """The answers as they are kept; steps that were left out are left out.

        Raises:
            DataError: a step that is not there, or an answer of another kind or size. It never quotes the answer.
        """
        by_id = {step.id: step for step in self.steps if step.kind != "read"}
        found = {}
        for name, value in answers.items():
            if name not in by_id:
                raise DataError(f"The exercise '{self.id}' has no such step.{nearest(name, list(by_id))}")
            kept = _checked(by_id[name], value)
            if kept not in ("", []):
                found[name] = kept
        return found


def _checked(step: Step, value: Any) -> Any:
    if step.kind == "scale":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 100:
            raise DataError(f"The step '{step.id}' takes a whole number from 0 to 100.")
        return value
    if step.kind == "text":
        if not isinstance(value, str) or len(value) > LONGEST:
            raise DataError(f"The step '{step.id}' takes words, at most {LONGEST:,} characters.")
        return value.strip()
    if not isinstance(value, list) or len(value) > MOST or any(not isinstance(v, str) for v in value):
        raise DataError(f"The step '{step.id}' takes a list of at most {MOST} short texts.")
    if any(len(v) > LONGEST for v in value):
        raise DataError(f"Each entry of the step '{step.id}' has at most {LONGEST:,} characters.")
    return [kept for v in value if (kept := v.strip())]


def known() -> dict[str, Exercise]:
    """All exercises, those of the clinic over ours, by id.

    Raises:
        ConfigError: a file that is not of the form of those in this folder; it is named.
    """
    return _SHELF.known()


def plans() -> frozenset[str]:
    """Ids of the exercises that are plans.

    >>> sorted(plans())
    ['activity-plan', 'safety-plan']
    """
    return frozenset(id for id, found in known().items() if found.plan)


def get(id: str) -> Exercise:
    """The exercise of that id.

    Raises:
        DataError: there is none.
    """
    return _SHELF.get(id)


def parse(found: Mapping[str, Any], *, where: str) -> Exercise:
    """An exercise from the content of a file.

    Raises:
        ConfigError: a key is missing or unknown, or a language lacks a step.
    """
    keys(found, {"id", "version", "source", "steps", "text"}, where=where, optional={"crisis", "plan"})
    kinds: dict[str, str] = found["steps"]
    for name, kind in kinds.items():
        if kind not in get_args(Kind):
            raise ConfigError(f"{where}: the step '{name}' must be one of {', '.join(get_args(Kind))}.")
    spoken = texts(found["text"], {"title", "intro", "steps"}, where=where)
    for language, about in spoken.items():
        keys(about["steps"], set(kinds), where=f"{where}, [text.{language}.steps]")
    return Exercise(
        id=found["id"],
        version=found["version"],
        source=found["source"],
        crisis=bool(found.get("crisis", False)),
        plan=bool(found.get("plan", False)),
        steps=tuple(
            Step(
                id=name,
                kind=cast(Kind, kind),
                text={language: _step_text(about["steps"][name], where) for language, about in spoken.items()},
            )
            for name, kind in kinds.items()
        ),
        title={language: about["title"] for language, about in spoken.items()},
        intro={language: about["intro"] for language, about in spoken.items()},
    )


def _step_text(found: Any, where: str) -> StepText:
    if isinstance(found, str):
        return StepText(title=found)
    if not isinstance(found, list) or len(found) != 2 or any(not isinstance(part, str) for part in found):
        raise ConfigError(f"{where}: a step's words are a title, or a list of title and help.")
    return StepText(title=found[0], help=found[1])


_SHELF: Final = Shelf(FOLDER, parse, kind="exercise")
