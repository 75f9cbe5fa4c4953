"""How long the replies in the corpus are: what a bound on new tokens leaves of the recall of a score."""

from __future__ import annotations

from heedful.scoring.base import Metric, Result
from heedful.scoring.text import signature

REFERENCE_LENGTH = Metric(
    name="reference_length",
    title="words of the corpus' reply",
    definition="Words per reply in the corpus (split at white space), mean; the same for every system.",
    signature=lambda: signature("words:reference", "tok:space"),
    compute=lambda rows: Result.mean([len(text.split()) for text in rows.texts("reference")]),
    unit="words",
    higher_is_better=None,
    needs=("reference",),
)
