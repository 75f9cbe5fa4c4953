"""Experience: what one round of rollouts left behind, as arrays that every algorithm reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from heedful.models.decoding import Written
from heedful.scoring.rewards import Scored, Task
from heedful.training.rl.advantages import Floats, Ints
from heedful.types import Trace


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One task as tokens.

    Args:
        tokens: of the input.
        gold: tokens of the reply that a person wrote, plan and end included; for the supervised term.
        padding: how many tokens at the end of the input are filling, see `quirks.padded`.
    """

    task: Task
    tokens: tuple[int, ...] = field(repr=False)
    gold: tuple[int, ...] = field(repr=False)
    padding: int = 0


@dataclass(frozen=True, kw_only=True)
class Experience:
    """N replies to P prompts; M tokens in all, those of a reply side by side, replies of a prompt side by side.

    Args:
        prompts: [P].
        group: [N] which prompt a reply answers.
        written: [N] the replies; `logprobs` are the sampler's.
        traces: [N] the replies as records, without scores.
        scored: judgements.
        old: [M] log-probabilities under the policy that the round starts from.
        reference: [M] under the frozen reference; None where nothing needs it.
        values: [M] V of the state before each token; None without a value head.
    """

    prompts: tuple[Prompt, ...] = field(repr=False)
    group: Ints = field(repr=False)
    written: tuple[Written, ...] = field(repr=False)
    traces: tuple[Trace, ...] = field(repr=False)
    scored: Scored = field(repr=False)
    old: Floats = field(repr=False)
    reference: Floats | None = field(default=None, repr=False)
    values: Floats | None = field(default=None, repr=False)

    @cached_property
    def lengths(self) -> Ints:
        """[N] tokens of each reply."""
        return np.array([len(w.tokens) for w in self.written], dtype=np.int64)

    @cached_property
    def owner(self) -> Ints:
        """[M] which reply a token belongs to."""
        return np.repeat(np.arange(len(self.written)), self.lengths)

    @cached_property
    def keep(self) -> npt.NDArray[np.bool_]:
        """[N] replies that have a total, and so a part in the update."""
        return ~np.isnan(self.scored.total)

    @cached_property
    def sampler(self) -> Floats:
        """[M] log-probabilities as the engine reported them."""
        return np.array([x for w in self.written for x in w.logprobs], dtype=np.float64)

    @cached_property
    def last(self) -> Ints:
        """[N] place in [M] of each reply's last token."""
        return np.cumsum(self.lengths) - 1

    @property
    def log_ratio(self) -> Floats:
        """[M] log pi_old - log pi_ref; zeros without a reference."""
        return self.old - self.reference if self.reference is not None else np.zeros_like(self.old)

    @cached_property
    def kl(self) -> Floats:
        """[N] sum over a reply's tokens of log pi_old - log pi_ref: an unbiased estimate, which can be negative."""
        found: Floats = np.bincount(self.owner, weights=self.log_ratio, minlength=len(self.written)).astype(np.float64)
        return found


def joined(parts: Sequence[Experience]) -> Experience:
    """Experience of several processes as one, in their order."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0, *(len(part.prompts) for part in parts)])
    first = parts[0]
    arrays: dict[str, Any] = {
        name: None if getattr(first, name) is None else np.concatenate([getattr(part, name) for part in parts])
        for name in ("old", "reference", "values")
    }
    scored = replace(
        first.scored,
        values=np.concatenate([p.scored.values for p in parts]),
        reasons=tuple(r for p in parts for r in p.scored.reasons),
        total=np.concatenate([p.scored.total for p in parts]),
        gated=np.concatenate([p.scored.gated for p in parts]),
        clipped=np.sum([p.scored.clipped for p in parts], axis=0),
        raised=np.sum([p.scored.raised for p in parts], axis=0),
    )
    return Experience(
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        group=np.concatenate([part.group + shift for part, shift in zip(parts, shifts, strict=False)]),
        written=tuple(w for part in parts for w in part.written),
        traces=tuple(t for part in parts for t in part.traces),
        scored=scored,
        **arrays,
    )
