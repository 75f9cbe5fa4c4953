"""Small heads on the policy's final states: a value per token, and a class per prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class ValueHead(nn.Module):
    """V of the state before each token: one linear layer in fp32 that starts at zero, so early advantages are rewards.

    The gradient goes on into the policy's trunk, as in TRL's value-head models.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[M, H] -> [M], in fp32 also where the policy computes in 16 bit."""
        with torch.autocast(states.device.type, enabled=False):
            found: torch.Tensor = self.out(states.float())[:, 0]
        return found


class ActHead(nn.Module):
    """READER's response-act head (reader.md, Model): mean prompt state -> H -> 500 -> classes, with ReLU and dropout.

    Args:
        width: of the states.
        labels: names of the classes, in order.
        dropout: of both hidden layers.
    """

    def __init__(self, width: int, labels: Sequence[str], *, dropout: float = 0.5) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.ReLU(),
            nn.Linear(width, 500), nn.ReLU(), nn.Dropout(dropout), nn.ReLU(),
            nn.Linear(500, len(self.labels)),
        )  # fmt: skip

    def forward(self, prompts: torch.Tensor) -> torch.Tensor:
        """[P, H] -> logits [P, classes]."""
        with torch.autocast(prompts.device.type, enabled=False):
            found: torch.Tensor = self.layers(prompts.float())
        return found
