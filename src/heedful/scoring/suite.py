"""Run a list of metrics on rows and return a table: value, interval, n, unscored with reason, signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heedful.errors import ConfigError, NotFoundError, nearest
from heedful.scoring.base import COLUMNS, Floats, Metric, Result, Rows
from heedful.scoring.intervals import interval, paired
from heedful.scoring.metrics import GROUPS, METRICS
from heedful.types import Score


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric of a table. `value=None` means unscored, and then `reason` says why.

    Attributes:
        low, high: ends of the 95 % interval, None where there is none.
        n: rows that were scored.
        unscored: rows that were not; `reason` tells why, also when only some are missing.
        per_sample: one value per row of the whole table, NaN = unscored; None for corpus metrics.
    """

    name: str
    title: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    unscored: int = 0
    reason: str | None = None
    unit: str
    higher_is_better: bool | None
    definition: str
    signature: str
    per_sample: Floats | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values per row."""
        names = (
            "name", "title", "value", "low", "high", "n", "unscored", "reason", "unit", "higher_is_better",
            "definition", "signature",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Lines in the order asked for.

    Attributes:
        rows, clusters: how many replies and dialogues there were.
        bootstrap, seed: settings of the intervals.
    """

    lines: tuple[Line, ...]
    rows: int
    clusters: int
    bootstrap: int
    seed: int

    def line(self, name: str) -> Line:
        """One line by the metric's name.

        Raises:
            NotFoundError: the table has no such line.
        """
        for line in self.lines:
            if line.name == name:
                return line
        names = [line.name for line in self.lines]
        raise NotFoundError(
            f"This table has no line '{name}'.{nearest(name, names)} It has: {', '.join(names) or 'none'}."
        )

    def value(self, name: str) -> float | None:
        """A line's value; None = unscored."""
        return self.line(name).value

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "rows": self.rows,
            "clusters": self.clusters,
            "bootstrap": self.bootstrap,
            "seed": self.seed,
            "scores": [line.to_dict() for line in self.lines],
        }

    def scores(self) -> tuple[Score, ...]:
        """The lines as `Score` records."""
        return tuple(
            Score(
                name=line.name, value=line.value, reason=None if line.value is not None else line.reason or "unscored"
            )
            for line in self.lines
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Second minus first system on one metric, on the rows that both answered. None: see `reason`."""

    name: str
    first: float | None
    second: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    p_bootstrap: float | None = None
    p_randomisation: float | None = None
    n: int
    reason: str | None = None


def resolve(metrics: Sequence[str]) -> list[tuple[Metric, str]]:
    """Names and groups -> (metric, the group it came from or ''), each once.

    In a group, `a|b` becomes `a` where it can run here, else `b`.

    Raises:
        NotFoundError: neither a metric nor a group.
        ConfigError: nothing was asked for.
    """
    found: dict[str, tuple[Metric, str]] = {}
    for asked in metrics:
        if asked not in GROUPS:
            found[asked] = (_metric(asked), "")
            continue
        for entry in GROUPS[asked]:
            options = [_metric(name) for name in entry.split("|")]
            chosen = next((m for m in options if len(options) == 1 or m.missing() is None), options[0])
            found.setdefault(chosen.name, (chosen, asked))
    if not found:
        raise ConfigError(f"No metric was asked for. Known groups: {', '.join(GROUPS)}.")
    return list(found.values())


def _metric(name: str) -> Metric:
    try:
        metric = METRICS.get(name)
    except NotFoundError as err:
        known = [*METRICS.names(), *GROUPS]
        raise NotFoundError(
            f"Unknown metric '{name}'.{nearest(name, known)} Groups: {', '.join(GROUPS)}. Metrics: "
            f"{', '.join(METRICS.names())}."
        ) from err
    if not isinstance(metric, Metric):
        raise ConfigError(f"'{name}' names a {type(metric).__name__}, but a Metric was expected.")
    return metric


def score(rows: Rows, *, metrics: Sequence[str] = ("lexical",), bootstrap: int = 1000, seed: int = 13) -> Table:
    """Score replies (or labels) with named metrics.

    Args:
        metrics: names of `METRICS`, `module:attribute`, or groups (`published`, `lexical`, `all`, `classification`).
        bootstrap: draws for 95 % intervals over clusters; 0 leaves intervals out.
        seed: of the draws; the same seed gives the same table.

    Raises:
        NotFoundError: an unknown metric, or something (WordNet) that a metric asked for by name needs and is not here.
        MissingExtraError: a library that a metric asked for by name needs; as part of a group it is unscored.
        ConfigError: a negative number of draws, or no metric.
    """
    if bootstrap < 0:
        raise ConfigError(f"The number of bootstrap draws must be 0 or more, but it is {bootstrap}.")
    wanted = resolve(metrics)
    lines: dict[str, Line] = {}
    parts: dict[tuple[str, ...], tuple[Rows, list[int], str | None]] = {}
    for metric, group in sorted(wanted, key=lambda pair: pair[0].stage):
        if metric.needs not in parts:
            parts[metric.needs] = _complete(rows, metric)
        part, index, reason = parts[metric.needs]
        why_not = metric.missing() if group else None
        if why_not or not index:
            lines[metric.name] = _line(metric, rows, value=None, n=0, reason=why_not or reason or "no rows")
        else:
            lines[metric.name] = _scored(metric, rows, part, index, reason, bootstrap=bootstrap, seed=seed)
    return Table(
        lines=tuple(lines[metric.name] for metric, _ in wanted),
        rows=len(rows),
        clusters=len(set(rows.clusters)),
        bootstrap=bootstrap,
        seed=seed,
    )


def _complete(rows: Rows, metric: Metric) -> tuple[Rows, list[int], str | None]:
    """The rows that have all that the metric needs, where they are, and why others do not."""
    index = list(range(len(rows)))
    reasons = []
    for name in metric.needs:
        column = rows.column(name)
        kept = [i for i in index if column[i] is not None]
        if len(kept) < len(index):
            reasons.append(COLUMNS[name][1])
        index = kept
    # Metrics with other needs often keep the same rows; `take` then returns `rows` itself and tokens are shared.
    return rows.take(index), index, "; ".join(reasons) or None


def _line(metric: Metric, rows: Rows, *, value: float | None, n: int, **more: Any) -> Line:
    return Line(
        name=metric.name,
        title=metric.title,
        value=value,
        n=n,
        unscored=len(rows) - n,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        definition=metric.definition,
        signature=metric.signature(),
        **more,
    )


def _scored(
    metric: Metric, rows: Rows, part: Rows, index: list[int], reason: str | None, *, bootstrap: int, seed: int
) -> Line:
    result: Result = metric.compute(part)
    n = len(index)
    per_sample = None
    if result.per_sample is not None:
        per_sample = np.full(len(rows), np.nan)
        per_sample[index] = result.per_sample
        n = int((~np.isnan(result.per_sample)).sum())
    reasons = [text for text in (reason, result.reason if n < len(index) or np.isnan(result.value) else None) if text]
    if np.isnan(result.value):
        return _line(metric, rows, value=None, n=0, reason="; ".join(reasons) or "nothing to count in any row")
    ends = interval(result, part.cluster_index, draws=bootstrap, seed=seed) if bootstrap else None
    return _line(
        metric,
        rows,
        value=result.value,
        n=n,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        reason="; ".join(reasons) or None,
        per_sample=per_sample,
    )


def compare(
    first: Rows, second: Rows, *, metrics: Sequence[str] = ("lexical",), bootstrap: int = 1000, seed: int = 13
) -> list[Comparison]:
    """Two systems on the same rows: difference, its interval, and two p-values per metric.

    Args:
        first, second: rows in the same order with the same references and clusters.

    Raises:
        ConfigError: the rows are not the same ones, or no draws.
    """
    if first.clusters != second.clusters or first.references != second.references or first.gold != second.gold:
        raise ConfigError(
            "A paired comparison needs the same rows in the same order: references, gold labels and clusters differ."
        )
    if bootstrap < 1:
        raise ConfigError(f"A paired comparison needs at least one draw, but bootstrap is {bootstrap}.")
    return [
        _compared(metric, first, second, why_not=metric.missing() if group else None, draws=bootstrap, seed=seed)
        for metric, group in sorted(resolve(metrics), key=lambda pair: pair[0].stage)
    ]


def _compared(metric: Metric, first: Rows, second: Rows, *, why_not: str | None, draws: int, seed: int) -> Comparison:
    both = sorted(set(_complete(first, metric)[1]) & set(_complete(second, metric)[1]))
    if why_not or not both:
        reason = why_not or "no row that both systems answered"
        return Comparison(name=metric.name, first=None, second=None, difference=None, n=len(both), reason=reason)
    a, b = metric.compute(first.take(both)), metric.compute(second.take(both))
    test = paired(a, b, first.take(both).cluster_index, draws=draws, seed=seed)
    values = [None if np.isnan(result.value) else result.value for result in (a, b)]
    if test is None:
        reason = "the metric cannot be resampled, or there are fewer than two clusters"
        return Comparison(
            name=metric.name, first=values[0], second=values[1], difference=None, n=len(both), reason=reason
        )
    return Comparison(
        name=metric.name,
        first=values[0],
        second=values[1],
        difference=test.difference,
        low=test.low,
        high=test.high,
        p_bootstrap=test.p_bootstrap,
        p_randomisation=test.p_randomisation,
        n=len(both),
    )
