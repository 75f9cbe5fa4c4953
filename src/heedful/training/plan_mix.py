"""`method: mix`: how much a language model and scorers of the next label count when a plan is chosen.

model and scorers -> what each thinks at every reply of a part that none was trained on -> weights -> mix.json

Weights and biases are a multinomial regression on log-probabilities (`heedful.agents.plan_mix`): a handful of numbers
for thousands of replies. Its figures are cross-validated over dialogues, beside each member alone and the plain mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from heedful import agents, corpora, formats
from heedful.agents.plan import ask_readers, asked
from heedful.agents.plan_mix import MIX, VERSION, PlanMix, weights_digest
from heedful.classify.calibration import calibration_error
from heedful.classify.fit import ClassWeight
from heedful.errors import ConfigError, DataError, LeakError
from heedful.formats import Format
from heedful.models.causal import add_markers, load
from heedful.models.decoding import Decoding
from heedful.models.generate import generate
from heedful.models.pairs import check_fits
from heedful.models.plan import Floats, PlanRule
from heedful.scoring.base import Rows
from heedful.scoring.intervals import interval
from heedful.scoring.metrics.classification import ACCURACY, MACRO_F1, WEIGHTED_F1
from heedful.scoring.text import needs_eval
from heedful.settings import Settings, read_yaml, write_yaml
from heedful.training.methods import Method, Run, Say
from heedful.training.resume import RESOLVED
from heedful.training.shared import SUMMARY, finished, is_main, made, versions

_METRICS = (ACCURACY, MACRO_F1, WEIGHTED_F1)


class MixConfig(Settings):
    """A mix of predictors of the plan (`method: mix`)."""

    method: Literal["mix"] = "mix"
    model_name_or_path: str = Field(description="run whose format writes a plan")
    ask: list[str] = Field(min_length=1, description="scorers of the next label (target: next)")
    dataset: str
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    split: str = Field(default="valid", description="what it is fitted on; no member was trained on it")
    class_weight: ClassWeight = Field(default="sqrt", description="balanced lifts rare labels most, none not at all")
    l2: float = Field(default=1.0, gt=0, description="pull of the weights towards equal shares, of biases towards 0")
    folds: int = Field(default=5, ge=2, description="of dialogues, for the figures")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_conversations: int | None = Field(default=None, ge=1)
    seed: int = Field(default=13, ge=0, lt=2**32)
    output_dir: str | None = None
    resume_from_checkpoint: bool = False

    @model_validator(mode="after")
    def _honest_part(self) -> MixConfig:
        if self.split in ("train", "test"):
            raise ValueError(
                f"split: {self.split} cannot fit a mix: members know the training part by heart, and the test part is "
                "to judge the mix; take valid"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """What every member thinks at N replies.

    Args:
        own: (N, K) log-probabilities of the model; others: (members, N, K) of the scorers.
        gold: (N,) indices; clusters: the dialogue of each reply.
    """

    label_set: str
    labels: tuple[str, ...]
    own: Floats = field(repr=False)
    others: Floats = field(repr=False)
    gold: npt.NDArray[np.int64] = field(repr=False)
    clusters: tuple[str, ...] = field(repr=False)
    fingerprints: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def members(self) -> Floats:
        """(1 + members, N, K), the model first."""
        return np.concatenate([self.own[None], self.others])


def train(config: MixConfig, *, say: Say = lambda text: None, callbacks: Sequence[Any] = ()) -> Run:
    """Fit a mix as configured. With `resume_from_checkpoint` a finished run of the same settings is kept.

    Raises:
        UserError: something in the configuration, the members or the data.
    """
    del callbacks  # those of transformers' trainer, which has no part in this
    folder = Path(config.output_dir) if config.output_dir else _default_folder(config)
    if not is_main():
        return Run(folder=folder, summary={})
    kept = finished(folder, config, resume=config.resume_from_checkpoint)
    if kept is not None:
        say(f"{folder} is finished already; nothing to do")
        return Run(folder=folder, summary=kept)
    began = time.monotonic()
    found = opinions(config, say=say)
    mix = replace(
        fitted(found, class_weight=config.class_weight, l2=config.l2),
        model=weights_digest(config.model_name_or_path), dataset=config.dataset, split=config.split,
    )  # fmt: skip
    crossed = evaluated(found, config)
    summary: dict[str, Any] = {
        "kind": "train",
        "method": "mix",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": config.model_name_or_path,
        "dataset": config.dataset,
        "split": config.split,
        "seed": config.seed,
        "replies": len(found.gold),
        "dialogues": len(set(found.clusters)),
        "data_hash": _hash(found),
        "own": mix.own,
        "weights": dict(zip(found.names, mix.weights, strict=True)),
        "bias": dict(zip(mix.labels, mix.bias, strict=True)),
        "evaluation": crossed,
        "seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
    }
    _write(folder, config, mix, summary)
    scores = crossed["mix"]
    say(
        f"{config.split}, {config.folds} folds: accuracy {scores['accuracy']['value']:.1f}, "
        f"macro-F1 {scores['macro_f1']['value']:.1f}"
    )
    return Run(folder=folder, summary=summary)


def plan(config: MixConfig) -> dict[str, Any]:
    """What a run would read; loads no weights."""
    conversations = _conversations(config)
    return {"members": 1 + len(config.ask), "split": config.split, "conversations": len(conversations)}


MIX_METHOD = Method(config=MixConfig, train=train, plan=plan)


# --------------------------------------------------------------------------------------------------- opinions


def opinions(config: MixConfig, *, say: Say = lambda text: None) -> Opinions:
    """Ask every member about every reply.

    Raises:
        ConfigError: the run's format writes no plan, or a scorer is of another kind.
        DataError: no reply carries a label.
    """
    recorded = Path(config.model_name_or_path).expanduser() / RESOLVED
    run = read_yaml(recorded) if recorded.is_file() else {}
    fmt = formats.make(run.get("format") or "chat")
    if fmt.plan_marks is None:
        raise ConfigError(
            f"method: mix needs a run whose replies begin with one marker, such as format: strategy, but that of "
            f"'{config.model_name_or_path}' is '{fmt.name}'."
        )
    label_set, markers = fmt.plan_marks
    readers = ask_readers(config.ask, label_set)
    for reader in readers:
        if corpora.overlaps(
            reader.record.get("dataset"), reader.record.get("train_split"), config.dataset, config.split
        ):
            raise LeakError(
                f"The scorer '{reader.name}' learned from the part that the mix is to be fitted on ({config.split}), "
                "so it would be trusted too much; fit the mix on another part."
            )
    planners = agents.make(run.get("planners"))
    talks = [fmt.prepare(c) for c in planners.plan(_conversations(config))]
    due = [(conv, i, fmt.target_turn(conv, i).label(label_set)) for conv in talks for i in fmt.targets(conv)]
    labelled = {f"{conv.id}/{i}": (conv.before(i), label) for conv, i, label in due if label is not None}
    if not labelled:
        raise DataError(
            f"No reply in split '{config.split}' of {config.dataset} carries a label of '{label_set}'; a mix has "
            "nothing to be fitted on."
        )
    say(f"{config.dataset}, {config.split}: {len(labelled):,} labelled replies, {len(readers)} scorers")
    own = _own(config, fmt, run, talks, labelled, markers, say)  # places that the run would skip are not in it
    labels = list(markers)
    contexts = [labelled[name][0] for name in own]
    return Opinions(
        label_set=label_set, labels=tuple(labels), own=np.array(list(own.values())),
        others=asked(readers, labels, contexts),
        gold=np.array([labels.index(labelled[name][1]) for name in own], dtype=np.int64),
        clusters=tuple(context.id for context in contexts), fingerprints=tuple(r.fingerprint for r in readers),
        names=tuple(Path(path).name for path in config.ask),
    )  # fmt: skip


def _own(
    config: MixConfig,
    fmt: Format,
    run: Mapping[str, Any],
    talks: Sequence[Any],
    wanted: Container[str],
    markers: Mapping[str, str],
    say: Say,
) -> dict[str, Floats]:
    """Place -> (K,) log-probabilities of the model, read where it decides, one word into the reply."""
    causal = load(config.model_name_or_path, dtype=config.dtype, accept="any")
    check_fits(causal, fmt)
    add_markers(causal, fmt.markers)
    vocabulary = causal.tokenizer.get_vocab()
    rule = PlanRule(marks={label: vocabulary[marker] for label, marker in markers.items()})
    length, keep = int(run.get("max_length") or 1024), float(run.get("keep_context") or 0.5)
    samples = [
        sample
        for conv in talks
        for sample in fmt.samples(
            conv, causal.tokenizer, max_length=length, keep=keep, overlong=run.get("overlong") or "error"
        )
        if sample.id in wanted
    ]
    found: dict[str, Floats] = {}
    for batch in generate(causal, samples, Decoding(max_new_tokens=1), plan=rule):
        found.update({one.id: np.log(np.maximum(one.written.probabilities, 1e-12)) for one in batch})
        say(f"the model: {len(found):,}/{len(samples):,} replies")
    return {sample.id: found[sample.id] for sample in samples}


def _conversations(config: MixConfig) -> list[Any]:
    found = corpora.load(config.dataset, config.split, **config.dataset_options)
    return found[: config.max_conversations] if config.max_conversations else found


# --------------------------------------------------------------------------------------------------- fit and figures


def fitted(found: Opinions, *, class_weight: str, l2: float, rows: npt.NDArray[np.int64] | None = None) -> PlanMix:
    """Weights (at least 0) and biases of the largest weighted likelihood of the labels.

    Args:
        rows: which replies to learn from; all if None.
    """
    optimize = needs_eval("scipy.optimize")
    at = np.arange(len(found.gold)) if rows is None else rows
    members, gold = found.members()[:, at], found.gold[at]
    m, n, k = members.shape
    counts = np.maximum(np.bincount(gold, minlength=k), 1)
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[class_weight]
    each = (n / (k * counts[gold])) ** power
    each = each / each.mean()
    hot = np.eye(k)[gold]

    def loss(values: Floats) -> tuple[float, Floats]:
        weights, bias = values[:m], values[m:]
        scores = np.tensordot(weights, members, axes=1) + bias
        shifted = scores - scores.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        away = each[:, None] * (np.exp(logs) - hot)
        pulled = l2 * (((weights - 1 / m) ** 2).sum() + (bias**2).sum())
        slope = np.concatenate([np.einsum("nk,mnk->m", away, members), away.sum(axis=0)])
        slope += 2 * l2 * np.concatenate([weights - 1 / m, bias])
        return float(-(each * logs[np.arange(n), gold]).sum() + pulled), slope

    start = np.concatenate([np.full(m, 1 / m), np.zeros(k)])
    limits = [(0.0, None)] * m + [(None, None)] * k
    best: Floats = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits).x
    return PlanMix(
        label_set=found.label_set, labels=found.labels, own=float(best[0]), scorers=found.fingerprints,
        weights=tuple(best[1:m].tolist()), bias=tuple((best[m:] - best[m:].mean()).tolist()),
    )  # fmt: skip


def probabilities(mix: PlanMix, found: Opinions) -> Floats:
    """(N, K) of the mix."""
    scores = mix.own * found.own + mix.scores(found.others)
    mass = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Floats = mass / mass.sum(axis=1, keepdims=True)
    return shares


def evaluated(found: Opinions, config: MixConfig) -> dict[str, Any]:
    """Member or mix -> scores times 100 with intervals over dialogues; the mix by cross-validation over dialogues."""
    names = sorted(set(found.clusters))
    order = np.random.default_rng(config.seed).permutation(len(names))
    fold_of = {names[at]: int(k) % config.folds for k, at in enumerate(order)}
    folds = np.array([fold_of[name] for name in found.clusters])
    crossed = np.empty_like(found.own)
    for fold in range(config.folds):
        inside = folds == fold
        if not inside.any() or inside.all():
            raise DataError(
                f"{len(names):,} dialogues cannot be divided into {config.folds} folds; set folds to {len(names)}."
            )
        learnt = fitted(found, class_weight=config.class_weight, l2=config.l2, rows=np.flatnonzero(~inside))
        crossed[inside] = probabilities(learnt, found)[inside]
    out = {"model": np.exp(found.own)}
    out |= {name: np.exp(found.others[k]) for k, name in enumerate(found.names)}
    mean = np.exp(found.members().mean(axis=0))
    out |= {"mean": mean / mean.sum(axis=1, keepdims=True), "mix": crossed}
    return {name: _figures(found, shares) for name, shares in out.items()}


def _figures(found: Opinions, shares: Floats) -> dict[str, Any]:
    predicted = [found.labels[k] for k in shares.argmax(axis=1)]
    gold = [found.labels[k] for k in found.gold]
    rows = Rows.of(gold=gold, predicted=predicted, clusters=found.clusters, labels=found.labels)
    out: dict[str, Any] = {}
    for metric in _METRICS:
        result = metric.compute(rows)
        low, high = interval(result, rows.cluster_index) or (None, None)
        out[metric.name] = {"value": result.value, "low": low, "high": high}
    right = shares[np.arange(len(found.gold)), found.gold]
    out["nll"] = float(-np.log(np.maximum(right, 1e-12)).mean())
    out["ece"] = 100 * calibration_error(shares, found.gold)
    return out


# --------------------------------------------------------------------------------------------------- on disk


def _write(folder: Path, config: MixConfig, mix: PlanMix, summary: Mapping[str, Any]) -> None:
    made(folder)
    record = {"command": " ".join(["heedful", *sys.argv[1:]]), "data_hash": summary["data_hash"]}
    values = {**config.model_dump(), "resume_from_checkpoint": False}
    write_yaml(folder / RESOLVED, {**values, "x_heedful": record})
    for name, content in (
        (MIX, {"version": VERSION, **mix.to_dict(), "ask": list(config.ask)}),
        (SUMMARY, dict(summary)),
    ):
        scratch = folder / f"{name}.part"
        scratch.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
        os.replace(scratch, folder / name)


def _hash(found: Opinions) -> str:
    digest = hashlib.sha256()
    for name, label in zip(found.clusters, found.gold.tolist(), strict=True):
        digest.update(json.dumps([name, label]).encode("utf-8"))
    digest.update(json.dumps([found.label_set, *found.fingerprints]).encode("utf-8"))
    return digest.hexdigest()[:16]


def _default_folder(config: MixConfig) -> Path:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    return Path("runs") / f"{now}_mix_{Path(config.model_name_or_path).name}_{config.seed}"
