"""What the toy proof is made of; that the loop learns at all is in test_rl_learns.py."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rl_toy_script", ROOT / "scripts" / "rl_toy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_least_kl_is_that_of_a_coin(toy: ModuleType) -> None:
    """From 1/4 to 1 every reply must come from the good quarter: log 4. No change costs nothing."""
    assert toy.least_kl(0.25, 1.0) == pytest.approx(math.log(4))
    assert toy.least_kl(0.25, 0.25) == pytest.approx(0)
    assert math.isnan(toy.least_kl(0.0, 0.5))


def test_the_page_is_filled_between_its_marks(toy: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{toy.BEGIN}\nold\n{toy.END}\nafter\n", "utf-8")
    for text in ("new", "newer"):
        toy.fill(page, text)
    assert page.read_text("utf-8") == f"before\n{toy.BEGIN}\n\nnewer\n\n{toy.END}\nafter\n"
