"""One forward pass over prompts and their replies, each prompt once.

The G replies to a prompt, and the gold reply where a supervised term wants it, are branches of one token tree: the
prompt's tokens are computed once, and so are beginnings that replies share. Numbers and gradients equal those of G
separate rows (`tests/unit/test_rl_passes.py`, fp32, 1e-4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from heedful.formats import Sample, TokenTree, pack
from heedful.models.causal import CausalModel
from heedful.models.forward import states_and_logits, tensors
from heedful.training.rl.experience import Prompt

GOLD = -1
"""The number of a prompt's gold reply among its replies."""


@dataclass(frozen=True, kw_only=True)
class Passing:
    """A packed pass and where its parts are.

    Args:
        batch: tensors on the model's device.
        order: [M] places of the replies' predictions in the caller's order: replies in turn, tokens in turn.
        gold: places of the gold replies' predictions.
        lengths: [replies] tokens of each; `owner`: [M] which reply a token belongs to.
        prompts: [P, R, T] True where a token is part of the prompt.
    """

    batch: dict[str, torch.Tensor] = field(repr=False)
    order: torch.Tensor = field(repr=False)
    gold: torch.Tensor = field(repr=False)
    lengths: torch.Tensor = field(repr=False)
    owner: torch.Tensor = field(repr=False)
    prompts: torch.Tensor = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a pass computed; M tokens of replies in the caller's order.

    Args:
        logprobs: [M] of the replies' tokens.
        entropy: [M] of the distribution that each was drawn from, in nats; None where it was not asked for.
        states: [M, H] final states before each token: what a value head reads.
        gold: [tokens of gold replies] their log-probabilities.
        prompts: [P, H] mean final state of each prompt.
        before: [P, H] final state of each prompt's last token but one (of the only one, where it has no other).
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor | None
    states: torch.Tensor
    gold: torch.Tensor
    prompts: torch.Tensor
    before: torch.Tensor


def lay_out(
    causal: CausalModel,
    prompts: Sequence[Prompt],
    replies: Sequence[Sequence[tuple[int, ...]]],
    *,
    gold: bool,
    prompts_as_gold: bool = False,
) -> Passing:
    """Pack prompts with their replies.

    Args:
        replies: per prompt the token ids of its replies.
        gold: add each prompt's gold reply as a branch.
        prompts_as_gold: let the prompt's own tokens but the first stand for it; filling is left out.
    """
    trees, lengths = [], []
    for p, (prompt, mine) in enumerate(zip(prompts, replies, strict=True)):
        samples = [_sample(f"{p}/{i}", p, prompt, tokens) for i, tokens in enumerate(mine)]
        lengths += [len(tokens) for tokens in mine]
        if gold and prompts_as_gold:
            real = prompt.tokens[: len(prompt.tokens) - prompt.padding]
            samples.append(_sample(f"{p}/{GOLD}", p, replace(prompt, tokens=real[:1]), real[1:]))
        elif gold:
            samples.append(_sample(f"{p}/{GOLD}", p, prompt, prompt.gold))
        trees.append(TokenTree.merge(samples))
    packed = pack(trees, pad_id=causal.pad_id)
    places = [name.split("/") for name in packed.samples]
    first = np.cumsum([0, *(len(mine) for mine in replies)])
    number = np.array([GOLD if i == str(GOLD) else first[int(p)] + int(i) for p, i in places], dtype=np.int64)
    reply = number[packed.owner]
    # A stable sort keeps the tokens of a reply in their order, in which `merge` and `pack` lay them down.
    order = np.argsort(reply, kind="stable")[int((reply == GOLD).sum()) :]
    device = causal.device
    begins = np.zeros((len(prompts), *packed.input_ids.shape), dtype=np.bool_)
    for p, prompt in enumerate(prompts):
        # A tree begins with its first sample's path, so the prompt ends where that sample's first prediction is made.
        sample = next(n for n, (owner, _) in enumerate(places) if owner == str(p))
        at = int(np.argmax(packed.owner == sample))
        last = int(packed.source[at])
        begins[p, packed.row[at], last - len(prompt.tokens) + 1 : last + 1] = True
    return Passing(
        batch={k: v.to(device) for k, v in tensors(packed).items()},
        order=torch.from_numpy(order).to(device),
        gold=torch.from_numpy(np.flatnonzero(reply == GOLD)).to(device),
        lengths=torch.tensor(lengths, device=device),
        owner=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(device),
        prompts=torch.from_numpy(begins).to(device),
    )


def run(
    model: Any,
    passing: Passing,
    *,
    temperature: float = 1.0,
    entropy: bool = True,
    entropy_gradient: bool = False,
) -> Seen:
    """Compute a pass.

    Args:
        temperature: at which replies are drawn; their probabilities are those of that distribution, the policy's.
        entropy: False where nobody reads it: it is another walk over [M, V].
        entropy_gradient: let gradients flow through the entropy (an entropy bonus needs them, a log does not).
    """
    states, logits = states_and_logits(model, passing.batch)
    batch = passing.batch
    table = (logits.float() if temperature == 1.0 else logits.float() / temperature).log_softmax(-1)
    chosen = table.gather(1, batch["label"][:, None])[:, 0]
    order = passing.order
    spread = None
    if entropy:
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            spread = _entropy(table if entropy_gradient else table.detach())[order]
    before = states[batch["row"], batch["source"]][order].float()
    sizes = passing.prompts.sum((1, 2))  # as whole numbers: in bf16 a count above 256 is rounded
    means = torch.einsum("prt,rth->ph", passing.prompts.to(states.dtype), states).float() / sizes[:, None]
    # The tokens of a prompt lie side by side in its row.
    second = passing.prompts.flatten(1).int().argmax(1) + (sizes - 2).clamp(min=0)
    return Seen(
        logprobs=chosen[order], entropy=spread, states=before, gold=chosen[passing.gold], prompts=means,
        before=states.flatten(0, 1)[second].float(),
    )  # fmt: skip


def _entropy(table: torch.Tensor) -> torch.Tensor:
    """Entropy of each row of log-probabilities [M, V], some rows at a time: another [M, V] would be the peak."""
    return torch.cat([-(part.exp() * part).sum(-1) for part in table.split(256)])


def _sample(name: str, p: int, prompt: Prompt, tokens: tuple[int, ...]) -> Sample:
    return Sample(id=name, conversation_id=str(p), turn=0, prompt=prompt.tokens, target=tokens)
