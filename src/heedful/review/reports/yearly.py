"""Yearly counts (California SB 243, Oregon SB 1546): how often help was pointed to, how often the protocol ran.

They come from counters that hold a name, a month and a number, so there is nobody in them to be found. Small parts are
left out all the same (docs/decisions/0071-small-numbers.md).

>>> parts({"thoughts": 12, "immediate": 3}) is None, parts({"thoughts": 12, "immediate": 0})
(True, {'thoughts': 12, 'immediate': 0})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from heedful.safety.crisis import TIERS, Tier
from heedful.store import Store
from heedful.store.unit import Unit

REFERRALS, PROTOCOLS = "referrals", "protocols"
COUNTED: Final = (REFERRALS, PROTOCOLS)
"""Referrals: crisis lines were shown in answer to something. Protocols: the crisis path acted on what was said."""
SMALLEST: Final = 5
"""A part from 1 to 4 is not shown."""
SHOWN_TIERS: Final = TIERS[1:]


@dataclass(frozen=True, kw_only=True)
class Count:
    """One thing that was counted in a year.

    Args:
        total: exact; this is the number that the law asks for.
        tiers, months: parts of it; None where one of them is too small to be shown.
    """

    name: str
    total: int
    tiers: Mapping[str, int] | None
    months: Mapping[str, int] | None


@dataclass(frozen=True, kw_only=True)
class Yearly:
    """The counts of a year."""

    year: int
    counts: tuple[Count, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "year": self.year,
            "smallest_part_shown": SMALLEST,
            "counts": {
                c.name: {
                    "total": c.total,
                    "by_tier": None if c.tiers is None else dict(c.tiers),
                    "by_month": None if c.months is None else dict(c.months),
                }
                for c in self.counts
            },
        }


def count(unit: Unit, name: str, tier: Tier) -> None:
    """One more, in the month of the store's clock. A tier of `none` is nothing that is counted."""
    if tier != "none":
        unit.counters.add(f"{name}/{tier}", period=month(unit.now()))


def month(at: datetime) -> str:
    """The period of a counter.

    >>> month(datetime(2026, 3, 9))
    '2026-03'
    """
    return f"{at.year}-{at.month:02d}"


def yearly(store: Store, year: int) -> Yearly:
    """The counts of one year, in UTC."""
    with store.read() as unit:
        found = {key: n for key, n in unit.counters.all().items() if key[1].startswith(f"{year}-")}
    counts = []
    for name in COUNTED:
        own = {
            (entry.partition("/")[2], period): n for (entry, period), n in found.items() if entry.startswith(f"{name}/")
        }
        tiers: dict[str, int] = {tier: sum(n for (of, _), n in own.items() if of == tier) for tier in SHOWN_TIERS}
        periods = [f"{year}-{n:02d}" for n in range(1, 13)]
        months = {period: sum(n for (_, at), n in own.items() if at == period) for period in periods}
        counts.append(Count(name=name, total=sum(tiers.values()), tiers=parts(tiers), months=parts(months)))
    return Yearly(year=year, counts=tuple(counts))


def parts(found: Mapping[str, int]) -> dict[str, int] | None:
    """Parts of a total, or None where one is from 1 to 4: with the total known, a part left out can be found."""
    return None if any(0 < n < SMALLEST for n in found.values()) else dict(found)
