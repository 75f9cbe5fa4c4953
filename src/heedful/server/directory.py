"""The crisis lines that pages show: the bundled table with the clinic's changes out of the store.

They are kept for some seconds, and what was read last stays where the database does not answer: help may not depend on
anything that can be down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import cache
from typing import Any, Final

from heedful.errors import HeedfulError
from heedful.review.crisis import Lines
from heedful.safety import resources
from heedful.safety.resources import Line, Resources
from heedful.server import logs
from heedful.store import Store
from heedful.store.unit import Unit

MOST: Final = 3
"""Lines in the bar; the page of all lines has the rest."""


class Directory:
    """Crisis lines of one clinic.

    Args:
        store: where its changes are; None = the bundled table alone.
        country: whose lines come first.
        seconds: how long a table is kept.
    """

    def __init__(
        self,
        store: Store | None,
        *,
        country: str,
        seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.country, self.seconds, self.clock = store, country, seconds, clock
        self._lock = threading.Lock()
        self._table, self._until = resources.load(), -1.0

    def table(self) -> Resources:
        """The table as it stands."""
        with self._lock:
            if self.store is None or self.clock() < self._until:
                return self._table
            self._until = self.clock() + self.seconds
        try:
            with self.store.read() as unit:
                found = read(unit)
        except HeedfulError as err:
            logs.fault(err)
            return self._table
        with self._lock:
            self._table = found
        return found

    def forget(self) -> None:
        """Read it again at the next page: somebody changed it."""
        with self._lock:
            self._until = -1.0

    def bar(self, language: str) -> tuple[Line, ...]:
        """The first lines for anyone; a pair is not torn apart.

        They are the same in every language; only their order may differ, those that speak it first.
        """
        lines = [line for line in self.table().of(self.country) if line.audience == "anyone"]
        first = lines[:MOST]
        pairs = {line.pair for line in first if line.pair}
        shown = {line.id for line in first + [line for line in lines[MOST:] if line.pair in pairs]}
        return tuple(line for line in self.table().of(self.country, language=language) if line.id in shown)

    def fill(self, language: str) -> Lines:
        """What stands in the texts of the crisis path."""
        table = self.table()
        first = table.first(self.country, language=language)
        both = [line for line in table.lines if line.pair and line.pair == first.pair] or [first]
        return Lines(
            line=f"{first.name} ({' / '.join(line.reach for line in both)})", emergency=table.emergency(self.country)
        )

    def own(self) -> tuple[Line, ...]:
        """All lines of this country, whoever they are for; those for anywhere, where it has none."""
        lines = self.table().lines
        return tuple(line for line in lines if line.country == self.country) or self.table().of(self.country)

    def old(self, today: date) -> tuple[Line, ...]:
        """Lines of this country that staff has to check."""
        return tuple(line for line in self.own() if line.old(today))


def read(unit: Unit) -> Resources:
    """The bundled table with the changes that a store holds.

    Raises:
        ConfigError: they do not fit together; `check` keeps such changes out.
    """
    changes = unit.resources.all()
    table = resources.load()
    known = {line.id for line in table.lines}
    entries = [entry(row) for row in changes if not row.removed]
    return resources.with_changes(table, entries, removed=[r.id for r in changes if r.removed and r.id in known])


def entry(row: Any) -> dict[str, Any]:
    """A change of the store as an entry of the table."""
    return {**row.entry, "id": row.id, "country": row.country, "checked": row.checked_on or ""}


def country_of(said: str | None, house: str, profiles: Sequence[str]) -> str:
    """Whose crisis lines a service shows: never a guess from a browser, its language or the place of a visitor.

    Args:
        said: of the configuration. house: of `clinic.toml`.
        profiles: names; laws of states of the US alone mean the US.

    Returns:
        Two letters, or `default`: nobody said, so the line that knows lines of all countries is shown.

    >>> country_of(None, "DE", ["us-ny"]), country_of(None, "", ["us-ny", "us-wa"]), country_of(None, "", ["eu"])
    ('DE', 'US', 'default')
    """
    american = bool(profiles) and all(name.startswith("us-") for name in profiles)
    return said or house or ("US" if american else resources.DEFAULT)


@cache
def bundled(country: str) -> Directory:
    """The bundled table, for a page behind which no clinic stands yet."""
    return Directory(None, country=country)
