"""Perplexity of the human replies under a model: per token, word and byte, bits per character; with intervals.

    PPL_token = exp(sum NLL / tokens)          end token counted, plan tokens (strategy, emotion tag) not
    PPL_word  = exp(sum NLL / (words + 1))     +1 for the end of each reply
    PPL_byte  = exp(sum NLL / (bytes + 1))     comparable between tokenizers, as PPL_word is
    BPC       = sum NLL / ln 2 / (characters + 1)   bits per character, likewise

Source: esconv.md, "Metrics". Token perplexities of models with different tokenizers are not comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heedful.models.forward import SampleLoss
from heedful.scoring.base import Floats, Result
from heedful.scoring.intervals import Paired, interval, paired

TITLES = {
    "ppl_token": "Perplexity per token",
    "ppl_word": "Perplexity per word",
    "ppl_byte": "Perplexity per byte",
    "bits_per_character": "Bits per character",
    "ppl_plan": "Perplexity of the plan",
}
DEFINITIONS = {
    "ppl_token": "exp(sum of negative log-likelihoods / number of tokens) over the reference replies with their end "
    "token; plan tokens are left out. Only comparable under one tokenizer.",
    "ppl_word": "exp(sum of negative log-likelihoods / (words + 1 per reply)), words split at blanks.",
    "ppl_byte": "exp(sum of negative log-likelihoods / (UTF-8 bytes + 1 per reply)).",
    "bits_per_character": "sum of negative log-likelihoods / ln 2 / (characters + 1 per reply).",
    "ppl_plan": "exp(sum of negative log-likelihoods of plan tokens / their number).",
}
SCALES = {name: "0 and up" if name == "bits_per_character" else "1 and up" for name in TITLES}


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """One value with its 95 % interval (None with a single dialogue)."""

    value: float
    low: float | None
    high: float | None
    n: int


def results(losses: Sequence[SampleLoss]) -> dict[str, Result]:
    """Metric name -> result that can be resampled; statistics are (NLL, units) per reply."""
    nll = np.array([s.text_nll for s in losses])
    units = {
        "ppl_token": np.array([s.text_tokens for s in losses]),
        "ppl_word": np.array([s.words + 1 for s in losses]),
        "ppl_byte": np.array([s.bytes + 1 for s in losses]),
    }
    out = {name: Result.from_sums(np.column_stack([nll, count]), _exp_ratio) for name, count in units.items()}
    characters = [s.characters for s in losses if s.characters is not None]
    if len(characters) == len(losses):
        out["bits_per_character"] = Result.from_sums(np.column_stack([nll, np.array(characters) + 1]), _bits)
    if any(s.plan_tokens for s in losses):
        plan = np.array([[s.plan_nll, s.plan_tokens] for s in losses])
        out["ppl_plan"] = Result.from_sums(plan, _exp_ratio)
    return out


def table(losses: Sequence[SampleLoss], clusters: Sequence[str], *, draws: int, seed: int) -> dict[str, Perplexity]:
    """Perplexities with intervals over `clusters` (the dialogue of each reply)."""
    numbers = np.unique(np.asarray(clusters), return_inverse=True)[1]
    out = {}
    for name, result in results(losses).items():
        ends = interval(result, numbers, draws=draws, seed=seed) if draws else None
        low, high = ends or (None, None)
        out[name] = Perplexity(value=result.value, low=low, high=high, n=len(losses))
    return out


def difference(
    first: Sequence[SampleLoss], second: Sequence[SampleLoss], clusters: Sequence[str], *, draws: int, seed: int
) -> Mapping[str, Paired | None]:
    """Second minus first model on the same replies."""
    numbers = np.unique(np.asarray(clusters), return_inverse=True)[1]
    a, b = results(first), results(second)
    return {name: paired(a[name], b[name], numbers, draws=draws, seed=seed) for name in a if name in b}


def _bits(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = sums[:, 0] / sums[:, 1] / np.log(2)
    return out


def _exp_ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        out: Floats = np.exp(sums[:, 0] / sums[:, 1])
    return out
