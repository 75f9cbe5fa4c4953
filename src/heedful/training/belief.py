"""`method: belief`: the second reader of the crisis path, from a corpus with the label set `risk` and our own cases.

    heedful train method=belief output_dir=runs/belief

What it is and what it may do: `heedful.classify.belief`, docs/crisis.md. The held-out part of the cases is never
learnt from; how rules and belief do on it, alone and together, stands in the run's summary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from heedful import corpora
from heedful.classify.belief import Example, RiskBelief, examples_of, examples_of_cases, train_belief
from heedful.models.causal import need_train_extra
from heedful.safety import crisis
from heedful.safety.evaluation import interval, own_cases
from heedful.settings import Settings, write_yaml
from heedful.training.methods import Method, Run, Say
from heedful.training.resume import RESOLVED
from heedful.training.shared import SUMMARY, finished, is_main, made, versions
from heedful.types import Turn


class BeliefConfig(Settings):
    """A belief (`method: belief`)."""

    method: Literal["belief"] = "belief"
    dataset: str = Field(default="commons", description="a corpus with the label set risk")
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    train_split: str = "train"
    recall: float = Field(
        default=0.7,
        ge=0.5,
        le=1,
        description="of messages with a sign, on unseen conversations; more costs more alarms",
    )
    heads: int = Field(default=10, ge=2, le=100, description="how many; their spread is the interval")
    folds: int = Field(default=5, ge=2, description="of conversations, for the operating point")
    seed: int = Field(default=13, ge=0, lt=2**32)
    output_dir: str | None = None
    resume_from_checkpoint: bool = False

    @model_validator(mode="after")
    def _no_test(self) -> BeliefConfig:
        if self.train_split == "test":
            raise ValueError("a belief is never trained on the test part; set train_split: train")
        return self


def train(config: BeliefConfig, *, say: Say = lambda text: None, callbacks: Sequence[Any] = ()) -> Run:
    """Train a belief as configured. With `resume_from_checkpoint` a finished run of the same settings is kept.

    Raises:
        UserError: something in the configuration or the data.
    """
    del callbacks  # those of transformers' trainer, which has no part in this
    need_train_extra()
    folder = Path(config.output_dir or f"runs/belief-{Path(config.dataset).stem}")
    if not is_main():
        return Run(folder=folder, summary={})
    kept = finished(folder, config, resume=config.resume_from_checkpoint)
    if kept is not None:
        say(f"{folder} is finished already; nothing to do")
        return Run(folder=folder, summary=kept)
    examples = gather(config)
    belief, outcome = train_belief(
        examples, recall=config.recall, heads=config.heads, folds=config.folds, seed=config.seed, say=say
    )
    belief.save(made(folder))
    write_yaml(folder / RESOLVED, config.model_dump())
    summary = {
        "method": "belief",
        "name": belief.name,
        "examples": {tier: sum(e.tier == tier for e in examples) for tier in ("none", "thoughts", "immediate")},
        "point": {**asdict(belief.point), "day": belief.point.day.isoformat()},
        "unseen conversations": {
            "recall": _rate(outcome.caught, outcome.positives),
            "false alarms": _rate(outcome.alarms, outcome.negatives),
        },
        "held-out cases": held_out(belief),
        "versions": versions(),
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return Run(folder=folder, summary=summary)


def gather(config: BeliefConfig) -> list[Example]:
    """The messages to learn from: those of the corpus, and the tuned part of our cases.

    Each message of the corpus is there twice, with and without those before it. Most cases have none before them, and
    a belief would otherwise learn that a message out of nowhere is a sign.
    """
    found = examples_of(corpora.load(config.dataset, config.train_split, **config.dataset_options))
    alone = [replace(example, before=()) for example in found if example.before]
    return found + alone + examples_of_cases(case for case in own_cases() if case.part == "tuned")


def held_out(belief: RiskBelief) -> dict[str, Any]:
    """Rules, belief and both on cases that neither was made with: share noticed, of those with a sign and without."""
    found: dict[str, dict[str, list[bool]]] = {who: {"recall": [], "false alarms": []} for who in WHO}
    for case in (case for case in own_cases() if case.part == "held-out"):
        rule = crisis.assess(case.turns).tier != "none"
        believes = belief(_seeker(case.turns)).thoughts >= belief.point.thoughts
        kind = "false alarms" if case.tier == "none" else "recall"
        for who, noticed in zip(WHO, (rule, believes, rule or believes), strict=True):
            found[who][kind].append(noticed)
    return {who: {kind: _rate(sum(hits), len(hits)) for kind, hits in kinds.items()} for who, kinds in found.items()}


WHO = ("rules", "belief", "rules or belief")


def _seeker(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.role == "user"]


def _rate(found: int, n: int) -> dict[str, float | int]:
    low, high = interval(found, n)
    return {"found": found, "n": n, "rate": found / n if n else 0.0, "low": low, "high": high}


def plan(config: BeliefConfig) -> dict[str, Any]:
    """What a run would do."""
    examples = gather(config)
    tiers = {tier: sum(e.tier == tier for e in examples) for tier in ("none", "thoughts", "immediate")}
    return {"method": "belief", "messages": len(examples), **tiers, "heads": config.heads, "folds": config.folds}


BELIEF = Method(config=BeliefConfig, train=train, plan=plan)
