"""What is minimised, token by token. Tokens of all replies of a pass lie one after the other: [M], owners in [M].

Every sum is divided by a count of the *whole* mini-batch (`Counts`), not of the pass at hand, so that cutting a
mini-batch into passes, or spreading it over processes, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Sizes of a whole mini-batch, over all passes and processes.

    Args:
        replies, tokens: that enter the loss.
        longest: most tokens that a reply may have (`max_new_tokens`), Dr. GRPO's constant.
    """

    replies: int
    tokens: int
    longest: int


def clipped(
    ratio: torch.Tensor, advantage: torch.Tensor, *, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's surrogate (Schulman et al. 2017, eq. 7) with its sign turned, and where the clip took hold.

    Returns:
        -min(ratio * A, clip(ratio, 1 - low, 1 + high) * A), and a bool tensor.
    """
    inside = ratio.clamp(1 - low, 1 + high)
    held = ((ratio < 1 - low) & (advantage < 0)) | ((ratio > 1 + high) & (advantage > 0))
    return -torch.min(ratio * advantage, inside * advantage), held


def cispo(
    new: torch.Tensor, ratio: torch.Tensor, advantage: torch.Tensor, *, most: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """CISPO (MiniMax-M1, 2025): the importance weight is cut and held constant, so no token loses its gradient."""
    return -ratio.clamp(max=most).detach() * advantage * new, ratio > most


def k3(new: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Schulman's estimate of KL(new || reference) per token: exp(d) - d - 1, d = reference - new; never negative."""
    apart = reference - new
    return apart.exp() - apart - 1


def average(
    values: torch.Tensor, kind: Kind, owner: torch.Tensor, lengths: torch.Tensor, counts: Counts
) -> torch.Tensor:
    """This pass's part of the mini-batch's loss.

    Args:
        values: [M] per token.
        owner: [M] which reply of the pass.
        lengths: [replies of the pass] tokens of each.

    grpo: mean over each reply's tokens, then over replies. bnpo, dapo, cispo: mean over all tokens. dr_grpo: the sum
    over replies * longest, so that long replies are not weighed down.
    """
    if kind == "grpo":
        return (values / lengths.clamp(min=1)[owner]).sum() / max(counts.replies, 1)
    if kind == "dr_grpo":
        return values.sum() / max(counts.replies * counts.longest, 1)
    return values.sum() / max(counts.tokens, 1)


def per_reply(values: torch.Tensor, owner: torch.Tensor, replies: int) -> torch.Tensor:
    """Sums over each reply's tokens; [M] -> [replies]."""
    return torch.zeros(replies, dtype=values.dtype, device=values.device).index_add(0, owner, values)


def value_loss(new: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, *, clip: float) -> torch.Tensor:
    """1/2 max((V - G)^2, (clip(V, V_old - e, V_old + e) - G)^2) per token, as in the PPO of Stiennon et al. 2020."""
    near = torch.min(torch.max(new, old - clip), old + clip)
    return 0.5 * torch.max((new - returns) ** 2, (near - returns) ** 2)
