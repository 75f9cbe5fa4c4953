"""The words that a scorer's answer rests on, by leaving them out and asking again (occlusion).

    "nobody calls me any more"  sadness 0.81
    "       calls me any more"          0.44    -> rests on "nobody"

What is compared is the log-odds of the label, which still tell words apart where a scorer is all but certain. It is
deterministic, works for every kind of features, and says something about the scorer alone: which words moved it. It
does not say why somebody feels something, nor that the scorer is right. A long text is narrowed down: the part of it
that moves the scorer most is taken apart again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from heedful.classify.base import Floats, Item
from heedful.classify.calibration import softmax
from heedful.classify.model import LabelModel

PARTS: Final = 24
"""A text is left out in so many parts at most at a time: so many questions a level."""
LEAST: Final = 0.05
"""A part counts from this loss of log-odds (nats) on; less is noise of length."""
BESIDE: Final = 0.5
"""Other parts are named beside the strongest where they move it half as much."""
NAMED, LONGEST, LEVELS = 3, 160, 3
_WORD: Final = re.compile(r"\S+")
_LONG_WORD: Final = 16
"""Longer words are cut: in Chinese a whole sentence has no blank."""

Place = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a scorer says of one turn.

    Args:
        label: the most probable one. probabilities: (C,), sums to 1.
        evidence: words of the turn, as they stand there, that `label` rests on; empty where none moves the scorer.
        loss: how much of its log-odds `label` loses without the strongest part of them, in nats.
    """

    label: str
    probabilities: Floats = field(repr=False)
    evidence: str = field(default="", repr=False)
    loss: float = 0.0


def read(model: LabelModel, item: Item) -> Reading:
    """The label of a turn, and the words that it rests on.

    Args:
        model: a scorer of turns that are there (`target: this`).
    """
    logits = model.logits_of([item])
    top = int(logits[0].argmax())
    full = float(_odds(model, logits, top)[0])
    found: tuple[list[Place], float] = ([], 0.0)
    region = _places(item.text)
    for _ in range(LEVELS):
        parts = _parts(region)
        if not parts:
            break
        without = model.logits_of([replace(item, text=_without(item.text, part)) for part in parts])
        losses = full - _odds(model, without, top)
        if losses.max() < LEAST:
            break
        found = (_strongest(parts, losses), float(losses.max()))
        region = region_of(region, parts[int(losses.argmax())])
        if len(region) <= 1:
            break
        if len(parts) == len(_places(item.text)):
            break  # each word was left out by itself
    return Reading(
        label=model.labels[top],
        probabilities=softmax(logits, model.temperature)[0],
        evidence=_quoted(item.text, found[0]),
        loss=round(found[1], 4),
    )


def region_of(region: Sequence[Place], part: Place) -> list[Place]:
    """The words of a part."""
    return [place for place in region if part[0] <= place[0] and place[1] <= part[1]]


def _odds(model: LabelModel, logits: Floats, label: int) -> Floats:
    """Log-odds (N,) of a label against all others."""
    scaled = logits / model.temperature
    others = np.delete(scaled, label, axis=1)
    highest = others.max(axis=1)
    found: Floats = scaled[:, label] - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1))
    return found


def _places(text: str) -> list[Place]:
    """Where the words of a text stand."""
    found = []
    for word in _WORD.finditer(text):
        start, end = word.span()
        step = 4 if end - start > _LONG_WORD else end - start
        found += [(at, min(at + step, end)) for at in range(start, end, step)]
    return found


def _parts(region: Sequence[Place]) -> list[Place]:
    """Neighbouring words together, so that there are at most `PARTS`."""
    size = -(-len(region) // PARTS) or 1
    groups = [region[at : at + size] for at in range(0, len(region), size)]
    return [(group[0][0], group[-1][1]) for group in groups]


def _without(text: str, part: Place) -> str:
    return (text[: part[0]] + text[part[1] :]).strip()


def _strongest(parts: Sequence[Place], losses: Floats) -> list[Place]:
    """The part that moves most, and those beside it, in the order of the text. Of equals the earlier counts."""
    order = sorted(range(len(parts)), key=lambda k: (-losses[k], k))
    least = max(LEAST, BESIDE * float(losses.max()))
    return sorted(parts[k] for k in order[:NAMED] if losses[k] >= least)


def _quoted(text: str, places: Sequence[Place]) -> str:
    joined: list[Place] = []
    for start, end in places:
        if joined and not text[joined[-1][1] : start].strip():
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    said = " \u2026 ".join(" ".join(text[start:end].split()) for start, end in joined)
    return said if len(said) <= LONGEST else said[: LONGEST - 1].rstrip() + "\u2026"
