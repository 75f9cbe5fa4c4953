"""From replies and losses to `summary.json`: scores with intervals, paired comparisons, examples chosen by rule."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from heedful.evaluation import perplexity
from heedful.evaluation._words import group_of, plain
from heedful.evaluation.baselines import Place
from heedful.evaluation.config import EvalConfig
from heedful.models.forward import SampleLoss
from heedful.scoring import Rows, Table, compare, score
from heedful.types import Conversation, Trace

LIMITS = (
    "Overlap with one reference reply (BLEU, ROUGE, METEOR) says little about the quality of support: on ESConv one "
    "fixed kind sentence comes close to published systems in BLEU and is level with them in ROUGE-L.",
    "There is more than one good reply to a person in distress; these numbers know only the one that was given.",
    "Perplexity per token can be compared between models with the same tokenizer only; use the value per word or byte "
    "otherwise.",
    "Nothing here measures safety, and nobody in need took part.",
)
CONTEXT_TURNS = 6
EXAMPLE_METRIC = "rougeL"


@dataclass(frozen=True, kw_only=True)
class System:
    """One column of the table: its replies, and its losses if it is a model."""

    name: str
    kind: Literal["model", "baseline"]
    description: str
    note: str | None = None
    model: dict[str, str] | None = None
    dtype: str | None = None
    losses: list[SampleLoss] | None = field(default=None, repr=False)
    traces: list[Trace] | None = field(default=None, repr=False)


def summarise(
    config: EvalConfig,
    systems: Sequence[System],
    conversations: Sequence[Conversation],
    where: Sequence[Place],
    *,
    corpus: dict[str, Any],
    format_name: str,
    run_folder: Path | None,
    seconds: float,
    command: str,
) -> dict[str, Any]:
    """Everything that `summary.json` and the report hold."""
    contexts = {p.id: p.last for p in where if p.last is not None}
    rows = {s.name: Rows.from_traces(s.traces, contexts=contexts) for s in systems if s.traces}
    tables = {
        name: score(r, metrics=config.metrics, bootstrap=config.bootstrap, seed=config.seed) for name, r in rows.items()
    }
    main = systems[0]
    part = f"{config.split} part" if config.split else "all parts"
    title = f"System '{main.name}', measured on {corpus['title']} ({part})"
    return {
        "kind": "eval",
        "heedful": metadata.version("heedful"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "title": title,
        "corpus": corpus,
        "format": format_name,
        "decoding": {**config.decoding.model_dump(), "seed": config.seed},
        "seed": config.seed,
        "dtype": main.dtype or "",
        "machine": machine_facts({"all": round(seconds, 1)}),
        "versions": versions(),
        "systems": [_system(s, tables.get(s.name), config) for s in systems],
        "metrics": _definitions(list(tables.values()), systems),
        "comparisons": _comparisons(main, systems, rows, config),
        "examples": _examples(main, systems, tables.get(main.name), conversations, config) if main.traces else [],
        "training": _training(run_folder) if run_folder else None,
        "limits": list(LIMITS),
    }


def _system(system: System, table: Table | None, config: EvalConfig) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    if system.losses:
        clusters = [loss.id.rsplit("/", 1)[0] for loss in system.losses]
        found = perplexity.table(system.losses, clusters, draws=config.bootstrap, seed=config.seed)
        for name, p in found.items():
            metrics[name] = {"value": p.value, "low": p.low, "high": p.high, "n": p.n, "unscored": 0, "reason": None}
    for line in table.lines if table else ():
        keys = ("value", "low", "high", "n", "unscored", "reason")
        metrics[line.name] = {key: getattr(line, key) for key in keys}
    return {
        "name": system.name,
        "kind": system.kind,
        "description": system.description,
        "note": system.note,
        "model": system.model,
        "metrics": metrics,
        "finish": dict(Counter(t.finish for t in system.traces or ())),
    }


def _definitions(tables: Sequence[Table], systems: Sequence[System]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    measured = {name for s in systems if s.losses for name in perplexity.results(s.losses)}
    for name, title in perplexity.TITLES.items():
        if name in measured:
            out[name] = {
                "title": title,
                "definition": perplexity.DEFINITIONS[name],
                "signature": f"heedful {metadata.version('heedful')}",
                "higher_is_better": False,
                "scale": perplexity.SCALES[name],
                "group": group_of(name),
            }
    for line in tables[0].lines if tables else ():
        out[line.name] = {
            "title": line.title,
            "definition": line.definition,
            "signature": line.signature,
            "higher_is_better": line.higher_is_better,
            "scale": line.unit,
            "group": group_of(line.name),
        }
    return out


def _comparisons(
    main: System, systems: Sequence[System], rows: dict[str, Rows], config: EvalConfig
) -> list[dict[str, Any]]:
    """The main system minus each other one, paired over dialogues.

    p is that of approximate randomisation, the test under which the systems are alike; a bootstrap has no such null.
    """
    out: list[dict[str, Any]] = []
    draws = max(config.bootstrap, 1)
    for other in systems[1:] if config.bootstrap else ():
        if main.losses and other.losses:
            clusters = [loss.id.rsplit("/", 1)[0] for loss in main.losses]
            tests = perplexity.difference(other.losses, main.losses, clusters, draws=draws, seed=config.seed)
            for name, test in tests.items():
                if test is not None:
                    out.append(_row(main, other, name, test.difference, test.low, test.high, test.p_randomisation))
        if main.name in rows and other.name in rows:
            found = compare(
                rows[other.name], rows[main.name], metrics=config.metrics, bootstrap=draws, seed=config.seed
            )
            out += [
                _row(main, other, c.name, c.difference, c.low, c.high, c.p_randomisation)
                for c in found
                if c.difference is not None
            ]
    return out


def _row(main: System, other: System, metric: str, *numbers: float | None) -> dict[str, Any]:
    difference, low, high, p = numbers
    return {"a": main.name, "b": other.name, "metric": metric} | {
        "difference": difference, "low": low, "high": high, "p": p,
    }  # fmt: skip


def _examples(
    main: System,
    systems: Sequence[System],
    table: Table | None,
    conversations: Sequence[Conversation],
    config: EvalConfig,
) -> list[dict[str, Any]]:
    """Places chosen by rule: at random by seed, and the best and worst by one named metric of the main system."""
    traces = main.traces or []
    chosen: list[tuple[str, str, int]] = []
    n = min(config.examples, len(traces))
    if table is not None and any(line.name == EXAMPLE_METRIC for line in table.lines):
        values = table.line(EXAMPLE_METRIC).per_sample
        if values is not None:
            ranked = [int(i) for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
            what = f"{table.line(EXAMPLE_METRIC).title} of {plain(main.name)}"
            best = [("best", f"highest {what}", i) for i in ranked[::-1][:n]]
            chosen = best + [("worst", f"lowest {what}", i) for i in ranked[:n]]
    chosen = _random(traces, n, config.seed) + chosen
    # A place where a system had nothing to say shows nothing, not an empty reply.
    replies = {s.name: {t.id: None if t.finish == "error" else t.reply for t in s.traces or ()} for s in systems}
    return [_example(rule, why, traces[i], conversations, replies) for rule, why, i in chosen]


def examples_at(
    traces: Sequence[Trace],
    conversations: Sequence[Conversation],
    replies: Mapping[str, Mapping[str, str | None]],
    *,
    n: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Up to `n` places of different dialogues, drawn with `seed`, with what stands in `replies` (system -> place)."""
    return [_example(rule, why, traces[i], conversations, replies) for rule, why, i in _random(traces, n, seed)]


def _random(traces: Sequence[Trace], n: int, seed: int) -> list[tuple[str, str, int]]:
    return [("random", f"drawn with seed {seed}", i) for i in _drawn(traces, n, seed)]


def _example(
    rule: str,
    why: str,
    trace: Trace,
    conversations: Sequence[Conversation],
    replies: Mapping[str, Mapping[str, str | None]],
) -> dict[str, Any]:
    conv = next(c for c in conversations if c.id == trace.conversation_id)
    turns = conv.turns[max(0, trace.turn - CONTEXT_TURNS) : trace.turn]
    return {
        "rule": rule,
        "why": why,
        "id": trace.id,
        # Of the whole dialogue: a hint often stands before the turn that carries the label.
        "risk": sorted({v for t in conv.turns for v in t.values("risk")} - {"denied"}),
        "context": [{"role": t.role, "text": t.text} for t in turns],
        "reference": trace.reference or "",
        "replies": {name: found[trace.id] for name, found in replies.items() if trace.id in found},
    }


def _drawn(traces: Sequence[Trace], n: int, seed: int) -> list[int]:
    """Places of `n` different dialogues (fewer where there are fewer): a dialogue by lot, then a place in it by lot."""
    by_dialogue: dict[str, list[int]] = {}
    for i, trace in enumerate(traces):
        by_dialogue.setdefault(trace.conversation_id, []).append(i)
    draw = np.random.default_rng(seed)
    dialogues = list(by_dialogue.values())
    order = draw.permutation(len(dialogues))[:n]
    return [int(draw.choice(dialogues[i])) for i in order]


def _training(folder: Path) -> dict[str, Any] | None:
    try:
        done = json.loads((folder / "summary.json").read_text("utf-8"))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    curve = [(r["step"], r["loss"]) for r in lines if "loss" in r]
    held = [(r["step"], r["eval_loss"]) for r in lines if "eval_loss" in r]
    return {
        "steps": [s for s, _ in curve],
        "loss": [v for _, v in curve],
        "eval_steps": [s for s, _ in held],
        "eval_loss": [v for _, v in held],
        "tokens": done.get("tokens", 0),
        "seconds": done.get("seconds", 0.0),
        "trainable": done.get("trainable_parameters", 0),
        "parameters": done.get("parameters", 0),
        "summary": f"{done.get('delta')}, {done.get('steps')} of {done.get('planned_steps')} planned steps, seed "
        f"{done.get('seed')}, data hash {done.get('data_hash')}",
    }


def machine_facts(seconds: dict[str, float] | None = None) -> dict[str, Any]:
    """What it ran on, and how long."""
    return {
        "cpu": platform.machine(),
        "cores": os.cpu_count() or 1,
        "gpu": _gpu(),
        "seconds": dict(seconds or {}),
    }


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def versions() -> dict[str, str]:
    """Library -> version, `missing` where it is not installed."""
    names = ("heedful", "torch", "transformers", "peft", "tokenizers", "numpy", "sacrebleu", "rouge-score", "nltk")
    out = {"python": platform.python_version()}
    for name in names:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "missing"
    return out
