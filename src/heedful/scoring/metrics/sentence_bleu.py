"""Sentence BLEU without smoothing on white-space tokens, as ChatMGL's evaluation code has it (chatmgl.md, A.6).

One order without a match makes the whole reply 0, which is what happens to most short replies: print a smoothed BLEU
beside it.
"""

from __future__ import annotations

import numpy as np

from heedful.scoring.base import Floats, Metric, Result, Rows
from heedful.scoring.text import signature

ORDERS = 4


def sentence_bleu(rows: Rows) -> Floats:
    """BLEU per reply in [0, 1], shape (N,); 0 where an order has no match, an empty reply included."""
    encoded = rows.encoded("space", "hypothesis", "reference")
    matched = np.column_stack([encoded.matches(order) for order in range(1, ORDERS + 1)]).astype(np.float64)
    total = np.column_stack([encoded.counts("hypothesis", order) for order in range(1, ORDERS + 1)])
    written, wanted = encoded.lengths("hypothesis"), encoded.lengths("reference")
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.exp(np.log(matched / np.maximum(total, 1)).mean(axis=1))
        penalty = np.exp(np.minimum(0.0, 1.0 - wanted / written))
    found: Floats = np.where(matched.all(axis=1), means * penalty, 0.0)
    return found


SENTENCE_BLEU = Metric(
    name="sentence_bleu",
    title="sentence BLEU, not smoothed",
    definition=(
        "BLEU of order 4 of each reply by itself on white-space tokens, case kept, no smoothing, mean; equal to NLTK's "
        "sentence_bleu. 0 for every reply without a common 4-gram."
    ),
    signature=lambda: signature("nltk.sentence_bleu:4", "smooth:none", "tok:space", equal="nltk"),
    compute=lambda rows: Result.mean(sentence_bleu(rows), scale=100.0),
)
