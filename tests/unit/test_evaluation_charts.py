"""Intervals on a zero line and curves, as SVG text: on a page and as files of their own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.evaluation._summary import Comparison
from heedful.pages.charts import Curve, curves, forest_row, key, standalone, thinned, ticks


def place(svg: str) -> float:
    found = re.search(r"cx='([\d.]+)%'", svg)
    assert found
    return float(found[1])


def test_forest_dots_stand_on_their_side_of_zero() -> None:
    assert place(forest_row(value=0.0, low=-1, high=1, limit=2, claimed=False)) == 50
    assert place(forest_row(value=1.0, low=0.5, high=2, limit=2, claimed=True)) == 73
    assert place(forest_row(value=-2.0, low=-2, high=-1, limit=2, claimed=True)) == 4
    assert place(forest_row(value=0.0, low=0.0, high=0.0, limit=0.0, claimed=False)) == 50


def test_forest_dots_are_filled_only_where_a_difference_is_claimed() -> None:
    hollow = "fill:var(--paper"
    assert hollow not in forest_row(value=1, low=0.5, high=2, limit=2, claimed=True)
    assert hollow in forest_row(value=1, low=0.5, high=2, limit=2, claimed=False)
    assert hollow in forest_row(value=1, low=None, high=None, limit=2, claimed=False)


@pytest.mark.parametrize(("interval", "sign"), [((0.5, 2), 1), ((-0.5, 2), 0), ((0.0, 2), 0), ((None, None), None)])
def test_a_difference_is_claimed_only_where_its_interval_excludes_zero(interval: Any, sign: int | None) -> None:
    low, high = interval
    pair = Comparison(a="x", b="y", metric="m", difference=1, low=low, high=high, p=None)
    assert pair.sign == sign
    assert pair.model_copy(update={"difference": -0.1}).sign == (None if sign is None else 0)
    assert pair.model_copy(update={"p": 0.049}).sign == sign
    assert pair.model_copy(update={"p": 0.05}).sign == (None if sign is None else 0)


def test_dots_are_labelled_with_their_value_and_have_no_line() -> None:
    svg = curves([Curve(name="once", x=[9], y=[2.5], colour="#000", style="dots")], title="t", x_label="s")
    assert "once: 2.5" in svg
    assert "<path d='M500.0" in svg
    assert "stroke-width='2' stroke-linejoin" not in svg


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_hold_the_range_and_are_few(low: float, span: float) -> None:
    marks = ticks(low, low + span)
    assert 2 <= len(marks) <= 8
    slack = 1e-6 * max(1.0, abs(low), abs(low + span))
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack


def test_curves_break_at_gaps_and_escape_names() -> None:
    svg = curves(
        [Curve(name="<b>", x=[1, 2, 3, 4], y=[1.0, None, 2.0, 1.5], colour="#000")], title="a & b", x_label="step"
    )
    path = re.search(r"<path d='(M[^']*)' stroke-width='2'", svg)
    assert path
    assert path[1].count("M") == 2
    assert "&lt;b&gt;" in svg
    assert "a &amp; b" in svg
    assert curves([Curve(name="x", x=[1], y=[None], colour="#000")], title="t", x_label="s") == ""


def test_thinning_keeps_the_mean_and_the_ends() -> None:
    points = [(float(i), float(i % 7)) for i in range(4000)]
    small = thinned(points)
    assert len(small) == 400
    assert sum(y or 0 for _, y in small) / 400 == pytest.approx(sum(y for _, y in points) / 4000)
    assert thinned([(1, None)] * 1000) == [(1.0, None)] * len(thinned([(1, None)] * 1000))


def test_a_band_lies_around_its_line_and_widens_the_scale() -> None:
    line = Curve(name="r", x=[0, 1, 2], y=[1.0, 1.0, None], colour="#000", spread=[0.5, 0.5, 0.5])
    svg = curves([line], title="t", x_label="s")
    band = re.search(r"<path d='(M[^']*Z)'[^>]*fill-opacity", svg)
    assert band
    assert len(band[1].split("L")) == 4
    heights = {float(point.split()[1].rstrip("Z")) for point in band[1][1:].split("L")}
    assert heights == {0.0, 210.0}  # 1.5 and 0.5 are the ends of the scale
    assert curves([Curve(name="r", x=[0], y=[1.0], colour="#000", spread=[0.5])], title="t", x_label="s")


def test_a_long_band_is_thinned_like_its_line() -> None:
    n = 1000
    line = Curve(name="r", x=range(n), y=[float(i) for i in range(n)], colour="#000", spread=[1.0] * n)
    assert len(line.edges()) == len(thinned(line.points()))


def test_a_picture_of_its_own_has_its_size_and_its_colours() -> None:
    lines = [
        Curve(name="a & b", x=[0, 50], y=[0.1, 0.9], colour="var(--mark,#0072B2)", spread=[0.1, 0.1]),
        Curve(name="other", x=[0, 50], y=[0.2, 0.3], colour="var(--second, #B34700)", style="dashdot"),
    ]
    svg = standalone(curves(lines, title="Reward & more", x_label="step"), width=640)
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("640", "288", "0 0 640 288")
    assert "var(" not in svg
    assert "#0072B2" in svg
    assert "#B34700" in svg
    assert root[0].get("fill") == "#ffffff"
    assert standalone("") == ""
    with pytest.raises(ValueError, match="what curves"):
        standalone("<p>no picture</p>")


def test_no_two_styles_look_alike() -> None:
    styles = ("solid", "dashed", "dotted", "dashdot")
    assert len({key(Curve(name="x", x=[], y=[], colour="#000", style=style)) for style in styles}) == len(styles)
