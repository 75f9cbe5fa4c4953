"""Trivial predictors of the next strategy: what a model must beat before its accuracy means anything.

Recipe of esconv.md, where it leaves something open settled by what reproduces its digits:

- Count table: cells are (last labelled strategy, last speaker, min(i // 4, 10)). Ties go to the label that the cell saw
  first in the training part; a cell that training never saw gets the most frequent label.
- Logistic regression (scikit-learn, lbfgs with its own tolerance, C = 1): TF-IDF 1-2-grams of the seeker's last turn,
  TF-IDF words of the last five turns joined by blanks (both min_df 3, sublinear), one-hot of the last two labels, the
  last speaker and min(i // 4, 10). lbfgs stops near the optimum, and where it stops depends on the order of columns and
  on the processor's rounding: over 24 orders of the one-hot columns accuracy on ESConv's test part moved between 30.7
  and 30.9. So two digits after the point are as much as these rows can carry.

A predictor is a function `(train, test, labels) -> Guess`; one function here and one line in the table make a new one.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from heedful.errors import DataError
from heedful.registry import Registry
from heedful.scoring.base import Floats
from heedful.scoring.text import needs_eval
from heedful.types import Conversation

NOTHING = "none"
"""Stands for a label or speaker that is not there."""
RECENT = 5
SLICE, SLICES = 4, 10
MIN_TURNS = 3
MAX_STEPS = 2000

_HERE = "heedful.evaluation.strategy_floors"
_TABLE = {
    "majority": f"{_HERE}:MAJORITY",
    "count_table": f"{_HERE}:COUNT_TABLE",
    "logistic": f"{_HERE}:LOGISTIC",
    "logistic_text": f"{_HERE}:LOGISTIC_TEXT",
    "logistic_balanced": f"{_HERE}:LOGISTIC_BALANCED",
}
STRATEGY_FLOORS = Registry("strategy floor", _TABLE)
ORDER = tuple(_TABLE)
"""Simple before clever; floors of other packages come after these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A supporter turn that is due, and what was known before it.

    Args:
        label: of the turn itself, None = unlabelled.
        reply: what the supporter wrote.
        said: the seeker's last turn, None if there was none.
        recent: the last five turns, oldest first.
        history: labels of the supporter's earlier turns, oldest first, unlabelled ones left out.
        speaker: who spoke last.
    """

    id: str
    conversation_id: str
    turn: int
    label: str | None
    reply: str = field(repr=False)
    said: str | None = field(repr=False)
    recent: tuple[str, ...] = field(repr=False)
    history: tuple[str, ...]
    speaker: str

    @property
    def slice(self) -> int:
        """How far the talk is: four turns to a slice, the last one open."""
        return min(self.turn // SLICE, SLICES)

    def back(self, steps: int) -> str:
        """The label `steps` labelled supporter turns ago."""
        return self.history[-steps] if len(self.history) >= steps else NOTHING


def spots(conversations: Sequence[Conversation], label_set: str | None, *, opening: bool = False) -> list[Spot]:
    """All supporter turns (the very first of a talk only with `opening`), labelled by `label_set` where they are."""
    out = []
    for conv in conversations:
        for i in conv.targets(opening=opening):
            before = conv.turns[:i]
            labels = [t.label(label_set) for t in before if t.role == "assistant"] if label_set else []
            out.append(
                Spot(
                    id=f"{conv.id}/{i}",
                    conversation_id=conv.id,
                    turn=i,
                    label=conv.turns[i].label(label_set) if label_set else None,
                    reply=conv.turns[i].text,
                    said=next((t.text for t in reversed(before) if t.role == "user"), None),
                    recent=tuple(t.text for t in before[-RECENT:]),
                    history=tuple(label for label in labels if label is not None),
                    speaker=before[-1].role if before else NOTHING,
                )
            )
    return out


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a predictor says: a label per spot, and a share for each label, (N, K)."""

    predicted: tuple[str, ...]
    shares: Floats = field(repr=False)
    note: str | None = None


Predictor = Callable[[Sequence[Spot], Sequence[Spot], Sequence[str]], Guess]


@dataclass(frozen=True, kw_only=True)
class StrategyFloor:
    """A trivial predictor with what a reader must know of it."""

    title: str
    definition: str
    predict: Predictor = field(repr=False)


# ---------------------------------------------------------------------------------------------------------- counting


def _ranked(counts: Counter[str], labels: Sequence[str]) -> Floats:
    """Counts as shares; among equal ones the label that was counted first is ahead by less than a millionth."""
    order = {label: place for place, label in enumerate(counts)}
    numbers = np.array([counts[label] + (1e-6 / (2 + order[label]) if label in order else 0.0) for label in labels])
    shares: Floats = numbers / numbers.sum()
    return shares


def _from_shares(shares: Floats, labels: Sequence[str], note: str | None = None) -> Guess:
    return Guess(predicted=tuple(labels[k] for k in shares.argmax(axis=1)), shares=shares, note=note)


def _labelled(train: Sequence[Spot]) -> list[tuple[Spot, str]]:
    """Spots that have a label.

    Raises:
        DataError: there is none.
    """
    found = [(spot, spot.label) for spot in train if spot.label is not None]
    if not found:
        raise DataError("no supporter turn of the training part has a label")
    return found


def _majority(train: Sequence[Spot], test: Sequence[Spot], labels: Sequence[str]) -> Guess:
    shares = _ranked(Counter(label for _, label in _labelled(train)), labels)
    return _from_shares(np.tile(shares, (len(test), 1)), labels)


def _cell(spot: Spot) -> tuple[str, str, int]:
    return spot.back(1), spot.speaker, spot.slice


def _count_table(train: Sequence[Spot], test: Sequence[Spot], labels: Sequence[str]) -> Guess:
    known = _labelled(train)
    cells: dict[tuple[str, str, int], Counter[str]] = defaultdict(Counter)
    for spot, label in known:
        cells[_cell(spot)][label] += 1
    everywhere = _ranked(Counter(label for _, label in known), labels)
    table = {cell: _ranked(counts, labels) for cell, counts in cells.items()}
    strange = sum(_cell(spot) not in table for spot in test)
    shares = np.array([table.get(_cell(spot), everywhere) for spot in test]).reshape(len(test), len(labels))
    note = f"turns in a cell that training never saw: {strange}" if strange else None
    return _from_shares(shares, labels, note)


# ---------------------------------------------------------------------------------------------------------- learning

Weight = Literal["balanced"] | None


def _text_blocks(train: Sequence[Spot], test: Sequence[Spot]) -> tuple[list[Any], list[Any]]:
    """TF-IDF of train and of test, (N, words) each."""
    make = needs_eval("sklearn.feature_extraction.text").TfidfVectorizer
    shared = {"min_df": MIN_TURNS, "sublinear_tf": True}
    inputs: tuple[tuple[Any, Callable[[Spot], str]], ...] = (
        (make(ngram_range=(1, 2), **shared), lambda spot: spot.said or ""),
        (make(**shared), lambda spot: " ".join(spot.recent)),
    )
    known, asked = [], []
    for vectorizer, text in inputs:
        try:
            known.append(vectorizer.fit_transform([text(spot) for spot in train]))
        except ValueError:  # without its cause, which may name words
            raise DataError(f"no word stands before {MIN_TURNS} turns of the training part") from None
        asked.append(vectorizer.transform([text(spot) for spot in test]))
    return known, asked


def _history_blocks(train: Sequence[Spot], test: Sequence[Spot]) -> tuple[Any, Any]:
    vectorizer = needs_eval("sklearn.feature_extraction").DictVectorizer()

    def values(spot: Spot) -> dict[str, str]:
        # Texts, so that each value becomes a column of 0 and 1; columns are sorted by name.
        return {"before": spot.back(2), "last": spot.back(1), "speaker": spot.speaker, "time": str(spot.slice)}

    return vectorizer.fit_transform(map(values, train)), vectorizer.transform(map(values, test))


def _logistic(*, history: bool, weight: Weight = None) -> Predictor:
    def predict(train: Sequence[Spot], test: Sequence[Spot], labels: Sequence[str]) -> Guess:
        linear = needs_eval("sklearn.linear_model")
        sparse = needs_eval("scipy.sparse")
        known = _labelled(train)
        gold = [label for _, label in known]
        if len(set(gold)) < 2:
            raise DataError("all labelled turns of the training part have the same label")
        learned = [spot for spot, _ in known]
        inputs, asked = _text_blocks(learned, test)
        if history:
            more, others = _history_blocks(learned, test)
            inputs, asked = [*inputs, more], [*asked, others]
        model = linear.LogisticRegression(C=1.0, max_iter=MAX_STEPS, class_weight=weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge is said in the note
            model.fit(sparse.hstack(inputs).tocsr(), gold)
        found = model.predict_proba(sparse.hstack(asked).tocsr())
        shares = np.zeros((len(test), len(labels)))
        for column, label in enumerate(model.classes_):
            shares[:, labels.index(str(label))] = found[:, column]
        stopped = int(np.max(model.n_iter_)) >= MAX_STEPS
        return _from_shares(shares, labels, f"stopped after {MAX_STEPS:,} steps" if stopped else None)

    return predict


_TEXT = "TF-IDF 1-2-grams of the seeker's last turn and TF-IDF words of the last 5 turns (min_df 3, sublinear)"
_HISTORY = "one-hot of the last two gold labels, the last speaker and min(i // 4, 10)"

MAJORITY = StrategyFloor(
    title="majority", definition="The most frequent label of the training part, always.", predict=_majority
)
COUNT_TABLE = StrategyFloor(
    title="count table",
    definition=(
        "The most frequent label after the same last gold label and last speaker in the same slice of the talk, "
        "min(i // 4, 10). Reads no word."
    ),
    predict=_count_table,
)
LOGISTIC = StrategyFloor(
    title="logistic regression",
    definition=f"{_TEXT}; {_HISTORY}; C = 1.",
    predict=_logistic(history=True),
)
LOGISTIC_TEXT = StrategyFloor(
    title="logistic regression, text only", definition=f"{_TEXT}; C = 1.", predict=_logistic(history=False)
)
LOGISTIC_BALANCED = StrategyFloor(
    title="logistic regression, class-balanced",
    definition=f"{_TEXT}; {_HISTORY}; C = 1; every label weighs the same.",
    predict=_logistic(history=True, weight="balanced"),
)
