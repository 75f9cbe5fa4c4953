"""Intervals on a zero line and curves, as SVG text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.evaluation._summary import Comparison
from heedful.evaluation.charts import Curve, curves, forest_row, thinned, ticks


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
