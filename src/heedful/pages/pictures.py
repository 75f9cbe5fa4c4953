"""Pictures of counts: a matrix of cells (confusion), and stacked bars (shares over the course of a talk).

As in `charts`: SVG text, positions along x in % of the width, colours as CSS variables with a fallback. Every share is
written where there is room for it; the colours are apart for every kind of colour vision.

>>> picture = matrix([[3, 1], [0, 4]], ["yes", "no"], title="gold by predicted")
>>> picture.count("<rect"), "3" in picture
(4, True)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_INK, _PAPER = "var(--ink,#1b1b1b)", "var(--paper,#ffffff)"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#F0E442")
"""Okabe and Ito's, which readers with any kind of colour vision can tell apart."""
_CELL = 30
_BAR, _GAP = 26, 10
_ROOM = 0.055
"""Share of a bar below which its number finds no room."""


def matrix(counts: Sequence[Sequence[float]], labels: Sequence[str], *, title: str, left: float = 26.0) -> str:
    """A square of counts, rows in shares of their own sum: the darker, the larger the share of the row.

    Args:
        counts: [K, K], row = gold, column = predicted.
        labels: of rows and columns.
        title: read out by screen readers.
        left: room for row names, in % of the width.
    """
    wide = (99.0 - left) / len(labels)
    parts = [f"<title>{escape(title)}</title>"]
    for k, label in enumerate(labels):
        middle = left + wide * (k + 0.5)
        parts.append(_text(f"{middle:.2f}%", 14, str(k), anchor="middle"))
        parts.append(_text(f"{left - 1}%", 24 + _CELL * k + 20, f"{label}  {k}", anchor="end"))
    for i, row in enumerate(counts):
        total = sum(row)
        for k, count in enumerate(row):
            share = count / total if total else 0.0
            x, y = left + wide * k, 24 + _CELL * i
            parts.append(
                f"<rect x='{x:.2f}%' y='{y}' width='{wide - 0.3:.2f}%' height='{_CELL - 2}' "
                f"style='fill:{COLOURS[0]}' fill-opacity='{share:.3f}' stroke='#bbbbbb' stroke-width='0.5'>"
                f"<title>{escape(labels[i])} taken for {escape(labels[k])}: {count:,.0f} of {total:,.0f}</title></rect>"
            )
            colour = "#ffffff" if share > 0.55 else _INK
            parts.append(_text(f"{x + wide / 2:.2f}%", y + 19, f"{count:,.0f}", anchor="middle", colour=colour))
    tall = 24 + _CELL * len(labels) + 6
    return f"<svg class='matrix' width='100%' height='{tall}' role='img'>{''.join(parts)}</svg>"


def bars(rows: Mapping[str, Sequence[float | None]], labels: Sequence[str], *, title: str, left: float = 18.0) -> str:
    """One bar of 100 % per row, cut into the shares of the labels, in their order.

    Args:
        rows: name -> share of each label in %; a row of None has nothing to show and says so.
        labels: what the shares are of.
        title: read out by screen readers.
        left: room for row names, in % of the width.
    """
    parts, wide = [f"<title>{escape(title)}</title>"], 99.0 - left
    x = left
    for k, label in enumerate(labels):  # the key, two rows of four
        across, down = left + (k % 4) * wide / 4, 12 + 18 * (k // 4)
        parts.append(f"<rect x='{across:.2f}%' y='{down - 10}' width='12' height='12' style='fill:{_colour(k)}'/>")
        parts.append(
            f"<text x='{across:.2f}%' dx='17' y='{down}' font-size='11' style='fill:{_INK}'>{escape(label)}</text>"
        )
    top = 12 + 18 * (-(-len(labels) // 4))
    for number, (name, shares) in enumerate(rows.items()):
        y = top + number * (_BAR + _GAP)
        parts.append(_text(f"{left - 1}%", y + 17, name, anchor="end"))
        known = [share for share in shares if share is not None]
        if len(known) < len(shares) or not sum(known):
            parts.append(_text(f"{left}%", y + 17, "nothing to show"))
            continue
        x = left
        for k, share in enumerate(known):
            size = wide * share / 100
            parts.append(
                f"<rect x='{x:.2f}%' y='{y}' width='{max(size, 0):.2f}%' height='{_BAR}' style='fill:{_colour(k)}' "
                f"stroke='{_PAPER}' stroke-width='1'>"
                f"<title>{escape(name)}, {escape(labels[k])}: {share:.1f} %</title></rect>"
            )
            if share / 100 > _ROOM:
                parts.append(_text(f"{x + size / 2:.2f}%", y + 17, f"{share:.0f}", anchor="middle", colour=_on(k)))
            x += size
    tall = top + len(rows) * (_BAR + _GAP)
    return f"<svg class='bars' width='100%' height='{tall}' role='img'>{''.join(parts)}</svg>"


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _on(k: int) -> str:
    """Black or white, whichever reads better on the colour (WCAG relative luminance)."""
    channels = [int(_colour(k)[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


def _text(x: str, y: float, text: str, *, anchor: str = "start", colour: str = _INK) -> str:
    return (
        f"<text x='{x}' y='{y:.1f}' font-size='12' text-anchor='{anchor}' style='fill:{colour}'>{escape(text)}</text>"
    )
