"""The toy proof, in short: one seed of GRPO, a smaller start, and a reward that rises beyond chance."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
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


@pytest.mark.slow
def test_grpo_learns_the_toy_reward(toy: ModuleType, tmp_path: Path) -> None:
    """Means of 64 replies a step: the last four steps against the first three, whose policy has hardly moved."""
    toy.start_model(tmp_path, steps=40, layers=1, hidden=64)
    folder = toy.train_one(
        "grpo", 13, tmp_path, max_steps=14, rollout_batch_size=8, mini_batch_size=8, per_device_train_batch_size=8,
        max_new_tokens=32, learning_rate=5e-3, kl_coef=0.02, eval_split=None,
    )  # fmt: skip
    rows = toy.lines(folder / "metrics.jsonl")
    rewards = np.array([row["reward"] for row in rows])
    before, after = rewards[:3], rewards[-4:]
    # Replies of a prompt are as good as independent at the start; two standard errors of a share each.
    error = math.sqrt(before.mean() * (1 - before.mean()) / (3 * 64) + after.mean() * (1 - after.mean()) / (4 * 64))
    assert after.mean() - before.mean() > max(4 * error, 0.15)
    assert abs(rows[0]["kl"]) < 1e-3
    assert rows[-1]["kl"] < 20


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
