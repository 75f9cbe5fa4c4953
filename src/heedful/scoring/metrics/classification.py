"""Scores of predicted labels. All are functions of the confusion matrix, so a bootstrap adds matrices of dialogues.

Averages run over *all* labels of the set (`Rows.labels`), also those that occur in neither column: on a subset the
value would otherwise change its meaning. A class without gold and predictions has F1 0, as in scikit-learn with
`zero_division=0`.

`accuracy` is about the most probable label, `accuracy_sampled` about a drawn one, which is right less often; papers
print either under the same name, so each has its own here. `top1` and `top3` look at the distribution itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from heedful.errors import LabelError
from heedful.scoring.base import Floats, Metric, Result, Rows
from heedful.scoring.text import Ints, signature

BIAS_STEPS = 20


def labels_of(rows: Rows) -> tuple[str, ...]:
    """The label set: `rows.labels`, or all labels that occur, sorted."""
    occurring = {label for label in (*rows.gold, *rows.predicted) if label is not None}
    if not rows.labels:
        return tuple(sorted(occurring))
    if stray := sorted(occurring - set(rows.labels)):
        raise LabelError(f"These labels are not in the label set of {len(rows.labels)}: {', '.join(stray)}.")
    return rows.labels


def confusion(rows: Rows) -> Floats:
    """Counts (K, K): row = gold, column = predicted, in the order of `labels_of`. Rows that lack a label are left out.

    Raises:
        LabelError: a label outside the label set.
    """
    k = len(labels_of(rows))
    counts: Floats = _cells(rows).sum(axis=0).reshape(k, k)
    return counts


def per_class_recall(rows: Rows) -> dict[str, float | None]:
    """Label -> share of its gold rows that were predicted so; None where the label has no gold row."""
    matrix = confusion(rows)
    gold = matrix.sum(axis=1)
    return {label: float(matrix[i, i] / gold[i]) if gold[i] else None for i, label in enumerate(labels_of(rows))}


def _cells(rows: Rows) -> Floats:
    """One-hot cell of the confusion matrix per row, shape (N, K * K); zeros for rows without both labels."""
    at = {label: i for i, label in enumerate(labels_of(rows))}
    cells = np.zeros((len(rows), len(at) ** 2))
    for row, (gold, predicted) in enumerate(zip(rows.gold, rows.predicted, strict=True)):
        if gold is not None and predicted is not None:
            cells[row, at[gold] * len(at) + at[predicted]] = 1.0
    return cells


def f1_per_class(matrices: Floats) -> Floats:
    """F1 of each class for confusion matrices (D, K, K); shape (D, K)."""
    hits = np.einsum("dkk->dk", matrices)
    total = matrices.sum(axis=1) + matrices.sum(axis=2)
    scores: Floats = 2 * hits / np.maximum(total, 1)
    return scores


def _accuracy(matrices: Floats) -> Floats:
    shares: Floats = 100.0 * np.einsum("dkk->d", matrices) / matrices.sum(axis=(1, 2))
    return shares


def _macro_f1(matrices: Floats) -> Floats:
    means: Floats = 100.0 * f1_per_class(matrices).mean(axis=1)
    return means


def _weighted_f1(matrices: Floats) -> Floats:
    gold = matrices.sum(axis=2)
    means: Floats = 100.0 * (f1_per_class(matrices) * gold).sum(axis=1) / gold.sum(axis=1)
    return means


def ranks(rows: Rows) -> Ints:
    """How many labels are thought more probable than the gold one, shape (N,); equal ones count in label order.

    Raises:
        LabelError: a label outside the label set.
        DataError: a row without a distribution over the labels.
    """
    at = {label: i for i, label in enumerate(labels_of(rows))}
    shares = rows.shares()
    gold = np.array([at[label] for label in rows.texts("gold")], dtype=np.int64)
    own = shares[np.arange(len(gold)), gold][:, None]
    before = np.arange(shares.shape[1])[None] < gold[:, None]
    found: Ints = ((shares > own) | ((shares == own) & before)).sum(axis=1)
    return found


def preference_bias(matrices: Floats) -> Floats:
    """Spread of the preference for each class (Kang et al., ACL 2024, as coded in cw-wan/EmoDynamiX-v2).

    p = 1; 20 times, class by class in place: p_i <- sum_j[C_ji p_j / (p_i + p_j)] / sum_j[C_ij / (p_i + p_j)], then p
    is scaled to mean 1. The value is the population standard deviation of p. Classes without gold rows have no
    denominator and are left out.

    Args:
        matrices: confusion matrices (D, K, K), row = gold.
    """
    present = matrices.sum(axis=2) > 0
    p = np.ones(present.shape)
    count = present.sum(axis=1, keepdims=True)
    for _ in range(BIAS_STEPS):
        for i in range(p.shape[1]):
            pair = np.maximum(p[:, i : i + 1] + p, 1e-300)
            above = (present * matrices[:, :, i] * p / pair).sum(axis=1)
            below = (present * matrices[:, i, :] / pair).sum(axis=1)
            p[:, i] = np.where(present[:, i] & (below > 0), above / np.where(below > 0, below, 1.0), p[:, i])
        p *= count / (p * present).sum(axis=1, keepdims=True)
    spread = (np.where(present, p - 1.0, 0.0) ** 2).sum(axis=1) / count[:, 0]
    bias: Floats = np.sqrt(spread)
    return bias


def _metric(
    name: str,
    title: str,
    definition: str,
    combine: Callable[[Floats], Floats],
    *,
    unit: str = "x100",
    higher_is_better: bool = True,
) -> Metric:
    def compute(rows: Rows) -> Result:
        k = len(labels_of(rows))
        cells = rows.memo("confusion cells", lambda: _cells(rows))
        hits = cells[:, :: k + 1].sum(axis=1) * 100.0 if name == "accuracy" else None
        return Result.from_sums(cells, lambda sums: combine(sums.reshape(-1, k, k)), per_sample=hits)

    return Metric(
        name=name,
        title=title,
        definition=definition,
        signature=lambda: signature(name, "labels:all"),
        compute=compute,
        unit=unit,
        higher_is_better=higher_is_better,
        needs=("gold", "predicted"),
    )


ACCURACY = _metric("accuracy", "accuracy", "Share of rows whose predicted label is the gold label.", _accuracy)
MACRO_F1 = _metric("macro_f1", "macro-F1", "Mean F1 over all labels of the set, absent ones count 0.", _macro_f1)
WEIGHTED_F1 = _metric("weighted_f1", "weighted-F1", "F1 per label, weighted by its gold rows.", _weighted_f1)
PREFERENCE_BIAS = _metric(
    "preference_bias",
    "preference bias",
    "Population s.d. of the preference per class after 20 in-place updates; 0 = no class is favoured.",
    preference_bias,
    unit="s.d.",
    higher_is_better=False,
)


def _top(k: int) -> Metric:
    what = "the most probable label" if k == 1 else f"among the {k} most probable labels"
    return Metric(
        name=f"top{k}",
        title=f"top-{k} accuracy",
        definition=f"Share of rows whose gold label is {what} of the distribution; equal ones count in label order.",
        signature=lambda: signature(f"top{k}", "labels:all"),
        compute=lambda rows: Result.mean(rows.memo("ranks", lambda: ranks(rows)) < k, scale=100.0),
        needs=("gold", "distribution"),
    )


def _accuracy_sampled(rows: Rows) -> Result:
    drawn = rows.texts("sampled")
    if stray := sorted(set(drawn) - set(labels_of(rows))):
        raise LabelError(f"These labels are not in the label set of {len(rows.labels)}: {', '.join(stray)}.")
    return Result.mean([a == b for a, b in zip(rows.texts("gold"), drawn, strict=True)], scale=100.0)


TOP1, TOP3 = _top(1), _top(3)
ACCURACY_SAMPLED = Metric(
    name="accuracy_sampled",
    title="accuracy of drawn labels",
    definition=(
        "Share of rows whose drawn label is the gold label; lower than accuracy, which is about the most probable one, "
        "and never compared with it."
    ),
    signature=lambda: signature("accuracy", "label:drawn"),
    compute=_accuracy_sampled,
    needs=("gold", "sampled"),
)
