"""Intervals on a zero line, and curves: SVG text for pages, and as files of their own (`standalone`).

Positions along x are percentages, so a picture is as wide as the page gives it while letters and strokes keep their
size: readable on a phone and at 200 % zoom. Colours are CSS variables of the page with a fallback, so a dark page gets
light strokes; no meaning hangs on colour alone (filled or hollow, solid or dashed).

>>> picture = curves([Curve(name="reward", x=[0, 1, 2], y=[0.1, 0.4, 0.8], colour="var(--mark,#0072B2)")],
...                  title="Reward by step", x_label="step")
>>> standalone(picture, width=640).startswith("<svg xmlns='http://www.w3.org/2000/svg' width='640' height='288'")
True
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

_MOST_POINTS = 400
_REACH = 46  # half the width of a forest row that the scale takes, in %
_RIGHT = 98.0  # end of the plot area, in % of the width
Style = Literal["solid", "dashed", "dotted", "dashdot", "dots"]
_DASHES: dict[Style, str] = {"dashed": "7 4", "dotted": "1 5", "dashdot": "9 4 1 4"}
_INK, _SOFT = "var(--ink,#1b1b1b)", "var(--rule,#c9c9c9)"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line: `y` over `x` (equal lengths; None breaks the line). `colour` is any CSS colour.

    `style`: a kind of stroke, or `dots` (no line; each point is labelled with its value, so for few points).
    `spread`: half the height of a pale band around the line, such as a standard deviation; None for no band.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str
    style: Style = "solid"
    spread: Sequence[float | None] | None = None

    def points(self) -> list[tuple[float, float | None]]:
        return list(zip(self.x, self.y, strict=True))

    def edges(self) -> list[tuple[float, float, float]]:
        """(x, low, high) of the band, thinned like the line."""
        if self.spread is None:
            return []
        halves = thinned(list(zip(self.x, self.spread, strict=True)))
        pairs = zip(thinned(self.points()), halves, strict=True)
        return [(x, y - half, y + half) for (x, y), (_, half) in pairs if y is not None and half is not None]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The plot area: x in % of the width, y in px; and the values at its edges."""

    left: float
    top: int
    tall: int
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @property
    def wide(self) -> float:
        return _RIGHT - self.left

    def share(self, x: float) -> float:
        return 0.5 if self.x_high == self.x_low else (x - self.x_low) / (self.x_high - self.x_low)

    def down(self, y: float) -> float:
        return self.tall * (self.y_high - y) / (self.y_high - self.y_low)

    def at(self, x: float, y: float) -> str:
        """Where a value lies in the inner picture, which is 1000 wide."""
        return f"{1000 * self.share(x):.1f} {self.down(y):.1f}"


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


def curves(
    lines: Sequence[Curve], *, title: str, x_label: str, tall: int = 210, left: float = 10.0, legend: bool = True,
    most_dots: int = 40,
) -> str:  # fmt: skip
    """Lines over one pair of axes, with a legend; at most 400 points a line, each then the mean of neighbours.

    Args:
        lines: at least one finite point among them, else the result is an empty string.
        title: read out by screen readers.
        x_label: what x counts.
        tall: height of the plot area, in px.
        left: room for the numbers on the left, in % of the width; a narrow picture needs a larger share.
        legend: whether names stand above the lines; they take one row, so many long names belong into the page's text
            (`key`).
        most_dots: a line of at most this many points shows each of them as a dot.
    """
    thin = [(line, thinned(line.points())) for line in lines]
    found = [(x, y) for _, points in thin for x, y in points if y is not None]
    if not found:
        return ""
    reach = [y for _, y in found] + [edge for line in lines for _, *pair in line.edges() for edge in pair]
    marks = ticks(min(reach), max(reach))
    top = 34 if legend else 12
    frame = _Frame(
        left=left, top=top, tall=tall, y_low=marks[0], y_high=marks[-1],
        x_low=min(x for x, _ in found), x_high=max(x for x, _ in found),
    )  # fmt: skip
    places = next(n for n in range(13) if all(math.isclose(mark, round(mark, n), abs_tol=1e-12) for mark in marks))
    parts = [f"<title>{escape(title)}</title>", *_axes(frame, marks, places, x_label)]
    for line, points in thin:
        for step, loss in points if line.style == "dots" else ():
            if loss is not None:
                parts.append(_label(frame, step, loss, f"{line.name}: {loss:.{places + 1}f}"))
    drawn = "".join(_band(line, frame.at) for line in lines) + "".join(
        _path(*each, frame.at, most_dots) for each in thin
    )
    # The inner picture stretches with the page; its strokes do not (vector-effect).
    parts.append(
        f"<svg x='{left}%' y='{top}' width='{frame.wide}%' height='{tall}' viewBox='0 0 1000 {tall}' "
        f"preserveAspectRatio='none' overflow='visible'>{drawn}</svg>"
    )
    if legend:
        parts += _legend([line for line, points in thin if any(y is not None for _, y in points)])
    return f"<svg class='curve' width='100%' height='{top + tall + 44}' role='img'>{''.join(parts)}</svg>"


def key(line: Curve) -> str:
    """A short stroke in the line's style, for a legend in the text of a page."""
    stroke = _line("1", 6, "33", 6, line.colour, "3", _dash(line.style))
    return f"<svg class='key' width='34' height='12' aria-hidden='true'>{stroke}</svg>"


def standalone(svg: str, *, width: int = 720) -> str:
    """A picture of `curves` as a file of its own: fixed size, white ground, colours that need no page.

    Args:
        svg: what `curves` returned; an empty string stays empty.
        width: px.
    """
    if not svg:
        return ""
    found = re.match(r"<svg[^>]*? height='(\d+)'[^>]*>", svg)
    if found is None:
        raise ValueError("standalone() takes what curves() returned")
    tall = found[1]
    own = re.sub(r"var\(--[\w-]+,\s*([^()]+)\)", r"\1", svg[found.end() :])
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{tall}' viewBox='0 0 {width} {tall}' "
        f"role='img' font-family='system-ui,sans-serif'><rect width='{width}' height='{tall}' fill='#ffffff'/>{own}\n"
    )


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


def _axes(frame: _Frame, marks: Sequence[float], places: int, x_label: str) -> list[str]:
    parts = []
    for mark in marks:
        y = frame.top + frame.down(mark)
        parts.append(_line(f"{frame.left}%", y, f"{_RIGHT}%", y, _SOFT, "1"))
        parts.append(
            _text(f"{frame.left - 1}%", y + 4, f"{mark:.{places}f}" if places <= 5 else f"{mark:.3g}", anchor="end")
        )
    middle = {(frame.x_low + frame.x_high) / 2: "middle"}
    # Steps are whole numbers: between two neighbours there is none to name.
    ends = {frame.x_low: "start", **(middle if frame.x_high - frame.x_low > 1 else {}), frame.x_high: "end"}
    below = frame.top + frame.tall
    for value, anchor in (ends if len(ends) > 1 else {frame.x_low: "middle"}).items():
        across = frame.left + frame.wide * frame.share(value)
        parts.append(_text(f"{across:.2f}%", below + 18, f"{value:,.0f}", anchor=anchor))
    parts.append(_text(f"{frame.left + frame.wide / 2}%", below + 36, x_label, anchor="middle"))
    return parts


def _band(line: Curve, at: Callable[[float, float], str]) -> str:
    """The pale area around a line."""
    edges = line.edges()
    if len(edges) < 2:
        return ""
    outline = [at(x, high) for x, _, high in edges] + [at(x, low) for x, low, _ in reversed(edges)]
    return f"<path d='M{'L'.join(outline)}Z' style='fill:{escape(line.colour)}' fill-opacity='0.16'/>"


def _path(
    line: Curve, points: Sequence[tuple[float, float | None]], at: Callable[[float, float], str], most_dots: int
) -> str:
    """The line in pieces between gaps, and a dot at each point while they are few."""
    steps, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        steps.append(f"{pen}{at(x, y)}")
        pen = "L"
    dots = "".join(f"M{at(x, y)}h0" for x, y in points if y is not None) if len(points) <= max(most_dots, 1) else ""
    common = (
        f"fill='none' style='stroke:{escape(line.colour)}' stroke-linecap='round' vector-effect='non-scaling-stroke'"
    )
    marks = f"<path d='{dots}' stroke-width='7' {common}/>" if dots else ""
    if line.style == "dots":
        return marks
    return f"<path d='{''.join(steps)}' stroke-width='2' stroke-linejoin='round' {common}{_dash(line.style)}/>{marks}"


def _dash(style: Style) -> str:
    return f" stroke-dasharray='{_DASHES[style]}'" if style in _DASHES else ""


def _legend(lines: Sequence[Curve]) -> list[str]:
    parts, x = [], 4.0
    for line in lines:
        if line.style == "dots":
            parts.append(f"<circle cx='{x + 13:.0f}' cy='10' r='4' style='fill:{escape(line.colour)}'/>")
        else:
            parts.append(_line(f"{x:.0f}", 10, f"{x + 26:.0f}", 10, line.colour, "3", _dash(line.style)))
        parts.append(_text(f"{x + 32:.0f}", 14, line.name))
        x += 32 + 7.2 * len(line.name) + 14
    return parts


def _label(frame: _Frame, x: float, y: float, text: str) -> str:
    """Words beside a point of the plot area, on the side where there is room."""
    share = frame.share(x)
    right = share > 0.5
    across = frame.left + frame.wide * share + (-1.5 if right else 1.5)
    return _text(f"{across:.2f}%", frame.top + frame.down(y) - 8, text, anchor="end" if right else "start")


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
