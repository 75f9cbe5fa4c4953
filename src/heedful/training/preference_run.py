"""What `method: reward` and `method: dpo` share: settings of the loop, the run's folder, figures on held-out examples.

Held-out examples choose nothing: no checkpoint is picked by them, so what they say at the end is honest.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from heedful.errors import ConfigError, UserError
from heedful.models.causal import need_train_extra, use_bf16
from heedful.scoring.base import Result
from heedful.scoring.intervals import interval, paired
from heedful.settings import write_yaml
from heedful.training.config import BookSettings, OptimiserSettings
from heedful.training.methods import Say
from heedful.training.plan import steps_of
from heedful.training.preferences import Cut, Preferences, PreferenceSettings, gather
from heedful.training.resume import RECORD, RESOLVED, Earlier, earlier_run, step_of
from heedful.training.shared import (
    METRICS,
    append_line,
    claim,
    forget_after,
    process_count,
    resolved_values,
    versions,
)
from heedful.training.sharing import NOT_STATED, combined, inherited
from heedful.training.start import BASE

Floats = npt.NDArray[np.float64]
STOPPED = {"done": "all planned steps were taken", "time": "max_seconds were over"}
BINS = 10


class PreferenceLoopSettings(BookSettings, OptimiserSettings, PreferenceSettings):
    """How long, and how many at once."""

    num_train_epochs: float = Field(default=1.0, gt=0)
    max_steps: int = Field(default=-1, ge=-1)
    per_device_train_batch_size: int = Field(default=8, ge=1, description="pairs, or single replies, in one pass")
    per_device_eval_batch_size: int = Field(default=16, ge=1)

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("expected -1 (as many as the epochs have) or at least 1, but got 0")
        return value


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run whose folder and data are settled.

    Args:
        resume: the checkpoint to go on from.
        record: what `config.resolved.yaml` says beside the settings.
        steps: planned.
    """

    folder: Path
    resume: Path | None
    data: Preferences
    record: dict[str, Any]
    steps: int

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Append one row to `metrics.jsonl`."""
        append_line(self.folder / METRICS, {"step": step, **values})


def begin(config: Any, *, cut: Cut | None = None, fingerprint: str, base: str, say: Say) -> Begun:
    """Claim the folder, read the data, and compare a run that is continued with what it was.

    Args:
        config: settings of the method.
        fingerprint: of how examples become input.
        base: where the starting weights are, for what is known of their data.

    Raises:
        UserError: something in settings or data, or a run that would go on as another one.
    """
    need_train_extra()
    if process_count() > 1:
        raise ConfigError(f"method: {config.method} runs in one process; start it without a launcher.")
    folder, resume = claim(config)
    earlier = earlier_run(config, resume) if resume else None
    data = gather(config, seed=config.seed, cut=cut)
    record = _record(data, fingerprint, earlier, base)
    if earlier is not None:
        _refuse_other(earlier, record)
    steps = steps_of(config, trees=len(data.train))
    say(
        f"data {config.dataset}: {len(data.train):,} {data.form} to learn from, {len(data.held):,} held out; "
        f"{steps:,} steps"
    )
    return Begun(folder=folder, resume=resume, data=data, record=record, steps=steps)


def _record(data: Preferences, fingerprint: str, earlier: Earlier | None, base: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join(["heedful", *sys.argv[1:]])
    return {
        "format_fingerprint": fingerprint,
        "data_hash": data.hash,
        "eval_data_hash": data.held_hash,
        "base_run": earlier.base_run if earlier else inherited(base),
        "versions": versions(),
        "command": earlier.record.get("command", command) if earlier else command,
        "created": earlier.record.get("created", now) if earlier else now,
        "continued": earlier.continued(command, now) if earlier else [],
    }


def _refuse_other(earlier: Earlier, now: Mapping[str, Any]) -> None:
    named = {"data_hash": "training data", "eval_data_hash": "held-out data", "format_fingerprint": "form of the input"}
    for key, words in named.items():
        was = earlier.record.get(key, now[key])
        if was != now[key]:
            raise ConfigError(
                f"--resume needs the inputs of the run that it continues, but the {words} ({key}) was {was} and now is "
                f"{now[key]}; take it back, or start anew in another output_dir."
            )


def open_folder(config: Any, begun: Begun) -> None:
    """Write the resolved settings and forget what was logged after the checkpoint."""
    try:
        begun.folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"Cannot create output_dir {begun.folder} ({err.strerror}); choose another.") from err
    if begun.resume is None:  # what a run that died early has left
        shutil.rmtree(begun.folder / BASE, ignore_errors=True)
    write_yaml(begun.folder / RESOLVED, {**resolved_values(config), RECORD: begun.record})
    forget_after(begun.folder / METRICS, step_of(begun.resume), end=False)


def loop_arguments(config: Any, folder: Path, *, evaluates: bool, on_cpu: bool) -> dict[str, Any]:
    """Arguments that transformers' and TRL's trainers share."""
    at_steps = evaluates and config.eval_steps is not None
    return {
        "output_dir": str(folder),
        "use_cpu": on_cpu,
        "seed": config.seed,
        "data_seed": config.seed,
        "bf16": use_bf16(config.precision, on_cpu=on_cpu),
        "fp16": config.precision == "fp16",
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": config.warmup_steps,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "per_device_eval_batch_size": config.per_device_eval_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if at_steps else "no",
        "eval_steps": config.eval_steps if at_steps else None,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "restore_callback_states_from_checkpoint": True,
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
        "log_level": "error",
    }


# ------------------------------------------------------------------------------------------------------ figures


def _clusters(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.unique(np.array(ids), return_inverse=True)[1].astype(np.int64)


def _wins(first: npt.ArrayLike, second: npt.ArrayLike) -> Floats:
    """1 where the first is larger, 0 where the second is, 0.5 where they are equal."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return (np.sign(difference) + 1) / 2


def pair_figures(
    chosen: npt.ArrayLike,
    rejected: npt.ArrayLike,
    *,
    words: Sequence[tuple[int, int]],
    conversations: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """How often the chosen reply scores higher, beside "the longer one wins"; intervals resample conversations.

    Args:
        chosen, rejected: scores [N].
        words: lengths of both replies.
    """
    chosen, rejected = np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)
    clusters = _clusters(conversations)
    right = Result.mean(_wins(chosen, rejected))
    length = Result.mean(_wins([c for c, _ in words], [r for _, r in words]))
    margin = Result.mean(chosen - rejected)
    against = paired(length, right, clusters, seed=seed)
    return {
        "pairs": len(chosen),
        "conversations": int(clusters.max()) + 1,
        "accuracy": right.value,
        "accuracy_interval": interval(right, clusters, seed=seed),
        "chance": 0.5,
        "longer_wins": length.value,
        "longer_wins_interval": interval(length, clusters, seed=seed),
        "over_length": right.value - length.value,
        "over_length_interval": None if against is None else (against.low, against.high),
        "margin": margin.value,
        "margin_interval": interval(margin, clusters, seed=seed),
    }


def answer_figures(
    probability: npt.ArrayLike, good: Sequence[bool], *, words: Sequence[int], conversations: Sequence[str], seed: int
) -> dict[str, Any]:
    """Accuracy at 0.5 beside the larger class, ranking beside length, and calibration of P(positive).

    `ece` is the expected calibration error over ten equal bins of P (Naeini et al., 2015); `brier` the mean squared
    error of P; `auc` the chance that a good reply ranks above a bad one (0.5 = by chance).
    """
    p, truth = np.asarray(probability, dtype=np.float64), np.asarray(good, dtype=np.float64)
    clusters = _clusters(conversations)
    right = Result.mean(((p > 0.5) == (truth > 0.5)).astype(np.float64))
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    table = []
    for at in range(BINS):
        inside = bins == at
        if inside.any():
            table.append(
                {"n": int(inside.sum()), "said": float(p[inside].mean()), "was_good": float(truth[inside].mean())}
            )
    return {
        "replies": len(p),
        "conversations": int(clusters.max()) + 1,
        "accuracy": right.value,
        "accuracy_interval": interval(right, clusters, seed=seed),
        "larger_class": float(max(truth.mean(), 1 - truth.mean())),
        "auc": _auc(p, truth),
        "auc_of_length": _auc(np.asarray(words, dtype=np.float64), truth),
        "ece": float(sum(row["n"] * abs(row["said"] - row["was_good"]) for row in table) / len(p)),
        "brier": float(np.mean((p - truth) ** 2)),
        "calibration": table,
    }


def _auc(score: Floats, truth: Floats) -> float | None:
    good, bad = score[truth > 0.5], score[truth <= 0.5]
    if not len(good) or not len(bad):
        return None
    ordered = np.sort(bad)
    below, upto = np.searchsorted(ordered, good, "left"), np.searchsorted(ordered, good, "right")
    return float((below + upto).mean() / 2 / len(bad))


# ------------------------------------------------------------------------------------------------------- the end


def summarise(config: Any, begun: Begun, outcome: Any, **more: Any) -> dict[str, Any]:
    """What every such run says of itself."""
    data, base_run = begun.data, begun.record["base_run"]
    licence, free = combined(config.dataset, data.licence, base_run)
    # Nobody knows here what the model that wrote the traces was trained on.
    generated = data.negatives.startswith("generated")
    return {
        "kind": "train",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": config.method,
        "model": config.model_name_or_path,
        "base_run": base_run,
        "steps": outcome.steps,
        "weights_step": outcome.weights_step,
        "planned_steps": begun.steps,
        "stopped": outcome.stopped,
        "stop_reason": STOPPED[outcome.stopped],
        "seconds": round(outcome.seconds, 1),
        "tokens": outcome.tokens,
        "dataset": config.dataset,
        "train_split": config.train_split,
        "eval_split": config.eval_split,
        "form": data.form,
        "examples": len(data.train),
        "negatives": data.negatives,
        "licence": licence,
        "publishable": free and not generated,
        "data_hash": data.hash,
        "eval_data_hash": data.held_hash,
        "notes": [*data.notes, *(["the licence of the model that wrote the traces is not known"] if generated else [])],
        "seed": config.seed,
        "continued": begun.record["continued"],
        "versions": begun.record["versions"],
        **more,
    }


CARD = """\
---
base_model: {model}
tags: [heedful, supportive-dialogue, {method}]
---

# {title}

{warning}

## How it was made
| | |
|---|---|
| base model | {model} |
| method | {how} |
| data | {dataset}, split `{train_split}`: {examples:,} {form}; hash `{data_hash}` |
| the worse replies | {negatives} |
| licence of the data | {licence} |
| steps | {steps:,} of {planned_steps:,} planned ({stop_reason}), {seconds:,.0f} s |
| seed | {seed} |

`config.resolved.yaml` holds every setting and version.

## On held-out examples
{figures}

## What the data say about sharing it
{sharing}

## Limits
{limits}
- Notes on the data: {known}
"""


def card(summary: Mapping[str, Any], *, title: str, warning: str, how: str, limits: Sequence[str]) -> str:
    """The model card as Markdown."""
    licence = summary["licence"] or NOT_STATED
    shared = f"The training data are under {licence}." if summary["publishable"] else (
        f"The training data are under: {licence}. **Do not publish these weights**."
    )  # fmt: skip
    return CARD.format(
        **{**summary, "licence": licence},
        title=title,
        warning=warning,
        how=how,
        figures=figures_table(summary["held"]),
        sharing=shared,
        limits="\n".join(f"- {line}" for line in limits),
        known="; ".join(summary["notes"]) or "none",
    )


def figures_table(held: Mapping[str, Any] | None) -> str:
    """Held-out figures as a Markdown table."""
    if not held:
        return "Nothing was held out, so nothing is known of how well it does."
    rows = ["| | value | 95 % interval |", "|---|---|---|"]
    found = held.get("pairs")
    if found:
        rows += [
            _row(f"chosen scores higher ({found['pairs']:,} pairs, {found['conversations']:,} conversations)", found,
                 "accuracy"),
            "| by chance | 50.0 % | |",
            _row("the longer reply wins", found, "longer_wins"),
            _row("difference to the longer reply", found, "over_length"),
        ]  # fmt: skip
    answers = held.get("answers")
    if answers:
        rows += [
            _row(f"right at P = 0.5 ({answers['replies']:,} replies)", answers, "accuracy"),
            f"| larger class | {100 * answers['larger_class']:.1f} % | |",
            f"| calibration error of P | {100 * answers['ece']:.1f} points | |",
        ]
    return "\n".join(rows)


def _row(words: str, found: Mapping[str, Any], key: str) -> str:
    between = found[f"{key}_interval"]
    span = "" if between is None else f"{100 * between[0]:.1f} to {100 * between[1]:.1f}"
    return f"| {words} | {100 * found[key]:.1f} % | {span} |"


def write_end(folder: Path, summary: Mapping[str, Any], text: str) -> None:
    """Card and summary; the summary comes last, it says that the run is over."""
    (folder / "README.md").write_text(text, "utf-8")
    scratch = folder / "summary.json.part"
    scratch.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    os.replace(scratch, folder / "summary.json")
