"""What the tests of studies share: a tiny run on invented talks, a scorer that reads a word, rewards that count."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from heedful import corpora, taxonomy
from heedful.evaluation.study_config import StudyConfig
from heedful.scoring.rewards import Task, reward
from heedful.settings import check
from heedful.testing import conversations, save_tiny
from heedful.training import TrainConfig, train
from heedful.types import Conversation, Trace

EMOTIONS = taxonomy.get("mesc_emotion").names


@dataclass
class Reader:
    """Stands in for a trained scorer: the label is a function of the text, and every call is remembered."""

    name: str = "reader"
    label_set: str = "mesc_emotion"
    labels: tuple[str, ...] = EMOTIONS
    fingerprint: str = "0123456789abcdef"
    record: dict[str, Any] = field(
        default_factory=lambda: {"dataset": "elsewhere", "train_split": "train", "seed": 1, "features": "minilm"}
    )
    asked: list[tuple[str, int, str]] = field(default_factory=list)

    def predict(self, texts: Sequence[str], contexts: Sequence[Sequence[str]], *, roles: Sequence[str]) -> list[str]:
        self.asked += [(t, len(c), r) for t, c, r in zip(texts, contexts, roles, strict=True)]
        return [of_text(text, self.labels) for text in texts]


def of_text(text: str, labels: Sequence[str] = EMOTIONS) -> str:
    """A label that depends on the text alone."""
    return labels[hashlib.sha256(text.encode()).digest()[0] % len(labels)]


@reward(low=0.0, high=20.0)
def words(trace: Trace, task: Task) -> float:
    """Words of the reply."""
    return float(len(trace.reply.split()))


@reward()
def heard(trace: Trace, task: Task, *, least: int = 1) -> float | None:
    """Whether somebody spoke before; unscored in the first turns, where `least` says so."""
    return float(task.said is not None) if len(task.context.turns) >= least else None


def talks() -> list[Conversation]:
    """Four to train on, six to test on, six labelled turns each."""
    return [replace(c, split="train" if i < 4 else "test") for i, c in enumerate(conversations(10, 7, turns=6))]


def prepare(root: Path) -> None:
    """A corpus, a tiny model and a run of two steps below `root`."""
    corpora.write_jsonl(root / "toy.jsonl", talks())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`")  # the format's markers are new tokens
        train(
            TrainConfig(
                model_name_or_path=str(save_tiny(root / "tiny")),
                dataset=str(root / "toy.jsonl"),
                eval_split=None,
                max_steps=2,
                precision="fp32",
                learning_rate=0.02,
                warmup_steps=0,
                output_dir=str(root / "sft"),
                format="structured",
                max_length=400,
            )
        )


def values(root: Path, name: str = "study", **more: Any) -> dict[str, Any]:
    """Settings of a small study."""
    run = str(root / "sft")
    given: dict[str, Any] = {
        "systems": {
            "base": {"model_name_or_path": run, "adapter": False},
            "sft": {"model_name_or_path": run},
        },
        "decodings": {
            "greedy": {"max_new_tokens": 6},
            "sampled": {
                "max_new_tokens": 6,
                "do_sample": True,
                "top_p": 0.9,
                "temperature": 0.7,
                "seeds": [13, 21, 42],
            },
        },
        "metrics": ["bleu2", "rougeL", "distinct1", "length", "copy_rate"],
        "baselines": ["fixed_reply", "copy_last_turn"],
        "rewards": [
            {"name": "study_kit:words", "weight": 0.5},
            {"name": "study_kit:heard", "label": "late", "weight": 1.0, "params": {"least": 2}},
        ],
        "heldout": [{"name": "study_kit:heard"}],
        "labels": {"mesc_emotion": {"scorers": {"judge": "phi"}, "tag": True}},
        "bootstrap": 40,
        "branches": 8,
        "examples": 2,
        "output_dir": str(root / name),
    }
    return {**given, **more}


def config(root: Path, name: str = "study", **more: Any) -> StudyConfig:
    """The same, checked."""
    return check(StudyConfig, values(root, name, **more), where="study")
