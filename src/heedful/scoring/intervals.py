"""Intervals and paired tests that resample dialogues, not replies: replies of one dialogue resemble each other.

- Interval: percentile bootstrap (Efron, 1979) over clusters. Each draw is a row of weights, and one matrix product
  with the clusters' sums gives the value of every draw.
- Two systems on the same rows: paired bootstrap of the difference (Koehn, 2004), and approximate randomisation (Noreen,
  1989; Riezler and Maxwell, 2005), which swaps the systems' replies for whole clusters.

Values that are no function of sums (distinct-n) are drawn by random halves of the clusters; see `metrics/distinct.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from heedful.errors import ConfigError
from heedful.scoring.base import Floats, Result
from heedful.scoring.text import Ints

Scheme = Literal["bootstrap", "halves", "coins"]
_CELLS = 1 << 22
"""Weights held at once: draws are made in blocks, so that 100,000 clusters do not need 800 MB."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Second minus first system.

    Attributes:
        difference: on all rows.
        low, high: percentile interval of the difference over draws.
        p_bootstrap: two-sided; twice the smaller share of draws on either side of 0.
        p_randomisation: two-sided, share of swaps with at least this difference; None where sums do not give the value.
    """

    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_randomisation: float | None


def weights(scheme: Scheme, clusters: int, *, draws: int, seed: int) -> Iterator[Floats]:
    """Blocks (d, C) of cluster weights, `draws` rows in all; the same seed gives the same rows.

    `bootstrap`: how often each cluster is drawn in C draws with replacement. `halves`: 1 for a random half. `coins`: 0
    or 1, each cluster by itself.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _CELLS // max(clusters, 1))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        if scheme == "bootstrap":
            picks = generator.integers(0, clusters, size=(size, clusters)) + np.arange(size)[:, None] * clusters
            yield np.bincount(picks.ravel(), minlength=size * clusters).reshape(size, clusters).astype(np.float64)
        elif scheme == "halves":
            order = np.argsort(generator.random((size, clusters)), axis=1)
            chosen = np.zeros((size, clusters))
            np.put_along_axis(chosen, order[:, : clusters // 2], 1.0, axis=1)
            yield chosen
        else:
            yield generator.integers(0, 2, size=(size, clusters)).astype(np.float64)


def cluster_sums(statistics: Floats, clusters: Ints) -> Floats:
    """Sums over the rows of each cluster, shape (C, S)."""
    sums = np.zeros((int(clusters.max()) + 1, statistics.shape[1]))
    np.add.at(sums, clusters, statistics)
    return sums


def draw(result: Result, clusters: Ints, *, draws: int, seed: int) -> Floats | None:
    """The value under `draws` resamplings, shape (draws,); None where the metric cannot be resampled.

    Args:
        clusters: row -> cluster number, 0 to C - 1, shape (N,).
    """
    count = int(clusters.max()) + 1 if len(clusters) else 0
    if count < 2:
        return None
    if result.statistics is not None and result.combine is not None:
        sums = cluster_sums(result.statistics, clusters)
        blocks = [result.combine(w @ sums) for w in weights("bootstrap", count, draws=draws, seed=seed)]
    elif result.resample is not None:
        # All draws at once: their common mean belongs to the method.
        blocks = [result.resample(np.concatenate(list(weights("halves", count, draws=draws, seed=seed))))]
    else:
        return None
    return np.concatenate(blocks)


def percentile(values: npt.ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of the values, NaN left out.

    Raises:
        ConfigError: `level` is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"An interval's level must lie between 0 and 1, but it is {level}.")
    low, high = np.nanpercentile(np.asarray(values), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def interval(
    result: Result, clusters: Ints, *, draws: int = 1000, seed: int = 13, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of a result over its clusters; None with fewer than two clusters or without resampling."""
    values = draw(result, clusters, draws=draws, seed=seed)
    return None if values is None or np.isnan(values).all() else percentile(values, level=level)


def paired(
    first: Result, second: Result, clusters: Ints, *, draws: int = 1000, seed: int = 13, level: float = 0.95
) -> Paired | None:
    """Compare two systems on the same rows; None where the metric cannot be resampled."""
    a, b = (draw(result, clusters, draws=draws, seed=seed) for result in (first, second))
    if a is None or b is None:
        return None
    differences = (b - a)[~np.isnan(b - a)]
    if not len(differences):
        return None
    low, high = percentile(differences, level=level)
    # One is added above and below, so that a finite number of draws never claims p = 0.
    smaller = min((differences <= 0).sum(), (differences >= 0).sum())
    return Paired(
        difference=second.value - first.value,
        low=low,
        high=high,
        p_bootstrap=float(min(1.0, 2 * (smaller + 1) / (len(differences) + 1))),
        p_randomisation=_randomisation(first, second, clusters, draws=draws, seed=seed),
    )


def _randomisation(first: Result, second: Result, clusters: Ints, *, draws: int, seed: int) -> float | None:
    if first.statistics is None or second.statistics is None or first.combine is None:
        return None
    a, b = (cluster_sums(result.statistics, clusters) for result in (first, second) if result.statistics is not None)
    observed = abs(second.value - first.value)
    extreme = 0
    for swapped in weights("coins", len(a), draws=draws, seed=seed):
        left = first.combine((1 - swapped) @ a + swapped @ b)
        right = first.combine((1 - swapped) @ b + swapped @ a)
        # Sums in another order differ in the last bits; such a tie counts as at least as large.
        extreme += int((np.abs(right - left) >= observed - 1e-9).sum())
    return (extreme + 1) / (draws + 1)
