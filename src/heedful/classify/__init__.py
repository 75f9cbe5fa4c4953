"""Scorers: small classifiers that say how probable each label of a set is for a turn.

`heedful train` with `method: scorer` makes one. A reward asks one scorer, and an evaluation asks another that shares
neither features nor seed with it.

    from heedful import classify
    emotion = classify.load("runs/emotion-minilm")
    emotion.probabilities(["I am so glad that you called."])      # (1, 7), rows sum to 1
"""

from heedful.classify.base import Features, FeatureSettings, Floats, Item, Lesson
from heedful.classify.features import FEATURES
from heedful.classify.fit import Fitted, Recipe, fit
from heedful.classify.model import LabelModel, load, same_family
from heedful.classify.state import next_item

__all__ = [
    "FEATURES",
    "FeatureSettings",
    "Features",
    "Fitted",
    "Floats",
    "Item",
    "LabelModel",
    "Lesson",
    "Recipe",
    "fit",
    "load",
    "next_item",
    "same_family",
]
