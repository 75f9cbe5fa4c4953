"""Minimum Bayes risk decoding: of several drawn replies, the one that the others agree with most.

    choose  y* = argmax over y of  1/(N-1) * sum over y' != y of  u(y, y')

with candidates y and evidence y' from the same N draws (Eikema & Aziz 2020, "Is MAP decoding all you need?"; Bertsch
et al. 2023). The most probable reply of a small model is often short and empty, one draw is a gamble; the consensus is
near what the model says most of the time. It costs N replies after one reading of the prompt.

The utility u is over tokens, so that nothing has to be put into words on the way: `rougeL` is F1 of the longest common
subsequence (Lin 2004), `bleu2` is BLEU of two orders with a brevity penalty, both counts of the higher order raised by
one (Lin & Och 2004).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from heedful.models.decoding import Chooser, Step, Written, choose

if TYPE_CHECKING:
    import torch

Utility = Callable[[Sequence[int], Sequence[int]], float]


class Consensus:
    """A chooser that lets several others write from one prompt and keeps the reply that agrees most with the rest.

    Args:
        candidates: at least two choosers, each with a random stream of its own; they are asked side by side.
        utility: a name of `UTILITIES`.
        end: tokens that end a reply; they are no words, and agreement does not count them.
    """

    def __init__(self, candidates: Sequence[Chooser], *, utility: str, end: frozenset[int]) -> None:
        self.candidates, self.utility, self.end = list(candidates), UTILITIES[utility], end
        self.live = list(range(len(self.candidates)))
        self.done: Written | None = None
        self.begun = False

    def step(self, logits: torch.Tensor) -> Step:
        """One token for each candidate that still writes; [1, V] at first, then a row for each of them."""
        rows = [logits[at if self.begun else 0][None] for at in range(len(self.live))]
        steps = choose([self.candidates[i] for i in self.live], rows)
        parents: list[int] = []
        tokens: list[int] = []
        following: list[int] = []
        for at, (i, step) in enumerate(zip(self.live, steps, strict=True)):
            if self.candidates[i].done is None:
                following.append(i)
                parents.append(at if self.begun else 0)
                tokens.append(step.tokens[0])
        self.live, self.begun = following, True
        if not following:
            self.done = self._agreed()
        return Step(parents=tuple(parents), tokens=tuple(tokens))

    def _agreed(self) -> Written:
        written = [made for c in self.candidates if (made := c.done) is not None]
        texts = [tuple(t for t in made.tokens if t not in self.end) for made in written]
        # Equal draws are counted as often as they were drawn, and worked out once.
        counts = Counter(texts)
        risk = {
            text: sum(n * self.utility(text, other) for other, n in counts.items()) - self.utility(text, text)
            for text in counts
        }
        best = max(counts, key=lambda text: (risk[text], -texts.index(text)))
        return written[texts.index(best)]


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
