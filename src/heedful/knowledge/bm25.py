"""BM25, exact: every item is scored, and equal scores are ordered by id.

The variant is Lucene's (the default of `bm25s`, with which it agrees to single precision; see the tests):

    score(q, d) = sum over the words of q of  ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 (1 - b + b |d| / avg))

Own code and not `bm25s`, for exactness and for what it stores: its top k leaves equal scores in any order, and here
they are ordered by id; its vocabulary is a file of words, and here words are 64-bit keys; a query can be limited to
kinds of items before the first k are taken; and a store can be searched without another package. The script
`scripts/bench_retrieval.py` sets both side by side: bm25s answers in two thirds of the time, and opens no faster.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from heedful.knowledge.keys import find, key
from heedful.safety.wording import plain

K1, B = 1.5, 0.75
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

Floats = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]


def words(text: str) -> list[str]:
    """Words in lower case, of two letters or digits at least.

    >>> words("I can’t sleep, 3 nights now.")
    ["can't", 'sleep', 'nights', 'now']
    """
    return [word for word in _WORD.findall(plain(text).lower()) if len(word) > 1]


def build(texts: Sequence[str]) -> Arrays:
    """The arrays of an index over `texts`: terms by the hash of their word, their rows, and what each row gets."""
    counts = [Counter(words(text)) for text in texts]
    lengths = np.array([sum(c.values()) for c in counts], dtype=np.float64)
    mean = float(lengths.mean()) if len(lengths) and lengths.any() else 1.0
    norms = K1 * (1 - B + B * lengths / mean)
    postings: dict[int, list[tuple[int, float]]] = {}
    for row, counted in enumerate(counts):
        for word, n in counted.items():
            postings.setdefault(key(word), []).append((row, n / (n + norms[row])))
    terms = sorted(postings)
    start = np.zeros(len(terms) + 1, dtype=np.int64)
    np.cumsum([len(postings[term]) for term in terms], out=start[1:])
    rows = np.empty(start[-1], dtype=np.int32)
    scores = np.empty(start[-1], dtype=np.float32)
    for k, term in enumerate(terms):
        found = postings[term]
        rarity = np.log1p((len(texts) - len(found) + 0.5) / (len(found) + 0.5))
        rows[start[k] : start[k + 1]] = [row for row, _ in found]
        scores[start[k] : start[k + 1]] = [rarity * share for _, share in found]
    return {
        "bm25_terms": np.array(terms, dtype=np.uint64),
        "bm25_start": start,
        "bm25_rows": rows,
        "bm25_scores": scores,
    }


@dataclass(frozen=True)
class BM25:
    """Scores of a query for every row."""

    terms: npt.NDArray[np.uint64] = field(repr=False)
    start: npt.NDArray[np.int64] = field(repr=False)
    rows: npt.NDArray[np.int32] = field(repr=False)
    shares: npt.NDArray[np.float32] = field(repr=False)
    size: int

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], size: int) -> BM25:
        """From the arrays of `build`."""
        return cls(arrays["bm25_terms"], arrays["bm25_start"], arrays["bm25_rows"], arrays["bm25_scores"], size)

    def scores(self, query: str) -> Floats:
        """Shape (size,); 0 where no word of the query stands. A word that the query says twice counts twice."""
        found = np.zeros(self.size, dtype=np.float64)
        # In the order of the terms, so that the order of the words does not show in the last digits.
        counted = sorted(
            (at, n) for word, n in Counter(words(query)).items() if (at := find(self.terms, word)) is not None
        )
        for at, n in counted:
            part = slice(self.start[at], self.start[at + 1])
            found[self.rows[part]] += n * self.shares[part].astype(np.float64)
        return found
