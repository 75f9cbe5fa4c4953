"""Item, Block and Features: what is classified, as what numbers, and how those numbers are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from heedful.types import Role

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Dense: TypeAlias = npt.NDArray[np.float32]
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One turn to be labelled.

    Args:
        text: of the turn.
        context: texts of the turns before it, oldest first, as many as the scorer looks at.
        role: who speaks; only scorers with `speaker: true` look at it.
        history, place: of scorers with `target: next`: labels of the supporter's turns so far ("" = unlabelled), and
            how many turns there were.
    """

    text: str = field(repr=False)
    context: tuple[str, ...] = field(default=(), repr=False)
    role: Role = "assistant"
    history: tuple[str, ...] = ()
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """N rows with few values other than 0: row i has `values[start[i]:start[i + 1]]` in the columns `columns[...]`."""

    columns: Ints = field(repr=False)
    values: Dense = field(repr=False)
    start: Ints = field(repr=False)
    width: int

    def __len__(self) -> int:
        return len(self.start) - 1

    def times(self, weights: Floats) -> Floats:
        """Rows (N, width) times weights (width, C), shape (N, C)."""
        products = weights[self.columns] * self.values[:, None]
        found = np.zeros((len(self), weights.shape[1]))
        filled = self.start[:-1] < self.start[1:]  # `reduceat` has no answer for an empty row
        if filled.any():
            found[filled] = np.add.reduceat(products, self.start[:-1][filled], axis=0)
        return found

    def take(self, rows: Ints) -> Sparse:
        """The rows at `rows`, in that order."""
        sizes = (self.start[1:] - self.start[:-1])[rows]
        start = np.concatenate([[0], np.cumsum(sizes)])
        inside = np.arange(int(start[-1])) - np.repeat(start[:-1], sizes)
        at = np.repeat(self.start[rows], sizes) + inside
        return Sparse(columns=self.columns[at], values=self.values[at], start=start, width=self.width)


Block: TypeAlias = Dense | Sparse
"""The numbers of one kind of features, (N, width)."""


def take(block: Block, rows: Ints) -> Block:
    """Some rows of a block."""
    return block.take(rows) if isinstance(block, Sparse) else block[rows]


def width_of(block: Block) -> int:
    """Number of columns."""
    return block.width if isinstance(block, Sparse) else int(block.shape[1])


def times(block: Block, weights: Floats) -> Floats:
    """(N, width) times (width, C)."""
    if isinstance(block, Sparse):
        return block.times(weights)
    found: Floats = block.astype(np.float64) @ weights
    return found


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What features may depend on besides the data.

    Args:
        context: turns before the one that is judged.
        speaker: whether the role of the speaker is a feature.
        learning_rate, epochs, batch_size, max_seconds: of features that are trained themselves.
        precision: `auto`, `fp32` or `bf16`, likewise.
    """

    context: int = 0
    speaker: bool = False
    learning_rate: float = 1e-4
    epochs: float = 3.0
    batch_size: int = 32
    max_seconds: float | None = None
    precision: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What features may learn from.

    Args:
        items: N turns.
        targets: (N,) number of the label of each.
        weights: (C,) weight of each class in the loss.
        seed: of everything that is drawn.
        say: takes a line of progress.
        log: takes numbers of a step.
    """

    items: Sequence[Item] = field(repr=False)
    targets: Ints = field(repr=False)
    weights: Floats = field(repr=False)
    seed: int
    say: Say = field(default=lambda text: None, repr=False)
    log: Callable[[dict[str, float]], None] = field(default=lambda values: None, repr=False)


class Features(Protocol):
    """One kind of features: fitted once, kept with the scorer, and the same numbers for the same turn ever after."""

    def fit(self, lesson: Lesson) -> None:
        """Learn what there is to learn (which n-grams exist, how rare they are, an encoder's weights)."""

    def block(self, items: Sequence[Item]) -> Block:
        """The numbers of N turns."""

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:
        """What `restore` needs: plain values and arrays; larger files go into `folder`."""

    def restore(self, folder: Path, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Undo `save`."""
