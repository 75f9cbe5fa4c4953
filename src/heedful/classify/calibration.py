"""How far a probability can be believed: temperature, expected calibration error, reliability.

Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heedful.classify.base import Floats, Ints

BINS = 15
_LOWEST, _HIGHEST = 0.05, 20.0


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Turns whose highest probability lies in (low, high].

    Args:
        n: how many.
        confidence: mean of that probability.
        accuracy: share whose most probable label is the gold one.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Rows of (N, C) as probabilities: softmax(logits / temperature)."""
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True, initial=-np.inf)
    powers = np.exp(scaled)
    found: Floats = powers / powers.sum(axis=1, keepdims=True)
    return found


def negative_log_likelihood(logits: Floats, targets: Ints, temperature: float = 1.0) -> float:
    """Mean over N of -log p(gold label), in nats."""
    chosen = softmax(logits, temperature)[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(chosen, 1e-300)).mean())


def fit_temperature(logits: Floats, targets: Ints) -> float:
    """The temperature in [0.05, 20] with the lowest negative log-likelihood; it changes no ranking.

    The likelihood has one peak in 1 / temperature, so the interval is narrowed by golden sections, on a log scale.
    """
    shrink = (5**0.5 - 1) / 2
    low, high = np.log(_LOWEST), np.log(_HIGHEST)
    for _ in range(60):
        left, right = high - shrink * (high - low), low + shrink * (high - low)
        if negative_log_likelihood(logits, targets, np.exp(left)) <= negative_log_likelihood(
            logits, targets, np.exp(right)
        ):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def reliability(probabilities: Floats, targets: Ints) -> list[Bin]:
    """The bins of equal width that hold any turn, from unsure to sure."""
    top = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    at = np.clip(np.ceil(top * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return [
        Bin(
            low=k / BINS,
            high=(k + 1) / BINS,
            n=int((at == k).sum()),
            confidence=float(top[at == k].mean()),
            accuracy=float(right[at == k].mean()),
        )
        for k in range(BINS)
        if (at == k).any()
    ]


def calibration_error(probabilities: Floats, targets: Ints) -> float:
    """Expected calibration error: mean over turns of |accuracy - confidence| of their bin, 15 bins, in [0, 1]."""
    bins = reliability(probabilities, targets)
    return sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / sum(b.n for b in bins)
