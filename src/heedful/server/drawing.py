"""Pictures on pages: the curves of `heedful.pages`, without style attributes; the content policy forbids these."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from markupsafe import Markup, escape

from heedful.pages.charts import Curve, Style, curves
from heedful.server.reasons import Mark

COLOURS: Final = ("var(--one,#0072B2)", "var(--two,#D55E00)", "var(--three,#009E73)", "var(--four,#CC79A7)")
STYLES: Final[tuple[Style, ...]] = ("solid", "dashed", "dotted", "dashdot")
MOST: Final = len(STYLES)
_STYLE: Final = re.compile(r"style='([^']*)'")


def plain(svg: str) -> Markup:
    """An SVG without style attributes: what stood there becomes attributes, which a policy does not touch.

    >>> str(plain("<path style='stroke:red;fill:none'/>"))
    "<path stroke='red' fill='none'/>"
    """

    def attributes(found: re.Match[str]) -> str:
        pairs = [part.partition(":") for part in found[1].split(";") if part.strip()]
        return " ".join(f"{name.strip()}='{value.strip()}'" for name, _, value in pairs)

    return Markup(_STYLE.sub(attributes, svg))


def lines(
    named: Mapping[str, Sequence[tuple[float, float | None]]], *, title: str, x_label: str, tall: int = 150
) -> Markup:
    """Up to four lines over one pair of axes, told apart by stroke as well as by colour. Empty without any value."""
    drawn = [
        Curve(name=name, x=[x for x, _ in points], y=[y for _, y in points], colour=COLOURS[n], style=STYLES[n])
        for n, (name, points) in enumerate(list(named.items())[:MOST])
        if points
    ]
    return plain(curves(drawn, title=title, x_label=x_label, tall=tall, left=12.0)) if drawn else Markup("")


def course(marks: Sequence[Mark], *, title: str, x_label: str) -> Markup:
    """What was read about emotions, turn by turn: the four that were strongest anywhere."""
    highest: dict[str, float] = {}
    for mark in marks:
        for name, value in mark.values.items():
            highest[name] = max(highest.get(name, 0.0), value)
    chosen = sorted(highest, key=lambda name: (-highest[name], name))[:MOST]
    points = {name: [(float(mark.turn), mark.values.get(name)) for mark in marks] for name in chosen}
    return lines(points, title=title, x_label=x_label, tall=120)


def trend(totals: Sequence[tuple[datetime, int | None]], *, name: str, title: str, x_label: str) -> Markup:
    """Sums of a questionnaire over days since the first one; None breaks the line."""
    if not totals:
        return Markup("")
    first = totals[0][0]
    points = [((at - first).total_seconds() / 86_400, None if n is None else float(n)) for at, n in totals]
    return lines({name: points}, title=title, x_label=x_label)


def bar(share: float, *, label: str) -> Markup:
    """A share from 0 to 1 as a bar; the number stands beside it."""
    width = max(0.0, min(1.0, share)) * 100
    return Markup(
        "<svg class='bar' width='100%' height='10' role='img' aria-label='{}'>"
        "<rect width='100%' height='10' rx='2' fill='var(--rule,#ddd)'/>"
        "<rect width='{:.1f}%' height='10' rx='2' fill='var(--one,#0072B2)'/></svg>"
    ).format(escape(label), width)
