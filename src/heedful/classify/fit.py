"""Fitting a scorer: features, then a head on them, then a temperature on turns that neither has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from heedful.classify.base import FeatureSettings, Floats, Ints, Item, Lesson
from heedful.classify.calibration import fit_temperature
from heedful.classify.features import make
from heedful.classify.head import HeadKind, fit_head
from heedful.classify.model import LabelModel
from heedful.errors import DataError

ClassWeight = Literal["balanced", "sqrt", "none"]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A scorer with what was counted on the way.

    Args:
        model: ready to be asked and saved.
        parameters: numbers that were fitted (those of a tuned encoder included).
    """

    model: LabelModel
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a scorer is fitted; see the configuration of `method: scorer`."""

    features: str = "minilm"
    head: HeadKind = "logistic"
    class_weight: ClassWeight = "sqrt"
    l2: float = 1.0
    seed: int = 13
    settings: FeatureSettings = field(default_factory=FeatureSettings)


def class_weights(gold: Sequence[str], labels: Sequence[str], how: ClassWeight) -> Floats:
    """(C,) weight of each label in the loss, mean 1 over turns for `balanced` and `none`.

    `balanced`: N / (C' n) with n of N turns and C' labels that occur, as scikit-learn; `sqrt`: its square root, which
    lifts rare labels without letting them drown the rest; `none`: 1. A label that does not occur weighs 1.
    """
    counts = Counter(gold)
    if how == "none":
        return np.ones(len(labels))
    power = 1.0 if how == "balanced" else 0.5
    full = len(gold) / len(counts)
    return np.array([(full / counts[label]) ** power if counts[label] else 1.0 for label in labels])


def fit(
    items: Sequence[Item],
    gold: Sequence[str],
    *,
    label_set: str,
    labels: Sequence[str],
    recipe: Recipe,
    held: tuple[Sequence[Item], Sequence[str]] | None = None,
    name: str = "scorer",
    record: Mapping[str, Any] | None = None,
    say: Any = lambda text: None,
    log: Any = lambda values: None,
) -> Fitted:
    """Fit a scorer.

    Args:
        items, gold: N turns and their labels.
        labels: all labels of the set, in its order.
        held: turns of other dialogues, which the temperature is fitted on; None = not calibrated.
        record: goes into the saved scorer.
        say, log: progress as lines and as numbers.

    Raises:
        DataError: fewer than two labels occur.
        RunError: a loss is not a number.
    """
    counts = Counter(gold)
    if len(counts) < 2:
        raise DataError(
            f"A scorer of '{label_set}' needs turns of at least 2 labels to learn from, but {len(gold):,} turns carry "
            f"{len(counts)}."
        )
    at = {label: k for k, label in enumerate(labels)}
    lesson = Lesson(
        items=items,
        targets=_targets(gold, at),
        weights=class_weights(gold, labels, recipe.class_weight),
        seed=recipe.seed,
        say=say,
        log=log,
    )
    parts = make(recipe.features, recipe.settings)
    for _, features in parts:
        features.fit(lesson)
    head = fit_head(recipe.head, [features.block(items) for _, features in parts], lesson, l2=recipe.l2)
    model = LabelModel(
        name=name,
        label_set=label_set,
        labels=tuple(labels),
        record=dict(record or {}),
        settings=recipe.settings,
        features=parts,
        head=head,
    )
    if held is not None and held[0]:
        others, theirs = held
        model.temperature = fit_temperature(ask(model, others), _targets(theirs, at))
    return Fitted(model=model, parameters=sum(int(v.size) for v in head.values()))


def ask(model: LabelModel, items: Sequence[Item]) -> Floats:
    """Logits (N, C) of items."""
    return model.logits_of(items)


def _targets(gold: Sequence[str], at: Mapping[str, int]) -> Ints:
    return np.array([at[label] for label in gold], dtype=np.int64)
