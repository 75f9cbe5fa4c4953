"""The table of features: what a scorer reads off a turn.

Names join with `+` (`minilm+tfidf`). Two scorers are independent only if they share no part (see `same_family`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from heedful.classify.base import Arrays, Block, Dense, Features, FeatureSettings, Item, Lesson
from heedful.classify.vectors import VectorStore
from heedful.errors import ConfigError
from heedful.models.encoder import SentenceEncoder
from heedful.registry import Registry

FEATURES = Registry(
    "kind of features",
    {
        "minilm": "heedful.classify.features:MiniLM",
        "minilm_turns": "heedful.classify.features:MiniLMTurns",
        "minilm_tuned": "heedful.classify.tuned:TunedMiniLM",
        "tfidf": "heedful.classify.tfidf:TfIdf",
        "state": "heedful.classify.state:State",
    },
)
"""name -> class `(FeatureSettings) -> Features`. Add one: a file beside this one, and a line here."""


def parts_of(features: str) -> tuple[str, ...]:
    """The names that `features` joins.

    Raises:
        ConfigError: a part is empty or stands twice.
    """
    parts = tuple(part.strip() for part in features.split("+"))
    if "" in parts or len(set(parts)) < len(parts):
        raise ConfigError(
            f"'features' must be a name or several different ones joined by '+', such as minilm+tfidf, but it is "
            f"'{features}'."
        )
    return parts


def make(features: str, settings: FeatureSettings) -> list[tuple[str, Features]]:
    """The parts of `features`, to be fitted or restored.

    Raises:
        NotFoundError: no such features.
        ConfigError: settings that they cannot serve.
    """
    return [(part, FEATURES.get(part)(settings)) for part in parts_of(features)]


@cache
def shared_vectors() -> VectorStore:
    """The vectors of the embedded encoder, loaded once per process.

    Raises:
        MissingExtraError: torch, transformers or the package with the weights is not installed.
    """
    return VectorStore(SentenceEncoder.load("minilm"))


class MiniLM:
    """Sentence vectors of the frozen encoder: 384 numbers for the turn and, with `context`, 384 for what came before.

    What came before is one text, the turns joined with blanks. `speaker` is one more number, 1 for the supporter and
    -1 for the seeker.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings

    def fit(self, lesson: Lesson) -> None:
        """Nothing is learnt. The vectors of the turns are computed once and kept for the next scorer."""
        lesson.say(f"minilm: vectors of {len(lesson.items):,} turns, about 300 a second on one CPU thread")
        shared_vectors().keep([item.text for item in lesson.items])

    def block(self, items: Sequence[Item]) -> Block:
        """(N, 384), (N, 768) with context; one more with speaker."""
        encoder = shared_vectors()
        columns: list[Dense] = [encoder.encode([item.text for item in items])]
        if self.settings.context:
            before = [" ".join(item.context) for item in items]
            said = np.array([[bool(text)] for text in before], dtype=np.float32).reshape(-1, 1)
            columns.append(encoder.encode(before) * said)  # nothing said is no direction at all
        if self.settings.speaker:
            columns.append(np.array([[speaker_sign(item)] for item in items], dtype=np.float32).reshape(-1, 1))
        return np.concatenate(columns, axis=1)

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:
        """The encoder is not copied: its package is named."""
        return {"encoder": "minilm"}, {}

    def restore(self, folder: Path, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Nothing to read."""


class MiniLMTurns:
    """Sentence vectors turn by turn: of the judged text, of the last turn before it, and the mean over the context.

    `minilm` reads the context as one text, cut at the encoder's 256 tokens. Here every turn is read once whatever the
    number of places at which it is context, which makes a whole corpus of next-turn predictions cheap.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        if not settings.context:
            raise ConfigError("The features 'minilm_turns' read the turns of a context; set context to 1 or more.")
        self.settings = settings

    def fit(self, lesson: Lesson) -> None:
        """Nothing is learnt. The vectors of the turns are computed once and kept for the next scorer."""
        turns = list(dict.fromkeys(text for item in lesson.items for text in (item.text, *item.context) if text))
        lesson.say(f"minilm_turns: vectors of {len(turns):,} turns, about 300 a second on one CPU thread")
        shared_vectors().keep(turns)

    def block(self, items: Sequence[Item]) -> Block:
        """(N, 3 * 384)."""
        texts = list(dict.fromkeys(text for item in items for text in (item.text, *item.context) if text))
        vectors = shared_vectors().encode(texts)
        at = {text: row for row, text in enumerate(texts)}
        found = np.zeros((len(items), 3, vectors.shape[1] if texts else 384), dtype=np.float32)
        for row, item in enumerate(items):
            said = [at[text] for text in item.context if text]
            if item.text:
                found[row, 0] = vectors[at[item.text]]
            if said:
                found[row, 1], found[row, 2] = vectors[said[-1]], vectors[said].mean(axis=0)
        return found.reshape(len(items), -1)

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:
        """The encoder is not copied: its package is named."""
        return {"encoder": "minilm"}, {}

    def restore(self, folder: Path, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Nothing to read."""


def speaker_sign(item: Item) -> float:
    """1 for the supporter, -1 for the seeker."""
    return 1.0 if item.role == "assistant" else -1.0
