"""The files of an RL run as records: what the page of a run reads.

    metrics.jsonl -> Step, validation.jsonl -> Validation, probes.jsonl -> Probe; config.resolved.yaml, summary.json

A run may be going on, or may have been killed: a torn last line is passed over, files may be missing, and of a step
that was written twice (before and after a resume) the later line counts. A number that is not finite is missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from heedful.errors import DataError, NotFoundError
from heedful.pages.page import clean
from heedful.settings import read_yaml

METRICS, VALIDATION, PROBES = "metrics.jsonl", "validation.jsonl", "probes.jsonl"
SUMMARY, CONFIG = "summary.json", "config.resolved.yaml"

Number = Annotated[float | None, AfterValidator(lambda v: v if v is not None and math.isfinite(v) else None)]
Column = list[Number]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), coerce_numbers_to_str=True)


class Step(_Record):
    """One row of metrics.jsonl; `values` are its numbers by name."""

    step: int
    values: dict[str, float]

    def get(self, name: str) -> float | None:
        return self.values.get(name)

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, row: Any) -> Any:
        # Keys may be absent, null, or not for this page (a text): only finite numbers are kept.
        if not isinstance(row, Mapping):
            return row
        kept = {
            key: float(value)
            for key, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        return {"step": row.get("step"), "values": kept}


class Validation(_Record):
    """One row of validation.jsonl: columns with an entry per reply."""

    step: int
    ids: list[str]
    clusters: list[str]
    total: Column
    train: dict[str, Column] = Field(default_factory=dict)
    weights: dict[str, float] = Field(default_factory=dict)
    heldout: dict[str, Column] = Field(default_factory=dict)
    length: Column = Field(default_factory=list)
    finish: list[str] = Field(default_factory=list)
    distinct2: Number = None
    repetition: Number = None
    lower_is_better: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _same_length(self) -> Validation:
        sizes = {"clusters": len(self.clusters), "total": len(self.total)}
        sizes |= {f"train.{name}": len(column) for name, column in self.train.items()}
        sizes |= {f"heldout.{name}": len(column) for name, column in self.heldout.items()}
        sizes |= {name: n for name, n in {"length": len(self.length), "finish": len(self.finish)}.items() if n}
        for name, n in sizes.items():
            if n != len(self.ids):
                raise ValueError(f"there are {len(self.ids)} ids but {n} values of {name}")
        return self


class Probe(_Record):
    """One reply to a fixed prompt. `said` and `reply` are words of people and models: for the page only."""

    step: int
    id: str
    said: str | None = Field(default=None, repr=False)
    reply: str | None = Field(default=None, repr=False)
    scores: dict[str, Number] = Field(default_factory=dict)
    plan: dict[str, Any] | None = Field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """All files of a run, ordered by step."""

    folder: Path
    steps: tuple[Step, ...]
    validations: tuple[Validation, ...]
    probes: tuple[Probe, ...] = field(repr=False)
    summary: Mapping[str, Any]
    config: Mapping[str, Any]


R = TypeVar("R", Step, Validation, Probe)


def read_run(folder: Path, *, summary: Mapping[str, Any] | None = None) -> RunFiles:
    """The files of a run folder.

    Args:
        summary: in place of summary.json, which a run writes last of all.

    Raises:
        NotFoundError: the folder has none of them.
        DataError: a line is damaged that is not the last one, or an entry is of the wrong kind.
    """
    if not any((folder / name).is_file() for name in (METRICS, VALIDATION, CONFIG)):
        raise NotFoundError(
            f"There is no reinforcement learning run in '{folder}': expected {METRICS} and {CONFIG}, as "
            "`heedful train` writes them. Name the folder of a run."
        )
    steps = {row.step: row for row in _rows(folder / METRICS, Step)}
    validations = {row.step: row for row in _rows(folder / VALIDATION, Validation)}
    probes = {(row.step, row.id): row for row in _rows(folder / PROBES, Probe)}
    return RunFiles(
        folder=folder,
        steps=tuple(steps[step] for step in sorted(steps)),
        validations=tuple(validations[step] for step in sorted(validations)),
        probes=tuple(sorted(probes.values(), key=lambda probe: probe.step)),
        summary=_summary(folder / SUMMARY) if summary is None else clean(summary),
        config=clean(read_yaml(folder / CONFIG)) if (folder / CONFIG).is_file() else {},
    )


def _rows(path: Path, kind: type[R]) -> Iterator[R]:
    if not path.is_file():
        return
    lines = path.read_bytes().split(b"\n")
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            found = json.loads(line.decode("utf-8"))
        except ValueError:
            if number == last:
                return  # a kill tore it, or it is being written
            # Not `from err`: its object holds the line, which may be words of a client.
            raise DataError(f"{path}, line {number + 1} is damaged; expected one JSON object a line.") from None
        try:
            yield kind.model_validate(clean(found))
        except ValidationError as err:
            first = err.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "the row itself"
            what = first["msg"].removeprefix("Value error, ")
            raise DataError(
                f"{path}, line {number + 1}: '{where}' cannot be used: {what[:1].lower()}{what[1:]}. "
                "A run writes this file itself; do not edit it."
            ) from None


def _summary(path: Path) -> Mapping[str, Any]:
    """summary.json, empty while a run goes on or where a kill tore it."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return clean(found) if isinstance(found, dict) else {}
