"""BLEU (Papineni et al., ACL 2002), twice: as sacrebleu has it and as the ESConv papers print it.

Both are functions of nine or ten sums: per order the matched and all n-grams of the replies, and both lengths.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from heedful.scoring.base import Floats, Metric, Result, Rows
from heedful.scoring.text import Tokenisation, signature

ORDERS = 4


def _statistics(rows: Rows, how: Tokenisation, *, at_least: int) -> Floats:
    # Columns: reply length, reference length, matches of order 1..4, n-grams of order 1..4.
    def make() -> Floats:
        encoded = rows.encoded(how, "hypothesis", "reference")
        matched = [encoded.matches(order) for order in range(1, ORDERS + 1)]
        total = [np.maximum(encoded.counts("hypothesis", order), at_least) for order in range(1, ORDERS + 1)]
        lengths = [encoded.lengths("hypothesis"), encoded.lengths("reference")]
        return np.column_stack([*lengths, *matched, *total]).astype(np.float64)

    return rows.memo(f"bleu {how} {at_least}", make)


def _brevity(sums: Floats) -> Floats:
    # Also right for an empty side: exp(-inf) = 0 for no reply at all.
    with np.errstate(divide="ignore", invalid="ignore"):
        penalty = np.exp(np.minimum(0.0, 1.0 - sums[:, 1] / sums[:, 0]))
    filled: Floats = np.where(sums[:, 0] > 0, penalty, 0.0)
    return filled


def _smoothed_logs(sums: Floats) -> Floats:
    """log precisions (D, 4); the k-th order without a match counts 1 / 2^k matches (NIST; method3; `exp`)."""
    matched, total = sums[:, 2 : 2 + ORDERS], sums[:, 2 + ORDERS :]
    missing = (matched == 0) & (total > 0)
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=1), matched)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: Floats = np.log(smoothed / total)
    return logs


def _combine_published(sums: Floats, *, order: int) -> Floats:
    score = 100.0 * _brevity(sums) * np.exp(_smoothed_logs(sums)[:, :order].mean(axis=1))
    return np.where(sums[:, 2] > 0, score, 0.0)


def _combine_sacrebleu(sums: Floats) -> Floats:
    # An order without any n-gram has precision 0, so the product vanishes, as with effective_order=False.
    logs = np.where(sums[:, 2 + ORDERS :] > 0, _smoothed_logs(sums), -np.inf)
    score = 100.0 * _brevity(sums) * np.exp(logs.mean(axis=1))
    return np.where(sums[:, 2 : 2 + ORDERS].any(axis=1), score, 0.0)


def _published(order: int) -> Metric:
    def compute(rows: Rows) -> Result:
        # NLTK counts at least one n-gram per reply, also where the reply is shorter than n.
        statistics = _statistics(rows, "published", at_least=1)
        return Result.from_sums(statistics, partial(_combine_published, order=order))

    return Metric(
        name=f"bleu{order}",
        title=f"BLEU-{order}",
        definition=(
            f"Corpus BLEU with weights 1/{order} on orders 1 to {order}, smoothing method3, on lower-cased NLTK tokens "
            "after a sentence split; equal to NLTK's corpus_bleu (recipe of codes_zcj)."
        ),
        signature=lambda: signature(f"nltk.corpus_bleu:{order}", "smooth:method3", "tok:published", "lc", equal="nltk"),
        compute=compute,
    )


def _compute_sacrebleu(rows: Rows) -> Result:
    return Result.from_sums(_statistics(rows, "13a", at_least=0), _combine_sacrebleu)


SACREBLEU = Metric(
    name="sacrebleu",
    title="BLEU (sacrebleu)",
    definition=(
        "Corpus BLEU of order 4 on raw text, 13a tokens, case kept, exponential smoothing; equal to sacrebleu "
        "(Post, 2018)."
    ),
    signature=lambda: signature("nrefs:1", "case:mixed", "eff:no", "tok:13a", "smooth:exp", equal="sacrebleu"),
    compute=_compute_sacrebleu,
)
BLEU1, BLEU2, BLEU3, BLEU4 = (_published(order) for order in range(1, ORDERS + 1))
