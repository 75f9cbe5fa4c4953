"""What a scorer can do, in numbers, in its card and on a page: never one figure without its floor and its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heedful.classify.base import Item
from heedful.classify.calibration import calibration_error, negative_log_likelihood, reliability, softmax
from heedful.classify.fit import ask
from heedful.classify.model import LabelModel
from heedful.pages.charts import Curve, curves
from heedful.pages.page import clean, environment
from heedful.scoring.base import Rows
from heedful.scoring.intervals import interval
from heedful.scoring.metrics.classification import (
    ACCURACY,
    MACRO_F1,
    WEIGHTED_F1,
    confusion,
    f1_per_class,
    per_class_recall,
)
from heedful.training.sharing import NOT_STATED

DRAWS = 1000
_METRICS = (MACRO_F1, ACCURACY, WEIGHTED_F1)

CARD = """\
---
library_name: heedful
tags: [heedful, supportive-dialogue, text-classification]
---

# {label_set}: {features}, seed {seed}

A research classifier: how probable each label of `{label_set}` is for one turn of a conversation. It is made for
rewards and evaluations of research models. **It does not know what a person feels, and it is no diagnosis.**

## How it was made
| | |
|---|---|
| data | {dataset}, split `{split}`: {train_turns:,} turns of {conversations:,} dialogues; hash `{data_hash}` |
| whose turns | {roles}, {unit} |
| licence of the data | {licence} |
| features | {features}; turns of context: {context}; knows the speaker: {speaker} |
| head | {head}, class weight {class_weight}, l2 {l2:g} |
| temperature | {temperature:.3f}, fitted on {calibration_turns:,} turns of training dialogues that were kept out |
| seed | {seed} |
| fingerprint | `{fingerprint}` |

## What it can do
{results}

## What the data say about sharing it
{sharing}

## Limits
- A probability is that of a label as the annotators of this corpus gave it, for turns like those of this corpus.
- A model that is rewarded by this scorer learns its mistakes. Judge it with another one, of other features and another
  seed (`heedful.classify.same_family`).
- Known notes on the data: {notes}
"""


def measure(
    model: LabelModel,
    items: Sequence[Item],
    gold: Sequence[str],
    clusters: Sequence[str],
    *,
    train_gold: Sequence[str],
) -> dict[str, Any]:
    """Figures on N turns; scores and recalls times 100, intervals of 95 % by bootstrap over dialogues.

    Args:
        clusters: the dialogue of each turn.
        train_gold: labels of the training turns, of which the floor takes the most frequent one.
    """
    logits = ask(model, items)
    targets = np.array([model.labels.index(label) for label in gold], dtype=np.int64)
    predicted = [model.labels[k] for k in logits.argmax(axis=1)]
    rows = Rows.of(gold=gold, predicted=predicted, clusters=clusters, labels=model.labels)
    most = Counter(train_gold).most_common(1)[0][0]
    floor = Rows.of(gold=gold, predicted=[most] * len(gold), labels=model.labels)
    matrix = confusion(rows)
    calibrated = softmax(logits, model.temperature)
    present = matrix.sum(axis=1) > 0
    return {
        "turns": len(gold),
        "dialogues": len(set(clusters)),
        **{metric.name: _with_interval(metric, rows) for metric in _METRICS},
        "macro_f1_present": 100 * float(f1_per_class(matrix[None])[0][present].mean()),
        "majority": {"label": most, **{metric.name: metric.compute(floor).value for metric in _METRICS}},
        "per_label": _per_label(rows, train_gold),
        "confusion": matrix.astype(int).tolist(),
        "ece_before": 100 * calibration_error(softmax(logits), targets),
        "ece": 100 * calibration_error(calibrated, targets),
        "nll_before": negative_log_likelihood(logits, targets),
        "nll": negative_log_likelihood(logits, targets, model.temperature),
        "nll_of_shares": _nll_of_shares(train_gold, gold),
        "reliability_before": [vars(b) for b in reliability(softmax(logits), targets)],
        "reliability": [vars(b) for b in reliability(calibrated, targets)],
    }


def _with_interval(metric: Any, rows: Rows) -> dict[str, float | None]:
    result = metric.compute(rows)
    low, high = interval(result, rows.cluster_index, draws=DRAWS) or (None, None)
    return {"value": result.value, "low": low, "high": high}


def _per_label(rows: Rows, train_gold: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    matrix = confusion(rows)
    named, recalls, learnt = matrix.sum(axis=0), per_class_recall(rows), Counter(train_gold)
    f1 = f1_per_class(matrix[None])[0]
    found: dict[str, dict[str, float | int | None]] = {}
    for k, label in enumerate(rows.labels):
        recall = recalls[label]
        found[label] = {
            "train_turns": learnt[label],
            "turns": int(matrix[k].sum()),
            "recall": None if recall is None else 100 * recall,
            "precision": 100 * float(matrix[k, k] / named[k]) if named[k] else None,
            "f1": 100 * float(f1[k]) if matrix[k].sum() else None,
        }
    return found


def _nll_of_shares(train_gold: Sequence[str], gold: Sequence[str]) -> float:
    """What a scorer reaches that only knows how frequent each label is (one turn added to each)."""
    counts = Counter(train_gold)
    labels = {*counts, *gold}
    total = len(train_gold) + len(labels)
    return float(-np.mean([np.log((counts[label] + 1) / total) for label in gold]))


# ------------------------------------------------------------------------------------------------ card and page


def card(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The model card as Markdown."""
    licence = summary["licence"] or NOT_STATED
    return CARD.format(
        **{key: config[key] for key in ("label_set", "features", "seed", "context", "head", "class_weight", "l2")},
        speaker="yes" if config["speaker"] else "no",
        unit="utterance by utterance" if config["unit"] == "utterance" else "runs of one speaker as one turn",
        roles=" and ".join(config["roles"]),
        dataset=summary["dataset"],
        split=config["train_split"],
        train_turns=summary["train_turns"],
        conversations=summary["conversations"],
        data_hash=summary["data_hash"],
        licence=licence,
        temperature=summary["temperature"],
        calibration_turns=summary["calibration_turns"],
        fingerprint=summary["fingerprint"],
        results=_results(summary["evaluation"]),
        sharing=f"The training data are under {licence}."
        if summary["publishable"]
        else f"The training data are under: {licence}. **Do not publish these weights**.",
        notes="; ".join(summary["notes"]) or "none",
    )


def _results(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "Not measured: the run had no `eval_split`."
    floor = found["majority"]
    lines = [
        f"On {found['turns']:,} turns of {found['dialogues']:,} dialogues, split `{found['split']}`; "
        "95 % intervals by bootstrap over dialogues.",
        "",
        f"| | this scorer | always `{floor['label']}` |",
        "|---|---|---|",
    ]
    lines += [f"| {metric.title} | {_said(found[metric.name])} | {floor[metric.name]:.1f} |" for metric in _METRICS]
    lines += [
        f"| expected calibration error | {found['ece']:.1f} (before: {found['ece_before']:.1f}) | |",
        "",
        "| label | turns | recall | precision | F1 |",
        "|---|---|---|---|---|",
    ]
    for label, row in found["per_label"].items():
        numbers = (_number(row[key]) for key in ("recall", "precision", "f1"))
        lines.append(f"| {label} | {row['turns']:,} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _said(score: Mapping[str, float | None]) -> str:
    if score["low"] is None:
        return f"{score['value']:.1f}"
    return f"{score['value']:.1f} [{score['low']:.1f}, {score['high']:.1f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def page(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The report as one HTML page: figures beside floors, each label, reliability, confusion. It quotes nobody."""
    found = summary["evaluation"]
    return environment("heedful.training").get_template("scorer.html.j2").render(
        summary=clean(summary),
        config=clean({key: value for key, value in config.items() if value is not None}),
        metrics=[(metric.name, metric.title) for metric in _METRICS],
        drawn=reliability_figure(found) if found else "",
    )  # fmt: skip


def reliability_figure(found: Mapping[str, Any]) -> str:
    """SVG: how often the most probable label is right, over how sure the scorer is of it, in percent."""

    def line(name: str, key: str, colour: str, style: Any) -> Curve:
        bins = found[key]
        return Curve(
            name=name,
            x=[100 * b["confidence"] for b in bins],
            y=[100 * b["accuracy"] for b in bins],
            colour=colour,
            style=style,
        )

    return curves(
        [
            Curve(name="as sure as right", x=[0, 100], y=[0, 100], colour="var(--soft,#565656)", style="dashed"),
            line("before", "reliability_before", "var(--second,#b34700)", "dashed"),
            line("calibrated", "reliability", "var(--mark,#0066a1)", "solid"),
        ],
        title="Reliability: share of right answers over confidence, before and after calibration",
        x_label="confidence, %",
    )
