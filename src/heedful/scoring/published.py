"""The published recipe for ESConv replies (GitHub thu-coai/Emotional-Support-Conversation, `codes_zcj`) and its floors.

What the recipe fixes: references and replies in lower case; sentence split, then Treebank-like tokens; BLEU-k by NLTK's
`corpus_bleu` with smoothing method3; ROUGE-L with beta 1.2; distinct-k whose loop drops each reply's last k-gram.
ESConv papers of one split are comparable only under it, and a single constant sentence reaches the BLEU and ROUGE-L of
many of them, so the floors belong beside every score.
"""

from __future__ import annotations

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

Its printed ROUGE-L 16.37 and perplexity 15.67 are not reproduced by them (16.05 and 16.11), so they are left out.
"""

FIXED_REPLY = "I understand how you feel. I am so sorry to hear that. Have you tried to talk to someone about it?"
"""One sentence for every turn. On the ESConv test part it scores BLEU-2 6.4 and ROUGE-L 16.2, level with published
systems."""


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
