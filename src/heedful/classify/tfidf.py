"""Counts of words and letters: TF-IDF without a vocabulary.

Word 1- and 2-grams, and 2- to 4-grams of letters within words (blanks at both ends). Count c becomes 1 + log c, times
log((1 + N) / (1 + n)) + 1 with n of N training turns that have it (both as in scikit-learn, `sublinear_tf` and
`smooth_idf`); words and letters are each scaled to length 1. N-grams of fewer than `MIN_TURNS` training turns are left
out. Punctuation that carries tone (`?`, `!`, `...`) counts as a word.

An n-gram is known by its 32-bit CRC alone, so a saved scorer holds no word of the people it was trained on; whoever
has a guess at a word can still test it. At 35,000 n-grams the chance that a new one is taken for a known one is
1 in 120,000.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from heedful.classify.base import Arrays, Block, Dense, FeatureSettings, Item, Lesson, Sparse

MIN_TURNS = 2
_WORD = re.compile(r"\w+(?:'\w+)?|[?!.]+")
_Grams = Counter[int]


class TfIdf:
    """TF-IDF of the turn and, with `context`, of what came before it, as n-grams of their own."""

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        self.known = np.zeros(0, dtype=np.uint32)
        self.idf = np.zeros(0, dtype=np.float32)

    def fit(self, lesson: Lesson) -> None:
        """Find the n-grams that occur in at least two turns, and how rare each is."""
        turns: Counter[int] = Counter()
        for item in lesson.items:
            for grams in self._grams(item):
                turns.update(grams.keys())
        kept = sorted(gram for gram, n in turns.items() if n >= MIN_TURNS)
        self.known = np.array(kept, dtype=np.uint32)
        seen_in = np.array([turns[gram] for gram in kept], dtype=np.float64)
        self.idf = (np.log((1 + len(lesson.items)) / (1 + seen_in)) + 1).astype(np.float32)

    def block(self, items: Sequence[Item]) -> Block:
        """(N, number of n-grams), one more with speaker."""
        columns: list[np.ndarray[Any, Any]] = []
        values: list[Dense] = []
        start = [0]
        for item in items:
            size = 0
            for grams in self._grams(item):
                at, weights = self._weights(grams)
                columns.append(at)
                values.append(weights)
                size += len(at)
            if self.settings.speaker:
                columns.append(np.array([len(self.known)]))
                values.append(np.array([1.0 if item.role == "assistant" else -1.0], dtype=np.float32))
                size += 1
            start.append(start[-1] + size)
        return Sparse(
            columns=np.concatenate(columns).astype(np.int64) if columns else np.zeros(0, dtype=np.int64),
            values=np.concatenate(values) if values else np.zeros(0, dtype=np.float32),
            start=np.array(start, dtype=np.int64),
            width=len(self.known) + int(self.settings.speaker),
        )

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:
        """Checksums and weights; no n-gram in letters."""
        return {}, {"known": self.known, "idf": self.idf}

    def restore(self, folder: Path, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Undo `save`."""
        self.known, self.idf = arrays["known"], arrays["idf"]

    def _grams(self, item: Item) -> Iterator[_Grams]:
        """Counts of words, counts of letters; then those of the context."""
        words = _words(item.text)
        yield _word_grams(words, "w")
        yield _letter_grams(words, "l")
        if self.settings.context:
            yield _word_grams([word for text in item.context for word in _words(text)], "c")

    def _weights(self, grams: _Grams) -> tuple[np.ndarray[Any, Any], Dense]:
        hashes = np.fromiter(grams.keys(), dtype=np.uint32, count=len(grams))
        counts = np.fromiter(grams.values(), dtype=np.float32, count=len(grams))
        at = np.searchsorted(self.known, hashes)
        at[at == len(self.known)] = 0
        found = self.known[at] == hashes if len(self.known) else np.zeros(len(hashes), dtype=np.bool_)
        at = at[found]
        weights = (1 + np.log(counts[found])) * self.idf[at]
        length = np.linalg.norm(weights)
        return at, (weights / length if length else weights).astype(np.float32)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def _word_grams(words: Sequence[str], kind: str) -> _Grams:
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    return Counter(crc32(f"{kind}:{gram}".encode("utf-8", "surrogatepass")) for gram in (*words, *pairs))


def _letter_grams(words: Sequence[str], kind: str) -> _Grams:
    grams = (
        word[i : i + size]
        for word in (f" {word} " for word in words)
        for size in (2, 3, 4)
        for i in range(len(word) - size + 1)
    )
    return Counter(crc32(f"{kind}:{gram}".encode("utf-8", "surrogatepass")) for gram in grams)
