"""The stage `method: study`: several systems, decodings and scorers on one test part, with the stage's folder."""

from __future__ import annotations

from typing import Any

from heedful import taxonomy
from heedful.evaluation.baselines import BASELINES
from heedful.evaluation.study import study
from heedful.evaluation.study_config import StudyConfig
from heedful.pipeline.kinds import Kind, known_names
from heedful.scoring.suite import resolve


def _run(config: StudyConfig, *, say: Any, callbacks: tuple[Any, ...], command: str) -> object:
    return study(config, say=say, command=command)


def _names(config: StudyConfig) -> None:
    known_names(config)
    resolve(config.metrics)
    for name in config.baselines:
        BASELINES.get(name)
    for label_set in config.labels:
        taxonomy.get(label_set)


STUDY = Kind(config=StudyConfig, run=_run, names=_names)
