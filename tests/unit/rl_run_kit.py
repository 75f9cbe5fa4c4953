"""Invented runs of reinforcement learning: files as the loop writes them, with known changes in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HELDOUT = ("emotion_heldout", "similarity_heldout")
COMPONENTS = {"emotion": 1.0, "copy": -0.5, "length": 0.0}


def validation(
    step: int, *, gain: float = 0.0, held: Mapping[str, float] | None = None, n: int = 48, per: int = 2, seed: int = 6
) -> dict[str, Any]:
    """One validation of `n` replies, `per` to a conversation; `gain` goes on the total, `held` on held-out scores."""
    base = np.random.default_rng([seed, 1, 1])  # the prompts: the same at every step
    now = np.random.default_rng([seed, 2, step + 1])
    easy = base.normal(0.5, 0.2, n)
    gains = dict.fromkeys(HELDOUT, 0.0) if held is None else held

    def column(shift: float, wobble: float = 0.05) -> list[float | None]:
        return [float(x) for x in easy + shift + now.normal(0, wobble, n)]

    return {
        "step": step,
        "n": n,
        "ids": [f"talk-{i // per}/{2 * (i % per) + 1}" for i in range(n)],
        "clusters": [f"talk-{i // per}" for i in range(n)],
        "total": column(gain),
        "train": {name: column(gain * (weight or 0.2)) for name, weight in COMPONENTS.items()},
        "weights": dict(COMPONENTS),
        "heldout": {name: column(shift) for name, shift in gains.items()},
        "length": [int(x) for x in 20 + 10 * easy + 30 * gain + now.normal(0, 3, n)],
        "finish": ["stop"] * n,
        "distinct2": 0.6 - 0.2 * gain,
        "repetition": 0.02 + 0.1 * gain,
    }


def metrics(steps: int, *, gain: float = 0.3) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl over `steps` steps."""
    draw = np.random.default_rng(5)
    rows = []
    for step in range(1, steps + 1):
        done = step / steps
        row: dict[str, Any] = {
            "step": step, "reward": 0.4 + gain * done + draw.normal(0, 0.03), "reward/std": 0.2 - 0.1 * done,
            "reward/corr/emotion/copy": 0.8 + draw.normal(0, 0.02), "reward/corr/copy/length": -0.2,
            "kl": 0.5 + 6 * done, "kl_coefficient": 0.05 + 0.02 * done, "entropy": 2.5 - done, "length": 25 + 9 * done,
            "truncated": 0.02 + 0.1 * done, "empty": 0.0, "unscored": 0.01, "clip_fraction": 0.1 * done,
            "explained_variance": 0.7 * done, "policy_loss": draw.normal(0, 0.01), "value_loss": 0.5 - 0.3 * done,
            "mismatch": 0.0004, "learning_rate": 1e-5, "grad_norm": 0.8, "seconds/rollout": 21.0, "seconds/reward": 1.5,
            "seconds/update": 9.25, "tokens": 4000,
        }  # fmt: skip
        for name in COMPONENTS:
            row |= {
                f"reward/{name}": 0.3 + 0.3 * done + draw.normal(0, 0.02), f"reward/{name}/std": 0.1,
                f"reward/{name}/length_corr": 0.4, f"reward/{name}/unscored": 0.01 if name == "emotion" else 0.0,
                f"reward/{name}/clipped": 1 if name == "copy" and step == 2 else 0,
                f"reward/{name}/raised": 2 if name == "emotion" and step == 3 else 0,
            }  # fmt: skip
        rows.append(row)
    return rows


def probes(steps: list[int], *, prompts: int = 2) -> list[dict[str, Any]]:
    """Replies to fixed prompts."""
    return [
        {
            "step": step,
            "id": f"talk-{i}/3",
            "said": "The move is on Friday and I have not packed a single box.",
            "reply": f"That sounds like a lot at once. What would help first? (step {step})",
            "scores": {"emotion": 0.4 + step / 200, "reward": None if step == 0 else 0.5 + step / 300},
            "plan": {"strategy": "question"},
        }
        for step in steps
        for i in range(prompts)
    ]


CONFIG = {
    "method": "ppo",
    "model_name_or_path": "runs/lantern-sft",
    "seed": 13,
    "learning_rate": 1e-5,
    "rewards": [{"name": "emotion", "weight": 1.0}],
    "x_heedful": {"data_hash": "0f1e2d3c4b5a6978", "versions": {"torch": "2.13.0"}, "command": "heedful train rl.yaml"},
}
SUMMARY = {
    "kind": "train", "method": "ppo", "stopped": "done", "stop_reason": "all planned steps were taken.", "steps": 40,
    "seconds": 1271.5,
}  # fmt: skip


def write_run(
    folder: Path,
    *,
    steps: list[dict[str, Any]] | None = None,
    validations: list[dict[str, Any]] | None = None,
    replies: list[dict[str, Any]] | None = None,
    summary: Mapping[str, Any] | None = SUMMARY,
    config: Mapping[str, Any] | None = CONFIG,
) -> Path:
    """A run folder; a part that is None is not written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("metrics", steps), ("validation", validations), ("probes", replies)):
        if rows is not None:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text, "utf-8")
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    if config is not None:
        (folder / "config.resolved.yaml").write_text(yaml.safe_dump(dict(config)), "utf-8")
    return folder
