"""METEOR in NLTK's variant (Lavie and Agarwal, 2007): matches by word, stem and synonym, less where they are scattered.

Implementations of METEOR differ widely (NLTK 0.478, the Java jar 0.256 on the same pairs), so the variant is part of
the definition. Without WordNet there is no synonym stage, and the score then bears another name.

Alignment, as NLTK does it: per stage, reply words from the last to the first, each taking the last free equal word of
the reference. After the stem stage only stems are left, so synonyms are looked up for stems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from heedful.errors import MissingExtraError
from heedful.scoring.base import Metric, Result, Rows
from heedful.scoring.text import needs_eval, signature
from heedful.scoring.wordnet import HOW_TO, find, wordnet

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
Pairs = list[tuple[int, int]]
Free = list[tuple[int, int]]
"""(position, word id) of words that are not matched yet, in text order."""


@cache
def _stemmer() -> Any:
    return needs_eval("nltk.stem.porter").PorterStemmer()


@cache
def _stem(word: str) -> str:
    return str(_stemmer().stem(word))


def _take(hypothesis: Free, reference: Free, pairs: Pairs, alike: Callable[[int], Sequence[int]]) -> tuple[Free, Free]:
    """One stage: add matches to `pairs` and return what stays free. `alike` names the ids that an id may match."""
    free: dict[int, list[int]] = {}
    for at, (_, word) in enumerate(reference):
        free.setdefault(word, []).append(at)
    if not free:
        return hypothesis, reference
    left: Free = []
    used: set[int] = set()
    for position, word in reversed(hypothesis):
        best = -1
        chosen: list[int] = []
        for other in alike(word):
            places = free.get(other)
            if places and places[-1] > best:
                best, chosen = places[-1], places
        if best < 0:
            left.append((position, word))
            continue
        chosen.pop()
        used.add(best)
        pairs.append((position, reference[best][0]))
    left.reverse()
    return left, [entry for at, entry in enumerate(reference) if at not in used]


class _Aligner:
    """Stems and synonyms of one vocabulary, as ids, looked up once."""

    def __init__(self, words: list[str], *, synonyms: Callable[[str], frozenset[str]] | None) -> None:
        ids: dict[str, int] = {}
        self.stem = [ids.setdefault(_stem(word), len(ids)) for word in words]
        self._stems = list(ids)
        self._ids = ids
        self._synonyms = synonyms
        self._alike: dict[int, Sequence[int]] = {}

    def alike(self, stem: int) -> Sequence[int]:
        """Stem ids of this vocabulary that are spelled like a synonym of the stem."""
        if stem not in self._alike:
            assert self._synonyms is not None
            found = (self._ids.get(word) for word in self._synonyms(self._stems[stem]))
            self._alike[stem] = [i for i in found if i is not None]
        return self._alike[stem]

    def score(self, hypothesis: list[int], reference: list[int]) -> float:
        """METEOR of one pair, 0 to 1."""
        pairs: Pairs = []
        hyp, ref = _take(list(enumerate(hypothesis)), list(enumerate(reference)), pairs, _same)
        if hyp and ref:
            stem = self.stem
            hyp, ref = _take([(i, stem[w]) for i, w in hyp], [(i, stem[w]) for i, w in ref], pairs, _same)
            if self._synonyms is not None and hyp and ref:
                _take(hyp, ref, pairs, self.alike)
        if not pairs:
            return 0.0
        pairs.sort()
        chunks = 1 + sum(b[0] != a[0] + 1 or b[1] != a[1] + 1 for a, b in pairwise(pairs))
        precision, recall = len(pairs) / len(hypothesis), len(pairs) / len(reference)
        mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        return float((1 - GAMMA * (chunks / len(pairs)) ** BETA) * mean)


def _same(word: int) -> tuple[int]:
    return (word,)


def _compute(rows: Rows, synonyms: Callable[[str], frozenset[str]] | None) -> Result:
    encoded = rows.encoded("published", "hypothesis", "reference")
    aligner = _Aligner(encoded.words, synonyms=synonyms)
    pairs = zip(encoded.columns["hypothesis"], encoded.columns["reference"], strict=True)
    return Result.mean([aligner.score(h, r) for h, r in pairs], scale=100.0)


def _missing() -> str | None:
    try:
        return HOW_TO if find() is None else None
    except MissingExtraError as err:
        return str(err)


METEOR = Metric(
    name="meteor",
    title="METEOR (NLTK, WordNet)",
    definition=(
        "METEOR with word, Porter stem and WordNet synonym stages (alpha 0.9, beta 3, gamma 0.5) on lower-cased NLTK "
        "tokens after a sentence split, mean over replies; equal to nltk.translate.meteor_score."
    ),
    signature=lambda: signature("meteor", "exact+stem+wordnet3", "tok:published", libraries=("nltk",), equal="nltk"),
    compute=lambda rows: _compute(rows, wordnet().synonyms),
    missing=_missing,
)
METEOR_EXACT_STEM = Metric(
    name="meteor_exact_stem",
    title="METEOR (no synonyms)",
    definition="As meteor, without the synonym stage: lower than METEOR and not to be compared with it.",
    signature=lambda: signature("meteor", "exact+stem", "tok:published", libraries=("nltk",)),
    compute=lambda rows: _compute(rows, None),
)
