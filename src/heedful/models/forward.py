"""One forward pass over packed samples: logits where, and only where, something is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from heedful.formats import Packed, Sample, TokenTree, by_conversation, pack
from heedful.models.architecture import attention_masks, only_at
from heedful.models.causal import CausalModel
from heedful.models.graph_layout import Layout, with_trunks
from heedful.models.pairs import pair_likelihood

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class SampleLoss:
    """Negative log-likelihood of one sample's target, in nats.

    Args:
        text_nll, text_tokens: reply and end token, the plan left out.
        plan_nll, plan_tokens: the leading plan (strategy token, emotion tag).
        words, bytes, characters: size of the reply as text, for perplexity that does not depend on a tokenizer;
            files of older runs do not have the characters.
    """

    id: str
    text_nll: float
    text_tokens: int
    plan_nll: float
    plan_tokens: int
    words: int
    bytes: int
    characters: int | None = None


def tensors(packed: Packed) -> dict[str, torch.Tensor]:
    """The arrays of a packed batch as torch tensors, under the names that `predictions` reads."""
    import torch

    out = {
        "input_ids": torch.from_numpy(packed.input_ids),
        "position_ids": torch.from_numpy(packed.position_ids),
        "row": torch.from_numpy(packed.row),
        "source": torch.from_numpy(packed.source),
        "label": torch.from_numpy(packed.label),
    }
    if packed.attention is not None:
        out["attention"] = torch.from_numpy(packed.attention)
    return out


def predictions(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities [M] of the labels of a packed batch.

    The output layer, a fifth of a small model's work, runs only over the columns that predict something.
    """
    import torch

    logits = prediction_logits(model, batch)
    # Shape [M, V] -> [M]; fp32, since a sum over 49k entries loses digits in bf16.
    return -torch.nn.functional.cross_entropy(logits.float(), batch["label"], reduction="none")


def prediction_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits [M, V] of the tokens that predict the labels of a packed batch."""
    return states_and_logits(model, batch)[1]


def states_and_logits(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Final hidden states [R, T, H] of a packed batch, and logits [M, V] where something is predicted.

    The states are what the output layer reads, so a value head or a classifier on them costs no second pass.
    """
    places = batch["position_ids"]
    mask = attention_masks(model, batch.get("attention"), places, places)
    with only_at(model, batch["row"], batch["source"]) as seen:
        outputs = model(
            input_ids=batch["input_ids"],
            position_ids=places,
            attention_mask=mask,
            use_cache=False,
        )
    return seen[0], outputs.logits[0]


def likelihood(causal: CausalModel, samples: Sequence[Sample], *, tokens_per_batch: int = 4096) -> list[SampleLoss]:
    """Negative log-likelihood of every sample's target, in the order of `samples`; one pass per conversation.

    Args:
        tokens_per_batch: how many tokens enter one forward pass (a longer conversation goes alone).
    """
    import torch

    if causal.encodes:
        rows = pair_likelihood(causal, samples, tokens_per_batch=tokens_per_batch)
        return [_loss(s, row[s.plan :].sum(), row[: s.plan].sum()) for s, row in zip(samples, rows, strict=True)]
    # Samples go by their number here: two corpora may both have a conversation "0".
    numbered = [replace(s, id=str(i)) for i, s in enumerate(samples)]
    grouped = by_conversation(numbered) if causal.graph is None else with_trunks(numbered)
    groups = sorted(grouped, key=lambda g: (-len(g[-1]), g[0].id))
    found: dict[int, SampleLoss] = {}
    for batch in _batches([TokenTree.merge(g) for g in groups], tokens_per_batch):
        with torch.no_grad():
            packed, logprobs = _log_likelihoods(causal, batch)
        nll = -logprobs.double().cpu().numpy()
        sums = np.zeros((len(packed.samples), 2))
        np.add.at(sums, (packed.owner, packed.plan.astype(np.int64)), nll)
        for number, (text, plan) in zip(map(int, packed.samples), sums, strict=True):
            found[number] = _loss(samples[number], text, plan)
    return [found[i] for i in range(len(samples))]


def _loss(sample: Sample, text_nll: float, plan_nll: float) -> SampleLoss:
    return SampleLoss(
        id=sample.id,
        text_nll=float(text_nll),
        text_tokens=len(sample.target) - sample.plan,
        plan_nll=float(plan_nll),
        plan_tokens=sample.plan,
        words=len(sample.text.split()),
        bytes=len(sample.text.encode()),
        characters=len(sample.text),
    )


def _log_likelihoods(causal: CausalModel, trees: list[TokenTree]) -> tuple[Packed | Layout, torch.Tensor]:
    """Log-probabilities [M] of the labels of some trees, and where they lie."""
    if causal.graph is not None:
        layout: Layout = causal.graph.lay_out(trees, pad_id=causal.pad_id)
        return layout, causal.graph.log_likelihoods(causal.model, layout)
    packed = pack(trees, pad_id=causal.pad_id)
    return packed, predictions(causal.model, {k: v.to(causal.device) for k, v in tensors(packed).items()})


def _batches(trees: list[TokenTree], tokens: int) -> list[list[TokenTree]]:
    out: list[list[TokenTree]] = []
    for tree in trees:  # longest first, so a row's length is that of the batch's first tree
        if out and (len(out[-1]) + 1) * len(out[-1][0]) <= tokens:
            out[-1].append(tree)
        else:
            out.append([tree])
    return out
