"""What several rewards share: one table of rows per batch, empty replies, references, and the words before a reply.

Three rules hold for every reward of heedful, so that a policy has no way around a reward:

- *An empty reply is a reply.* It has nothing that a person can see, and it gets the lowest value that the reward gives
  for likeness, and 0 where a penalty counts what is there. It is never unscored.
- *No reference, no value.* A reply that a person wrote no counterpart for is unscored, with that reason.
- *A value belongs to one reply.* It does not depend on the other replies of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from heedful.safety.wording import empty
from heedful.scoring.base import Floats, Metric, Rows
from heedful.scoring.rewards.base import Task, Value
from heedful.types import Score, Trace

Over = Literal["context", "client", "user"]
"""Words before a reply: of everybody (context and user input), of the help-seeker, or of their last turn alone."""

NO_REFERENCE = "no reference"


def unscored(name: str, reason: str) -> Score:
    """No value, and why."""
    return Score(name=name, value=None, source="reward", reason=reason)


def reference(task: Task) -> str | None:
    """What a person wrote there, or None."""
    text = task.reference.text if task.reference is not None else ""
    return None if empty(text) else text


def before(task: Task, over: Over) -> str:
    """The words before the reply, oldest first; empty where there are none."""
    if over == "user":
        return task.said or ""
    roles = ("user",) if over == "client" else ("user", "assistant")
    return " ".join(turn.text for turn in task.context.turns if turn.role in roles)


@lru_cache(maxsize=4)
def rows(replies: tuple[str, ...], references: tuple[str, ...] = (), contexts: tuple[str, ...] = ()) -> Rows:
    """The rows of one batch; the components of a reward set ask in turn, and each text is tokenised once for all."""
    return Rows.of(replies, references, contexts=contexts)


def per_row(metric: Metric, table: Rows) -> Floats:
    """A metric's value of every row by itself, on a scale of 1, shape (N,); NaN = the metric has none."""
    result = metric.compute(table)
    if result.per_sample is not None:
        return result.per_sample / 100.0
    # A corpus metric: its value on that row alone.
    assert result.statistics is not None
    assert result.combine is not None
    return result.combine(result.statistics) / 100.0


def against_reference(
    name: str,
    traces: Sequence[Trace],
    tasks: Sequence[Task],
    values: Callable[[Rows], Floats],
    *,
    of_empty: float = 0.0,
) -> list[Value]:
    """`values` of all replies that have a reference; `of_empty` for empty ones."""
    references = [reference(task) for task in tasks]
    there = {i: text for i, text in enumerate(references) if text is not None}
    found: list[Value] = [unscored(name, NO_REFERENCE)] * len(traces)
    if there:
        table = rows(tuple(traces[i].reply for i in there), tuple(there.values()))
        for i, value in zip(there, np.asarray(values(table)).tolist(), strict=True):
            found[i] = of_empty if empty(traces[i].reply) else value
    return found
