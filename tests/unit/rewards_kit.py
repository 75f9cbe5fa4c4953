"""Traces and tasks out of texts, a tiny encoder, and reward functions of somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.scoring.rewards import Task
from heedful.testing import conversation
from heedful.types import Label, Trace, Turn

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "i", "am", "sorry", "one", "two", "three", "four", "five", "six",
    "ok", ".", ",", "?", "you", "sleep", "badly", "that", "sounds", "hard",
]  # fmt: skip


def trace(reply: str, **fields: Any) -> Trace:
    """A trace of `reply`."""
    return Trace(id="toy/1", conversation_id="toy", turn=1, reply=reply, **fields)


def task(*said: str, reference: str | None = None, labels: Mapping[str, str] | None = None, **columns: Any) -> Task:
    """A task after `said` (help-seeker first, the speakers taking turns)."""
    marks = tuple(Label(set=name, value=value) for name, value in (labels or {}).items())
    wanted = Turn(role="assistant", text=reference, labels=marks) if reference is not None else None
    context = conversation(*said) if said else conversation("x").before(0)
    return Task(id="toy/1", context=context, reference=wanted, columns=columns)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with two layers of eight dimensions and a vocabulary of whole words."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    transformers.set_seed(1)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


class Acts:
    """A classifier of two acts that counts question marks."""

    label_set = "hope_act"
    labels = ("IRQ", "GT")

    def logits(self, texts: Sequence[str], contexts: Sequence[Sequence[str]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        assert len(texts) == len(contexts)
        return np.array([[float(text.count("?")), -2.0] for text in texts]).reshape(-1, 2)

    def probabilities(
        self, texts: Sequence[str], contexts: Sequence[Sequence[str]]
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        powers = np.exp(self.logits(texts, contexts))
        return powers / powers.sum(axis=1, keepdims=True)


# ------------------------------------------------------------------ as somebody else would write them


def trl_letters(prompts: list[str], completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """As in TRL's documentation: lists in, a list of floats out; `answer` is a column of the data."""
    return [float(a in c) for c, a in zip(completions, answer, strict=True)]


async def trl_later(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float | None]:
    """An async one, as TRL allows; None where it does not apply."""
    await asyncio.sleep(0)
    return [None if not c else len(c) / 100 for c in completions]


async def one_later(trace: Trace, task: Task) -> float:
    """Async, one at a time."""
    await asyncio.sleep(0)
    if trace.reply == "bad":
        raise ValueError("words of a client")
    return 0.25


def fragile(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[float]:
    """A batch that one reply breaks."""
    return [1.0 / (len(t.reply) - 3) for t in traces]


def loud(trace: Trace, task: Task, *, volume: int = 1) -> float:
    """Beyond any range."""
    return float(len(trace.reply) * volume)


def short(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[float]:
    """One value too few."""
    return [1.0] * (len(traces) - 1)


def lonely(prompts: list[str], completions: list[str]) -> float:
    """One value for all."""
    return 1.0


def scored(trace: Trace, task: Task, *, how: str) -> Any:
    """Whatever is asked for; `how` must be given."""
    return {"none": None, "text": "0.5", "nan": float("nan"), "huge": 10**400, "true": True}[how]


def thirteen(completions: list[str], **kwargs: Any) -> list[float]:
    """A function as TRL takes them: nothing says how large its values can be."""
    return [13.0 * len(text.split()) for text in completions]
