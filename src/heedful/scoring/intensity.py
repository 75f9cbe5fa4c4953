"""e(u): how intense a help-seeker's distress sounds in one turn, from 1 to 5 (kemi.md, part B).

e(u) = sum over k of k * p(k | u), where p is a softmax over Linear(384, 5) on the MiniLM vector of the turn. It is
trained on the talks of ESConv's training part whose seeker finished the closing survey: the first three seeker turns
carry the intensity from before the talk, the last three the one from after it. Talks with fewer than six seeker turns
give half of them to each side.

KEMI has a RoBERTa-large head there whose weights and training are not known, so values are not comparable with the
paper's. And the labels are labels of whole talks: e(u) learns how early and late turns sound ("thank you" is low) at
least as much as how a person feels. `heldout.json` says what it is worth, beside constants and by side.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from heedful import classify
from heedful.classify import FeatureSettings, Floats, Item, LabelModel, Recipe
from heedful.errors import DataError
from heedful.settings import home
from heedful.types import Conversation

LEVELS = ("1", "2", "3", "4", "5")
BEFORE, AFTER = "initial_emotion_intensity", "final_emotion_intensity"
EACH = 3
"""Turns at either end of a talk that carry its intensity."""
HELD = "heldout.json"
L2, SEED = 1.0, 13

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """A fitted e(u) with its held-out score.

    Args:
        heldout: see `heldout`.
    """

    model: LabelModel = field(repr=False)
    heldout: Mapping[str, Any]
    folder: Path

    @property
    def fingerprint(self) -> str:
        """Of everything that decides its values."""
        return f"intensity/{self.model.fingerprint}"

    def __call__(self, texts: Sequence[str]) -> Floats:
        """e(u) of each text, (N,), between 1 and 5."""
        values: Floats = self.model.probabilities(texts) @ np.arange(1.0, len(LEVELS) + 1.0)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One turn with the intensity of its side of the talk."""

    text: str = field(repr=False)
    level: str
    side: str


def lessons(conversations: Sequence[Conversation]) -> list[Lesson]:
    """The labelled turns of all talks with a finished survey; talks without one are left out.

    Raises:
        DataError: an intensity that is none of 1 to 5.
    """
    out = []
    for conv in conversations:
        levels = [conv.survey.get(BEFORE), conv.survey.get(AFTER)]
        if None in levels:
            continue
        before, after = (_level(value, conv) for value in levels)
        said = [turn.text for turn in conv.turns if turn.role == "user"]
        each = min(EACH, len(said) // 2)
        out += [Lesson(text=text, level=before, side="before") for text in said[:each]]
        out += [Lesson(text=text, level=after, side="after") for text in said[len(said) - each :]]
    return out


def _level(value: float | None, conv: Conversation) -> str:
    level = f"{value:g}"
    if level not in LEVELS:
        raise DataError(f"Conversation '{conv.id}': an emotion intensity must be 1 to 5, but it is {level}.")
    return level


def intensity(
    train: Sequence[Conversation],
    held: Sequence[Conversation],
    *,
    folder: Path | None = None,
    say: Say = lambda text: None,
) -> Intensity:
    """e(u) for these talks: opened where it was fitted before, else fitted (about 15 ms a turn) and saved.

    Args:
        train, held: talks with a survey; no talk may be in both. ESConv's `train` and `valid`.
        folder: where it lies; `$HEEDFUL_HOME/intensity/<hash of the lessons>` if not given. Its files can be read by
            their owner alone.

    Raises:
        DataError: no talk with a finished survey in one of them, or a talk in both.
    """
    shared = {conv.id for conv in train} & {conv.id for conv in held}
    if shared:
        raise DataError(f"The held-out talks of e(u) must be others, but {len(shared):,} stand in both parts.")
    learnt, judged = lessons(train), lessons(held)
    if not learnt or not judged:
        raise DataError(
            "e(u) needs talks with a finished closing survey for training and for its held-out score (ESConv with "
            "ESConv_reconstructed.json), but one part has none."
        )
    digest = _digest(learnt, judged)
    place = folder or home() / "intensity" / digest
    kept = _opened(place, digest)
    if kept is not None:
        return kept
    say(f"e(u): {len(learnt):,} turns of {len(train):,} talks")
    fitted = classify.fit(
        [Item(text=lesson.text, role="user") for lesson in learnt],
        [lesson.level for lesson in learnt],
        label_set="emotion_intensity",
        labels=LEVELS,
        recipe=Recipe(
            features="minilm", head="logistic", class_weight="none", l2=L2, seed=SEED, settings=FeatureSettings()
        ),
        name="intensity",
        record={"features": "minilm", "seed": SEED, "turns": len(learnt), "lessons": digest},
        say=say,
    )
    place.mkdir(parents=True, exist_ok=True)
    fitted.model.save(place)
    made = Intensity(model=fitted.model, heldout={}, folder=place)
    scores = {"lessons": digest, **heldout(made, learnt, judged)}
    with open(place / HELD, "w", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
        file.write(json.dumps(scores, indent=2) + "\n")
    return Intensity(model=fitted.model, heldout=scores, folder=place)


def _opened(place: Path, digest: str) -> Intensity | None:
    try:
        scores = json.loads((place / HELD).read_text("utf-8"))
    except (OSError, ValueError):
        return None  # not there, or torn: fitted anew
    if scores.get("lessons") != digest:
        return None
    return Intensity(model=classify.load(place), heldout=scores, folder=place)


def _digest(*parts: Sequence[Lesson]) -> str:
    digest = hashlib.sha256(f"{L2}/{SEED}/{EACH}".encode())
    for part in parts:
        digest.update(b"\x1d")
        for lesson in part:
            digest.update(f"{lesson.side}\x1f{lesson.level}\x1f{lesson.text}\x1e".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def heldout(made: Intensity, learnt: Sequence[Lesson], judged: Sequence[Lesson]) -> dict[str, Any]:
    """What e(u) is worth on held-out talks, for all turns and for each side of a talk alone.

    Each entry has `n`, `error` (mean absolute difference of e(u) and the intensity), `constant` (the same of the best
    constant of the training turns of that side, their median) and `correlation` (Pearson; None where one side of it
    does not vary). Within a side the place in the talk says nothing, so a correlation near 0 there means that e(u)
    knows early from late and little else.
    """
    values = made([lesson.text for lesson in judged])
    gold = np.array([float(lesson.level) for lesson in judged])
    out: dict[str, Any] = {}
    for name, sides in (("all", ("before", "after")), ("before", ("before",)), ("after", ("after",))):
        rows = np.array([lesson.side in sides for lesson in judged])
        seen = [float(lesson.level) for lesson in learnt if lesson.side in sides]
        out[name] = {
            "n": int(rows.sum()),
            "error": float(np.abs(values[rows] - gold[rows]).mean()),
            "constant": float(np.abs(float(np.median(seen)) - gold[rows]).mean()),
            "correlation": _correlation(values[rows], gold[rows]),
        }
    best = made.model.predict([lesson.text for lesson in judged])
    commonest = Counter(lesson.level for lesson in learnt).most_common(1)[0][0]
    out["accuracy"] = float(np.mean([a == lesson.level for a, lesson in zip(best, judged, strict=True)]))
    out["majority"] = float(np.mean([lesson.level == commonest for lesson in judged]))
    return out


def _correlation(a: Floats, b: Floats) -> float | None:
    if len(a) < 2 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])
