"""Intervals on a zero line, and curves: SVG text for the report of an evaluation.

Positions along x are percentages, so a picture is as wide as the page gives it while letters and strokes keep their
size: readable on a phone and at 200 % zoom. Colours are CSS variables of the page with a fallback, so a dark page gets
light strokes; no meaning hangs on colour alone (filled or hollow, solid or dashed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

_MOST_POINTS = 400
_REACH = 46  # half the width of a forest row that the scale takes, in %
_TOP, _TALL, _LEFT, _WIDE = 34, 210, 10.0, 88.0  # plot area: y in px, x in % of the width
_INK, _SOFT = "var(--ink,#1b1b1b)", "var(--rule,#c9c9c9)"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line: `y` over `x` (equal lengths; None breaks the line). `colour` is any CSS colour.

    `style`: `solid`, `dashed`, or `dots` (no line; each point is labelled with its value, so for few points).
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str
    style: Literal["solid", "dashed", "dots"] = "solid"

    def points(self) -> list[tuple[float, float | None]]:
        return list(zip(self.x, self.y, strict=True))


def forest_row(*, value: float, low: float | None, high: float | None, limit: float, claimed: bool) -> str:
    """A point with its interval on a line from -limit to limit, zero in the middle.

    The dot is filled where the page claims a difference (`claimed`), else hollow. The numbers stand beside the picture
    in the table, so screen readers skip it.
    """
    parts = [_line("50%", 0, "50%", 28, _INK, "1", "stroke-dasharray='2 2'")]
    if low is not None and high is not None:
        left, right = _across(low, limit), _across(high, limit)
        parts.append(_line(left, 14, right, 14, "var(--mark,#0072B2)", "3"))
        parts += [_line(x, 9, x, 19, "var(--mark,#0072B2)", "2") for x in (left, right)]
    fill = "var(--mark,#0072B2)" if claimed else "var(--paper,#ffffff)"
    parts.append(
        f"<circle cx='{_across(value, limit)}' cy='14' r='5' stroke-width='2' "
        f"style='fill:{fill};stroke:var(--mark,#0072B2)'/>"
    )
    return f"<svg class='strip' width='100%' height='28' aria-hidden='true'>{''.join(parts)}</svg>"


def forest_axis(*, left: str, right: str) -> str:
    """The scale above the rows of one metric: its two ends and the zero between them."""
    ends = ((f"{50 - _REACH}%", left, "start"), ("50%", "0", "middle"), (f"{50 + _REACH}%", right, "end"))
    parts = [_text(x, 13, text, anchor=anchor) + _line(x, 17, x, 22, _INK, "1") for x, text, anchor in ends]
    return f"<svg class='strip' width='100%' height='22' aria-hidden='true'>{''.join(parts)}</svg>"


def curves(lines: Sequence[Curve], *, title: str, x_label: str) -> str:
    """Lines over one pair of axes, with a legend; at most 400 points a line, each then the mean of neighbours.

    Args:
        lines: at least one finite point among them, else the result is an empty string.
        title: read out by screen readers.
        x_label: what x counts.
    """
    thin = [(line, thinned(line.points())) for line in lines]
    found = [(x, y) for _, points in thin for x, y in points if y is not None]
    if not found:
        return ""
    x_low, x_high = min(x for x, _ in found), max(x for x, _ in found)
    marks = ticks(min(y for _, y in found), max(y for _, y in found))
    y_low, y_high = marks[0], marks[-1]
    places = next(n for n in range(13) if all(math.isclose(mark, round(mark, n), abs_tol=1e-12) for mark in marks))

    def at(x: float, y: float) -> str:
        across = 500.0 if x_high == x_low else 1000 * (x - x_low) / (x_high - x_low)
        return f"{across:.1f} {_TALL * (y_high - y) / (y_high - y_low):.1f}"

    parts = [f"<title>{escape(title)}</title>"]
    for mark in marks:
        y = _TOP + _TALL * (y_high - mark) / (y_high - y_low)
        parts.append(_line(f"{_LEFT}%", y, f"{_LEFT + _WIDE}%", y, _SOFT, "1"))
        parts.append(_text(f"{_LEFT - 1}%", y + 4, f"{mark:.{places}f}", anchor="end"))
    for value, anchor in {x_low: "start", (x_low + x_high) / 2: "middle", x_high: "end"}.items():
        share = 0.5 if x_high == x_low else (value - x_low) / (x_high - x_low)
        parts.append(_text(f"{_LEFT + _WIDE * share:.2f}%", _TOP + _TALL + 18, f"{value:,.0f}", anchor=anchor))
    parts.append(_text(f"{_LEFT + _WIDE / 2}%", _TOP + _TALL + 36, x_label, anchor="middle"))
    for line, points in thin:
        for step, loss in points if line.style == "dots" else ():
            if loss is not None:
                across, down = map(float, at(step, loss).split())
                parts.append(_label(f"{line.name}: {loss:.{places + 1}f}", across / 1000, down))
    drawn = "".join(_path(line, points, at) for line, points in thin)
    # The inner picture stretches with the page; its strokes do not (vector-effect).
    parts.append(
        f"<svg x='{_LEFT}%' y='{_TOP}' width='{_WIDE}%' height='{_TALL}' viewBox='0 0 1000 {_TALL}' "
        f"preserveAspectRatio='none' overflow='visible'>{drawn}</svg>"
    )
    parts += _legend([line for line, points in thin if any(y is not None for _, y in points)])
    return f"<svg class='curve' width='100%' height='{_TOP + _TALL + 44}' role='img'>{''.join(parts)}</svg>"


def thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """At most 400 points: means of as many neighbours as it takes. A stretch without any value stays a gap."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return list(points)
    merged: list[tuple[float, float | None]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [y for _, y in part if y is not None]
        merged.append((sum(x for x, _ in part) / len(part), sum(values) / len(values) if values else None))
    return merged


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers whose first is <= low and whose last is >= high."""
    size = max(abs(low), abs(high))
    # A range that is empty, or too narrow for a float to divide, gets room around it.
    span = high - low if high - low > max(1e-9 * size, 1e-9) else 0.1 * size if size > 1e-8 else 1.0
    raw = span / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _path(line: Curve, points: Sequence[tuple[float, float | None]], at: Callable[[float, float], str]) -> str:
    """The line in pieces between gaps, and a dot at each point while they are few."""
    steps, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        steps.append(f"{pen}{at(x, y)}")
        pen = "L"
    dots = "".join(f"M{at(x, y)}h0" for x, y in points if y is not None) if len(points) <= 40 else ""
    dash = " stroke-dasharray='7 4'" if line.style == "dashed" else ""
    common = (
        f"fill='none' style='stroke:{escape(line.colour)}' stroke-linecap='round' vector-effect='non-scaling-stroke'"
    )
    marks = f"<path d='{dots}' stroke-width='7' {common}/>" if dots else ""
    if line.style == "dots":
        return marks
    return f"<path d='{''.join(steps)}' stroke-width='2' stroke-linejoin='round' {common}{dash}/>{marks}"


def _legend(lines: Sequence[Curve]) -> list[str]:
    parts, x = [], 4.0
    for line in lines:
        dash = "stroke-dasharray='7 4'" if line.style == "dashed" else ""
        if line.style == "dots":
            parts.append(f"<circle cx='{x + 13:.0f}' cy='10' r='4' style='fill:{escape(line.colour)}'/>")
        else:
            parts.append(_line(f"{x:.0f}", 10, f"{x + 26:.0f}", 10, line.colour, "3", dash))
        parts.append(_text(f"{x + 32:.0f}", 14, line.name))
        x += 32 + 7.2 * len(line.name) + 14
    return parts


def _label(text: str, share: float, down: float) -> str:
    """Words beside a point of the plot area, on the side where there is room."""
    right = share > 0.5
    x = _LEFT + _WIDE * share + (-1.5 if right else 1.5)
    return _text(f"{x:.2f}%", _TOP + down - 8, text, anchor="end" if right else "start")


def _across(value: float, limit: float) -> str:
    """Where `value` lies, in % of the width; a little stays free at both ends for the dot."""
    share = value / limit if limit > 0 else 0.0
    return f"{50 + _REACH * max(-1.0, min(1.0, share)):.2f}%"


def _line(x1: str, y1: float, x2: str, y2: float, colour: str, width: str, more: str = "") -> str:
    return (
        f"<line x1='{x1}' y1='{y1:.1f}' x2='{x2}' y2='{y2:.1f}' style='stroke:{escape(colour)}' "
        f"stroke-width='{width}' {more}/>"
    )


def _text(x: str, y: float, text: str, *, anchor: str = "start") -> str:
    return f"<text x='{x}' y='{y:.1f}' font-size='12' text-anchor='{anchor}' style='fill:{_INK}'>{escape(text)}</text>"
