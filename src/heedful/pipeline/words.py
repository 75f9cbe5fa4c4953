"""One line on what a stage came to, from its `summary.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def summary_of(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished stage; None if there is none that can be read."""
    try:
        found = json.loads((folder / "summary.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def report_of(folder: Path) -> Path | None:
    """The page to open: the report, else the model card."""
    for name in ("report.html", "README.md"):
        if (folder / name).is_file():
            return folder / name
    return None


def headline(summary: Mapping[str, Any] | None) -> str:
    """What a summary says, in one line: its own `headline` where it has one, else its main numbers.

    >>> headline({"kind": "train", "method": "sft", "steps": 150, "best_eval_loss": 3.21})
    '150 steps, validation loss 3.210'
    """
    if summary is None:
        return ""
    said = summary.get("headline")
    if isinstance(said, str):
        return said
    if summary.get("kind") == "eval":
        return _evaluation(summary)
    findings = summary.get("findings")
    if isinstance(findings, list) and findings and isinstance(findings[0], Mapping):
        return str(findings[0].get("text", ""))
    return _scorer(summary["evaluation"]) if isinstance(summary.get("evaluation"), Mapping) else _training(summary)


def _training(summary: Mapping[str, Any]) -> str:
    parts = []
    if isinstance(summary.get("steps"), int):
        parts.append(f"{summary['steps']:,} step{'' if summary['steps'] == 1 else 's'}")
    if isinstance(summary.get("best_eval_loss"), int | float):
        parts.append(f"validation loss {summary['best_eval_loss']:.3f}")
    reason = summary.get("stop_reason") or summary.get("stopped")
    if reason and reason not in ("done", "all"):
        parts.append(str(reason).rstrip("."))
    return ", ".join(parts)


def _scorer(found: Mapping[str, Any]) -> str:
    """Macro-F1 beside what the most frequent label alone would reach."""
    score, floor = found.get("macro_f1"), found.get("majority")
    if not isinstance(score, Mapping) or not isinstance(floor, Mapping):
        return ""
    value, low, high = (score.get(key) for key in ("value", "low", "high"))
    between = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
    said = "—" if value is None else f"{value:.1f}"
    return f"macro-F1 {said}{between}; always {floor['label']}: {floor['macro_f1']:.1f}"


def _evaluation(summary: Mapping[str, Any]) -> str:
    """The first metric that is there, for every model."""
    for name, about in summary.get("metrics", {}).items():
        values = [
            (system["name"], (system["metrics"].get(name) or {}).get("value"))
            for system in summary["systems"]
            if system["kind"] == "model"
        ]
        if any(value is not None for _, value in values):
            shown = ", ".join(f"{who} {'—' if value is None else f'{value:,.2f}'}" for who, value in values)
            return f"{about['title']}: {shown}"
    return ""
