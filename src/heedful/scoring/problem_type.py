"""What GLHG's monitor says of a talk: the seeker's problem type, read from the global node, beside its floor.

The monitor is easy: a bag of words over the seeker's situation names the problem type of four talks in five (glhg.md,
traps). So its figures never stand without the most frequent type, and say nothing about the replies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from heedful import taxonomy
from heedful.formats import Guide, TokenTree
from heedful.models.causal import CausalModel
from heedful.models.graph import Graph
from heedful.models.graph_layout import Layout
from heedful.scoring.base import Rows
from heedful.scoring.intervals import interval
from heedful.scoring.metrics.classification import ACCURACY, MACRO_F1, per_class_recall


def problem_of(guide: Guide, problem_set: str) -> str | None:
    return taxonomy.get(problem_set).resolve(guide.problem) if guide.problem else None


def majority(trees: Sequence[TokenTree], problem_set: str) -> str | None:
    """The most frequent problem type of the replies in `trees`."""
    guides = [g for tree in trees for g in tree.guides if g is not None]
    counted = Counter(name for g in guides if (name := problem_of(g, problem_set)) is not None)
    return counted.most_common(1)[0][0] if counted else None


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the monitor says at one reply, and what is true."""

    conversation: str
    gold: str
    predicted: str


def told_problems(causal: CausalModel, trees: Sequence[TokenTree], problem_set: str) -> Iterator[Told]:
    """The monitor's word at each reply whose problem type is known; the model is in evaluation mode."""
    graph: Graph = causal.graph
    for tree in sorted(trees, key=lambda t: -len(t)):
        layout: Layout = graph.lay_out([tree], pad_id=causal.pad_id)
        batch = {name: value.to(causal.device) for name, value in layout.tensors().items()}
        with torch.no_grad():
            found = graph.said(graph.open(causal.model, batch, None)).argmax(1).tolist()
        for name, at in zip(layout.samples, layout.target.tolist(), strict=True):
            gold = problem_of(layout.guides[at], problem_set)
            if gold is not None:
                yield Told(conversation=name.rpartition("/")[0], gold=gold, predicted=graph.shape.problems[found[at]])


def figures(told: Sequence[Told], *, labels: Sequence[str], most: str | None) -> dict[str, Any] | None:
    """Accuracy and macro-F1 of the monitor beside always saying `most`, times 100, and how often each type is found.

    Intervals of 95 % by bootstrap over conversations. None where no problem type is known.
    """
    if not told:
        return None
    gold, clusters = [t.gold for t in told], [t.conversation for t in told]
    rows = {"monitor": [t.predicted for t in told]}
    if most is not None:
        rows["majority"] = [most] * len(told)
    table = {}
    for name, said in rows.items():
        filled = Rows.of(gold=gold, predicted=said, clusters=clusters, labels=tuple(labels))
        table[name] = {metric.name: _with_interval(metric, filled) for metric in (ACCURACY, MACRO_F1)}
    own = Rows.of(gold=gold, predicted=rows["monitor"], clusters=clusters, labels=tuple(labels))
    return {
        "n": len(told),
        "conversations": len(set(clusters)),
        "labels": dict(Counter(gold)),
        "rows": table,
        "recall": {name: None if v is None else 100 * v for name, v in per_class_recall(own).items()},
    }


def _with_interval(metric: Any, rows: Rows) -> dict[str, float | None]:
    result = metric.compute(rows)
    low, high = interval(result, rows.cluster_index) or (None, None)
    return {"value": result.value, "low": low, "high": high}
