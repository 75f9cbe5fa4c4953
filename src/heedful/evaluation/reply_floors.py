"""Trivial replies: one sentence for everything, and replies drawn from the training part.

A drawn floor is one draw per seed; its value is the mean over seeds, with each seed's beside it. esconv.md prints one
draw each. Seed 0 gives the random row to the digit (`random.Random(0).choice` over the train targets), and, when the
same generator goes on to the replies of the gold strategy, three of that row's four figures; B-2 is 3.845, printed 3.9.

A writer is a function `(train, test, seed) -> replies`; one function here and one line in the table make a new one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from heedful.evaluation.strategy_floors import Spot
from heedful.registry import Registry
from heedful.scoring.published import FIXED_REPLY

_HERE = "heedful.evaluation.reply_floors"
_TABLE = {
    "fixed_reply": f"{_HERE}:FIXED",
    "random_reply": f"{_HERE}:RANDOM",
    "random_reply_of_gold_strategy": f"{_HERE}:RANDOM_OF_GOLD",
    "gold_reply": f"{_HERE}:GOLD",
}
REPLY_FLOORS = Registry("reply floor", _TABLE)
ORDER = tuple(_TABLE)
"""Simple before clever; floors of other packages come after these."""

OVERLAP = ("bleu1", "bleu2", "bleu3", "bleu4", "rougeL_published", "f1")
DIVERSITY = ("distinct1_published", "distinct2_published")
SIZE_FREE = ("distinct1", "distinct2", "distinct1_per1000", "distinct2_per1000", "length")

Replies = list[str | None]
Writer = Callable[[Sequence[Spot], Sequence[Spot], int], Replies]


@dataclass(frozen=True, kw_only=True)
class ReplyFloor:
    """A trivial writer with what a reader must know of it.

    Args:
        drawn: whether another seed gives other replies.
        needs_label: whether it is told the gold label.
        metrics: what says something about it.
    """

    title: str
    definition: str
    write: Writer = field(repr=False)
    drawn: bool = False
    needs_label: bool = False
    metrics: tuple[str, ...] = (*OVERLAP, *DIVERSITY)


def _fixed(train: Sequence[Spot], test: Sequence[Spot], seed: int) -> Replies:
    return [FIXED_REPLY for _ in test]


def _any(generator: random.Random, train: Sequence[Spot], test: Sequence[Spot]) -> Replies:
    return [generator.choice(train).reply for _ in test]


def _random(train: Sequence[Spot], test: Sequence[Spot], seed: int) -> Replies:
    return _any(random.Random(seed), train, test)


def _random_of_gold(train: Sequence[Spot], test: Sequence[Spot], seed: int) -> Replies:
    """None where the turn has no label, or training has no reply with it."""
    generator = random.Random(seed)
    _any(generator, train, test)  # as above: one generator for both rows
    by_label: dict[str, list[Spot]] = defaultdict(list)
    for spot in train:
        if spot.label is not None:
            by_label[spot.label].append(spot)
    return [
        generator.choice(by_label[spot.label]).reply if spot.label is not None and by_label[spot.label] else None
        for spot in test
    ]


def _gold(train: Sequence[Spot], test: Sequence[Spot], seed: int) -> Replies:
    return [spot.reply for spot in test]


FIXED = ReplyFloor(title="one fixed reply", definition=f"The same sentences everywhere: {FIXED_REPLY}", write=_fixed)
RANDOM = ReplyFloor(
    title="random train reply", definition="A reply drawn from the training part.", write=_random, drawn=True
)
RANDOM_OF_GOLD = ReplyFloor(
    title="random train reply of the gold strategy",
    definition="A reply drawn from the training replies that carry the label of the turn, which nobody knows yet.",
    write=_random_of_gold,
    drawn=True,
    needs_label=True,
)
GOLD = ReplyFloor(
    title="the corpus' own replies",
    definition="What the supporters wrote: how varied replies are at this number of them.",
    write=_gold,
    metrics=(*DIVERSITY, *SIZE_FREE),
)
