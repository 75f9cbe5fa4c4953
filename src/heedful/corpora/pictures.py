"""Small charts as SVG text: no plotting library, no script, no outside font, so that a page with them stands alone.

Colours are Okabe and Ito's, which people with any common form of colour blindness can tell apart; the heat map goes
from white to one dark blue, and every cell also shows its number. Each picture has a `<title>` for screen readers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
_INK, _GRID = "#222222", "#DDDDDD"
_FONT = "font-family='system-ui, sans-serif'"
_CHAR = 6.6  # width of a character of 12 px text, on average


def histogram(bars: Sequence[tuple[str, float]], *, title: str, unit: str = "", colour: str = BLUE) -> str:
    """Upright bars side by side, each with its label below and its value above.

    Args:
        bars: label, value >= 0, in order.
        title: read out by screen readers and written above.
        unit: written below the labels.
        colour: any CSS colour.
    """
    width, height, step = max(240, 44 * len(bars) + 20), 190, 44
    top = max([value for _, value in bars], default=0) or 1
    show = _numbers([value for _, value in bars])
    parts = []
    for i, (label, value) in enumerate(bars):
        x, tall = 10 + i * step, 92 * value / top
        parts += [
            f"<rect x='{x}' y='{140 - tall:.1f}' width='36' height='{tall:.1f}' fill='{escape(colour)}'/>",
            _text(x + 18, 135 - tall, show(value), size=10, anchor="middle"),
            _text(x + 18, 155, label, size=11, anchor="middle"),
        ]
    parts.append(f"<line x1='8' y1='140' x2='{width - 8}' y2='140' stroke='{_INK}'/>")
    parts.append(_text(width / 2, 175, unit, size=11, anchor="middle"))
    return _svg(parts, width=width, height=height, title=title)


def bars(values: Mapping[str, float], *, title: str, unit: str = "", colour: str = BLUE) -> str:
    """Lying bars, one a row: label left, value at the end of the bar.

    Args:
        values: label -> value >= 0, drawn in the given order.
        title: read out by screen readers and written above.
        unit: appended to the values, such as " %".
        colour: any CSS colour.
    """
    left = 20 + _CHAR * max(map(len, values), default=0)
    top = max(values.values(), default=0) or 1
    show = _numbers(list(values.values()))
    parts = []
    for i, (label, value) in enumerate(values.items()):
        y, wide = 34 + 24 * i, 300 * value / top
        parts += [
            _text(left - 8, y + 13, label, anchor="end"),
            f"<rect x='{left:.1f}' y='{y}' width='{wide:.1f}' height='18' fill='{escape(colour)}'/>",
            _text(left + wide + 6, y + 13, show(value) + unit),
        ]
    return _svg(parts, width=left + 390, height=44 + 24 * len(values), title=title)


def heat_map(
    rows: Mapping[str, Mapping[str, float]], *, columns: Sequence[str], title: str, top: float | None = None
) -> str:
    """A table of shaded cells, each with its number; a missing value stays white and shows a dash.

    Args:
        rows: row label -> column label -> value >= 0.
        columns: column labels in order; they are written slanted.
        title: read out by screen readers and written above.
        top: value that gets the darkest colour; by default the largest.
    """
    found = [rows[r][c] for r in rows for c in columns if c in rows[r]]
    limit = top or max(found, default=0) or 1
    show = _numbers(found)
    left = 20 + _CHAR * max(map(len, rows), default=0)
    head = 50 + 0.7 * _CHAR * max(map(len, columns), default=0)
    parts = []
    for j, label in enumerate(columns):
        x = left + 52 * j + 26
        parts.append(_text(x, head - 8, label, anchor="start", turn=-40))
    for i, (row, cells) in enumerate(rows.items()):
        y = head + 28 * i
        parts.append(_text(left - 8, y + 18, row, anchor="end"))
        for j, column in enumerate(columns):
            value = cells.get(column)
            share = 0.0 if value is None else min(1.0, max(0.0, value / limit))
            ink = "#FFFFFF" if share > 0.55 else _INK
            parts += [
                f"<rect x='{left + 52 * j:.1f}' y='{y:.1f}' width='52' height='28' fill='{_shade(share)}' "
                f"stroke='{_GRID}'/>",
                _text(left + 52 * j + 26, y + 18, "–" if value is None else show(value), anchor="middle", fill=ink),
            ]
    # Slanted labels of the last columns reach beyond the table.
    spare = 0.8 * _CHAR * max(map(len, columns), default=0)
    return _svg(parts, width=left + 52 * len(columns) + spare + 20, height=head + 28 * len(rows) + 12, title=title)


def _numbers(values: Sequence[float]) -> Callable[[float], str]:
    """One form for all numbers of a picture: thousands marks for whole ones, else one or two digits."""
    if all(value == int(value) for value in values):
        return lambda value: f"{int(value):,}"
    digits = 1 if max(map(abs, values)) >= 10 else 2
    return lambda value: f"{value:.{digits}f}"


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """One HTML page that needs nothing else: heading, and for each section a heading and ready HTML or SVG."""
    body = "\n".join(f"<section><h2>{escape(head)}</h2>\n{content}</section>" for head, content in sections)
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>\n"
        "body{font-family:system-ui,sans-serif;color:#222;background:#fff;margin:2rem auto;max-width:64rem;"
        "padding:0 1rem;line-height:1.5}\n"
        "table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:right}\n"
        "th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}section{margin-bottom:2rem}\n"
        f"</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; the first column is text, the others are numbers."""
    top = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _shade(share: float) -> str:
    """White at 0, dark blue at 1."""
    low, high = (255, 255, 255), (8, 48, 107)
    return "#" + "".join(f"{round(a + (b - a) * share):02X}" for a, b in zip(low, high, strict=True))


def _text(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", fill: str = _INK, turn: int = 0
) -> str:
    rotate = f" transform='rotate({turn} {x:.1f} {y:.1f})'" if turn else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='{fill}'{rotate}>"
        f"{escape(text)}</text>"
    )


def _svg(parts: Sequence[str], *, width: float, height: float, title: str) -> str:
    width = max(width, 30 + 7.6 * len(title))
    head = f"<text x='10' y='20' font-size='14' font-weight='600' fill='{_INK}'>{escape(title)}</text>"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' role='img' viewBox='0 0 {width:.0f} {height:.0f}' "
        f"width='{width:.0f}' height='{height:.0f}' {_FONT}><title>{escape(title)}</title>"
        f"<rect width='100%' height='100%' fill='#FFFFFF'/>{head}{''.join(parts)}</svg>\n"
    )
