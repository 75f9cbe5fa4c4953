"""How much each of some texts has in common with each of others: all pairs at once, as choosing among texts needs it.

    rougeL    F of the longest common subsequence, beta 1.2 (esconv.md)      words    F1 of clipped word counts
    bigrams   F1 of clipped bigram counts

All are over the tokens of the published recipe, between 0 and 1. BLEU is a ratio of sums over a corpus, so no pair has
one; bigrams and words are its two counts, made symmetric.

>>> overlaps(["you are kind"], ["you are", "no"], weights={"words": 1.0}).tolist()
[[0.800000011920929, 0.0]]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from heedful.errors import unknown
from heedful.scoring.text import needs_eval, published_tokens

Matrix = npt.NDArray[np.float32]
BETA: Final = 1.2
_ROWS: Final = 256


def overlaps(texts: Sequence[str], others: Sequence[str], *, weights: Mapping[str, float]) -> Matrix:
    """The weighted sum of measures, (N, M) for N texts and M others.

    Args:
        weights: measure -> weight; see the head of this file.

    Raises:
        NotFoundError: no such measure.
        MissingExtraError: rapidfuzz, scipy or nltk is not installed.
    """
    for name in weights:
        if name not in MEASURES:
            raise unknown("measure", name, MEASURES)
    ids: dict[str, int] = {}
    a, b = (
        [[ids.setdefault(t, len(ids)) for t in published_tokens(text)] for text in side] for side in (texts, others)
    )
    found = np.zeros((len(a), len(b)), dtype=np.float32)
    for name, weight in weights.items():
        if weight:
            found += np.float32(weight) * MEASURES[name](a, b)
    return found


def _rouge(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> Matrix:
    process, distance = needs_eval("rapidfuzz.process"), needs_eval("rapidfuzz.distance")
    # Strings are compared several times faster than lists; each number becomes a sign beyond the surrogates.
    one, two = (["".join(chr(0x10000 + i) for i in row) for row in side] for side in (a, b))
    out = np.zeros((len(a), len(b)), dtype=np.float32)
    sizes = np.maximum(np.array([len(row) for row in b], dtype=np.float32), 1)
    for begin in range(0, len(a), _ROWS):
        part = one[begin : begin + _ROWS]
        shared = process.cdist(part, two, scorer=distance.LCSseq.similarity, dtype=np.uint16).astype(np.float32)
        precision = shared / np.maximum(np.array([len(row) for row in part], dtype=np.float32), 1)[:, None]
        recall = shared / sizes[None]
        whole = np.maximum(recall + BETA**2 * precision, 1e-9)
        out[begin : begin + _ROWS] = (1 + BETA**2) * precision * recall / whole
    return out


def _grams(order: int) -> Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Matrix]:
    def f1(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> Matrix:
        columns: dict[Any, int] = {}
        one, two = (_counted(side, order, columns) for side in (a, b))
        sparse = needs_eval("scipy.sparse")
        left, right = (
            sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, at)), shape=(len(side), len(columns)))
            for side, (rows, at) in ((a, one), (b, two))
        )
        shared: Matrix = np.asarray((left @ right.T).todense(), dtype=np.float32)
        sizes = [np.array([max(len(row) - order + 1, 0) for row in side], dtype=np.float32) for side in (a, b)]
        found: Matrix = 2 * shared / np.maximum(sizes[0][:, None] + sizes[1][None], 1)
        return found

    return f1


def _counted(side: Sequence[Sequence[int]], order: int, columns: dict[Any, int]) -> tuple[list[int], list[int]]:
    """(row, column) of each n-gram; its k-th time in a row is a column of its own, so a product clips the counts."""
    rows, at = [], []
    for row, tokens in enumerate(side):
        counts = Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))
        for gram, times in counts.items():
            for k in range(times):
                rows.append(row)
                at.append(columns.setdefault((gram, k), len(columns)))
    return rows, at


MEASURES: Final[Mapping[str, Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Matrix]]] = {
    "rougeL": _rouge,
    "bigrams": _grams(2),
    "words": _grams(1),
}
