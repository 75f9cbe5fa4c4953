"""Jurisdiction profiles: what a law or an approval asks of a service, as switches. One TOML file each in this folder.

Not legal advice. Each file names its source and who checked it when; a check that is missing or older than 180 days
warns staff at every start. Where several apply, the stricter of each switch holds.

>>> both = combine(load("us-ny"), load("us-wa"))
>>> both.switches["timer_minutes"], both.switches["timer_minutes_minors"], both.name
(180, 60, 'us-ny + us-wa')
>>> load("strict").switches["client_replies"]
'off'
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache, reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError, NotFoundError, nearest, only_keys, unknown
from heedful.profiles._switches import REPORTS, SWITCHES, Switch, Value, combined, matrix
from heedful.profiles._texts import LANGUAGES, MOMENTS, Disclosures, load_texts

__all__ = [
    "DEFAULT",
    "LANGUAGES",
    "MOMENTS",
    "OLD_DAYS",
    "REPORTS",
    "SWITCHES",
    "Conditions",
    "Disclosures",
    "Profile",
    "Source",
    "Switch",
    "Value",
    "combine",
    "load",
    "load_texts",
    "matrix",
    "names",
    "parse",
]

DEFAULT = "strict"
OLD_DAYS = 180
"""A check that is older warns staff."""
_KEYS = {"name", "title", "version", "citation", "checked", "checker", "notes", "switches"}


@dataclass(frozen=True, order=True, kw_only=True)
class Source:
    """Where a profile comes from, and who checked it when. `checked` None = nobody did, for this installation."""

    name: str
    title: str
    version: str
    hash: str
    citation: str
    checker: str = ""
    checked: date | None = None
    notes: tuple[str, ...] = ()

    def old(self, today: date) -> bool:
        """Whether staff is warned: no check, no name of a checker, in the future, or more than 180 days ago."""
        if self.checked is None or not self.checker or self.checked > today:
            return True
        return (today - self.checked).days > OLD_DAYS


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What must be there before a model may answer a help-seeker "by policy" or under an approval.

    Args:
        responsible: name of the responsible professional.
        takeover_staffed: whether somebody is on duty for takeovers.
        crisis_set_passed: whether the crisis evaluation passed its floors with the current rules and model.
        approval: number of the ethics approval.
        watched: whether somebody of staff looks at this very conversation now.
    """

    responsible: str = ""
    takeover_staffed: bool = False
    crisis_set_passed: bool = False
    approval: str = ""
    watched: bool = False


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One profile, or several combined.

    Args:
        sources: one for each profile that went in, by name.
        switches: name -> value, all of `SWITCHES`.
    """

    sources: tuple[Source, ...]
    switches: Mapping[str, Value] = field(repr=False)

    @property
    def name(self) -> str:
        """`eu`, or `eu + us-ny` where two were combined."""
        return " + ".join(source.name for source in self.sources)

    def warnings(self, today: date) -> tuple[str, ...]:
        """One sentence to staff for each source whose check is missing or too old."""
        found = []
        for source in self.sources:
            if source.old(today):
                checked = source.checked if source.checker else None
                said = f"was last checked on {checked}" if checked else "was never checked"
                found.append(
                    f"The profile '{source.name}' ({source.citation}) {said} by this installation; have its primary "
                    "text checked and enter the day and the name."
                )
        return tuple(found)

    def missing_for_client_replies(self, conditions: Conditions) -> tuple[str, ...]:
        """What lacks before a model may answer a help-seeker without a person in between; empty = nothing.

        `off` cannot be met by anything.
        """
        mode = self.switches["client_replies"]
        if mode == "off":
            return ("the profile allows no replies of a model to help-seekers",)
        lacks = {
            "a named responsible professional": not conditions.responsible.strip(),
            "a staffed takeover queue": not conditions.takeover_staffed,
            "a passed crisis evaluation": not conditions.crisis_set_passed,
            "the number of an ethics approval": (
                mode == "ethics-approval" or self.switches["approval_number"] == "needed"
            )
            and not conditions.approval.strip(),
            "a member of staff who watches the conversation": (
                self.switches["staff_monitoring"] == "on" and not conditions.watched
            ),
        }
        return tuple(what for what, missing in lacks.items() if missing)

    def at_least_as_strict(self, other: Profile) -> bool:
        """Whether no switch is looser than in `other`."""
        return all(switch.at_least_as_strict(self.switches[n], other.switches[n]) for n, switch in SWITCHES.items())

    def with_check(self, name: str, *, checked: date, checker: str) -> Profile:
        """The profile with a check that a clinic made of one of its sources.

        Raises:
            NotFoundError: no such source. ConfigError: no name of a checker.
        """
        if name not in {source.name for source in self.sources}:
            raise unknown("profile", name, [source.name for source in self.sources])
        if not checker.strip():
            raise ConfigError("A check of a profile needs the name of whoever made it.")
        made = [replace(s, checked=checked, checker=checker) if s.name == name else s for s in self.sources]
        return replace(self, sources=tuple(made))


def combine(*profiles: Profile) -> Profile:
    """The stricter of each switch. The order of profiles makes no difference, and the same one twice none either.

    Raises:
        ConfigError: no profile was given.
    """
    if not profiles:
        raise ConfigError("Combine at least one profile; 'strict' is the default.")
    return reduce(_both, profiles)


def _both(one: Profile, other: Profile) -> Profile:
    # Two checks of one source: the older one counts, and one without a check most of all.
    found: dict[tuple[str, str, str], Source] = {}
    for source in (*one.sources, *other.sources):
        key = (source.name, source.version, source.hash)
        known = found.get(key)
        found[key] = source if known is None else min(known, source, key=_by_check)
    sources = tuple(found[key] for key in sorted(found))
    return Profile(sources=sources, switches=combined(one.switches, other.switches))


def _by_check(source: Source) -> tuple[date, str]:
    return source.checked or date.min, source.checker


def names() -> list[str]:
    """All bundled profiles."""
    folder = files("heedful.profiles")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


@cache
def load(name: str = DEFAULT) -> Profile:
    """A bundled profile by name, or one of a clinic by the path of its file.

    Raises:
        NotFoundError: there is neither.
        ConfigError: it lacks a switch, has an unknown one, or an unknown value.
    """
    if name in names():
        return parse(files("heedful.profiles").joinpath(f"{name}.toml").read_text("utf-8"), where=f"{name}.toml")
    if not name.endswith(".toml"):
        raise unknown("profile", name, names())
    try:
        return parse(Path(name).read_text("utf-8"), where=name)
    except OSError as err:
        raise NotFoundError(f"There is no profile '{name}'; bundled ones are {', '.join(names())}.") from err


def parse(text: str, *, where: str) -> Profile:
    """A profile from the text of a TOML file.

    Raises:
        ConfigError: as for `load`.
    """
    try:
        found = tomllib.loads(text)
        switches = _switches(found["switches"], where)
        only_keys(found, _KEYS, where=f"The profile {where}")
        source = Source(
            name=found["name"],
            title=found["title"],
            version=found["version"],
            hash=hashlib.sha256(text.encode()).hexdigest()[:16],
            citation=found["citation"],
            checker=found["checker"],
            checked=_day(found["checked"]),
            notes=tuple(found["notes"]),
        )
    except ConfigError:
        raise
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as err:
        raise ConfigError(f"The profile {where} cannot be used: {type(err).__name__} {err}.") from err
    return Profile(sources=(source,), switches=switches)


def _day(value: Any) -> date | None:
    return value if isinstance(value, date) else date.fromisoformat(value) if value else None


def _switches(found: Mapping[str, Any], where: str) -> dict[str, Value]:
    if stray := set(found) - set(SWITCHES):
        raise ConfigError(f"The profile {where} has the unknown switch '{min(stray)}'.{nearest(min(stray), SWITCHES)}")
    if lacking := set(SWITCHES) - set(found):
        raise ConfigError(f"The profile {where} does not say '{min(lacking)}'; a profile names every switch.")
    return {name: switch.read(found[name]) for name, switch in SWITCHES.items()}
