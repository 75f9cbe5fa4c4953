"""`${options.NAME}` and `${stages.NAME}` in the values of a recipe.

A reference that is a whole value keeps its type; inside a longer text it becomes text. `$${...}` is a literal `${...}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from heedful.errors import ConfigError, nearest

_REFERENCE = re.compile(r"(\$?)\$\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An option's value: what the person wrote (`label`) and what it stands for (`value`)."""

    label: Any
    value: Any


@dataclass(frozen=True, kw_only=True)
class References:
    """What references mean at one place of a recipe.

    Args:
        where: the place, for messages.
        options: name -> value; values may hold references themselves.
        stages: name -> text that stands for the stage: its folder, or `${stages.NAME}` again.
        final: whether `$${` becomes `${`; False for a pass whose result goes through another one.
        used: stages that were referred to, in order; filled by `resolve`.
    """

    where: str
    options: Mapping[str, Chosen]
    stages: Mapping[str, str]
    final: bool
    used: list[str] = field(default_factory=list)
    _inside: tuple[str, ...] = ()

    def resolve(self, value: Any) -> Any:
        """`value` with every reference replaced, in mappings and lists too.

        Raises:
            ConfigError: an unknown reference, one that leads to itself, or a list inside a longer text.
        """
        if isinstance(value, Mapping):
            return {key: self.resolve(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [self.resolve(entry) for entry in value]
        if not isinstance(value, str):
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole and not whole[1]:
            return self._meaning(whole[2])
        return _REFERENCE.sub(self._text, value)

    def _text(self, match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:] if self.final else match[0]
        found = self._meaning(match[2])
        if isinstance(found, Mapping | list):
            # A choice with a name can still name a folder.
            found = self.options[match[2].strip().partition(".")[2]].label
        if isinstance(found, Mapping | list):
            raise ConfigError(
                f"{self.where}: ${{{match[2]}}} is a {'list' if isinstance(found, list) else 'mapping'} and cannot be "
                "part of a text; use it as a whole value."
            )
        return found if isinstance(found, str) else json.dumps(found)

    def _meaning(self, reference: str) -> Any:
        kind, _, name = reference.strip().partition(".")
        if kind == "stages" and name in self.stages:
            if name not in self.used:
                self.used.append(name)
            return self.stages[name]
        if kind == "options" and name in self.options:
            if name in self._inside:
                raise ConfigError(
                    f"{self.where}: the option '{name}' leads to itself "
                    f"({' -> '.join((*self._inside, name))}); give one of them a value."
                )
            return replace(self, _inside=(*self._inside, name)).resolve(self.options[name].value)
        known = [*(f"options.{o}" for o in self.options), *(f"stages.{s}" for s in self.stages)]
        raise ConfigError(
            f"{self.where}: unknown reference ${{{reference}}}.{nearest(reference.strip(), known)} "
            f"Known: {', '.join(known) or 'none'}."
        )
