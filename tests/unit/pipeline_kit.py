"""A training method that takes no time: each step is one line said and one sealed checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training_kit import Killed

from heedful.errors import UserError
from heedful.training.checkpoints import newest, seal, to_resume
from heedful.training.config import BookSettings
from heedful.training.methods import Method, Run


class FastConfig(BookSettings):
    """`method: pipeline_kit:FAST`."""

    method: str = "pipeline_kit:FAST"
    model_name_or_path: str = "nothing"
    learning_rate: float = 0.01
    max_steps: int = 3
    checkpoints: bool = True
    fail: bool = False


def _train(config: FastConfig, *, say: Any = lambda text: None, callbacks: tuple[Any, ...] = ()) -> Run:
    folder = Path(str(config.output_dir))
    earlier = to_resume(folder / "checkpoints", config.resume_from_checkpoint)
    if earlier is None and (newest(folder / "checkpoints") or (folder / "summary.json").is_file()):
        raise UserError(f"{folder} holds a run already.")
    done = json.loads((earlier / "state.json").read_text()) if earlier else []
    for step in range(len(done) + 1, config.max_steps + 1):
        say(f"step {step}")
        if config.fail:
            raise UserError("It was told to fail.")
        done.append(config.learning_rate)
        place = folder / "checkpoints" / f"checkpoint-{step}"
        place.mkdir(parents=True)
        (place / "state.json").write_text(json.dumps(done))
        if config.checkpoints:
            seal(place)
    (folder / "weights.json").write_text(json.dumps(done))
    say("weights written")
    summary = {"kind": "train", "steps": len(done), "stopped": "done", "seconds": 1.5}
    (folder / "summary.json").write_text(json.dumps(summary))
    say("summary written")
    return Run(folder=folder, summary=summary)


def _plan(config: FastConfig) -> Mapping[str, Any]:
    return {"steps": config.max_steps, "note": "none"}


FAST = Method(config=FastConfig, train=_train, plan=_plan)


class Lines(list[str]):
    """What a run says; dies when it says `at`."""

    def __init__(self, at: str | None = None) -> None:
        super().__init__()
        self.at = at

    def __call__(self, text: str) -> None:
        self.append(text)
        if self.at is not None and self.at in text:
            raise Killed

    @property
    def stages(self) -> list[str]:
        """The lines that begin a stage."""
        return [line for line in self if line.startswith("stage ")]
