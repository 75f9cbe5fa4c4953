"""Crisis lines, part of layer 5: a dated table that a clinic checks, changes and extends. No network, no model.

>>> table = load()
>>> [line.number for line in table.of("DE", language="de")]
['0800 1110111', '0800 1110222']
>>> table.emergency("US")
'911'
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from heedful.errors import ConfigError, NotFoundError, nearest, only_keys

Audience = Literal["anyone", "harm-from-others", "young"]
OLD_DAYS = 90
"""Older checks carry a warning to staff."""
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One crisis line; see the head of `resources.toml`.

    Args:
        checked: when this installation last checked it; None = never.
        pair: lines with the same word are shown together or not at all.
    """

    id: str
    country: str
    languages: tuple[str, ...]
    name: str
    number: str | None = None
    text: str | None = None
    web: str | None = None
    hours: str
    audience: Audience
    source: str
    checked: date | None = None
    pair: str | None = None

    def days_old(self, today: date) -> int | None:
        """Days since the last check; None where it was never checked. A check in the future counts as none."""
        if self.checked is None or self.checked > today:
            return None
        return (today - self.checked).days

    def old(self, today: date) -> bool:
        """Whether staff is warned: never checked, or more than 90 days ago."""
        days = self.days_old(today)
        return days is None or days > OLD_DAYS

    @property
    def reach(self) -> str:
        """How to reach it, in a few characters: the number, else where to write, else the page."""
        return self.number or self.text or self.web or ""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The table.

    Args:
        version: of the bundled part; with a clinic's own, `+clinic`.
        emergencies: emergency number of each country; `default` for the others.
    """

    version: str
    lines: tuple[Line, ...]
    emergencies: Mapping[str, str]

    def emergency(self, country: str) -> str:
        """The emergency number of a country; 112 where the table does not know it."""
        return self.emergencies.get(country.upper(), self.emergencies[DEFAULT])

    def of(self, country: str, *, language: str | None = None, audience: Audience = "anyone") -> tuple[Line, ...]:
        """Lines of a country, never none: those for this audience first, then those for anyone.

        Lines that speak the wanted language come first; the others follow, since a line in another language is better
        than none. A pair stays together.
        """
        here = [
            line for line in self.lines if line.country == country.upper() and line.audience in (audience, "anyone")
        ]
        if not here:
            here = [line for line in self.lines if line.country == DEFAULT]
        short = (language or "").split("-")[0].lower()

        def order(line: Line) -> tuple[bool, bool]:
            return (line.audience != audience, bool(short) and short not in line.languages)

        ranked = sorted(here, key=order)
        first_of_pair = {line.pair: ranked.index(line) for line in reversed(ranked) if line.pair}
        return tuple(sorted(ranked, key=lambda line: first_of_pair.get(line.pair or "", ranked.index(line))))

    def first(self, country: str, *, language: str | None = None, audience: Audience = "anyone") -> Line:
        """The line that texts name."""
        return self.of(country, language=language, audience=audience)[0]

    def old(self, today: date) -> tuple[Line, ...]:
        """Lines that staff has to check."""
        return tuple(line for line in self.lines if line.old(today))


def load(path: str | Path | None = None) -> Resources:
    """The bundled table, with a clinic's file on top where one is named.

    A clinic's file has the same form; an entry with a known id replaces it, `remove = ["id"]` takes entries off.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is not of that form, a country would be left with half of a pair, or nothing would be left.
    """
    table = _bundled()
    if path is None:
        return table
    try:
        found = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as err:
        raise NotFoundError(f"There is no file of crisis lines '{path}'.") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"The crisis lines in {path} cannot be used: {type(err).__name__} {err}.") from err
    only_keys(found, ("lines", "emergency", "remove", "version"), where=str(path))
    return with_changes(
        table, found.get("lines", ()), removed=found.get("remove", ()), emergency=found.get("emergency", {})
    )


def with_changes(
    table: Resources,
    entries: Iterable[Mapping[str, Any]],
    *,
    removed: Sequence[str] = (),
    emergency: Mapping[str, str] | None = None,
) -> Resources:
    """The table with a clinic's changes, as they stand in a file or in the store.

    Raises:
        ConfigError: an entry that cannot be used, half of a pair, an unknown id to remove, or no line for people from
            anywhere else.
    """
    changed = {line.id: line for line in table.lines}
    for entry in entries:
        line = _line(entry)
        changed[line.id] = line
    for id in removed:
        if id not in changed:
            raise ConfigError(f"There is no crisis line '{id}' to remove.{nearest(id, changed)}")
        del changed[id]
    lines = tuple(changed.values())
    before = {line.pair for line in table.lines if line.pair}
    for pair in before | {line.pair for line in lines if line.pair}:
        here = [line for line in lines if line.pair == pair]
        whole = max(2, sum(line.pair == pair for line in table.lines))
        if here and len(here) < whole:
            raise ConfigError(f"The lines of the pair '{pair}' are shown together; keep both or remove both.")
        if len({(line.country, line.audience) for line in here}) > 1:
            raise ConfigError(f"The lines of the pair '{pair}' must be of one country and for one audience.")
    if not any(line.country == DEFAULT for line in lines):
        raise ConfigError("At least one line must have the country 'default', for people from anywhere else.")
    return Resources(
        version=f"{table.version.removesuffix('+clinic')}+clinic",
        lines=lines,
        emergencies={**table.emergencies, **(emergency or {})},
    )


@cache
def _bundled() -> Resources:
    found = tomllib.loads(files("heedful.safety").joinpath("resources.toml").read_text("utf-8"))
    bare = Resources(version=found["version"], lines=(), emergencies=found["emergency"])
    whole = with_changes(bare, found["lines"])
    return Resources(version=found["version"], lines=whole.lines, emergencies=whole.emergencies)


def _line(entry: Mapping[str, Any]) -> Line:
    where = f"The crisis line '{entry.get('id', '?')}'"
    only_keys(entry, (item.name for item in fields(Line)), where=where)
    values = dict(entry)
    try:
        checked = values.pop("checked", "")
        day = checked if isinstance(checked, date) else date.fromisoformat(checked) if checked else None
        line = Line(**{**values, "languages": tuple(values["languages"])}, checked=day)
    except (TypeError, KeyError, ValueError) as err:
        raise ConfigError(
            f"{where} needs id, country, languages, name, hours, audience, source, and 'checked' as a day like "
            "2026-11-22, or empty."
        ) from err
    if line.audience not in get_args(Audience):
        raise ConfigError(f"{where}: 'audience' must be one of {', '.join(get_args(Audience))}.")
    if not line.reach:
        raise ConfigError(f"{where} needs a number, a text line or a page.")
    return line
