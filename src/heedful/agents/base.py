"""Planner, the table of planners, and a chain of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from heedful.errors import ConfigError
from heedful.formats import Format
from heedful.registry import Registry
from heedful.types import Conversation

_HERE = "heedful.agents"
PLANNERS = Registry(
    "planner",
    {
        "none": f"{_HERE}.base:Nothing",
        "cases": f"{_HERE}.support:CasesPlanner",
        "commonsense": f"{_HERE}.commonsense:CommonsensePlanner",
        "support": f"{_HERE}.support:SupportPlanner",
    },
)


class Planner(Protocol):
    """Adds labels or sources to turns."""

    @property
    def fingerprint(self) -> str:
        """Name, options and hashes of what it reads: equal fingerprints mean equal plans."""

    def plan(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """The conversations, in order, with what was worked out on each turn from it and the turns before it."""


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """Plans nothing: the row that every planner is compared with."""

    fingerprint: str = "none"

    def plan(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """The conversations as they are."""
        return list(conversations)


@dataclass(frozen=True)
class Planners:
    """Several planners, one after the other; each sees what those before it added."""

    steps: tuple[Planner, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Of all steps; empty without any."""
        return " > ".join(step.fingerprint for step in self.steps)

    def plan(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """As `Planner.plan`."""
        found = list(conversations)
        for step in self.steps:
            found = step.plan(found)
        return found


def needed(planners: Planners, fmt: Format) -> Planners:
    """The planners, unless the format writes nothing of what they look up.

    Raises:
        ConfigError: it does not, so everything would be looked up and ignored.
    """
    if not fmt.looks_up and any(not isinstance(step, Nothing) for step in planners.steps):
        raise ConfigError(
            f"Planners look things up, but the format '{fmt.name}' as it is set writes none of it into the input; take "
            "format: {name: kemi, knowledge: support} (or basic, both) or format: glhg, or leave planners out."
        )
    return planners


def make(specs: Sequence[str | Mapping[str, Any]] | None) -> Planners:
    """Planners from a configuration: names, or mappings with `name` and the planner's options.

    Raises:
        NotFoundError: no such planner.
        ConfigError: an option that it does not have or take.
    """
    steps = []
    for spec in specs or ():
        options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError("A planner needs a 'name', for instance planners: [{name: none}].")
        try:
            steps.append(PLANNERS.get(name)(**options))
        except TypeError as err:
            raise ConfigError(f"The planner '{name}' cannot be made from these options: {err}.") from err
    return Planners(tuple(steps))
