"""distinct-n (Li et al., NAACL 2016): different n-grams over all replies divided by all n-grams.

It falls as replies are added, so it is comparable only at equal n (gold replies of ESConv: distinct-1 is 15.8 at 500
replies and 7.0 at 2,801). `..._per1000` draws 1,000 replies 20 times, which makes systems with other n comparable.

Interval: a bootstrap would repeat dialogues and so understate the number of different n-grams. Instead random halves of
the dialogues are scored (a delete-half jackknife, whose spread equals that of the full set), and their ratio to their
own mean is laid around the value.
"""

from __future__ import annotations

import numpy as np

from heedful.scoring.base import Floats, Metric, Result, Rows
from heedful.scoring.text import Ints, signature

DRAWS = 20
SIZE = 1000
_BLOCK = 4096


def _occurrences(rows: Rows, order: int, *, drop_last: bool) -> tuple[Ints, Ints]:
    """(row, n-gram id) of every n-gram that counts."""
    at, ids = rows.encoded("published", "hypothesis").grams("hypothesis", order)
    if drop_last and len(at):
        # The published loop ends one step early: the last n-gram of each reply is never seen.
        seen = np.append(at[1:] == at[:-1], False)
        at, ids = at[seen], ids[seen]
    return at, ids


def _share(ids: Ints) -> float:
    return 100.0 * len(np.unique(ids)) / len(ids) if len(ids) else float("nan")


def _halves(clusters: Ints, ids: Ints, value: float, weights: Floats) -> Floats:
    """Value of each half (rows of `weights` (D, C) hold 0 or 1), as a ratio to their mean, times the full value."""
    kinds, kind = np.unique(ids, return_inverse=True)
    chosen = (weights > 0).astype(np.float32)
    totals = weights @ np.bincount(clusters, minlength=weights.shape[1])
    unique = np.zeros(len(weights))
    for start in range(0, len(kinds), _BLOCK):
        inside = (kind >= start) & (kind < start + _BLOCK)
        present = np.zeros((weights.shape[1], min(_BLOCK, len(kinds) - start)), dtype=np.float32)
        present[clusters[inside], kind[inside] - start] = 1.0
        unique += (chosen @ present > 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(totals > 0, unique / totals, np.nan)
    scaled: Floats = value * shares / np.nanmean(shares)
    return scaled


def _distinct(order: int, *, drop_last: bool) -> Metric:
    def compute(rows: Rows) -> Result:
        at, ids = _occurrences(rows, order, drop_last=drop_last)
        value = _share(ids)
        clusters = rows.cluster_index[at]
        return Result(value=value, resample=lambda weights: _halves(clusters, ids, value, weights))

    how = "each reply's last n-gram is dropped, as codes_zcj does" if drop_last else "every n-gram counts"
    return Metric(
        name=f"distinct{order}_published" if drop_last else f"distinct{order}",
        title=f"distinct-{order} (as coded)" if drop_last else f"distinct-{order}",
        definition=(
            f"Different {order}-grams / all {order}-grams over all replies, lower-cased NLTK tokens after a sentence "
            f"split; {how}. Depends on n. Interval from random halves of the clusters."
        ),
        signature=lambda: signature(f"distinct{order}", f"last:{'dropped' if drop_last else 'kept'}", "tok:published"),
        compute=compute,
        needs=("hypothesis",),
    )


def _per_1000(order: int) -> Metric:
    def compute(rows: Rows) -> Result:
        if len(rows) < SIZE:
            return Result(value=float("nan"), reason=f"needs at least {SIZE} replies")
        at, ids = _occurrences(rows, order, drop_last=False)
        generator = np.random.default_rng(13)
        values = []
        for _ in range(DRAWS):
            chosen = np.zeros(len(rows), dtype=bool)
            chosen[generator.choice(len(rows), SIZE, replace=False)] = True
            values.append(_share(ids[chosen[at]]))
        return Result(value=float(np.mean(values)))

    return Metric(
        name=f"distinct{order}_per1000",
        title=f"distinct-{order} of 1,000",
        definition=(
            f"distinct-{order} of 1,000 replies, mean of {DRAWS} draws without replacement (seed 13), so that it does "
            "not depend on n. Without interval."
        ),
        signature=lambda: signature(f"distinct{order}", f"draws:{DRAWS}x{SIZE}", "seed:13", "tok:published"),
        compute=compute,
        needs=("hypothesis",),
    )


DISTINCT1, DISTINCT2 = (_distinct(order, drop_last=False) for order in (1, 2))
DISTINCT1_PUBLISHED, DISTINCT2_PUBLISHED = (_distinct(order, drop_last=True) for order in (1, 2))
DISTINCT1_PER_1000, DISTINCT2_PER_1000 = (_per_1000(order) for order in (1, 2))
