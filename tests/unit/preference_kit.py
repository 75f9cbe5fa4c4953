"""What the tests of reward models and DPO share: invented preferences with one thing to learn."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from heedful.testing import save_tiny
from heedful.testing.talks import SEEKER, SUPPORTER
from heedful.training.methods import Run, configured

KIND = "It is understandable that you feel hurt."
COLD = "Would it help to tell her exactly that?"


def kind_and_cold(path: Path, n: int = 80, *, single: bool = False) -> Path:
    """Preferences of which the better reply ends in one sentence and the worse one in another."""
    draw = random.Random(4)
    with path.open("w", encoding="utf-8") as file:
        for k in range(n):
            prompt = f"{k}. " + " ".join(draw.sample(SEEKER, 2))
            good, bad = (f"{draw.choice(SUPPORTER)} {end}" for end in (KIND, COLD))
            common: dict[str, Any] = {"prompt": prompt, "conversation_id": f"c{k}", "licence": "Apache-2.0"}
            if single:
                file.write(json.dumps({**common, "completion": good if k % 2 else bad, "label": bool(k % 2)}) + "\n")
            else:
                file.write(json.dumps({**common, "chosen": good, "rejected": bad}) + "\n")
    return path


class Kit:
    """A tiny model, preferences, and runs beside them."""

    def __init__(self, root: Path, method: str) -> None:
        self.root, self.method = root, method
        self.model = save_tiny(root / "model")
        self.data = kind_and_cold(root / "pairs.jsonl")

    def values(self, name: str, **more: Any) -> dict[str, Any]:
        """Settings of a run in `name`."""
        return {
            "method": self.method,
            "model_name_or_path": str(self.model),
            "dataset": str(self.data),
            "eval_share": 0.25,
            "precision": "fp32",
            "learning_rate": 0.01,
            "warmup_steps": 0,
            "logging_steps": 1,
            "save_steps": 2,
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "output_dir": str(self.root / name),
            **more,
        }

    def run(self, name: str, *callbacks: Any, **more: Any) -> Run:
        """Train."""
        method, config = configured(self.values(name, **more))
        return method.train(config, callbacks=callbacks)
