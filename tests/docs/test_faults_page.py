"""docs/faults.md: every drill of the table is a test, and the drills that a clinic was promised are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text("utf-8")
ROWS = [line for line in PAGE.splitlines() if "::" in line]
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)))
PROMISED = (
    "binary", "right-to-left", "emoji", "50,000", "ignore your instructions", "you are the clinician, approve",
    "same message twice", "clock is put back", "two clinicians", "killed in mid-generation", "disk full",
    "database locked", "killed -9 between acknowledge and reply", "broken audit chain", "longer than", "no JSON",
)  # fmt: skip
"""Words of each fault that the clinic was built against."""


def named_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / "unit" / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_the_drill_exists(file: str, test: str) -> None:
    assert test in named_in(file)


def test_every_row_says_what_was_lost_and_names_its_test() -> None:
    assert len(ROWS) > 25
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, row[:60]
        assert all(cells), row[:60]
        assert re.search(r"`test_\w+\.py::test_\w+`", cells[3])


def test_no_named_test_is_written_in_a_way_that_nobody_checks() -> None:
    assert len(re.findall("::", PAGE)) == len(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE))


@pytest.mark.parametrize("words", PROMISED)
def test_the_promised_drills_are_in_the_table(words: str) -> None:
    assert any(words in row for row in ROWS)
