"""What can be counted without a model: length, copying from the client, repetition, unigram F1."""

from __future__ import annotations

import numpy as np

from heedful.scoring.base import Metric, Result, Rows
from heedful.scoring.metrics.rouge import f_measure
from heedful.scoring.text import signature

COPY_ORDER = 4
REPEAT_ORDER = 3


def _length(rows: Rows) -> Result:
    return Result.mean([len(text.split()) for text in rows.texts("hypothesis")])


def _copy_rate(rows: Rows) -> Result:
    encoded = rows.encoded("published", "hypothesis", "context")
    kinds = encoded.kinds(COPY_ORDER)
    at, ids = encoded.grams("hypothesis", COPY_ORDER)
    client_at, client_ids = encoded.grams("context", COPY_ORDER)
    copied = np.isin(at * kinds + ids, client_at * kinds + client_ids)
    total = encoded.counts("hypothesis", COPY_ORDER)
    found = np.bincount(at, weights=copied, minlength=len(rows))
    with np.errstate(invalid="ignore"):
        return Result.mean(found / total, scale=100.0, reason=f"reply shorter than {COPY_ORDER} tokens")


def _repetition(rows: Rows) -> Result:
    encoded = rows.encoded("published", "hypothesis")
    at, ids = encoded.grams("hypothesis", REPEAT_ORDER)
    kinds = max(encoded.kinds(REPEAT_ORDER), 1)
    different = np.bincount(np.unique(at * kinds + ids) // kinds, minlength=len(rows))
    with np.errstate(invalid="ignore"):
        shares = 1.0 - different / encoded.counts("hypothesis", REPEAT_ORDER)
    return Result.mean(shares, scale=100.0, reason=f"reply shorter than {REPEAT_ORDER} tokens")


def _f1(rows: Rows) -> Result:
    encoded = rows.encoded("published", "hypothesis", "reference")
    sides = encoded.lengths("hypothesis"), encoded.lengths("reference")
    return Result.mean(f_measure(encoded.matches(1), *sides), scale=100.0)


LENGTH = Metric(
    name="length",
    title="words",
    definition="Words per reply (split at white space), mean.",
    signature=lambda: signature("words", "tok:space"),
    compute=_length,
    unit="words",
    higher_is_better=None,
    needs=("hypothesis",),
)
COPY_RATE = Metric(
    name="copy_rate",
    title="copy rate",
    definition=(
        "Share of a reply's 4-grams (with repeats) that occur in the client's words before it, mean; replies under "
        "four tokens are unscored."
    ),
    signature=lambda: signature("copy:4-gram", "tok:published"),
    compute=_copy_rate,
    higher_is_better=False,
    needs=("hypothesis", "context"),
)
REPETITION = Metric(
    name="repetition",
    title="repetition",
    definition="1 - different 3-grams / 3-grams within a reply, mean; replies under three tokens are unscored.",
    signature=lambda: signature("repeat:3-gram", "tok:published"),
    compute=_repetition,
    higher_is_better=False,
    needs=("hypothesis",),
)
F1 = Metric(
    name="f1",
    title="unigram F1",
    definition="F1 of the multisets of tokens of both texts, mean; lower-cased NLTK tokens after a sentence split.",
    signature=lambda: signature("f1:unigram", "tok:published", "lc"),
    compute=_f1,
)
