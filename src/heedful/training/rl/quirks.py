"""What READER's released code does otherwise than one would (reader.md, traps), as switches that are off by default.

The clean way is the loop itself; each switch here brings one quirk back, so that its effect can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field

from heedful import taxonomy
from heedful.settings import Settings
from heedful.training.rl.advantages import Floats, Ints, spans
from heedful.training.rl.experience import Prompt
from heedful.training.rl.passes import Passing, Seen
from heedful.types import Conversation, Label, Turn


class Compat(Settings):
    """Quirks of READER's released code; all off is the clean way."""

    kl_relu: bool = Field(
        default=False, description="trap 5: where the policy is less sure than the reference, KL is 0"
    )
    kl_scale: float = Field(default=1.0, ge=0, description="trap 5: factor of the KL in the token rewards; 0.001 there")
    lm_on_samples: bool = Field(default=False, description="trap 6: ptx_coef on prompt and own sample, not on the gold")
    pad_prompts: int | None = Field(
        default=None, ge=2, description="trap 7: cut or fill prompts to so many tokens, without a mask; 200 there"
    )
    act_sees_reply: bool = Field(default=False, description="trap 7: the act head averages over the own sample too")
    ban_seen_tokens: bool = Field(default=False, description="trap 8: after top-k and top-p, bar what the row holds")
    values_shifted: bool = Field(default=False, description="trap 9: stored values stand one token too early")
    cross_sessions: bool = Field(default=False, description="trap 10: the training sessions are one long session")
    special_tokens_in_reward: bool = Field(
        default=False, description="trap 11: rewards read the special tokens of a sample, and any may be written"
    )

    @property
    def of_sampler(self) -> bool:
        """Whether replies are drawn otherwise than every engine can."""
        return self.ban_seen_tokens or self.special_tokens_in_reward


def one_session(conversations: Sequence[Conversation], *, act_set: str | None) -> list[Conversation]:
    """Trap 10: sessions in a row as one, so that windows and targets cross their borders.

    The shift leaves the file's last utterance without a next one, and its act is filled with 0. What text that row gets
    is not known; here it is empty, so rewards that compare with a reference leave it unscored.

    Args:
        act_set: label set of the acts; None adds no last row.
    """
    if not conversations:
        return []
    turns = [turn for conv in conversations for turn in conv.turns]
    if act_set is not None and turns:
        first = Label(set=act_set, value=taxonomy.get(act_set).names[0], source="rule")
        turns.append(Turn(role=turns[-1].role, text="", labels=(first,)))
    return [replace(conversations[0], id="all-sessions", turns=tuple(turns), labels=(), scores=())]


def padded(prompt: Prompt, *, length: int, pad_id: int) -> Prompt:
    """Trap 7: a prompt cut or filled on the right to `length` tokens, filling that the model takes for text."""
    tokens = prompt.tokens[:length]
    filling = length - len(tokens)
    return replace(prompt, tokens=(*tokens, *(pad_id for _ in range(filling))), padding=filling)


def one_early(values: Floats, before: Floats, lengths: Ints) -> Floats:
    """Trap 9: at each token the value that belongs to the token before it.

    Args:
        values: [M] V of the state before each token.
        before: [N] V of the state one earlier still than that of each reply's first token.
        lengths: [N] tokens of each reply.
    """
    out = np.empty_like(values)
    for n, (begin, end) in enumerate(spans(lengths)):
        out[begin:end] = [before[n], *values[begin : end - 1]][: end - begin]
    return out


def pooled_with_replies(found: Seen, passing: Passing, prompt_of: torch.Tensor) -> torch.Tensor:
    """Trap 7: mean final state of prompt and reply together, [R, H]; a reply's last token is no input, so has none.

    Args:
        prompt_of: [R] which prompt of the pass a reply answers.
    """
    size = passing.prompts.sum((1, 2))[prompt_of][:, None].to(found.prompts.dtype)
    first = torch.cumsum(passing.lengths, 0) - passing.lengths
    inside = torch.ones(len(found.states), dtype=torch.bool, device=found.states.device)
    inside[first[passing.lengths > 0]] = False
    sums = (found.prompts[prompt_of] * size).index_add(0, passing.owner[inside], found.states[inside])
    return sums / (size + (passing.lengths - 1).clamp(min=0)[:, None])
