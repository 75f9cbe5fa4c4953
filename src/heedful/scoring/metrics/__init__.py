"""The table of metrics and the named groups of it."""

from __future__ import annotations

from heedful.registry import Registry

_HERE = "heedful.scoring.metrics"

METRICS = Registry(
    "metric",
    {
        "sacrebleu": f"{_HERE}.bleu:SACREBLEU",
        "bleu1": f"{_HERE}.bleu:BLEU1",
        "bleu2": f"{_HERE}.bleu:BLEU2",
        "bleu3": f"{_HERE}.bleu:BLEU3",
        "bleu4": f"{_HERE}.bleu:BLEU4",
        "sentence_bleu": f"{_HERE}.sentence_bleu:SENTENCE_BLEU",
        "rouge1": f"{_HERE}.rouge:ROUGE1",
        "rouge2": f"{_HERE}.rouge:ROUGE2",
        "rougeL": f"{_HERE}.rouge:ROUGE_L",
        "rougeL_published": f"{_HERE}.rouge:ROUGE_L_PUBLISHED",
        "meteor": f"{_HERE}.meteor:METEOR",
        "meteor_exact_stem": f"{_HERE}.meteor:METEOR_EXACT_STEM",
        "distinct1": f"{_HERE}.distinct:DISTINCT1",
        "distinct2": f"{_HERE}.distinct:DISTINCT2",
        "distinct1_published": f"{_HERE}.distinct:DISTINCT1_PUBLISHED",
        "distinct2_published": f"{_HERE}.distinct:DISTINCT2_PUBLISHED",
        "distinct1_per1000": f"{_HERE}.distinct:DISTINCT1_PER_1000",
        "distinct2_per1000": f"{_HERE}.distinct:DISTINCT2_PER_1000",
        "f1": f"{_HERE}.overlap:F1",
        "length": f"{_HERE}.overlap:LENGTH",
        "reference_length": f"{_HERE}.reference_length:REFERENCE_LENGTH",
        "copy_rate": f"{_HERE}.overlap:COPY_RATE",
        "repetition": f"{_HERE}.overlap:REPETITION",
        "bertscore": f"{_HERE}.bertscore:BERTSCORE",
        "bertscore_precision": f"{_HERE}.bertscore:BERTSCORE_PRECISION",
        "bertscore_recall": f"{_HERE}.bertscore:BERTSCORE_RECALL",
        "bertscore_bf16": f"{_HERE}.bertscore:BERTSCORE_BF16",
        "similarity": f"{_HERE}.similarity:SIMILARITY",
        "accuracy": f"{_HERE}.classification:ACCURACY",
        "macro_f1": f"{_HERE}.classification:MACRO_F1",
        "weighted_f1": f"{_HERE}.classification:WEIGHTED_F1",
        "preference_bias": f"{_HERE}.classification:PREFERENCE_BIAS",
        "proactivity": f"{_HERE}.proactivity:PROACTIVITY",
        "top1": f"{_HERE}.classification:TOP1",
        "top3": f"{_HERE}.classification:TOP3",
        "accuracy_sampled": f"{_HERE}.classification:ACCURACY_SAMPLED",
        "embedding_extrema": f"{_HERE}.embedding:EMBEDDING_EXTREMA",
        "embedding_average": f"{_HERE}.embedding:EMBEDDING_AVERAGE",
        "embedding_greedy": f"{_HERE}.embedding:EMBEDDING_GREEDY",
    },
)
"""name -> Metric. Add one: a function in a file beside this one, and a line here."""

_LEXICAL = (
    "sacrebleu", "bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougeL", "meteor|meteor_exact_stem",
    "distinct1", "distinct2", "f1", "length", "copy_rate", "repetition",
)  # fmt: skip

_PUBLISHED = (
    "bleu1", "bleu2", "bleu3", "bleu4", "rougeL_published", "distinct1_published", "distinct2_published", "f1",
)  # fmt: skip
_EMBEDDING = ("embedding_extrema", "embedding_average", "embedding_greedy")
_CLASSIFICATION = ("accuracy", "macro_f1", "weighted_f1", "preference_bias")

GROUPS: dict[str, tuple[str, ...]] = {
    "published": _PUBLISHED,
    "esconv": (
        *_PUBLISHED, *_EMBEDDING, "rougeL", "distinct1", "distinct2", "distinct1_per1000", "distinct2_per1000",
        "length",
    ),
    "embedding": _EMBEDDING,
    "lexical": _LEXICAL,
    "all": (
        *_LEXICAL, "rougeL_published", "distinct1_published", "distinct2_published", "distinct1_per1000",
        "distinct2_per1000", "bertscore", "similarity",
    ),
    "classification": _CLASSIFICATION,
    "strategy": (*_CLASSIFICATION, "top1", "top3", "accuracy_sampled"),
}  # fmt: skip
"""Group -> names. `a|b` means: `a` where it can run here, else `b`, which keeps its own name."""
