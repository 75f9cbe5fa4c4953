"""Proactivity: how often a supporter takes the initiative, by the strategy that it announced (KEMI; kemi.md)."""

from __future__ import annotations

from heedful.scoring.base import Metric, Result
from heedful.scoring.initiative import leads
from heedful.scoring.text import signature

PROACTIVITY = Metric(
    name="proactivity",
    title="proactivity",
    definition=(
        "Share of replies whose predicted strategy takes the initiative: Question, Restatement or Paraphrasing, "
        "Providing Suggestions, Information (KEMI, Deng et al. 2023). Neither end is good; people are at 50.4 on "
        "ESConv test, and the distance to them is what counts."
    ),
    signature=lambda: signature("proactivity", "esconv_strategy--initiative"),
    compute=lambda rows: Result.mean([leads(label) for label in rows.predicted if label is not None], scale=100.0),
    higher_is_better=None,
    needs=("predicted",),
)
