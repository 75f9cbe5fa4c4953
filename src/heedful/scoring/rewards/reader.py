"""READER's composite rewards (Srivastava et al., WWW 2023): as its released code has it, and as the paper says it.

The paper's formula and weights are not known; `reader_paper` is our choice. Both take their act term from a scorer of
ours; without one there is no act term. A reply whose next act nobody labelled is then unscored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np

from heedful.safety.wording import empty
from heedful.scoring.base import Floats, Rows
from heedful.scoring.metrics.rouge import ROUGE1, ROUGE2, ROUGE_L
from heedful.scoring.rewards.base import Task, Value, reward
from heedful.scoring.rewards.labels import gold_label, judge
from heedful.scoring.rewards.similarity import bertscore_f1, cosines
from heedful.scoring.rewards.texts import against_reference, per_row, unscored
from heedful.types import Trace

SHIFT_RELEASED, SHIFT_PAPER = -0.2, -0.5
ACT_RELEASED, ACT_PAPER = 0.1, 0.5
"""Weights of the act term."""
LOGITS = 100.0
"""Largest logit that the declared range has room for."""


class Classifier(Protocol):
    """What is asked of a scorer, as `heedful.classify.load` gives it."""

    @property
    def label_set(self) -> str:
        """Name of its label set."""

    @property
    def labels(self) -> Sequence[str]:
        """C labels, in the order of its columns."""

    def probabilities(self, texts: Sequence[str], contexts: Sequence[Sequence[str]]) -> Floats:
        """Shape (N, C)."""

    def logits(self, texts: Sequence[str], contexts: Sequence[Sequence[str]]) -> Floats:
        """Shape (N, C)."""


@reward(low=-1.2 - ACT_RELEASED * LOGITS, high=8.8 + ACT_RELEASED * LOGITS)
def reader_released(
    traces: Sequence[Trace],
    tasks: Sequence[Task],
    *,
    scorer: Any = None,
    act: Literal["logit", "probability"] = "logit",
    encoder: str = "minilm",
) -> list[Value]:
    """cos + BLEU1 + ROUGE1 + 4 ROUGE2 + 2 ROUGE-L - 0.2 + 0.1 C[next act]; without `scorer` the last term is left out.

    READER's released code: cosine of the sentence vectors, NLTK's sentence BLEU of order 1 on words split at blanks
    with brevity penalty, ROUGE F. A reply equal to its reference of two or more words has 8.8 before the act term, one
    without a word in common cosine - 0.2. Eight of the nine units of weight count words.

    Ours differs in two places: the encoder is all-MiniLM-L6-v2, not paraphrase-MiniLM-L3-v2 (`encoder` takes a folder),
    and C is a classifier in evaluation mode with one output per act, not 43.

    An empty reply has cosine -1 and the act term of the least likely act.

    Args:
        scorer: folder of a scorer run, or a classifier, for the act term.
        act: `logit` as released, which has no fixed scale, or the clean `probability`.
    """

    def values(table: Rows) -> Floats:
        near = cosines(table.texts("hypothesis"), table.texts("reference"), encoder=encoder)
        rouge = per_row(ROUGE1, table) + 4.0 * per_row(ROUGE2, table) + 2.0 * per_row(ROUGE_L, table)
        found: Floats = near + _bleu1(table) + rouge + SHIFT_RELEASED
        return found

    worst = -1.0 + SHIFT_RELEASED
    base = against_reference("reader_released", traces, tasks, values, of_empty=worst)
    return _with_act("reader_released", base, traces, tasks, scorer, kind=act, weight=ACT_RELEASED)


@reward(low=-1.0 + SHIFT_PAPER, high=1.0 + ACT_PAPER + SHIFT_PAPER, stage=0)
def reader_paper(
    traces: Sequence[Trace],
    tasks: Sequence[Task],
    *,
    scorer: Any = None,
    bertscore_weight: float = 1.0,
    act_weight: float = ACT_PAPER,
) -> list[Value]:
    """BERTScore F1 + 0.5 P(next act) - 0.5; without `scorer` the second term is left out.

    Our reading of READER's paper, which gives neither formula nor weights. P is the probability that a scorer gives to
    the act of the reference. With other weights, set `range` as well.

    An empty reply has F1 0 and probability 0.

    Args:
        scorer: folder of a scorer run, or a classifier, for the act term.
        bertscore_weight, act_weight: w_B and w_A.
    """
    base = against_reference(
        "reader_paper",
        traces,
        tasks,
        lambda table: bertscore_weight * bertscore_f1(table) + SHIFT_PAPER,
        of_empty=SHIFT_PAPER,
    )
    return _with_act("reader_paper", base, traces, tasks, scorer, kind="probability", weight=act_weight)


def _bleu1(table: Rows) -> Floats:
    """NLTK's `sentence_bleu([reference.split()], reply.split(), weights=[1])`: case and punctuation are kept."""
    encoded = table.encoded("space", "hypothesis", "reference")
    reply, wanted = encoded.lengths("hypothesis"), encoded.lengths("reference")
    there = np.maximum(reply, 1)
    found: Floats = np.exp(np.minimum(0.0, 1.0 - wanted / there)) * encoded.matches(1) / there
    return found


def _with_act(
    name: str,
    base: list[Value],
    traces: Sequence[Trace],
    tasks: Sequence[Task],
    scorer: Any,
    *,
    kind: Literal["logit", "probability"],
    weight: float,
) -> list[Value]:
    """`base` plus `weight` times what the scorer gives to the act of each reference."""
    if scorer is None:
        return base
    model: Classifier = judge(scorer) if isinstance(scorer, str) else scorer
    gold = [gold_label(task, model.label_set, "reference") for task in tasks]
    column = {label: at for at, label in enumerate(model.labels)}
    due = [i for i, value in enumerate(base) if isinstance(value, float) and gold[i] in column]
    found: list[Value] = [value if not isinstance(value, float) else None for value in base]
    if due:
        texts = [traces[i].reply for i in due]
        heard = [[turn.text for turn in tasks[i].context.turns] for i in due]
        given = model.logits(texts, heard) if kind == "logit" else model.probabilities(texts, heard)
        for i, row in zip(due, given, strict=True):
            nothing = float(row.min()) if kind == "logit" else 0.0
            term = nothing if empty(traces[i].reply) else float(row[column[cast(str, gold[i])]])
            found[i] = cast(float, base[i]) + weight * term
    no_label = unscored(name, f"no label of the set {model.label_set} on the reference that the scorer knows")
    return [no_label if value is None else value for value in found]
