"""A reward that any policy can raise, and does: the loop learns, not only adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_kit import Bench

from heedful.scoring.rewards import Task
from heedful.training.methods import configured
from heedful.types import Trace


def share_of_e(trace: Trace, task: Task) -> float:
    """Share of the letter e among the characters of a reply."""
    return trace.reply.count("e") / max(len(trace.reply), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "grpo"},
        {"method": "ppo", "num_generations": 8, "num_iterations": 1, "kl_coef": 0.01, "value_learning_rate": 0.01},
    ],
    ids=lambda settings: settings["method"],
)
def test_a_simple_reward_is_raised(settings: dict[str, Any], tmp_path: Path) -> None:
    """64 replies a step; the last five steps against the first four, whose policy has hardly moved."""
    bench = Bench(tmp_path)
    method, config = configured(
        {
            "model_name_or_path": str(bench.model), "dataset": str(bench.data), "format": "chat", "precision": "fp32",
            "eval_split": None, "lora_rank": 8, "learning_rate": 0.01, "lr_scheduler_type": "constant",
            "rewards": [{"name": f"{__name__}:share_of_e"}], "max_new_tokens": 12, "rollout_batch_size": 8,
            "mini_batch_size": 8, "per_device_train_batch_size": 8, "max_steps": 25, "save_traces": False,
            "output_dir": str(tmp_path / "run"), **settings,
        }
    )  # fmt: skip
    run = method.train(config)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    rewards = np.array([row["reward"] for row in rows])
    error = np.sqrt(
        sum(np.mean([row["reward/std"] ** 2 for row in part]) / (64 * len(part)) for part in (rows[:4], rows[-5:]))
    )
    assert rewards[-5:].mean() - rewards[:4].mean() > 2 * error
    assert abs(rows[0]["kl"]) < 1e-3
