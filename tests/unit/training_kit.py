"""What the tests of training share: a tiny model and corpus on disk, small runs, and how to read them back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from heedful import corpora
from heedful.testing import conversations, save_tiny
from heedful.training import Run, TrainConfig, train
from heedful.types import Conversation


def corpus(train: int = 12, valid: int = 4, *, turns: int | None = None) -> list[Conversation]:
    """Invented conversations with splits."""
    return [replace(c, split="train") for c in conversations(train, seed=1, turns=turns)] + [
        replace(c, split="valid") for c in conversations(valid, seed=2, turns=turns)
    ]


class Bench:
    """A folder with a tiny model and a corpus, and runs beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = save_tiny(root / "model")
        self.data = root / "talks.jsonl"
        corpora.write_jsonl(self.data, corpus())

    def values(self, name: str, **more: Any) -> dict[str, Any]:
        """Settings of a run in `name`: 12 conversations, 3 steps an epoch, every step logged."""
        return {
            "model_name_or_path": str(self.model),
            "dataset": str(self.data),
            "eval_split": None,
            "precision": "fp32",
            "lora_rank": 4,
            "lora_alpha": 8,
            "learning_rate": 0.01,
            "warmup_steps": 0,
            "logging_steps": 1,
            "save_steps": 100,
            "num_train_epochs": 2,
            "output_dir": str(self.root / name),
            **more,
        }

    def run(self, name: str, *callbacks: TrainerCallback, **more: Any) -> Run:
        """Train."""
        return train(TrainConfig(**self.values(name, **more)), callbacks=callbacks)

    def crash(self, name: str, step: int, **more: Any) -> Path:
        """Train and die as step `step` begins; returns the run's folder."""
        try:
            self.run(name, Crash(step), **more)
        except Killed:
            return self.root / name
        raise AssertionError("the run was to be interrupted")


class Killed(BaseException):
    """Nothing in the library may catch it, as nothing can catch a SIGKILL."""


class Crash(TrainerCallback):
    """Ends the process's work, as far as the library can see, when step `step` (from 1) begins."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            raise Killed


class Poison(TrainerCallback):
    """Makes a weight NaN as step `step` begins, or at its end."""

    def __init__(self, step: int, *, after: bool = False) -> None:
        self.step, self.after = step, after

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step - 1 and not self.after:
            self.spoil(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step and self.after:
            self.spoil(model)

    def spoil(self, model: Any) -> None:
        next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))


def metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def losses(folder: Path) -> list[float]:
    """The training loss of every step."""
    return [row["loss"] for row in metrics(folder) if "loss" in row]


def weights(folder: Path) -> dict[str, Any]:
    """The trained weights that a run saved."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors" if (folder / "adapter_config.json").is_file() else "model.safetensors"
    found: dict[str, Any] = load_file(str(folder / name))
    return found


def assert_same_run(found: Path, expected: Path, *, tolerance: float = 1e-6, without: Sequence[str] = ()) -> None:
    """Same steps, same numbers in every row but for the columns `without`, same weights at the end."""
    import pytest
    import torch

    rows, wanted = ([{k: v for k, v in r.items() if k not in without} for r in metrics(x)] for x in (found, expected))
    assert [sorted(r) for r in rows] == [sorted(r) for r in wanted]
    for row, want in zip(rows, wanted, strict=True):
        # A perplexity is exp(loss) of some hundreds, so its digits count from the first one.
        assert row == pytest.approx(want, abs=tolerance, rel=tolerance)
    ours, theirs = weights(found), weights(expected)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=tolerance, rtol=0)
