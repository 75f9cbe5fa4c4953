"""The model card of a run: written from what happened, with the limits said first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.training.config import RunSettings
from heedful.training.plan import Plan
from heedful.training.sharing import NOT_STATED

CARD = """\
---
base_model: {base}
library_name: {library}
tags: [heedful, supportive-dialogue]
---

# {title}

A research model that drafts replies in supportive conversations. **It is not a therapist, not a crisis service and not
a medical device.** A person who answers for the conversation reads every draft before it is sent.

## How it was made
| | |
|---|---|
| base model | {base}{note} |{before}
| method | {method}, {delta}: {trained:,} of {parameters:,} parameters trained |
| data | {dataset}, split `{split}`: {targets:,} supporter turns, {conversations:,} rows an epoch; hash `{data_hash}` |
| licence of the data | {licence} |
| input format | `{format}` |{rewarded}
| steps | {steps:,} of {planned_steps:,} planned ({stopped}), {tokens:,} tokens, {seconds:,.0f} s |
| weights | those of step {weights_step:,} |
| seed | {seed} |
| best validation loss | {best} |

`config.resolved.yaml` holds every setting and version. `heedful train config.resolved.yaml output_dir=NEW` repeats
{repeats}.

## What the data say about sharing it
{sharing}

## Limits
- Small models misread people, repeat themselves and sound sure when they are wrong.
- Nothing here was measured with people in need. Overlap with a reference reply is not quality of support.
- Known notes on the data: {notes}

## Intended use
Research on supportive dialogue, and drafting under the eyes of a trained person. Not for unattended use, not for
diagnosis, not for anyone in danger.
"""


STOPPED = {"done": "all", "time": "the time was over", "early": "validation loss stopped falling"}


def model_card(config: RunSettings, summary: Mapping[str, Any], plan: Plan) -> str:
    """The card as Markdown; results are added by `heedful eval`, never guessed here."""
    licence = summary["licence"] or NOT_STATED
    base = summary["base_run"]
    return CARD.format(
        title=f"{config.method} of {config.model_name_or_path} on {config.dataset}",
        base=config.model_name_or_path,
        library="peft" if config.delta != "full" else "transformers",
        note=f" ({summary['model_note']})" if summary["model_note"] else "",
        before="" if base is None else f"\n| which was trained on | {_what_came_before(base)} |",
        repeats="the run, all in one go and with the length that it had last" if summary["continued"] else "the run",
        weights_step=summary["weights_step"],
        method=config.method,
        delta=config.delta,
        trained=summary["trainable_parameters"],
        parameters=summary["parameters"],
        dataset=config.dataset,
        split=config.train_split,
        targets=plan.targets,
        conversations=plan.conversations,
        data_hash=plan.data_hash,
        licence=licence,
        format=summary["format"],
        steps=summary["steps"],
        planned_steps=summary["planned_steps"],
        stopped=STOPPED.get(summary["stopped"]) or summary["stop_reason"],
        rewarded=_what_was_rewarded(summary),
        tokens=summary["tokens"],
        seconds=summary["seconds"],
        seed=config.seed,
        best="not measured during training"
        if summary["best_eval_loss"] is None
        else f"{summary['best_eval_loss']:.4f} nats per token",
        sharing=f"The training data are under {licence}."
        if summary["publishable"]
        else f"The training data are under: {licence}. **Do not publish these weights**.",
        notes="; ".join(summary["notes"]) or "none",
    )


def _what_came_before(base: Mapping[str, Any]) -> str:
    return f"{base['dataset']}; hash `{base['data_hash']}`; {base['licence'] or NOT_STATED}"


def _what_was_rewarded(summary: Mapping[str, Any]) -> str:
    rewards = summary.get("rewards")
    if not rewards:
        return ""
    listed = ", ".join(f"{weight:g} {name}" for name, weight in rewards.items())
    return f"\n| reward | {listed}; whether the model got better or only pleased it: `report.html` |"
