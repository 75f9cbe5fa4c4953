"""Strategy over progress: the share of each strategy in each fifth of the dialogue (the figure of the ESConv paper).

Fifth of a turn: floor(5 i / L), i the turn's index and L the number of turns. Numbers only; a page draws them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heedful import taxonomy
from heedful.errors import ConfigError, LabelError
from heedful.types import Conversation

FIFTHS = 5
Shares = dict[str, tuple[float | None, ...]]
"""Label -> its share in each part of the dialogue, in %; None where the part has no labelled turn."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Shares over the course of dialogues.

    Args:
        labels: of the set, in its order.
        parts: into how many equal parts a dialogue is cut.
        n: labelled turns in each part; `unlabelled` turns are left out everywhere.
        gold: what the supporters did.
        predicted: what a system would do at the same turns; None without predictions.
        predicted_n: turns with a prediction in each part; `silent` turns have none.
        distance: total variation distance between both in each part, in %: 0 = the same shares.
    """

    label_set: str
    labels: tuple[str, ...]
    parts: int
    n: tuple[int, ...]
    unlabelled: int
    gold: Shares
    predicted: Shares | None = None
    predicted_n: tuple[int, ...] | None = None
    silent: int = 0
    distance: tuple[float | None, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "label_set": self.label_set,
            "labels": list(self.labels),
            "parts": self.parts,
            "n": list(self.n),
            "unlabelled": self.unlabelled,
            "gold": {label: list(row) for label, row in self.gold.items()},
            "predicted": None if self.predicted is None else {k: list(row) for k, row in self.predicted.items()},
            "predicted_n": None if self.predicted_n is None else list(self.predicted_n),
            "silent": self.silent,
            "distance": None if self.distance is None else list(self.distance),
        }


def strategy_progress(
    conversations: Sequence[Conversation],
    predicted: Mapping[str, str | None] | None = None,
    *,
    label_set: str = "esconv_strategy",
    opening: bool = False,
    parts: int = FIFTHS,
) -> Progress:
    """Shares of gold and predicted labels in each part of the dialogue, over the labelled supporter turns.

    Args:
        predicted: `<conversation id>/<turn>` -> label; None or a missing turn = no prediction.
        opening: count a supporter's very first turn too.

    Raises:
        ConfigError: fewer than one part.
        LabelError: a label that the set does not have.
        NotFoundError: no such label set.
    """
    if parts < 1:
        raise ConfigError(f"A dialogue is cut into 1 part or more, but parts is {parts}.")
    labels = taxonomy.get(label_set).names
    gold: list[Counter[str]] = [Counter() for _ in range(parts)]
    said: list[Counter[str]] = [Counter() for _ in range(parts)]
    unlabelled = silent = 0
    for conv in conversations:
        for i in conv.targets(opening=opening):
            value = conv.turns[i].label(label_set)
            if value is None:
                unlabelled += 1
                continue
            at = parts * i // len(conv)
            gold[at][value] += 1
            guess = predicted.get(f"{conv.id}/{i}") if predicted is not None else None
            if guess is None:
                silent += predicted is not None
            else:
                said[at][guess] += 1
    stray = sorted({label for part in (*gold, *said) for label in part} - set(labels))
    if stray:
        raise LabelError(f"{len(stray)} labels are not in the label set '{label_set}', which has: {', '.join(labels)}.")
    shares = _shares(gold, labels)
    theirs = _shares(said, labels) if predicted is not None else None
    return Progress(
        label_set=label_set,
        labels=labels,
        parts=parts,
        n=tuple(part.total() for part in gold),
        unlabelled=unlabelled,
        gold=shares,
        predicted=theirs,
        predicted_n=tuple(part.total() for part in said) if predicted is not None else None,
        silent=silent,
        distance=_distances(shares, theirs, parts) if theirs is not None else None,
    )


def _shares(parts: Sequence[Counter[str]], labels: Sequence[str]) -> Shares:
    return {label: tuple(100 * part[label] / part.total() if part else None for part in parts) for label in labels}


def _distances(first: Shares, second: Shares, parts: int) -> tuple[float | None, ...]:
    out: list[float | None] = []
    for at in range(parts):
        pairs = [(first[label][at], second[label][at]) for label in first]
        gaps = [abs(a - b) for a, b in pairs if a is not None and b is not None]
        out.append(sum(gaps) / 2 if len(gaps) == len(pairs) else None)
    return tuple(out)
