"""Suites: named comparisons of systems on one protocol, so that one command makes one table.

    heedful eval compare esconv --systems base,sft,joint,oracle

A suite is a YAML file in `suites/`: its systems with the command that makes each run, the study that they enter, and
what stands beside them (floors, published rows of the same protocol block, and of no other).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from heedful.errors import ConfigError, unknown
from heedful.evaluation.study_config import StudyConfig, SystemConfig
from heedful.settings import Settings, apply_overrides, check


class SuiteSystem(SystemConfig):
    """A system of a suite."""

    make: str | None = Field(default=None, description="the command that makes its run; null: nothing is to be made")


class Suite(Settings):
    """Several systems under one protocol.

    `study` holds what all of them share; it is a study's configuration without systems.
    """

    title: str
    block: str | None = Field(default=None, description="published rows of this protocol block stand beside ours")
    floors: str | None = Field(default=None, description="data set of `heedful eval floors`")
    labels: str | None = Field(default=None, description="label set of the plans that systems choose")
    against: list[str] = Field(
        default_factory=list, description="every system is tested against each of these, which may be baselines"
    )
    contrasts: list[tuple[str, str]] = Field(
        default_factory=list, description="pairs [first, second] that are tested besides, where both are chosen"
    )
    systems: dict[str, SuiteSystem]
    study: dict[str, Any]


def names() -> list[str]:
    """The suites that come with heedful."""
    folder = files("heedful.evaluation") / "suites"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def get(name: str) -> Suite:
    """A suite by name.

    Raises:
        NotFoundError: no such suite.
    """
    if name not in names():
        raise unknown("suite", name, names())
    path = files("heedful.evaluation") / "suites" / f"{name}.yaml"
    return check(Suite, yaml.safe_load(path.read_text("utf-8")), where=f"suite {name}")


def study_of(
    suite: Suite,
    name: str,
    systems: Sequence[str] = (),
    *,
    runs: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> StudyConfig:
    """The study of a suite.

    Args:
        name: of the suite, for the folder.
        systems: which of them, in this order; all whose runs are here if none is named.
        runs: system -> another run's folder to take.
        overrides: `key=value` for the study.

    Raises:
        NotFoundError: no such system.
        ConfigError: a system's run is not there; the sentence says what makes it.
    """
    runs = runs or {}
    for wanted in (*systems, *runs):
        if wanted not in suite.systems:
            raise unknown("system of the suite", wanted, list(suite.systems))
    there = {key: _placed(spec, runs.get(key)) for key, spec in suite.systems.items()}
    chosen = list(systems) or [key for key, spec in there.items() if not _missing(spec)]
    for key in chosen:
        if gone := _missing(there[key]):
            raise ConfigError(
                f"The system '{key}' needs {gone[0]}, which is not there. Make it with: {there[key].make}; name "
                f"another run with --run {key}=FOLDER; or leave it out with --systems."
            )
    if not systems and not any(there[key].make for key in chosen):
        first = next(spec.make for spec in suite.systems.values() if spec.make)
        raise ConfigError(f"Not one run of the suite '{name}' is here. Begin with: {first}")
    values = {
        "output_dir": f"runs/compare-{name}",
        **suite.study,
        "systems": {key: there[key].model_dump(exclude={"make"}, exclude_unset=True) for key in chosen},
    }
    if pairs := _pairs(suite, chosen, [str(name) for name in suite.study.get("baselines") or ()]):
        values["compare"] = pairs
    if suite.labels and any(there[key].plan in ("argmax", "sample") or _asks(there[key]) for key in chosen):
        values["labels"] = {suite.labels: {"tag": True}}
    return check(StudyConfig, apply_overrides(values, list(overrides)), where=f"suite {name}")


def _pairs(suite: Suite, chosen: Sequence[str], baselines: Sequence[str]) -> list[list[str]]:
    """What is tested against what: fixed by the suite, whatever the order in which systems are named."""
    known = [*chosen, *baselines]
    found = [[first, second] for first in suite.against for second in chosen if first in known and first != second]
    found += [list(pair) for pair in suite.contrasts if set(pair) <= set(chosen)]
    return [list(pair) for pair in dict.fromkeys(tuple(pair) for pair in found)]


def _placed(spec: SuiteSystem, folder: str | None) -> SuiteSystem:
    return spec if folder is None else spec.model_copy(update={"model_name_or_path": folder})


def _asks(spec: SuiteSystem) -> bool:
    return spec.plan is not None and not isinstance(spec.plan, str) and spec.plan.choose in ("argmax", "sample")


def _missing(spec: SuiteSystem) -> list[str]:
    """Folders that a system needs and that are not there; a model's name is no folder."""
    plan = None if isinstance(spec.plan, str) else spec.plan
    asked = [] if plan is None else [*plan.ask, *([plan.mix] if plan.mix else [])]
    folders = [path for path in (spec.model_name_or_path, *asked) if path.startswith(("runs/", ".", "/", "~"))]
    return [path for path in folders if not Path(path).expanduser().is_dir()]
