"""Labels read from replies, never without the constant row beside them.

On MESC's 454 test pairs the word "neutral", always, is right in 99.34 % of the cases: the published accuracy of
context-emotion RL. So nothing here gives an accuracy alone. `label_report` returns the scores of the predictions, those
of the constant that always names the most frequent gold label, and the paired difference; there is no other function.

The arithmetic runs on counts per dialogue, so intervals cost one matrix product. A reply from which no label was read
counts as wrong (it stands in the last column of the confusion matrix): a system cannot raise its accuracy by silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from heedful.errors import DataError
from heedful.scoring.base import Floats, Result
from heedful.scoring.intervals import Paired, interval, paired

NOTHING = "(none)"
"""Name of the last column of a confusion matrix: replies from which no label was read."""

SCORES = {
    "accuracy": "accuracy",
    "weighted_f1": "weighted-F1",
    "macro_f1_present": "macro-F1, classes that occur",
    "macro_f1_all": "macro-F1, all classes",
}
"""Score -> title. All are x100; a class without gold and without predictions has F1 0."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval over dialogues, and the value of each seed."""

    value: float
    low: float | None
    high: float | None
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelScores:
    """What one way of naming labels reaches.

    Args:
        scores: by the names of `SCORES`.
        recall: label -> share of its gold rows that were named so, x100; None where it has no gold row.
        confusion: counts over all seeds, row = gold, column = predicted, `(none)` last.
    """

    scores: dict[str, Estimate]
    recall: dict[str, float | None]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """Predictions beside the constant.

    Args:
        source: where a predicted label comes from: `classifier: <scorer>`, or `tag` (the model wrote it).
        labels: of the set, in its order; `present` are those with gold rows.
        constant_label: the most frequent gold label.
        n: rows with a gold label; `without_gold` were left out.
        silent: replies (over all seeds) from which no label was read; they count as wrong.
        gains: score -> predictions minus constant, paired over dialogues; None with fewer than two dialogues.
    """

    source: str
    labels: tuple[str, ...]
    gold: dict[str, int]
    constant_label: str
    n: int
    without_gold: int
    silent: int
    predicted: LabelScores
    constant: LabelScores
    gains: dict[str, Paired | None] = field(repr=False)

    @property
    def present(self) -> tuple[str, ...]:
        """Labels that occur among the gold ones."""
        return tuple(label for label in self.labels if self.gold.get(label))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, constant row included."""
        return {**_listed(asdict(self)), "present": list(self.present)}


def _listed(value: Any) -> Any:
    """The same with lists for tuples, as JSON has it."""
    if isinstance(value, dict):
        return {key: _listed(entry) for key, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, list | tuple) else value


def label_report(
    gold: Sequence[str | None],
    predicted: Sequence[Sequence[str | None]],
    *,
    labels: Sequence[str],
    clusters: Sequence[str],
    source: str,
    draws: int = 1000,
    seed: int = 13,
) -> LabelReport:
    """Score predicted labels beside the constant majority label.

    Args:
        gold: a label per reply; None = not labelled, left out and counted.
        predicted: one list per seed, each with a label per reply; None = none was read, which is wrong.
        labels: all labels of the set, so that averages run over every class.
        clusters: the dialogue of each reply; dialogues are resampled, all seeds of one together.

    Raises:
        DataError: no gold label at all, a label outside the set, or columns of different length.
    """
    if not predicted or any(len(column) != len(gold) for column in (*predicted, clusters)):
        raise DataError("A label report needs, for each seed, one prediction and one dialogue per gold label.")
    kept = [i for i, label in enumerate(gold) if label is not None]
    known = [label for label in gold if label is not None]
    if not known:
        raise DataError("A label report needs gold labels, but not one reply has any.")
    said = [[column[i] for i in kept] for column in predicted]
    stray = sorted({label for label in (*known, *(p for column in said for p in column)) if label} - set(labels))
    if stray:
        raise DataError(f"{len(stray)} labels are not in the label set, which has: {', '.join(labels)}.")
    counts = Counter(known)
    constant = max(labels, key=lambda label: counts[label])
    numbers = np.unique(np.asarray([clusters[i] for i in kept]), return_inverse=True)[1]
    present = np.array([counts[label] > 0 for label in labels])
    ours = [_cells(known, column, labels) for column in said]
    theirs = [_cells(known, [constant] * len(known), labels)] * len(said)
    results = {name: (_averaged(ours, how, present), _averaged(theirs, how, present)) for name, how in _HOW.items()}
    silent = sum(column.count(None) for column in said)
    return LabelReport(
        source=source,
        labels=tuple(labels),
        gold={label: counts[label] for label in labels},
        constant_label=constant,
        n=len(known),
        without_gold=len(gold) - len(known),
        silent=silent,
        predicted=_scores(ours, {k: r[0] for k, r in results.items()}, labels, present, numbers, draws, seed),
        constant=_scores(theirs[:1], {k: r[1] for k, r in results.items()}, labels, present, numbers, draws, seed),
        gains={
            name: paired(c, p, numbers, draws=draws, seed=seed) if draws else None for name, (p, c) in results.items()
        },
    )


def _cells(gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]) -> Floats:
    """One-hot cell per row of the matrix (K gold, K + 1 predicted), shape (N, K * (K + 1))."""
    at: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    width = len(labels) + 1
    cells = np.zeros((len(gold), len(labels) * width))
    for row, (wanted, found) in enumerate(zip(gold, predicted, strict=True)):
        cells[row, at[wanted] * width + at.get(found, len(labels))] = 1.0
    return cells


def _averaged(cells: Sequence[Floats], how: Callable[[Floats, Any], Floats], present: Any) -> Result:
    """The mean over seeds as one result: sums of all seeds stand side by side, so they are resampled together."""
    k = len(present)

    def combine(sums: Floats) -> Floats:
        mean: Floats = how(sums.reshape(-1, k, k + 1), present).reshape(-1, len(cells)).mean(axis=1)
        return mean

    return Result.from_sums(np.hstack(cells), combine)


def _accuracy(matrices: Floats, present: Any) -> Floats:
    hits: Floats = 100.0 * np.einsum("dkk->d", matrices[:, :, :-1]) / np.maximum(matrices.sum(axis=(1, 2)), 1)
    return hits


def _f1(matrices: Floats) -> Floats:
    """[D, K]"""
    square = matrices[:, :, :-1]
    total = matrices.sum(axis=2) + square.sum(axis=1)
    scores: Floats = 2 * np.einsum("dkk->dk", square) / np.maximum(total, 1)
    return scores


def _weighted(matrices: Floats, present: Any) -> Floats:
    gold = matrices.sum(axis=2)
    mean: Floats = 100.0 * (_f1(matrices) * gold).sum(axis=1) / np.maximum(gold.sum(axis=1), 1)
    return mean


def _macro_present(matrices: Floats, present: Any) -> Floats:
    mean: Floats = 100.0 * _f1(matrices)[:, present].mean(axis=1)
    return mean


def _macro_all(matrices: Floats, present: Any) -> Floats:
    mean: Floats = 100.0 * _f1(matrices).mean(axis=1)
    return mean


_HOW: dict[str, Callable[[Floats, Any], Floats]] = {
    "accuracy": _accuracy,
    "weighted_f1": _weighted,
    "macro_f1_present": _macro_present,
    "macro_f1_all": _macro_all,
}


def _scores(
    cells: Sequence[Floats],
    results: dict[str, Result],
    labels: Sequence[str],
    present: Any,
    numbers: Any,
    draws: int,
    seed: int,
) -> LabelScores:
    k = len(labels)
    sums = [c.sum(axis=0).reshape(k, k + 1) for c in cells]
    matrix: Floats = np.sum(sums, axis=0)
    found = {}
    for name, result in results.items():
        ends = interval(result, numbers, draws=draws, seed=seed) if draws else None
        each = tuple(float(_HOW[name](m[None], present)[0]) for m in sums) if len(sums) > 1 else ()
        low, high = ends or (None, None)
        found[name] = Estimate(value=result.value, low=low, high=high, seeds=each)
    gold = matrix.sum(axis=1)
    return LabelScores(
        scores=found,
        recall={label: float(100 * matrix[i, i] / gold[i]) if gold[i] else None for i, label in enumerate(labels)},
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
    )
