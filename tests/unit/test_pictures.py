"""Matrices and stacked bars say their numbers, in cells, in shares and to screen readers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from heedful.pages.charts import standalone
from heedful.pages.pictures import COLOURS, bars, matrix


def rects(svg: str) -> list[ET.Element]:
    return ET.fromstring(svg).findall(".//rect")


def test_a_matrix_shades_each_row_by_its_own_sum() -> None:
    svg = matrix([[30, 10], [1, 1]], ["ask <why>", "tell"], title="gold by predicted")
    shades = [float(r.attrib["fill-opacity"]) for r in rects(svg)]
    assert shades == [0.75, 0.25, 0.5, 0.5]
    assert "ask &lt;why&gt; taken for tell: 10 of 40" in svg
    assert [t.text for t in ET.fromstring(svg).findall("text")][-4:] == ["30", "10", "1", "1"]


def test_a_row_without_gold_is_empty_and_no_error() -> None:
    assert [float(r.attrib["fill-opacity"]) for r in rects(matrix([[0, 0], [0, 2]], ["a", "b"], title="t"))] == [
        0,
        0,
        0,
        1,
    ]


def test_bars_fill_the_whole_width_and_keep_their_order() -> None:
    svg = bars({"1st": [50, 25, 25], "2nd": [100, 0, 0]}, ["x", "y", "z"], title="t", left=20)
    found = [r for r in rects(svg) if r.attrib["height"] == "26"]
    widths = [float(r.attrib["width"].rstrip("%")) for r in found]
    assert widths == [39.5, 19.75, 19.75, 79.0, 0.0, 0.0]
    assert [float(r.attrib["x"].rstrip("%")) for r in found][:3] == [20.0, 59.5, 79.25]
    assert "1st, y: 25.0 %" in svg
    assert [t.text for t in ET.fromstring(svg).findall("text")].count("0") == 0  # no room for a share of nothing


def test_a_row_that_is_missing_says_so() -> None:
    svg = bars({"1st": [None, None]}, ["x", "y"], title="t")
    assert "nothing to show" in svg


def test_numbers_can_be_read_on_every_colour() -> None:
    svg = bars({str(k): [100.0 if i == k else 0.0 for i in range(8)] for k in range(8)}, list("abcdefgh"), title="t")
    on = re.findall(r"style='fill:(#\w{6})'>100</text>", svg)
    assert len(on) == len(COLOURS)
    assert set(on) == {"#000000", "#ffffff"}


def test_a_picture_can_stand_alone() -> None:
    assert standalone(matrix([[1]], ["a"], title="t"), width=300).startswith(
        "<svg xmlns='http://www.w3.org/2000/svg' width='300'"
    )
