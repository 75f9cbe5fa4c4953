"""Numbers as people read them: thousands marks, a true minus, as many digits as an interval supports."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

_MOST_PLACES = 6


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number inside a sentence, to be shown with `places` digits behind the point."""

    value: float
    places: int


Parts = tuple[str | Figure, ...]
"""A sentence in pieces: words, and numbers that a page shows rounded and keeps exact."""


def said(parts: Parts) -> str:
    """A sentence in pieces as plain text.

    >>> said(("rose by ", Figure(value=0.125, places=2), "."))
    'rose by 0.12.'
    """
    return "".join(part if isinstance(part, str) else shown(part.value, part.places) for part in parts)


def shown(value: float, places: int = 0) -> str:
    """`value` with thousands marks, `places` digits behind the point and a true minus; never a minus zero."""
    text = f"{value:,.{places}f}"
    if text.startswith("-"):
        text = text[1:] if not text.strip("-0.,") else f"\u2212{text[1:]}"
    return text


def digits(numbers: Iterable[tuple[float | None, float | None, float | None]]) -> int:
    """Digits behind the point for (value, low, high) that stand together: two digits of the usual interval's width.

    Without any interval: two, or three where all values are below one.
    """
    kept = list(numbers)
    widths = sorted(high - low for _, low, high in kept if low is not None and high is not None and high > low)
    if widths:
        places = 1 - math.floor(math.log10(statistics.median_low(widths)))
    else:
        places = 2 if any(value is not None and abs(value) >= 1 for value, *_ in kept) else 3
    return min(_MOST_PLACES, max(1, places))


def visible(places: int, *numbers: float | None) -> int:
    """`places`, or as many more as it takes that no number other than zero reads as zero."""
    while places < _MOST_PLACES and any(number and round(number, places) == 0 for number in numbers):
        places += 1
    return places


def estimate(value: float, low: float | None, high: float | None, places: int) -> Parts:
    """A value with its interval in brackets, where it has one."""
    places = visible(places, value, low, high)
    figure = Figure(value=value, places=places)
    if low is None or high is None:
        return (figure,)
    return (figure, " (", Figure(value=low, places=places), " to ", Figure(value=high, places=places), ")")
