"""The page of a study: findings in words, replies side by side, then a table per decoding and the labels.

summary (a mapping, as in summary.json) -> one view per decoding, as for a single evaluation -> study.html.j2
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.evaluation import report
from heedful.evaluation._study_words import findings
from heedful.evaluation._summary import Example, Summary, read
from heedful.evaluation._words import RULES
from heedful.evaluation.emotion import NOTHING, SCORES
from heedful.pages import page as pages
from heedful.pages.numbers import digits, visible


@dataclass(frozen=True, kw_only=True)
class _Seeds:
    """One score of one system with the value of each seed."""

    metric: str
    system: str
    values: tuple[float, ...]
    places: int

    @property
    def spread(self) -> float:
        """Largest minus smallest."""
        return max(self.values) - min(self.values)


def render(summary: Mapping[str, Any]) -> str:
    """The page as text; the same summary gives the same text.

    Args:
        summary: as written to `summary.json` by `heedful eval study`.

    Raises:
        DataError: an entry is missing, of the wrong type, or names something that is not there.
    """
    shown = pages.clean(summary)
    boards = {name: read(one_decoding(shown, name)) for name in shown["decodings"]}
    lead = report.view(next(iter(boards.values())))
    examples = [Example.model_validate(example) for example in shown["examples"]]
    title, note = RULES["random"]
    view = {
        **lead,
        "study": shown,
        "claims": findings(shown),
        "boards": {name: report.view(board) for name, board in boards.items()},
        "seeds": {name: _seeds(shown, name, boards[name]) for name in boards},
        "troubles": {name: _troubles(shown, name) for name in boards},
        "about": {system["name"]: system for system in shown["systems"]},
        "samples": {"title": title, "note": note, "examples": [(e, tuple(e.replies.items())) for e in examples]},
        "label_scores": SCORES,
        "nothing": NOTHING,
    }
    return report.environment().get_template("study.html.j2").render(view)


def write(path: str | os.PathLike[str], summary: Mapping[str, Any]) -> Path:
    """Write the page to `path` in one step; only the owner may read it, as it may hold conversations.

    Raises:
        DataError: as in `render`; nothing is written then.
        RunError: the file cannot be written.
    """
    return pages.write(path, render(summary))


def one_decoding(summary: Mapping[str, Any], decoding: str) -> dict[str, Any]:
    """One decoding of a study as the summary of an evaluation."""
    systems = [
        {
            **system,
            "metrics": summary["scores"][decoding][system["name"]],
            "finish": summary["endings"][decoding][system["name"]],
        }
        for system in summary["systems"]
    ]
    return {
        **{key: summary[key] for key in ("heedful", "created", "command", "corpus", "seed", "metrics")},
        **{key: summary[key] for key in ("machine", "versions", "limits")},
        "title": f"{summary['title']}, {decoding}",
        "format": None,
        "dtype": None,
        "decoding": summary["decodings"][decoding],
        "systems": systems,
        "comparisons": [c for c in summary["comparisons"] if c["decoding"] == decoding],
        "examples": [],
        "training": None,
    }


def _troubles(summary: Mapping[str, Any], decoding: str) -> list[str]:
    """Rewards that left their declared range or failed, as sentences."""
    found = []
    for system, scores in summary["scores"][decoding].items():
        for metric, score in scores.items():
            title = summary["metrics"][metric]["title"]
            if score.get("clipped"):
                found.append(f"{title}, {system}: {score['clipped']:,} values outside the declared range were clipped.")
            if score.get("raised"):
                found.append(
                    f"{title}, {system}: the function failed at {score['raised']:,} replies; they are unscored."
                )
    return found


def _seeds(summary: Mapping[str, Any], decoding: str, board: Summary) -> Sequence[_Seeds]:
    """Rows of the table of seeds, in the order of the main table; empty where nothing was drawn."""
    found = []
    for metric in board.metrics:
        for system in board.systems:
            score = summary["scores"][decoding][system.name].get(metric) or {}
            values = tuple((score.get("seeds") or {}).values())
            if values and None not in values:
                places = visible(digits([(score["value"], score["low"], score["high"])]), *values)
                title = board.metrics[metric].title
                found.append(_Seeds(metric=title, system=system.name, values=values, places=places))
    return found
