"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004): overlap of n-grams and longest common subsequence, per reply, averaged."""

from __future__ import annotations

import numpy as np

from heedful.scoring.base import Floats, Metric, Result, Rows
from heedful.scoring.text import Ints, signature

PUBLISHED_BETA = 1.2


def f_measure(matched: Ints, hypothesis: Ints, reference: Ints, *, beta: float = 1.0) -> Floats:
    """(1 + b²) P R / (R + b² P) per row; 0 where nothing matches, also where one side is empty. Shape (N,)."""
    precision = matched / np.maximum(hypothesis, 1)
    recall = matched / np.maximum(reference, 1)
    below = recall + beta**2 * precision
    score: Floats = (1 + beta**2) * precision * recall / np.where(below > 0, below, 1.0)
    return score


def _n(order: int) -> Metric:
    def compute(rows: Rows) -> Result:
        encoded = rows.encoded("rouge", "hypothesis", "reference")
        sides = encoded.counts("hypothesis", order), encoded.counts("reference", order)
        return Result.mean(f_measure(encoded.matches(order), *sides), scale=100.0)

    return Metric(
        name=f"rouge{order}",
        title=f"ROUGE-{order}",
        definition=(
            f"F1 of clipped {order}-gram matches per reply, mean; [a-z0-9] tokens, no stemming; equal to rouge-score."
        ),
        signature=lambda: signature(f"rouge{order}", "F1", "stem:no", equal="rouge-score"),
        compute=compute,
    )


def _compute_l(rows: Rows) -> Result:
    encoded = rows.encoded("rouge", "hypothesis", "reference")
    return Result.mean(
        f_measure(encoded.lcs(), encoded.lengths("hypothesis"), encoded.lengths("reference")), scale=100.0
    )


def _compute_l_published(rows: Rows) -> Result:
    encoded = rows.encoded("published", "hypothesis", "reference")
    sides = encoded.lengths("hypothesis"), encoded.lengths("reference")
    return Result.mean(f_measure(encoded.lcs(), *sides, beta=PUBLISHED_BETA), scale=100.0)


ROUGE1, ROUGE2 = _n(1), _n(2)
ROUGE_L = Metric(
    name="rougeL",
    title="ROUGE-L",
    definition=(
        "F1 of the longest common subsequence per reply, mean; [a-z0-9] tokens, no stemming; equal to rouge-score."
    ),
    signature=lambda: signature("rougeL", "F1", "stem:no", equal="rouge-score"),
    compute=_compute_l,
)
ROUGE_L_PUBLISHED = Metric(
    name="rougeL_published",
    title="ROUGE-L (beta 1.2)",
    definition=(
        "Longest common subsequence per reply, F with beta 1.2, mean; lower-cased NLTK tokens after a sentence split "
        "(recipe of codes_zcj)."
    ),
    signature=lambda: signature("rougeL", "beta:1.2", "tok:published", "lc"),
    compute=_compute_l_published,
)
