"""Minimum Bayes risk decoding: of several drawn replies, the one that the others agree with most.

    choose  y* = argmax over y of  1/(N-1) * sum over y' != y of  u(y, y')

with candidates y and evidence y' from the same N draws (Eikema & Aziz 2020, "Is MAP decoding all you need?"; Bertsch
et al. 2023). The most probable reply of a small model is often short and empty, one draw is a gamble; the consensus is
near what the model says most of the time. It costs N replies after one reading of the prompt. The draws themselves are
made in `heedful.models.decoding`; here is what agreement means.

The utility u is over tokens, so that nothing has to be put into words on the way: `rougeL` is F1 of the longest common
subsequence (Lin 2004), `bleu2` is BLEU of two orders with a brevity penalty, both counts of the higher order raised by
one (Lin & Och 2004).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

Utility = Callable[[Sequence[int], Sequence[int]], float]


def common_subsequence(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common subsequence, by the bits of one integer (Hyyrö 2004)."""
    places: dict[int, int] = {}
    for at, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << at
    whole = (1 << len(first)) - 1
    row = whole
    for token in second:
        hit = row & places.get(token, 0)
        row = (row + hit | row - hit) & whole
    return len(first) - row.bit_count()


def rouge_l(candidate: Sequence[int], reference: Sequence[int]) -> float:
    """ROUGE-L F1 of two token sequences, 0 to 1; two empty ones agree."""
    if not candidate or not reference:
        return float(candidate == reference)
    return 2 * common_subsequence(candidate, reference) / (len(candidate) + len(reference))


def bleu2(candidate: Sequence[int], reference: Sequence[int]) -> float:
    """Sentence BLEU of orders 1 and 2, 0 to 1; bigram counts are raised by one."""
    if not candidate or not reference:
        return float(candidate == reference)
    one = Counter(candidate) & Counter(reference)
    pairs = Counter(pairwise(candidate))
    two = pairs & Counter(pairwise(reference))
    precision = one.total() / len(candidate) * (two.total() + 1) / (pairs.total() + 1)
    return math.sqrt(precision) * math.exp(min(0.0, 1 - len(reference) / len(candidate)))


UTILITIES: dict[str, Utility] = {"rougeL": rouge_l, "bleu2": bleu2}
