"""Embedding similarity: how close a reply is to the reference by meaning."""

from __future__ import annotations

import numpy as np

from heedful.scoring.base import Metric, Result, Rows
from heedful.scoring.metrics.bertscore import LIBRARIES, encoder, missing
from heedful.scoring.text import signature


def _compute(rows: Rows) -> Result:
    model = encoder()
    return Result.mean(
        np.einsum("nd,nd->n", model.encode(rows.texts("hypothesis")), model.encode(rows.texts("reference"))),
        scale=100.0,
    )


SIMILARITY = Metric(
    name="similarity",
    title="similarity (MiniLM)",
    definition="Cosine of the sentence vectors of reply and reference (all-MiniLM-L6-v2, mean pooling), mean.",
    signature=lambda: signature("cosine", "minilm:mean", "fp32", libraries=LIBRARIES),
    compute=_compute,
    missing=missing,
)
