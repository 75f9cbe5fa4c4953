"""`method: selector`: which reply that a supporter once gave fits best here, learnt by counting words in common.

    heedful train recipes/reply-selector.yaml

    replies of the training part, screened -> candidates -> overlap with every training reply -> ridge on the state of
    the talk (`heedful.classify.selector`) -> the penalty that the validation part likes best -> run folder

It is what overlap with one reference can be driven to without writing a word, so it belongs beside every system that is
measured that way. The test part is refused.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from heedful import taxonomy
from heedful.classify.base import FeatureSettings
from heedful.classify.selector import Matrix, ReplySelector, dense, fit_features, ridge
from heedful.classify.state import next_item
from heedful.errors import ConfigError, DataError, unknown
from heedful.models.causal import need_train_extra
from heedful.safety import gate, screen
from heedful.scoring import Rows, score
from heedful.scoring.all_pairs import MEASURES, overlaps
from heedful.scoring.text import published_tokens
from heedful.settings import write_yaml
from heedful.training.config import DataSettings
from heedful.training.methods import Method, Run, Say
from heedful.training.resume import RESOLVED
from heedful.training.shared import SUMMARY, finished, is_main, leak_notes, load_split, made, versions
from heedful.training.sharing import licence_of
from heedful.types import Conversation

REPORTED = ("bleu2", "rougeL_published", "distinct2_published", "length")


class SelectorConfig(DataSettings):
    """A selector of replies (`method: selector`)."""

    method: Literal["selector"] = "selector"
    label_set: str | None = Field(default=None, description="whose labels of earlier replies `state` reads")
    features: str = Field(default="minilm_turns+state", description="dense features of where the talk stands")
    context: int = Field(default=6, ge=1, le=16, description="turns that are read")
    utility: dict[str, float] = Field(
        default_factory=lambda: {"rougeL": 1.0, "bigrams": 2.0, "words": 1.0},
        description="what is expected of a reply, as weights of " + ", ".join(MEASURES),
    )
    candidates: int = Field(default=3000, ge=2, description="replies it may choose among, the most typical ones")
    typical_of: int = Field(default=400, ge=1, description="training replies drawn to tell how typical a reply is")
    min_words: int = Field(default=3, ge=1, description="tokens of the shortest reply that it may choose")
    l2: list[float] = Field(
        default_factory=lambda: [10.0, 30.0, 100.0, 300.0, 1000.0], min_length=1,
        description="penalties; the validation part decides between several",
    )  # fmt: skip
    bootstrap: int = Field(default=1000, ge=1)
    seed: int = Field(default=13, ge=0, lt=2**32)
    output_dir: str | None = None
    resume_from_checkpoint: bool = False

    @field_validator("utility")
    @classmethod
    def _known_measures(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in MEASURES:
                raise ValueError(str(unknown("measure", name, MEASURES)))
        if min(value.values(), default=0) < 0 or not sum(value.values()) > 0:
            raise ValueError("'utility' needs weights of 0 or more, one of them above 0")
        return value

    @field_validator("label_set")
    @classmethod
    def _known_set(cls, value: str | None) -> str | None:
        if value is not None and value not in taxonomy.names():
            raise ValueError(str(unknown("label set", value, taxonomy.names())))
        return value

    @model_validator(mode="after")
    def _honest_parts(self) -> SelectorConfig:
        if "test" in (self.train_split, self.eval_split):
            raise ValueError("a selector neither learns from the test part nor is chosen on it; take train and valid")
        if min(self.l2) <= 0:
            raise ValueError("'l2' must be above 0")
        if self.eval_split is None and len(self.l2) > 1:
            raise ValueError("several 'l2' need an eval_split to decide between them; give one l2, or an eval_split")
        if self.eval_split is not None and self.eval_split == self.train_split:
            raise ValueError("eval_split is train_split, so nothing would be decided by unseen talks; choose another")
        return self


@dataclass(frozen=True, kw_only=True)
class Due:
    """Places where a reply is due: the talk before each, the supporter's reply, and the talk's id."""

    contexts: list[Conversation] = field(repr=False)
    replies: list[str] = field(repr=False)
    clusters: list[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.replies)


def due(conversations: Sequence[Conversation]) -> Due:
    """All supporter turns but the very first of a talk."""
    found = [(conv, i) for conv in conversations for i in conv.targets(opening=False)]
    return Due(
        contexts=[conv.before(i) for conv, i in found],
        replies=[conv.turns[i].text for conv, i in found],
        clusters=[conv.id for conv, _ in found],
    )


@dataclass(frozen=True, kw_only=True)
class _Data:
    train: Due
    held: Due | None
    notes: tuple[str, ...]
    licence: str | None
    hash: str


def _gather(config: SelectorConfig) -> _Data:
    talks = load_split(config, config.train_split, config.max_train_conversations)
    if any(conv.split == "test" for conv in talks):
        raise ConfigError(f"The training part of '{config.dataset}' holds talks of its test part; set train_split.")
    held = load_split(config, config.eval_split, config.max_eval_conversations) if config.eval_split else []
    notes = tuple(leak_notes(config, talks, held))
    train = due(talks)
    if not train:
        raise DataError(f"'{config.dataset}' has no supporter turn to choose from; take another dataset or split.")
    digest = hashlib.sha256()
    for context, reply in zip(train.contexts, train.replies, strict=True):
        digest.update(f"{context.id}\x1f{len(context.turns)}\x1f{reply}\x1e".encode())
    return _Data(
        train=train, held=due(held) if held else None, notes=notes, licence=licence_of(talks),
        hash=digest.hexdigest()[:16],
    )  # fmt: skip


def candidates(config: SelectorConfig, replies: Sequence[str]) -> tuple[list[str], int]:
    """The most typical replies that the screen and the reply gate let pass, and how many these stopped.

    Raises:
        DataError: fewer than two are left.
    """
    known = [text for text in dict.fromkeys(replies) if len(published_tokens(text)) >= config.min_words]
    draw = np.random.default_rng(config.seed).permutation(len(replies))[: config.typical_of]
    typical = overlaps(known, [replies[i] for i in draw], weights=config.utility).mean(axis=1)
    rules, kept, stopped = screen.load_screen(), list[str](), 0
    for at in np.argsort(-typical, kind="stable").tolist():
        if len(kept) == config.candidates:
            break
        if rules.why(known[at]) is None and gate.check(known[at]).outcome == "pass":
            kept.append(known[at])
        else:
            stopped += 1
    if len(kept) < 2:
        raise DataError(
            f"A selector needs at least 2 replies to choose among, but {len(kept)} of {len(known):,} different ones "
            "passed the screen; give more conversations, or a smaller min_words."
        )
    return kept, stopped


def train(config: SelectorConfig, *, say: Say = lambda text: None, callbacks: Sequence[Any] = ()) -> Run:
    """Train a selector as configured. With `resume_from_checkpoint` a finished run of the same settings is kept.

    Raises:
        UserError: something in the configuration or the data.
    """
    del callbacks  # those of transformers' trainer, which has no part in this
    folder = Path(config.output_dir or f"runs/selector-{Path(config.dataset).stem}")
    if not is_main():
        return Run(folder=folder, summary={})
    kept = finished(folder, config, resume=config.resume_from_checkpoint)
    if kept is not None:
        say(f"{folder} is finished already; nothing to do")
        return Run(folder=folder, summary=kept)
    need_train_extra()
    began, data = time.monotonic(), _gather(config)
    replies, stopped = candidates(config, data.train.replies)
    say(f"{len(data.train):,} places to learn from; {len(replies):,} candidates, {stopped:,} screened out")
    selector, fixed, tried = _fitted(config, data, replies, say)
    selector.save(made(folder))
    write_yaml(folder / RESOLVED, {**config.model_dump(), "resume_from_checkpoint": False})
    summary = {
        "method": "selector",
        "name": selector.name,
        "fingerprint": selector.fingerprint,
        "data": {"hash": data.hash, "places": len(data.train), "licence": data.licence, "notes": list(data.notes)},
        "candidates": {"kept": len(replies), "screened out": stopped},
        "tried": tried,
        "validation": _measured(config, data.held, selector, fixed),
        "seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return Run(folder=folder, summary=summary)


def _fitted(
    config: SelectorConfig, data: _Data, replies: Sequence[str], say: Say
) -> tuple[ReplySelector, str, list[dict[str, float]]]:
    """The selector, the one reply that is best everywhere, and the utility that each penalty reached."""
    settings, label_set = FeatureSettings(context=config.context), config.label_set or ""
    say(f"features {config.features}: about 300 turns a second on one CPU thread")
    items = [next_item(context, label_set, reach=config.context) for context in data.train.contexts]
    parts = fit_features(config.features, settings, items, seed=config.seed)
    say("overlap of every candidate with every training reply")
    table = overlaps(replies, data.train.replies, weights=config.utility)
    mean = table.mean(axis=1)
    table -= mean[:, None]
    found = ridge(dense(parts, items), table.T, config.l2)
    held, tried = data.held, list[dict[str, float]]()
    best = 0
    if held is not None:
        seen = dense(parts, [next_item(context, label_set, reach=config.context) for context in held.contexts])
        truth: Matrix = overlaps(replies, held.replies, weights=config.utility)
        for penalty, weights in zip(config.l2, found, strict=True):
            chosen = (seen @ weights + mean).argmax(axis=1)
            tried.append({"l2": penalty, "utility": round(float(truth[chosen, np.arange(len(held))].mean()), 5)})
        best = max(range(len(tried)), key=lambda k: tried[k]["utility"])
    record = {
        "dataset": config.dataset, "dataset_options": config.dataset_options, "train_split": config.train_split,
        "chosen_on": config.eval_split, "data_hash": data.hash, "features": config.features, "context": config.context,
        "utility": config.utility, "l2": config.l2[best], "seed": config.seed, "screen": screen.screen_hash(),
    }  # fmt: skip
    selector = ReplySelector(
        name=f"selector-{Path(config.dataset).stem}", label_set=label_set, replies=tuple(replies), record=record,
        settings=settings, features=parts, weights=found[best], mean=mean,
    )  # fmt: skip
    return selector, replies[int(mean.argmax())], tried


def _measured(
    config: SelectorConfig, held: Due | None, selector: ReplySelector, fixed: str
) -> dict[str, dict[str, dict[str, Any]]] | None:
    """How it does on the part that chose its penalty, beside the one reply that is best everywhere; None without it."""
    if held is None:
        return None
    rows = {
        "selector": [choice.reply for choice in selector.choose(held.contexts)],
        "the one best reply": [fixed] * len(held),
    }
    out = {}
    for name, written in rows.items():
        table = score(
            Rows.of(hypotheses=written, references=held.replies, clusters=held.clusters),
            metrics=REPORTED, bootstrap=config.bootstrap, seed=config.seed,
        )  # fmt: skip
        out[name] = {line.name: {"value": line.value, "low": line.low, "high": line.high} for line in table.lines}
    out["selector"]["different replies"] = {"value": len(set(rows["selector"]))}
    return out


def plan(config: SelectorConfig) -> dict[str, Any]:
    """What a run would learn from; loads no weights."""
    data = _gather(config)
    return {
        "places": len(data.train), "eval_places": len(data.held) if data.held else 0, "features": config.features,
        "l2": config.l2, "data_hash": data.hash,
    }  # fmt: skip


SELECTOR = Method(config=SelectorConfig, train=train, plan=plan)
