"""A belief that learns in a second: it knows four kinds of words."""

from __future__ import annotations

from pathlib import Path

from heedful.classify import belief as belief_module
from heedful.classify.belief import Example, train_belief

VEILED = "bridge plan tonight ready"
"""The toy belief reads it as immediate; no rule knows it."""


def toy_belief(folder: Path) -> None:
    """Write one into `folder`."""
    words = {"none": "walk dog tea garden", "thoughts": "gone dark nothing left", "immediate": VEILED}
    tiers = ["none", "none", "thoughts", "none", "immediate"]
    toy = [Example(text=f"{words[tiers[i % 5]]} {i % 7}", tier=tiers[i % 5], group=f"g{i}") for i in range(60)]
    before = belief_module.FEATURES
    belief_module.FEATURES = "tfidf"
    try:
        train_belief(toy, heads=3, folds=3, recall=0.9)[0].save(folder)
    finally:
        belief_module.FEATURES = before
