"""The stage `method: eval`: `heedful eval run` with the stage's folder as its place."""

from __future__ import annotations

from typing import Any

from heedful.evaluation.config import EvalConfig
from heedful.evaluation.run import evaluate, settle
from heedful.pipeline.kinds import Kind, known_names


def _run(config: EvalConfig, *, say: Any, callbacks: tuple[Any, ...], command: str) -> object:
    return evaluate(config, say=say, command=command)


def _names(config: EvalConfig) -> None:
    known_names(config)
    # The run that would name its data set may not be there yet; baselines and metrics can be looked up with any.
    settle(config if config.dataset else config.model_copy(update={"dataset": "commons"}))


EVAL = Kind(config=EvalConfig, run=_run, names=_names)
