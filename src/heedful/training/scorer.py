"""`method: scorer`: a classifier of turns (emotion, strategy, act) for rewards and for evaluation.

corpus -> labelled turns -> features -> head -> temperature -> figures on dialogues it has not seen -> run folder

The temperature is fitted on dialogues of the *training* part that are kept out of the fit, so the figures of the
validation part are of turns that decided nothing. The test part is refused: what was trained on it can judge nobody.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from heedful import classify, corpora, taxonomy
from heedful.classify.base import FeatureSettings, Item
from heedful.classify.features import parts_of
from heedful.classify.fit import ClassWeight, Recipe, fit
from heedful.classify.head import HeadKind
from heedful.classify.state import next_item
from heedful.errors import ConfigError, DataError, UserError, unknown
from heedful.models.causal import need_train_extra
from heedful.pages.page import write as write_page
from heedful.settings import write_yaml
from heedful.taxonomy import LabelSet
from heedful.training.config import DataSettings
from heedful.training.data import refuse_leaks
from heedful.training.methods import Method, Run, Say
from heedful.training.resume import RESOLVED
from heedful.training.scorer_results import card, measure, page
from heedful.training.shared import METRICS, SUMMARY, finished, is_main, made, versions
from heedful.training.sharing import is_free, licence_of
from heedful.types import Conversation


class ScorerConfig(DataSettings):
    """A scorer (`method: scorer`)."""

    method: Literal["scorer"] = "scorer"
    label_set: str = Field(default="mesc_emotion", description="label layer of the turns")
    roles: list[Literal["user", "assistant"]] = Field(
        default=["user", "assistant"], min_length=1, description="whose turns are learnt from"
    )
    target: Literal["this", "next"] = Field(
        default="this", description="the turn that is shown, or the reply that follows what is shown (a planner's)"
    )
    opening: bool = Field(default=False, description="target: next also predicts the very first turn of a talk")
    unit: Literal["utterance", "turn"] = Field(
        default="utterance", description="turns as the corpus has them, or runs of one speaker joined into one"
    )
    features: str = Field(default="minilm", description="minilm, minilm_tuned, tfidf, or several joined by +")
    context: int = Field(
        default=0, ge=0, le=16, description="turns shown before the one that is judged; rewards need 0"
    )
    speaker: bool = Field(default=False, description="whether the scorer is told who speaks")
    head: HeadKind = "logistic"
    class_weight: ClassWeight = Field(default="sqrt", description="balanced lifts rare labels most, none not at all")
    l2: float = Field(default=1.0, gt=0, description="penalty on the head's weights; 1 / C of scikit-learn")
    calibration: Literal["temperature", "none"] = "temperature"
    calibration_share: float = Field(default=0.1, gt=0, le=0.5, description="of the training dialogues, kept out")
    learning_rate: float = Field(default=1e-4, gt=0, description="of minilm_tuned")
    num_train_epochs: float = Field(default=2.0, gt=0, description="of minilm_tuned")
    per_device_train_batch_size: int = Field(default=32, ge=1, description="turns a step of minilm_tuned")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="of minilm_tuned")
    max_seconds: float | None = Field(default=None, gt=0, description="of minilm_tuned; keeps what was learnt")
    seed: int = Field(default=13, ge=0, lt=2**32)
    output_dir: str | None = None
    resume_from_checkpoint: bool = False

    @field_validator("label_set")
    @classmethod
    def _known_set(cls, value: str) -> str:
        if value not in taxonomy.names() and ":" not in value:
            raise ValueError(str(unknown("label set", value, taxonomy.names())))
        return value

    @field_validator("features")
    @classmethod
    def _known_features(cls, value: str) -> str:
        try:
            for part in parts_of(value):
                if part not in classify.FEATURES.names() and ":" not in part:
                    raise unknown("kind of features", part, classify.FEATURES.names())
        except UserError as err:
            raise ValueError(str(err)) from err
        return value

    @model_validator(mode="after")
    def _honest_parts(self) -> ScorerConfig:
        if self.train_split == "test":
            raise ValueError(
                "a scorer is never trained on the test part, because it is to judge replies on it; "
                "set train_split: train"
            )
        if self.eval_split is not None and self.eval_split == self.train_split:
            raise ValueError(
                f"eval_split and train_split are both '{self.train_split}', so the figures would be of turns that it "
                "learnt by heart; choose another eval_split, or null for none"
            )
        if self.target == "next" and self.roles != ["assistant"]:
            raise ValueError("target: next predicts what the supporter does, so it needs roles: [assistant]")
        if self.target == "this" and "state" in parts_of(self.features):
            raise ValueError("the features 'state' describe a talk before a reply; they need target: next")
        if self.opening and self.target == "this":
            raise ValueError("'opening' is of target: next alone")
        return self

    def recipe(self) -> Recipe:
        """What `heedful.classify.fit` needs of it."""
        return Recipe(
            features=self.features,
            head=self.head,
            class_weight=self.class_weight,
            l2=self.l2,
            seed=self.seed,
            settings=FeatureSettings(
                context=self.context,
                speaker=self.speaker,
                learning_rate=self.learning_rate,
                epochs=self.num_train_epochs,
                batch_size=self.per_device_train_batch_size,
                max_seconds=self.max_seconds,
                precision=self.precision,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Labelled turns: what is shown, what is true, and the dialogue that each stands in."""

    items: list[Item] = field(repr=False)
    gold: list[str] = field(repr=False)
    clusters: list[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All data of a run.

    Args:
        train: what features and head are fitted on.
        held: turns of other training dialogues, for the temperature; empty without calibration.
        evaluation: the part that figures are reported of; None where there is none.
    """

    label_set: LabelSet
    train: Turns
    held: Turns
    evaluation: Turns | None
    conversations: int
    licence: str | None
    notes: tuple[str, ...]
    data_hash: str


def gather(config: ScorerConfig) -> Inputs:
    """Load, check and divide the data.

    Raises:
        UserError: whatever is wrong with dataset, splits or labels, in one sentence.
    """
    label_set = taxonomy.get(config.label_set)
    if label_set.cardinality != "single":
        raise ConfigError(
            f"The label set '{config.label_set}' allows several labels a turn, and a scorer tells apart labels that "
            "exclude each other; choose a set with one label a turn."
        )
    train = _load(config, config.train_split, config.max_train_conversations)
    if any(conv.split == "test" for conv in train):
        raise ConfigError(
            f"The training part of '{config.dataset}' holds dialogues of its test part; set train_split: train."
        )
    held_out = _load(config, config.eval_split, config.max_eval_conversations) if config.eval_split else []
    notes = _leak_notes(config, train, held_out)
    labelled = [conv for conv in train if len(_turns(config, [conv], label_set))]
    fitting, calibrating = _divide(config, labelled)
    inputs = Inputs(
        label_set=label_set,
        train=_turns(config, fitting, label_set),
        held=_turns(config, calibrating, label_set),
        evaluation=_turns(config, held_out, label_set) if held_out else None,
        conversations=len(labelled),
        licence=licence_of(train),
        notes=tuple(notes),
        data_hash=_hash(_turns(config, train, label_set)),
    )
    _refuse_poor(config, inputs)
    return inputs


def _load(config: ScorerConfig, split: str | None, limit: int | None) -> list[Conversation]:
    found = corpora.load(config.dataset, split, **config.dataset_options)
    return found[:limit] if limit else found


def _leak_notes(config: ScorerConfig, train: list[Conversation], held: list[Conversation]) -> list[str]:
    if not config.allow_leaks:
        return refuse_leaks(config.dataset, [c for c in train if c.split], [c for c in held if c.split])
    named = [replace(c, split="train") for c in train] + [replace(c, split="eval") for c in held]
    return ["leaks allowed by configuration: " + f.sentence() for f in corpora.find_leaks(named).leaks]


def _turns(config: ScorerConfig, conversations: Sequence[Conversation], label_set: LabelSet) -> Turns:
    items, gold, clusters = [], [], []
    for conv in conversations:
        talk = conv.merged() if config.unit == "turn" else conv
        for i, turn in enumerate(talk.turns):
            label = turn.label(config.label_set) if turn.role in config.roles else None
            if label is None or (config.target == "next" and i == 0 and not config.opening):
                continue
            if config.target == "next":
                items.append(next_item(talk.before(i), config.label_set, reach=config.context))
                gold.append(label_set.require(label))
                clusters.append(conv.id)
                continue
            before = tuple(t.text for t in talk.turns[max(0, i - config.context) : i])
            items.append(Item(text=turn.text, context=before, role=turn.role if config.speaker else "assistant"))
            gold.append(label_set.require(label))
            clusters.append(conv.id)
    return Turns(items=items, gold=gold, clusters=clusters)


def _divide(config: ScorerConfig, labelled: list[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """Dialogues for the fit and dialogues for the temperature, drawn by the seed."""
    if config.calibration == "none" or not labelled:
        return labelled, []
    size = max(1, round(config.calibration_share * len(labelled)))
    if size >= len(labelled):
        raise DataError(
            f"Only {len(labelled)} training dialogue carries labels, so none can be kept out for the temperature; "
            "set calibration: none, or give more dialogues."
        )
    chosen = set(np.random.default_rng(config.seed).permutation(len(labelled))[:size].tolist())
    return [c for i, c in enumerate(labelled) if i not in chosen], [c for i, c in enumerate(labelled) if i in chosen]


def _refuse_poor(config: ScorerConfig, inputs: Inputs) -> None:
    who = " and ".join(config.roles)
    if not len(inputs.train):
        layers = (
            ""
            if corpora.is_file(config.dataset)
            else (f" This corpus has: {', '.join(corpora.get(config.dataset).info.layers) or 'none'}.")
        )
        raise DataError(
            f"No turn of role {who} in '{config.dataset}', split {config.train_split}, carries a label of "
            f"'{config.label_set}'.{layers} Choose another dataset, label_set or roles."
        )
    if len(set(inputs.train.gold)) < 2:
        raise DataError(
            f"All {len(inputs.train):,} labelled turns carry the same label of '{config.label_set}', and a scorer "
            "needs at least 2 labels; choose other roles or another dataset."
        )
    if inputs.evaluation is not None and not len(inputs.evaluation):
        raise DataError(
            f"No turn of role {who} in split {config.eval_split} of '{config.dataset}' carries a label of "
            f"'{config.label_set}', so nothing could be measured; choose another eval_split, or null for none."
        )


def _hash(turns: Turns) -> str:
    digest = hashlib.sha256()
    for item, label in zip(turns.items, turns.gold, strict=True):
        before = [item.history, item.place] if item.place else []
        digest.update(json.dumps([item.text, item.context, item.role, *before, label]).encode("utf-8"))
    return digest.hexdigest()[:16]


def plan(config: ScorerConfig) -> dict[str, Any]:
    """What a run would learn from; loads no weights."""
    inputs = gather(config)
    return {
        "label_set": config.label_set,
        "labels": len(inputs.label_set),
        "train_turns": len(inputs.train),
        "calibration_turns": len(inputs.held),
        "eval_turns": len(inputs.evaluation) if inputs.evaluation else 0,
        "conversations": inputs.conversations,
        "train_labels": _counts(inputs.label_set, inputs.train.gold),
        "data_hash": inputs.data_hash,
    }


def train(config: ScorerConfig, *, say: Say = lambda text: None, callbacks: Sequence[Any] = ()) -> Run:
    """Train a scorer as configured. With `resume_from_checkpoint` a finished run of the same settings is kept.

    Args:
        say: takes one line of progress.
        callbacks: those of transformers' trainer, which has no part in this; none is called.

    Raises:
        UserError: something in the configuration or the data.
        RunError: a loss is not a number.
    """
    folder = Path(config.output_dir) if config.output_dir else default_folder(config)
    if not is_main():  # one process is enough, and two would write one folder
        return Run(folder=folder, summary={})
    kept = finished(folder, config, resume=config.resume_from_checkpoint)
    if kept is not None:
        say(f"{folder} is finished already; nothing to do")
        return Run(folder=folder, summary=kept)
    need_train_extra()
    began = time.monotonic()
    inputs = gather(config)
    say(
        f"data {config.dataset}: {len(inputs.train):,} turns to learn from, {len(inputs.held):,} for the temperature, "
        f"{len(inputs.evaluation) if inputs.evaluation else 0:,} to measure on; {config.label_set}, {config.features}"
    )
    values = {**config.model_dump(), "resume_from_checkpoint": False}
    made(folder)
    write_yaml(folder / RESOLVED, {**values, "x_heedful": _record(inputs)})
    (folder / METRICS).write_text("", "utf-8")
    fitted = fit(
        inputs.train.items,
        inputs.train.gold,
        label_set=config.label_set,
        labels=inputs.label_set.names,
        recipe=config.recipe(),
        held=(inputs.held.items, inputs.held.gold) if len(inputs.held) else None,
        name=f"{config.label_set}/{config.features}/{config.seed}",
        record=_scorer_record(config, inputs),
        say=say,
        log=lambda row: _append(folder / METRICS, row),
    )
    fitted.model.save(folder)
    summary = {
        **_summary(config, inputs, fitted.model, seconds=time.monotonic() - began),
        "trainable_parameters": fitted.parameters,
    }
    if inputs.evaluation is not None:
        turns = inputs.evaluation
        measured = measure(fitted.model, turns.items, turns.gold, turns.clusters, train_gold=inputs.train.gold)
        summary["evaluation"] = {"split": config.eval_split, **measured}
        say(
            f"{config.eval_split}: macro-F1 {measured['macro_f1']['value']:.1f} "
            f"(always '{measured['majority']['label']}': {measured['majority']['macro_f1']:.1f})"
        )
    (folder / "README.md").write_text(card(config.model_dump(), summary), "utf-8")
    write_page(folder / "report.html", page(config.model_dump(), summary))
    scratch = folder / (SUMMARY + ".part")
    scratch.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(scratch, folder / SUMMARY)
    return Run(folder=folder, summary=summary)


def default_folder(config: ScorerConfig) -> Path:
    """`runs/<time>_scorer_<label set>-<features>_<seed>`: names sort by time."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    what = "".join(ch if ch.isalnum() or ch in "+_-" else "-" for ch in f"{config.label_set}-{config.features}")
    return Path("runs") / f"{now}_scorer_{what}_{config.seed}"


def _record(inputs: Inputs) -> dict[str, Any]:
    return {
        "data_hash": inputs.data_hash,
        "label_set_hash": inputs.label_set.hash,
        "versions": versions(),
        "command": " ".join(["heedful", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _scorer_record(config: ScorerConfig, inputs: Inputs) -> dict[str, Any]:
    """What a reward or an evaluation has to know of a scorer; goes along with its numbers."""
    keys = (
        "dataset", "dataset_options", "train_split", "eval_split", "seed", "features", "head", "context", "speaker",
        "target", "opening",
    )  # fmt: skip
    values = config.model_dump()
    return {
        **{key: values[key] for key in keys},
        "roles": list(config.roles),
        "unit": config.unit,
        "class_weight": config.class_weight,
        "turns": len(inputs.train),
        "labels_seen": sorted(set(inputs.train.gold)),
        "data_hash": inputs.data_hash,
        "label_set_hash": inputs.label_set.hash,
        "licence": inputs.licence,
        "publishable": is_free(config.dataset, inputs.licence),
    }


def _summary(config: ScorerConfig, inputs: Inputs, model: classify.LabelModel, *, seconds: float) -> dict[str, Any]:
    return {
        "kind": "train",
        "method": config.method,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "name": model.name,
        "label_set": config.label_set,
        "labels": list(model.labels),
        "features": config.features,
        "head": config.head,
        "fingerprint": model.fingerprint,
        "temperature": model.temperature,
        "seconds": round(seconds, 1),
        "dataset": config.dataset,
        "conversations": inputs.conversations,
        "train_turns": len(inputs.train),
        "calibration_turns": len(inputs.held),
        "train_labels": _counts(inputs.label_set, inputs.train.gold),
        "evaluation": None,
        "licence": inputs.licence,
        "publishable": is_free(config.dataset, inputs.licence),
        "data_hash": inputs.data_hash,
        "label_set_hash": inputs.label_set.hash,
        "notes": list(inputs.notes),
        "seed": config.seed,
        "versions": versions(),
    }


def _counts(label_set: LabelSet, gold: Sequence[str]) -> dict[str, int]:
    found = Counter(gold)
    return {label: found[label] for label in label_set.names}


def _append(path: Path, values: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(values)) + "\n")


SCORER = Method(config=ScorerConfig, train=train, plan=plan)
