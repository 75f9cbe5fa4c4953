"""From rewards to advantages. Plain arithmetic on arrays; tokens of N replies lie one after the other, [M] in all."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scale = Literal["group", "batch", "none"]

EPSILON = 1e-4
"""Added to a standard deviation before it divides, as in TRL."""


def grouped(rewards: Floats, group: Ints, *, scale: Scale = "group") -> Floats:
    """GRPO (Shao et al. 2024, eq. 5): (R - mean of its group) / (standard deviation + 1e-4); [N] -> [N].

    Args:
        rewards: NaN = unscored, left out of mean and spread; its advantage is 0.
        group: [N] number of the prompt that the reply answers.
        scale: which standard deviation divides: of the group, of the whole batch, or none (Dr. GRPO, Liu et al. 2025).
    """
    centred = rewards - _means(rewards, group)
    if scale == "group":
        centred = centred / (_spreads(rewards, group) + EPSILON)
    elif scale == "batch":
        centred = centred / (_spread(rewards) + EPSILON)
    return np.nan_to_num(centred, nan=0.0)


def normalised_sum(
    values: Floats,
    weights: Floats,
    group: Ints,
    *,
    unscored: npt.NDArray[np.bool_],
    gated: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """GDPO (normalize_then_sum in TRL): each component is normalised within its group, then weighted, summed, and the
    sum normalised over the batch, so that a component with a small spread is not drowned by one with a large one.

    Args:
        values: [N, K], NaN = unscored.
        weights: [K].
        unscored: [N] True where the reply has no total; none of its values counts, and its advantage is 0.
        gated: [N] True where a gate failed: its sum is one less than the least sum of the other replies.
    """
    counts = weights != 0
    values = np.where(unscored[:, None], np.nan, values)
    parts = np.stack(
        [(c - _means(c, group)) / (_spreads(c, group) + EPSILON) for c in values.T[counts]] or [np.zeros(len(values))]
    )
    total = weights[counts] @ parts if counts.any() else parts[0]
    total = np.where(unscored, np.nan, total)
    if gated is not None:
        others = total[~gated & ~np.isnan(total)]
        total = np.where(gated & ~unscored, (others.min() if len(others) else 0.0) - 1, total)
    scored = total[~np.isnan(total)]
    mean = scored.mean() if len(scored) else 0.0
    return np.nan_to_num((total - mean) / (_spread(total) + EPSILON), nan=0.0)


def leave_one_out(rewards: Floats, group: Ints) -> Floats:
    """RLOO (Ahmadian et al. 2024): R minus the mean of the *other* replies to the same prompt; [N] -> [N].

    A reply that is unscored, or the only scored one of its group, has nothing to be compared with: 0.
    """
    known = ~np.isnan(rewards)
    filled = np.where(known, rewards, 0.0)
    size = np.bincount(group, weights=known)[group]
    others = np.bincount(group, weights=filled)[group] - filled
    with np.errstate(invalid="ignore", divide="ignore"):
        baseline = others / (size - 1)
    return np.where(known & (size > 1), filled - baseline, 0.0)


def gae(rewards: Floats, values: Floats, lengths: Ints, *, gamma: float, lam: float) -> tuple[Floats, Floats]:
    """Generalised advantage estimation (Schulman et al. 2016) for replies that end where their tokens end.

        delta_t = r_t + gamma * V_{t+1} - V_t,   A_t = delta_t + gamma * lambda * A_{t+1},   G_t = A_t + V_t

    Args:
        rewards, values: [M] per token; V of what follows a reply's last token is 0.
        lengths: [N] tokens of each reply, summing to M.

    Returns:
        advantages and returns, [M] each.
    """
    advantages = np.zeros_like(rewards)
    for begin, end in spans(lengths):
        following, value_after = 0.0, 0.0
        for t in range(end - 1, begin - 1, -1):
            delta = rewards[t] + gamma * value_after - values[t]
            following = delta + gamma * lam * following
            advantages[t], value_after = following, values[t]
    return advantages, advantages + values


def to_go(rewards: Floats, lengths: Ints, *, gamma: float = 1.0) -> Floats:
    """What is still to come from each token on, discounted: sum over i >= t of gamma^(i-t) * r_i; [M] -> [M]."""
    out = np.zeros_like(rewards)
    for begin, end in spans(lengths):
        following = 0.0
        for t in range(end - 1, begin - 1, -1):
            following = rewards[t] + gamma * following
            out[t] = following
    return out


def whiten(values: Floats, keep: npt.NDArray[np.bool_]) -> Floats:
    """Mean 0 and standard deviation 1 over the entries of `keep`; the others become 0."""
    seen = values[keep]
    if len(seen) < 2:
        return np.where(keep, values, 0.0)
    return np.where(keep, (values - seen.mean()) / (seen.std() + 1e-8), 0.0)


def spans(lengths: Ints) -> list[tuple[int, int]]:
    """(begin, end) of each reply's tokens."""
    ends = np.cumsum(lengths)
    return list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))


def _means(values: Floats, group: Ints) -> Floats:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(group, weights=np.where(known, values, 0.0)) / np.bincount(group, weights=known)
    found: Floats = means[group]
    return found


def _spreads(values: Floats, group: Ints) -> Floats:
    """Sample standard deviation (n - 1) within each group, 0 where there are fewer than two scored replies."""
    known = ~np.isnan(values)
    apart = np.where(known, values - _means(values, group), 0.0)
    size = np.bincount(group, weights=known)
    found: Floats = np.sqrt(np.bincount(group, weights=apart**2) / np.maximum(size - 1, 1))[group]
    return found


def _spread(values: Floats) -> float:
    seen = values[~np.isnan(values)]
    return float(seen.std(ddof=1)) if len(seen) > 1 else 0.0
