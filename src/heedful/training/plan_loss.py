"""The plan's own objective in supervised training: which of the markers a reply begins with.

    L = - 1/N * sum over words log p(token | path)  +  weight * 1/P * sum over plans CE(softmax over the marks)

The softmax runs over the K marks alone, as the choice does that is made with it (`heedful.models.plan`), with label
smoothing and class weights against a preference for a few frequent labels. New rows of the vocabulary start as means
of other rows and have to travel far; a learning rate of their own lets them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from heedful.classify.fit import class_weights
from heedful.errors import ConfigError
from heedful.formats import Format, TokenTree
from heedful.models.causal import CausalModel
from heedful.training.config import PlanLossConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class PlanPart:
    """What the loop needs of it.

    Args:
        marks: [K] token ids.
        weights: [K] of the classes.
    """

    config: PlanLossConfig
    marks: torch.Tensor = field(repr=False)
    weights: torch.Tensor = field(repr=False)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the weighted cross-entropies of plans, and how many of them the largest logit gets right.

        Args:
            logits: [P, V] at the decision positions.
            labels: [P] token ids of the marks.
        """
        marks = self.marks.to(labels.device)
        among = logits[:, marks].float()
        gold = (labels[:, None] == marks).int().argmax(1)
        total = torch.nn.functional.cross_entropy(
            among,
            gold,
            weight=self.weights.to(among),
            reduction="sum",
            label_smoothing=self.config.label_smoothing,
        )
        return total, (among.argmax(1) == gold).sum()


def plan_part(config: TrainConfig, causal: CausalModel, fmt: Format, trees: Iterable[TokenTree]) -> PlanPart | None:
    """The objective that is configured.

    Raises:
        ConfigError: the format's targets begin with no marker.
    """
    if config.plan_loss is None:
        return None
    if config.graph is not None:
        raise ConfigError("A model with a graph writes no strategy (glhg.md); leave plan_loss or graph out.")
    if fmt.plan_marks is None:
        raise ConfigError(
            f"plan_loss needs a format whose targets begin with one marker, such as format: strategy, but this one is "
            f"'{fmt.name}'; leave plan_loss out."
        )
    vocabulary = causal.tokenizer.get_vocab()
    marks = {label: vocabulary[marker] for label, marker in fmt.plan_marks[1].items()}
    named = {token: label for label, token in marks.items()}
    seen = Counter(named[int(token)] for tree in trees for token in tree.label[tree.plan])
    weights = class_weights(list(seen.elements()), list(marks), config.plan_loss.class_weight)
    return PlanPart(
        config=config.plan_loss, marks=torch.tensor(list(marks.values())), weights=torch.from_numpy(weights).float()
    )


def new_rows(model: Any) -> list[torch.nn.Parameter]:
    """Parameters that hold rows which a format added to the vocabulary."""
    return [p for name, p in model.named_parameters() if "trainable_tokens" in name and p.requires_grad]
