"""Rewards of meaning: cosines of sentence vectors, and BERTScore.

The encoder is the one of the metrics (`heedful.scoring.metrics.bertscore.encoder`), and it remembers: each distinct
text goes through it once, whichever reward asks first. BERTScore runs before the others, because its token states hold
the sentence vectors too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from heedful.models.encoder import SentenceEncoder
from heedful.safety.wording import empty
from heedful.scoring.base import Floats, Rows
from heedful.scoring.metrics import bertscore as shared
from heedful.scoring.rewards.base import Task, Value, reward
from heedful.scoring.rewards.texts import Over, against_reference, before, unscored
from heedful.types import Trace

RECENT_WORDS = 160
"""Words before a reply that `relevance` looks at, newest last. A sentence vector of MiniLM ends after 256 word pieces,
and it would drop the end, which is what the help-seeker has just said."""

NOTHING_SAID = "nothing was said before the reply"


@cache
def _other(name: str) -> SentenceEncoder:
    return SentenceEncoder.load(name)


def cosines(left: Sequence[str], right: Sequence[str], *, encoder: str = "minilm") -> Floats:
    """Cosine per pair, shape (N,), within [-1, 1].

    Args:
        encoder: `minilm`, or a folder or Hugging Face name of a BERT-like encoder.
    """
    model = shared.encoder() if encoder == "minilm" else _other(encoder)
    vectors = model.encode([*left, *right]).astype(np.float64)
    products = np.einsum("nd,nd->n", vectors[: len(left)], vectors[len(left) :])
    found: Floats = np.clip(products, -1.0, 1.0)
    return found


def bertscore_f1(table: Rows) -> Floats:
    """BERTScore F1 of every row, shape (N,).

    bert-score pads texts in batches of 64, and its values move with the neighbours (by up to 0.003 among 26 invented
    pairs). Here each pair stands alone, so this is the metric's value of that reply by itself.
    """
    states = shared.encoder().token_embeddings([*table.texts("hypothesis"), *table.texts("reference")])
    pairs = zip(states[: len(table)], states[len(table) :], strict=True)
    return np.array([shared.bert_scores([reply], [wanted])[0, 2] for reply, wanted in pairs])


@reward()
def similarity(traces: Sequence[Trace], tasks: Sequence[Task], *, encoder: str = "minilm") -> list[Value]:
    """max(0, cosine) of the sentence vectors of reply and reference; 0 for an empty reply.

    r_sim of context-emotion RL: agreement with the therapist by meaning.
    """

    def values(table: Rows) -> Floats:
        return np.maximum(cosines(table.texts("hypothesis"), table.texts("reference"), encoder=encoder), 0.0)

    return against_reference("similarity", traces, tasks, values)


@reward()
def relevance(
    traces: Sequence[Trace], tasks: Sequence[Task], *, over: Over = "context", encoder: str = "minilm"
) -> list[Value]:
    """max(0, cosine) of the sentence vectors of the reply and of the words before it; 0 for an empty reply.

    r_ctx of context-emotion RL. An echo would have 1, so `copy` belongs beside it. Of the words before, the last 160
    count. Where nothing was said, there is no value.

    Args:
        over: as in `copy`.
    """
    heard = [" ".join(before(task, over).split()[-RECENT_WORDS:]) for task in tasks]
    there = [i for i, words in enumerate(heard) if not empty(words)]
    found: list[Value] = [unscored("relevance", NOTHING_SAID)] * len(traces)
    if there:
        values = cosines([traces[i].reply for i in there], [heard[i] for i in there], encoder=encoder)
        for i, value in zip(there, np.maximum(values, 0.0).tolist(), strict=True):
            found[i] = 0.0 if empty(traces[i].reply) else value
    return found


@reward(stage=0)
def bertscore(traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Value]:
    """max(0, BERTScore F1) of the reply against the reference (all-MiniLM-L6-v2, layer 6); 0 for an empty reply.

    The value of the metric `bertscore` on that reply by itself. No idf, no baseline.
    """
    return against_reference("bertscore", traces, tasks, lambda table: np.maximum(bertscore_f1(table), 0.0))
