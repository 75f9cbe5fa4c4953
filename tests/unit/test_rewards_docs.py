"""The page of rewards names every reward, with the range and the options that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heedful.scoring.rewards import REWARDS

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text("utf-8")
ROW = re.compile(r"^\| `(\w+)` \| (-?[\d.]+) to (-?[\d.]+) \| (up|down) \| .+ \| (.+) \|$", re.MULTILINE)
ROWS = {row[0]: row for row in ROW.findall(PAGE)}


def test_the_table_lists_what_is_registered() -> None:
    assert sorted(ROWS) == REWARDS.names()


@pytest.mark.parametrize("name", REWARDS.names())
def test_a_row_says_what_the_function_declares(name: str) -> None:
    found = REWARDS.get(name)
    _, low, high, better, options = ROWS[name]
    assert (float(low), float(high)) == (found.low, found.high)
    assert (better == "up") == found.higher_is_better
    if options.startswith("as `"):
        options = ROWS[options.split("`")[1]][4]
    assert set(re.findall(r"`(\w+)`", options)) == set(found.options)
