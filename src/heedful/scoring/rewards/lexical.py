"""Rewards that count words: copying, repetition, and overlap with the reference.

All are computed by the metrics of the same kind (`heedful.scoring.metrics`), so a value here times 100 is the metric's
value of that reply. Tokens of `copy`, `repetition` and BLEU are lower-cased NLTK tokens after a sentence split, those
of ROUGE runs of [a-z0-9].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heedful.scoring.base import Metric
from heedful.scoring.metrics.bleu import BLEU1
from heedful.scoring.metrics.meteor import METEOR, METEOR_EXACT_STEM
from heedful.scoring.metrics.overlap import COPY_RATE, REPETITION
from heedful.scoring.metrics.rouge import ROUGE1, ROUGE2, ROUGE_L
from heedful.scoring.rewards.base import Task, Value, reward
from heedful.scoring.rewards.texts import Over, against_reference, before, per_row, rows
from heedful.types import Trace


@reward(higher_is_better=False)
def copy(traces: Sequence[Trace], tasks: Sequence[Task], *, over: Over = "context") -> list[Value]:
    """Share of a reply's 4-grams, repeats included, that occur in the words before it; 0 without a 4-gram.

    p_copy of context-emotion RL: it keeps `relevance` from rewarding an echo. A reply under four tokens copied nothing,
    so it has 0 and not no value.

    Args:
        over: `context` = what everybody said before (context and user input), `client` = the help-seeker alone, `user`
            = their last turn.
    """
    table = rows(tuple(t.reply for t in traces), contexts=tuple(before(task, over) for task in tasks))
    return list(np.nan_to_num(per_row(COPY_RATE, table), nan=0.0).tolist())


@reward(higher_is_better=False)
def repetition(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Value]:
    """1 - different 3-grams / 3-grams within a reply; 0 without a 3-gram.

    p_rep of context-emotion RL.
    """
    table = rows(tuple(t.reply for t in traces))
    return list(np.nan_to_num(per_row(REPETITION, table), nan=0.0).tolist())


@reward()
def bleu1(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Value]:
    """BLEU-1 of the reply against the reference by itself: clipped word precision times brevity penalty.

    The value of the metric `bleu1` on that reply alone. READER's own BLEU-1 splits at blanks and keeps case; it is part
    of `reader_released`.
    """
    return _overlap(BLEU1, traces, tasks)


@reward()
def rouge1(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Value]:
    """ROUGE-1 F of the reply against the reference, [a-z0-9] tokens, no stemming; equal to rouge-score."""
    return _overlap(ROUGE1, traces, tasks)


@reward()
def rouge2(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Value]:
    """ROUGE-2 F of the reply against the reference, [a-z0-9] tokens, no stemming; equal to rouge-score."""
    return _overlap(ROUGE2, traces, tasks)


@reward()
def rougeL(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Value]:  # noqa: N802
    """ROUGE-L F of the reply against the reference, [a-z0-9] tokens, no stemming; equal to rouge-score."""
    return _overlap(ROUGE_L, traces, tasks)


@reward()
def meteor(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Value]:
    """METEOR of the reply against the reference, with WordNet synonyms; equal to nltk.translate.meteor_score.

    Raises:
        NotFoundError: WordNet is not here. Ask for `meteor_exact_stem` instead, which is another number.
    """
    return _overlap(METEOR, traces, tasks)


@reward()
def meteor_exact_stem(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Value]:
    """As `meteor`, without the synonym stage: lower than METEOR and not to be compared with it."""
    return _overlap(METEOR_EXACT_STEM, traces, tasks)


def _overlap(metric: Metric, traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Value]:
    return against_reference(metric.name, traces, tasks, lambda table: per_row(metric, table))
