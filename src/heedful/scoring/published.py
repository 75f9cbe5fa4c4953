"""The published recipe for ESConv replies (GitHub thu-coai/Emotional-Support-Conversation, `codes_zcj`) and its floors.

What the recipe fixes: references and replies in lower case; sentence split, then Treebank-like tokens; BLEU-k by NLTK's
`corpus_bleu` with smoothing method3; ROUGE-L with beta 1.2; distinct-k whose loop drops each reply's last k-gram.
ESConv papers of one split are comparable only under it, and a single constant sentence reaches the BLEU and ROUGE-L of
many of them, so the floors belong beside every score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heedful.errors import DataError
from heedful.scoring.base import Rows

HEADINGS = {
    "bleu1": "B-1",
    "bleu2": "B-2",
    "bleu3": "B-3",
    "bleu4": "B-4",
    "rougeL_published": "R-L",
    "distinct1_published": "D-1",
    "distinct2_published": "D-2",
    "f1": "F1",
}
"""Metric of the recipe -> its column heading in papers; the group `published` of `metrics/__init__.py`."""

GLHG_PRINTED = {
    "bleu1": 19.66,
    "bleu2": 7.57,
    "bleu3": 3.74,
    "bleu4": 2.13,
    "distinct1_published": 3.50,
    "distinct2_published": 21.61,
}
"""What GLHG (Peng et al., IJCAI 2022) printed and its released replies reproduce to 0.01 (2,801 rows of the zcj test
part).

Its printed ROUGE-L 16.37 and perplexity 15.67 are not reproduced by them, so they are left out; see `GLHG_MEASURED`.
"""

GLHG_MEASURED = {"rougeL_published": 16.05, "perplexity": 16.11}
"""What the same replies and the losses stored with them give."""

FIXED_REPLY = "I understand how you feel. I am so sorry to hear that. Have you tried to talk to someone about it?"
"""One sentence for every turn. On the ESConv test part it scores BLEU-2 6.4 and ROUGE-L 16.2, level with published
systems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexities:
    """Three numbers that papers call perplexity, from the same losses. Only `token` is one.

    Args:
        token: exp(sum of losses over all tokens / number of tokens).
        of_mean_loss: exp(mean over replies of their mean loss); short, easy replies weigh as much as long ones.
        mean: mean over replies of their perplexities; one strange reply can decide it.
    """

    token: float
    of_mean_loss: float
    mean: float


def perplexities(losses: Sequence[float], tokens: Sequence[float]) -> Perplexities:
    """Perplexities from stored losses.

    Args:
        losses: mean negative log-likelihood per token of each reply, in nats.
        tokens: number of tokens of each reply.

    Raises:
        DataError: no reply, a different number of both, a reply without tokens, or a loss that is no number.
    """
    mean, count = np.asarray(losses, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if not len(mean) or mean.shape != count.shape:
        raise DataError(f"A perplexity needs one loss and one length per reply, but got {len(mean)} and {len(count)}.")
    if not (np.isfinite(mean).all() and (count > 0).all()):
        raise DataError("A perplexity needs a finite loss and at least one token for every reply.")
    return Perplexities(
        token=float(np.exp((mean * count).sum() / count.sum())),
        of_mean_loss=float(np.exp(mean.mean())),
        mean=float(np.exp(mean).mean()),
    )


def floors(rows: Rows) -> dict[str, Rows]:
    """Trivial systems on the same rows: one fixed reply, and the client's last turn said back (where there is one).

    Rows that the system left unanswered stay unanswered, so that all columns are about the same rows.
    """
    answered = [reply is not None for reply in rows.hypotheses]
    found = {"fixed reply": rows.with_hypotheses([FIXED_REPLY if there else None for there in answered])}
    if any(context is not None for context in rows.contexts):
        copies = [context if there else None for context, there in zip(rows.contexts, answered, strict=True)]
        found["copy of last turn"] = rows.with_hypotheses(copies)
    return found
