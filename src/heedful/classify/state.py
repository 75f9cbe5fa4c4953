"""`state`: where a conversation stands when a reply is due, for scorers that predict what the supporter does next.

Which strategy follows depends less on words than on what was done before: ESConv's floors (esconv.md) come from the
previous strategies, the last speaker and the time. A scorer with `target: next` reads a conversation that *ends*
before the reply; its text is the help-seeker's last turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful.classify.base import Arrays, Block, Dense, FeatureSettings, Item, Lesson
from heedful.types import Conversation

BACK = 3
"""Earlier labels that are told apart by how long ago they were."""
SLICES, EACH = 11, 4
"""Turns of the talk, four to a slice; the last slice holds all that come later."""
FAR = 20


def next_item(context: Conversation, label_set: str, *, reach: int) -> Item:
    """What a scorer sees of a conversation that ends before the reply whose label is to be predicted.

    Args:
        reach: how many of the last turns it is shown.
    """
    turns = context.turns
    said = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
    return Item(
        text=said,
        context=tuple(turn.text for turn in turns[-reach:]) if reach else (),
        role=turns[-1].role if turns else "user",
        history=tuple(turn.label(label_set) or "" for turn in turns if turn.role == "assistant"),
        place=len(turns),
    )


class State:
    """The labels of earlier replies (the last three, how often, how long ago), time, who spoke last, kind of last turn.

    Every number is brought to mean 0 and to standard deviation 1 / sqrt(width) over the training turns, so that a row
    has a length of about 1, as sentence vectors and TF-IDF have, and one penalty is fair to all of them.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        self.labels: tuple[str, ...] = ()
        self.mean = np.zeros(0, dtype=np.float32)
        self.scale = np.zeros(0, dtype=np.float32)

    def fit(self, lesson: Lesson) -> None:
        """Find the labels that occur, and the spread of each number."""
        self.labels = tuple(sorted({label for item in lesson.items for label in item.history if label}))
        rows = np.stack([self._row(item) for item in lesson.items])
        self.mean, spread = rows.mean(axis=0), rows.std(axis=0)
        width = float(rows.shape[1])
        self.scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6) / width**0.5, 0.0).astype(np.float32)

    def block(self, items: Sequence[Item]) -> Block:
        """(N, 6 labels + 24)."""
        if not items:
            return np.zeros((0, len(self.mean)), dtype=np.float32)
        found: Dense = (np.stack([self._row(item) for item in items]) - self.mean) * self.scale
        return found

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:
        """Labels, means and scales."""
        return {"labels": list(self.labels)}, {"mean": self.mean, "scale": self.scale}

    def restore(self, folder: Path, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Undo `save`."""
        self.labels = tuple(values["labels"])
        self.mean, self.scale = arrays["mean"], arrays["scale"]

    def _row(self, item: Item) -> Dense:
        at = {label: k for k, label in enumerate(self.labels)}
        known = [at.get(label, -1) for label in item.history]
        count = len(self.labels)
        last = np.zeros((BACK, count + 1))
        for back in range(BACK):
            last[back, known[-1 - back] if len(known) > back else count] = 1.0
        times = np.bincount([k for k in known if k >= 0], minlength=count).astype(np.float64)
        since = np.full(count, float(FAR))
        for back, k in enumerate(reversed(known)):
            if k >= 0:
                since[k] = min(since[k], back)
        slices = np.zeros(SLICES)
        slices[min(item.place // EACH, SLICES - 1)] = 1.0
        said, before = item.text.lower(), item.context[-1].lower() if item.context else ""
        words = len(said.split())
        about = [
            np.log1p(item.place), item.place / 30, float(item.role == "user"),
            np.log1p(words), float("?" in said), float("thank" in said), float("bye" in said), float(words < 4),
            float("help" in said), float("?" in before), np.log1p(len(before.split())),
        ]  # fmt: skip
        return np.concatenate([last.ravel(), np.log1p(times), times > 0, np.exp(-since / 2), slices, about]).astype(
            np.float32
        )
