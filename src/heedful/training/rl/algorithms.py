"""PPO, GRPO, RLOO and REINFORCE++ as small objects: what an advantage is, and what is minimised.

They share rollouts, rewards, passes and updates with each other. A new algorithm is a class here, a configuration class
with its options in `config.py`, and a line in the table of methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch

from heedful.training.rl.advantages import (
    Floats,
    Scale,
    gae,
    grouped,
    leave_one_out,
    normalised_sum,
    to_go,
    whiten,
)
from heedful.training.rl.experience import Experience
from heedful.training.rl.losses import Counts, Kind, average, cispo, clipped, k3, per_reply

Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What an update works towards: [M] advantages, and [M] returns where there is a value head."""

    advantages: Floats = field(repr=False)
    returns: Floats | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Flat:
    """The tokens of one pass as tensors on the model's device; [M] tokens of the pass, R of its replies.

    Args:
        new, old, reference, advantages: [M]; only `new` has a gradient.
        drift: [M] old - sampler's log-probabilities; None where the sampler is the policy itself.
        cap: largest importance weight of sampler against trainer.
        owner: [M] which reply of the pass; `lengths`: [R].
    """

    new: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor | None
    advantages: torch.Tensor
    drift: torch.Tensor | None
    owner: torch.Tensor
    lengths: torch.Tensor
    cap: float = 2.0

    @property
    def replies(self) -> int:
        """R."""
        return len(self.lengths)


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """A pass's part of the loss, and for the log: tokens (or replies) at which the clip took hold, of how many."""

    loss: torch.Tensor
    held: int
    of: int


class Algorithm(Protocol):
    """What the loop asks of an algorithm.

    Attributes:
        uses_values: whether a value head is trained.
        kl_in_loss: the KL to the reference is a term of the loss (else it is a part of the reward).
    """

    uses_values: ClassVar[bool]
    kl_in_loss: ClassVar[bool]

    def targets(self, seen: Experience, *, kl_coef: float) -> Targets: ...

    def loss(self, flat: Flat, counts: Counts, *, kl_coef: float) -> PolicyLoss: ...


@dataclass(frozen=True, kw_only=True)
class PPO:
    """Proximal policy optimisation (Schulman et al. 2017) on tokens, with a value head (Ziegler et al. 2019).

    reward of token t: -kl_coef * (log pi_old - log pi_ref), and at the last one R is added
    A by GAE, whitened; loss: the clipped surrogate, mean over tokens

    `kl_relu` and `kl_scale` are those of `quirks.Compat`.
    """

    gamma: float = 1.0
    lam: float = 0.95
    epsilon: float = 0.2
    whiten: Literal["batch", "reply", "none"] = "batch"
    kl_relu: bool = False
    kl_scale: float = 1.0
    uses_values: ClassVar[bool] = True
    kl_in_loss: ClassVar[bool] = False

    def targets(self, seen: Experience, *, kl_coef: float) -> Targets:
        """Advantages and returns of a round."""
        if seen.values is None:
            raise ValueError("PPO needs values.")
        apart = np.maximum(seen.log_ratio, 0.0) if self.kl_relu else seen.log_ratio
        rewards = -kl_coef * self.kl_scale * apart
        rewards[seen.last[seen.keep]] += seen.scored.total[seen.keep]
        advantages, returns = gae(rewards, seen.values, seen.lengths, gamma=self.gamma, lam=self.lam)
        kept = seen.keep[seen.owner]
        if self.whiten == "batch":
            advantages = whiten(advantages, kept)
        elif self.whiten == "reply":
            for n in np.flatnonzero(seen.keep):
                mine = seen.owner == n
                advantages[mine] = whiten(advantages[mine], np.ones(int(mine.sum()), dtype=np.bool_))
        return Targets(advantages=np.where(kept, advantages, 0.0), returns=returns)

    def loss(self, flat: Flat, counts: Counts, *, kl_coef: float) -> PolicyLoss:
        """The clipped surrogate, mean over tokens."""
        return _token_surrogate(flat, counts, kind="bnpo", low=self.epsilon, high=self.epsilon)


@dataclass(frozen=True, kw_only=True)
class GRPO:
    """Group relative policy optimisation (Shao et al. 2024) and its relatives; one advantage for all tokens of a reply.

    `loss_type`: `grpo` (as published), `bnpo`, `dr_grpo` (Liu et al. 2025), `dapo` (Yu et al. 2025; clips higher
    upwards, see `epsilon_high`), `cispo` (MiniMax-M1, 2025). The KL is k3 per token, in the loss.
    """

    scale: Scale = "group"
    aggregation: Aggregation = "sum_then_normalize"
    loss_type: Kind = "grpo"
    epsilon: float = 0.2
    epsilon_high: float = 0.2
    uses_values: ClassVar[bool] = False
    kl_in_loss: ClassVar[bool] = True

    def targets(self, seen: Experience, *, kl_coef: float) -> Targets:
        """Each reply against its group."""
        if self.aggregation == "normalize_then_sum":
            found = normalised_sum(
                seen.scored.values, seen.scored.weights, seen.group, unscored=~seen.keep, gated=seen.scored.gated
            )
        else:
            found = grouped(seen.scored.total, seen.group, scale=self.scale)
        return Targets(advantages=found[seen.owner])

    def loss(self, flat: Flat, counts: Counts, *, kl_coef: float) -> PolicyLoss:
        """Surrogate plus kl_coef * k3, averaged as `loss_type` says."""
        return _token_surrogate(
            flat, counts, kind=self.loss_type, low=self.epsilon, high=self.epsilon_high, kl_coef=kl_coef
        )


@dataclass(frozen=True, kw_only=True)
class RLOO:
    """REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024): the whole reply is one action.

    R' = R - kl_coef * sum_t (log pi_old - log pi_ref),   A = R' - mean of the other replies' R'
    """

    epsilon: float = 0.2
    uses_values: ClassVar[bool] = False
    kl_in_loss: ClassVar[bool] = False

    def targets(self, seen: Experience, *, kl_coef: float) -> Targets:
        """Each reply against the others of its group."""
        found = leave_one_out(seen.scored.total - kl_coef * seen.kl, seen.group)
        return Targets(advantages=found[seen.owner])

    def loss(self, flat: Flat, counts: Counts, *, kl_coef: float) -> PolicyLoss:
        """The clipped surrogate on the ratio of whole replies, mean over replies."""
        ratio = per_reply(flat.new - flat.old, flat.owner, flat.replies).exp()
        # All tokens of a reply have the same advantage; its first one stands for it.
        first = torch.cumsum(flat.lengths, 0) - flat.lengths
        values, held = clipped(ratio, flat.advantages[first], low=self.epsilon, high=self.epsilon)
        if flat.drift is not None:
            values = values * per_reply(flat.drift, flat.owner, flat.replies).exp().clamp(max=flat.cap)
        return PolicyLoss(loss=values.sum() / max(counts.replies, 1), held=int(held.sum()), of=flat.replies)


@dataclass(frozen=True, kw_only=True)
class ReinforcePlusPlus:
    """REINFORCE++ (Hu et al. 2025): no value head, no group; rewards to go, normalised over the batch.

        A_t = R - kl_coef * sum_{i >= t} (log pi_old - log pi_ref)_i, whitened over all tokens of the round

    With several replies per prompt, `baseline: group` subtracts their mean from R first (REINFORCE++-baseline).
    """

    epsilon: float = 0.2
    gamma: float = 1.0
    baseline: Literal["none", "group"] = "none"
    uses_values: ClassVar[bool] = False
    kl_in_loss: ClassVar[bool] = False

    def targets(self, seen: Experience, *, kl_coef: float) -> Targets:
        """Rewards to go, whitened."""
        total = seen.scored.total
        if self.baseline == "group":
            total = np.where(seen.keep, grouped(total, seen.group, scale="none"), np.nan)
        rewards = -kl_coef * seen.log_ratio
        rewards[seen.last[seen.keep]] += total[seen.keep]
        return Targets(advantages=whiten(to_go(rewards, seen.lengths, gamma=self.gamma), seen.keep[seen.owner]))

    def loss(self, flat: Flat, counts: Counts, *, kl_coef: float) -> PolicyLoss:
        """The clipped surrogate, mean over tokens."""
        return _token_surrogate(flat, counts, kind="bnpo", low=self.epsilon, high=self.epsilon)


def _token_surrogate(
    flat: Flat, counts: Counts, *, kind: Kind, low: float, high: float, kl_coef: float = 0.0
) -> PolicyLoss:
    ratio = (flat.new - flat.old).exp()
    if kind == "cispo":
        values, held = cispo(flat.new, ratio, flat.advantages, most=high)
    else:
        values, held = clipped(ratio, flat.advantages, low=low, high=high)
    if flat.drift is not None:
        # Truncated importance sampling: replies were drawn by a slightly other model than is trained.
        values = values * flat.drift.exp().clamp(max=flat.cap)
    if kl_coef and flat.reference is not None:
        values = values + kl_coef * k3(flat.new, flat.reference)
    loss = average(values, kind, flat.owner, flat.lengths, counts)
    return PolicyLoss(loss=loss, held=int(held.sum()), of=len(flat.new))
