"""Invented conversations whose emotion can be read off their words, and scorers trained on them in a second."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from heedful import corpora
from heedful.classify import Fitted, Item, Recipe, fit
from heedful.settings import check
from heedful.testing import conversation
from heedful.training import Run
from heedful.training.scorer import SCORER, ScorerConfig
from heedful.types import Conversation

SET = "mesc_emotion"
LABELS = ("neutral", "depression", "anger", "disgust", "joy", "sadness", "fear")
SECRET = "zebralantern"
"""A word of every invented turn; no file of a run may hold it."""
WORDS = {
    "joy": ("glad", "delighted", "cheerful"),
    "anger": ("furious", "annoyed", "shouting"),
    "neutral": ("table", "window", "tuesday"),
}
FILLER = ("today", "again", "here", "with them", "at work", "about it", "for once", "this week")


def text_of(label: str, draw: random.Random) -> str:
    return (
        f"{draw.choice(WORDS[label])} {draw.choice(FILLER)} {draw.choice(WORDS[label])} {draw.choice(FILLER)} {SECRET}"
    )


def turns(n: int, seed: int = 0) -> tuple[list[Item], list[str]]:
    """n turns and their labels."""
    draw = random.Random(seed)
    gold = [draw.choice(tuple(WORDS)) for _ in range(n)]
    return [Item(text=text_of(label, draw)) for label in gold], gold


def talks(n: int, *, split: str, seed: int = 0, noise: float = 0.1) -> list[Conversation]:
    """n conversations of six labelled turns; a share `noise` of the labels says something else."""
    draw = random.Random(f"{split}/{seed}")
    found = []
    for i in range(n):
        true = [draw.choice(tuple(WORDS)) for _ in range(6)]
        said = [draw.choice(tuple(WORDS)) if draw.random() < noise else label for label in true]
        texts = [f"{text_of(label, draw)} {draw.randrange(10**6)}" for label in true]
        talk = conversation(*texts, id=f"{split}-{i}", labels={k: {SET: label} for k, label in enumerate(said)})
        found.append(replace(talk, split=split))
    return found


def write(path: Path, talks_: Sequence[Conversation] | None = None) -> Path:
    """A corpus file with the parts train, valid and test."""
    parts = talks_ or [*talks(30, split="train"), *talks(12, split="valid"), *talks(4, split="test")]
    corpora.write_jsonl(str(path), list(parts))
    return path


def fitted(features: str = "tfidf", **recipe: Any) -> Fitted:
    """A scorer of 200 turns, with a temperature of 60 others."""
    items, gold = turns(200)
    seed = recipe.get("seed", 13)
    return fit(
        items,
        gold,
        label_set=SET,
        labels=LABELS,
        recipe=Recipe(features=features, **recipe),
        held=turns(60, seed=1),
        record={"features": features, "seed": seed, "train_split": "train", "dataset": "toy"},
    )


def trained(folder: Path, data: Path, **values: Any) -> Run:
    """A run of `method: scorer`."""
    return SCORER.train(config(folder, data, **values))


def config(folder: Path, data: Path, **values: Any) -> ScorerConfig:
    given = {"dataset": str(data), "label_set": SET, "features": "tfidf", "output_dir": str(folder), **values}
    return check(ScorerConfig, given)
