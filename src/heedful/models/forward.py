"""One forward pass over packed samples: logits where, and only where, something is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heedful.formats import Packed, Sample, TokenTree, by_conversation, pack
from heedful.models.causal import CausalModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class SampleLoss:
    """Negative log-likelihood of one sample's target, in nats.

    Args:
        text_nll, text_tokens: reply and end token, the plan left out.
        plan_nll, plan_tokens: the leading plan (strategy token, emotion tag).
        words, bytes: size of the reply as text, for perplexity that does not depend on a tokenizer.
    """

    id: str
    text_nll: float
    text_tokens: int
    plan_nll: float
    plan_tokens: int
    words: int
    bytes: int


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
    import torch

    columns, place = torch.unique(batch["source"], return_inverse=True)
    mask = batch.get("attention")
    outputs = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=None if mask is None else mask[:, None],
        logits_to_keep=columns,
        use_cache=False,
    )
    logits: torch.Tensor = outputs.logits[batch["row"], place]
    return logits


def likelihood(causal: CausalModel, samples: Sequence[Sample], *, tokens_per_batch: int = 4096) -> list[SampleLoss]:
    """Negative log-likelihood of every sample's target, in the order of `samples`; one pass per conversation.

    Args:
        tokens_per_batch: how many tokens enter one forward pass (a longer conversation goes alone).
    """
    import torch

    groups = sorted(by_conversation(samples), key=lambda g: (-len(g[-1]), g[0].id))
    found: dict[str, SampleLoss] = {}
    by_id = {s.id: s for s in samples}
    for batch in _batches([TokenTree.merge(g) for g in groups], tokens_per_batch):
        packed = pack(batch, pad_id=causal.pad_id)
        moved = {k: v.to(causal.device) for k, v in tensors(packed).items()}
        with torch.no_grad():
            nll = -predictions(causal.model, moved).double().cpu().numpy()
        sums = np.zeros((len(packed.samples), 2))
        counts = np.zeros((len(packed.samples), 2), dtype=np.int64)
        np.add.at(sums, (packed.owner, packed.plan.astype(np.int64)), nll)
        np.add.at(counts, (packed.owner, packed.plan.astype(np.int64)), 1)
        for name, (text, plan), (n_text, n_plan) in zip(packed.samples, sums, counts, strict=True):
            words = by_id[name].text
            found[name] = SampleLoss(
                id=name,
                text_nll=float(text),
                text_tokens=int(n_text),
                plan_nll=float(plan),
                plan_tokens=int(n_plan),
                words=len(words.split()),
                bytes=len(words.encode()),
            )
    return [found[s.id] for s in samples]


def _batches(trees: list[TokenTree], tokens: int) -> list[list[TokenTree]]:
    out: list[list[TokenTree]] = []
    for tree in trees:  # longest first, so a row's length is that of the batch's first tree
        if out and (len(out[-1]) + 1) * len(out[-1][0]) <= tokens:
            out[-1].append(tree)
        else:
            out.append([tree])
    return out
