"""GLHG's graph in supervised training: made, trained beside the model, kept in checkpoints, and its monitor measured.

The monitor is easy: a bag of words over the seeker's situation names the problem type of four talks in five (glhg.md,
traps). So its figures never stand without the most frequent type, and say nothing about the replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from heedful import taxonomy
from heedful.errors import ConfigError, DataError
from heedful.formats import Guide, TokenTree
from heedful.models.causal import CausalModel
from heedful.models.graph import Graph, GraphShape, new_graph, shape_for
from heedful.models.graph_layout import guide_of
from heedful.scoring.problem_type import figures, majority, problem_of, told_problems
from heedful.training.config import GraphConfig, TrainConfig
from heedful.training.data import Prepared

PART = "graph"
"""What the graph is called within the model while the loop runs, so that optimiser and gradients know it."""


@dataclass(frozen=True, kw_only=True)
class GraphPart:
    """A graph that is trained along with `model`.

    Args:
        train, held: trees of both parts, for the monitor's figures; `split` names the second.
    """

    graph: Graph
    config: GraphConfig
    train: Sequence[TokenTree] = field(repr=False)
    held: Sequence[TokenTree] = field(repr=False)
    split: str | None

    def lay_out(self, trees: Sequence[TokenTree], *, pad_id: int) -> dict[str, torch.Tensor]:
        """A batch, with the number of each target's problem type in `problem`, -1 where nobody knows it."""
        layout = self.graph.lay_out(trees, pad_id=pad_id)
        return {**layout.tensors(), "problem": torch.tensor([self.problem(g) for g in layout.guides])}

    def problem(self, guide: Guide) -> int:
        """Number of a reply's problem type, -1 where nobody knows it or there is no monitor."""
        name = problem_of(guide, self.config.problem_set) if self.graph.shape.problems else None
        return -1 if name is None else self.graph.shape.problems.index(name)

    def losses(self, model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over a batch: of the tokens' cross-entropies, and of the problem types'."""
        logits, parts = self.graph.logits(model, batch)
        tokens = torch.nn.functional.cross_entropy(logits.float(), batch["label"], reduction="sum")
        if self.graph.monitor is None:
            return tokens, tokens.new_zeros(())
        said = self.graph.said(parts)
        # Where nobody knows a type the sum is an exact zero that still has a gradient.
        types = torch.nn.functional.cross_entropy(said, batch["problem"], ignore_index=-1, reduction="sum")
        return tokens, types

    def nothing(self) -> torch.Tensor:
        """Zero, with a gradient for each weight: for a process that has no conversation in a step."""
        return torch.stack([p.sum() for p in self.graph.parameters()]).sum() * 0.0

    def leave(self, causal: CausalModel, best: Path | None) -> None:
        """Take the graph out of the model after the loop, since what is saved as the model is the model alone.

        Args:
            best: the checkpoint whose weights the model has now, if not its last ones.
        """
        if best is not None:
            self.load(best)
        delattr(causal.model, PART)
        causal.graph = self.graph.eval()

    def save(self, folder: Path) -> None:
        """Write the graph."""
        self.graph.save(folder)

    def load(self, folder: Path) -> None:
        """Take the weights of a checkpoint."""
        self.graph.take(folder)

    def measured(self, causal: CausalModel) -> dict[str, Any]:
        """Sizes, and the monitor's figures on the evaluation part."""
        found: dict[str, Any] = {"parameters": sum(p.numel() for p in self.graph.parameters())}
        if self.graph.monitor is not None and self.held:
            most = majority(self.train, self.config.problem_set)
            told = list(told_problems(causal, self.held, self.config.problem_set))
            measured = figures(told, labels=self.graph.shape.problems, most=most)
            if measured is not None:
                found["monitor"] = {"split": self.split, **measured}
        return found


def graph_for(
    config: TrainConfig, causal: CausalModel, train: Prepared, evaluation: Prepared | None
) -> GraphPart | None:
    """The graph that is configured, with the weights of the run it starts from where that has one.

    From here on until `GraphPart.leave` it is a part of `causal.model`.

    Raises:
        ConfigError: the format has no guides, or the earlier run's graph has another shape.
        DataError: no conversation has a problem type of the set.
    """
    settings = config.graph
    if settings is None:
        return None
    guides = [guide_of(g, name) for t in train.trees for g, name in zip(t.guides, t.samples, strict=True)]
    problems = taxonomy.get(settings.problem_set).names if settings.monitor else ()
    if problems and not any(problem_of(g, settings.problem_set) for g in guides):
        raise DataError(
            f"No conversation in split {config.train_split} of '{config.dataset}' has a problem type of the set "
            f"'{settings.problem_set}', so the graph's monitor has nothing to learn; set graph.monitor: 0."
        )
    shape = _shape(settings, causal, problems)
    graph = new_graph(shape, seed=config.seed).to(causal.device)
    if causal.graph is not None:
        if causal.graph.shape != shape:
            raise ConfigError(
                f"The graph of '{config.model_name_or_path}' has another shape than the graph settings say; take the "
                "same settings, or start from a run without a graph."
            )
        graph.load_state_dict(causal.graph.state_dict())
    elif settings.monitor_warmup_epochs:
        warm_up(graph, causal, guides, settings, seed=config.seed)
    setattr(causal.model, PART, graph)
    return GraphPart(
        graph=graph, config=settings, train=train.trees, held=evaluation.trees if evaluation else [],
        split=config.eval_split,
    )  # fmt: skip


def warm_up(graph: Graph, causal: CausalModel, guides: Sequence[Guide], settings: GraphConfig, *, seed: int) -> None:
    """Teach the monitor on the causes alone, before the graph sees a conversation.

    A situation is one label for a whole conversation, so an epoch of conversations has a label for every thousand
    words, and a short training leaves the monitor guessing. The causes are read once, by the model as it is.
    """
    known = {(g.cause, name) for g in guides if (name := problem_of(g, settings.problem_set)) is not None}
    pairs = sorted(known, key=lambda pair: (len(pair[0]), pair))
    with torch.no_grad():
        parts = [graph.pooled(causal.model, [ids for ids, _ in pairs[i : i + 32]]) for i in range(0, len(pairs), 32)]
    causes = torch.cat(parts)
    gold = torch.tensor([graph.shape.problems.index(name) for _, name in pairs], device=causes.device)
    # What all nodes share stays as it was drawn, so that a graph without a monitor begins where this one does.
    own = [graph.project["global"], *([graph.feed["global"]] if graph.shape.layers else []), graph.monitor]
    weights = [p for part in own for p in part.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.01)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(settings.monitor_warmup_epochs):
            for at in torch.randperm(len(gold)).to(gold.device).split(8):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(graph.said_of_cause(causes[at]), gold[at]).backward()
                optimiser.step()
    graph.zero_grad()


def _shape(settings: GraphConfig, causal: CausalModel, problems: tuple[str, ...]) -> GraphShape:
    names = (
        "layers", "heads", "radius", "slope", "dropout", "adapters", "context", "global_node", "local_node", "pooling",
    )  # fmt: skip
    return shape_for(causal.model, problems=problems, **{name: getattr(settings, name) for name in names})
