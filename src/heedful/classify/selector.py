"""ReplySelector: writes nothing, and picks one of the replies that people once gave, for where a talk stands now.

    state of the talk -> features (D) -> ridge regression -> what each of C replies would have in common with the
    supporter's own -> the reply with the most

For one place the prediction is  f(x)' (F'F + l2 I)^-1 F' U,  with the features F (N, D) and the overlaps U (N, C) of N
training places: a weighted mean of the overlaps of each candidate with what was said at similar places. So it is
minimum Bayes risk (Eikema & Aziz 2020; `heedful.models.consensus`), the evidence being drawn from the corpus instead of
a model. It says nothing that was never said. What it is good at is overlap; whether it helps anybody is another matter.

`selector.json` and `selector.npz` hold it, without pickle.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from heedful.classify.base import Features, FeatureSettings, Item, Lesson, Sparse
from heedful.classify.features import make
from heedful.classify.model import fingerprint_of, numbers_of, private, restore_features, save_features
from heedful.classify.state import next_item
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.models.causal import SELECTOR_FILE
from heedful.types import Conversation

NUMBERS: Final = "selector.npz"
VERSION: Final = 1
_BATCH: Final = 512
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A reply and how much it is expected to have in common with the supporter's own, in units of the utility."""

    reply: str = field(repr=False)
    number: int
    expected: float


@dataclass(kw_only=True)
class ReplySelector:
    """Picks among C replies.

    Args:
        label_set: whose labels of earlier replies the features `state` read; "" = none.
        record: what it was trained on and how.
        weights: (D, C). `mean`: (C,), the overlap of each reply with all training replies.
        fingerprint: 16 hex digits over everything that decides its choices.
    """

    name: str
    label_set: str
    replies: tuple[str, ...] = field(repr=False)
    record: Mapping[str, Any]
    settings: FeatureSettings = field(repr=False)
    features: Sequence[tuple[str, Features]] = field(repr=False)
    weights: Matrix = field(repr=False)
    mean: Matrix = field(repr=False)
    fingerprint: str = ""

    def item(self, context: Conversation) -> Item:
        """What it sees of a conversation that ends before the reply."""
        return next_item(context, self.label_set, reach=self.settings.context)

    def choose(self, contexts: Sequence[Conversation]) -> list[Choice]:
        """The reply for each conversation; ties go to the first."""
        items = [self.item(context) for context in contexts]
        chosen = []
        for begin in range(0, len(items), _BATCH):
            expected = dense(self.features, items[begin : begin + _BATCH]) @ self.weights + self.mean
            for row, best in zip(expected, expected.argmax(axis=1).tolist(), strict=True):
                chosen.append(Choice(reply=self.replies[best], number=best, expected=float(row[best])))
        return chosen

    def save(self, folder: Path) -> None:
        """Write it into `folder` and set its fingerprint. Only the owner may read it: it is made of people's words."""
        values, kept = save_features(self.features, folder)
        kept |= {"weights": self.weights, "mean": self.mean}
        with open(folder / NUMBERS, "wb", opener=private) as file:
            np.savez(file, allow_pickle=False, **kept)
        described = {
            "version": VERSION,
            "name": self.name,
            "label_set": self.label_set,
            "settings": {"context": self.settings.context},
            "features": values,
            "replies": list(self.replies),
            "record": dict(self.record),
        }
        self.fingerprint = fingerprint_of(folder, described, kept)
        with open(folder / SELECTOR_FILE, "w", encoding="utf-8", opener=private) as file:
            json.dump({**described, "fingerprint": self.fingerprint}, file, indent=1, ensure_ascii=False)


def dense(features: Sequence[tuple[str, Features]], items: Sequence[Item]) -> Matrix:
    """The features of items side by side, (N, D).

    Raises:
        ConfigError: one of them is sparse.
    """
    blocks = []
    for name, part in features:
        block = part.block(items)
        if isinstance(block, Sparse):
            raise ConfigError(
                f"A selector takes dense features such as minilm_turns and state, and '{name}' is sparse."
            )
        blocks.append(np.asarray(block, dtype=np.float32))
    return np.concatenate(blocks, axis=1)


def fit_features(
    names: str, settings: FeatureSettings, items: Sequence[Item], *, seed: int
) -> list[tuple[str, Features]]:
    """Features fitted on items that have no labels.

    Raises:
        ConfigError: features that need labels to learn from.
    """
    parts = make(names, settings)
    lesson = Lesson(items=items, targets=np.zeros(len(items), dtype=np.int64), weights=np.ones(1), seed=seed)
    for name, features in parts:
        if name.endswith("_tuned"):
            raise ConfigError(f"A selector has no labels to tune '{name}' with; use minilm_turns or minilm.")
        features.fit(lesson)
    return parts


def ridge(features: Matrix, utilities: Matrix, l2: Sequence[float]) -> list[Matrix]:
    """Weights (D, C) for each penalty.

    Args:
        features: (N, D). utilities: (N, C), of which each column has the mean 0.
    """
    gram = (features.T @ features).astype(np.float64)
    target = (features.T @ utilities).astype(np.float64)
    eye = np.eye(len(gram))
    return [np.linalg.solve(gram + penalty * eye, target).astype(np.float32) for penalty in l2]


def is_selector(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a selector."""
    return (Path(path).expanduser() / SELECTOR_FILE).is_file()


def load_selector(path: str | os.PathLike[str]) -> ReplySelector:
    """Open a selector.

    Raises:
        NotFoundError: the folder holds none.
        DataError: its files are damaged or do not belong together.
    """
    folder = Path(path).expanduser()
    if not is_selector(folder):
        raise NotFoundError(
            f"'{path}' holds no selector; train one with: heedful train method=selector output_dir={path}"
        )
    try:
        described = json.loads((folder / SELECTOR_FILE).read_text("utf-8"))
        if described["version"] != VERSION:
            raise DataError(f"The selector {folder} has version {described['version']}, not {VERSION}; train it again.")
        kept = numbers_of(folder / NUMBERS)
        fingerprint = described.pop("fingerprint")
        settings = FeatureSettings(**described["settings"])
        parts = restore_features(described["features"], kept, folder, settings)
        selector = ReplySelector(
            name=described["name"],
            label_set=described["label_set"],
            replies=tuple(described["replies"]),
            record=described["record"],
            settings=settings,
            features=parts,
            weights=kept["weights"],
            mean=kept["mean"],
            fingerprint=fingerprint,
        )
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as err:
        if isinstance(err, DataError | NotFoundError | ConfigError):
            raise
        raise DataError(f"The selector {folder} cannot be read ({type(err).__name__}); train it again.") from err
    if fingerprint_of(folder, described, kept) != fingerprint:
        raise DataError(f"The files of the selector {folder} do not belong together; copy the whole folder again.")
    return selector
