"""Rewards that a model learnt: a trained reward model, and the likelihood of a reply under a language model.

Both load their model once per process, and the same input is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from heedful.formats import Sample, encode
from heedful.models import causal
from heedful.models import reward as judge
from heedful.models.forward import likelihood
from heedful.models.reward import Squash
from heedful.scoring.rewards.base import Task, reward
from heedful.types import Score, Trace

LARGE = 20.0
"""The declared range of a raw z: 1 / (1 + exp(-20)) differs from 1 by 2e-9."""


@reward(low=-LARGE, high=LARGE)
def reward_model(
    traces: Sequence[Trace], tasks: Sequence[Task], *, model: str, squash: Squash | None = None
) -> list[float]:
    """What a trained reward model says of the reply to its context (`heedful train method=reward`).

    A model of objective `pairwise` gives z, of which only differences between replies to one context mean something. A
    model of objective `binary` gives 2 (P(positive) - 0.5) in [-1, 1] (ChatMGL, chatmgl.md). An empty reply is judged
    like any other.

    Args:
        model: folder of the run.
        squash: `none` z, `sigmoid` P in [0, 1], `tanh` 2 (P - 0.5) in [-1, 1]; None = as the objective has it.
    """
    found = judge.shared(model)
    asked = [(task.context, trace.reply) for trace, task in zip(traces, tasks, strict=True)]
    values: list[float] = found.rewards(asked, squash=squash).tolist()
    return values


@reward(low=0.0, high=1.0)
def perplexity(
    traces: Sequence[Trace], tasks: Sequence[Task], *, model: str, tokens_per_batch: int = 4096
) -> list[float | Score]:
    """How likely a language model finds the reply: 1 / perplexity = exp(mean log p(token | prompt, tokens before)).

    The prompt is the trace's own, as text with its special tokens; replies to one prompt share its computation. The end
    token is not counted, a reply without a token gets 0. A trace without a prompt is unscored. Where prompt and reply
    are longer than the model reads, the oldest tokens of the prompt are left out.

    Args:
        model: an embedded model, a folder or a Hugging Face name; take the one that the policy started from, since
            another one may not know the prompt's special tokens.
        tokens_per_batch: tokens in one pass.
    """
    reference = _reference(model)
    out: list[float | Score] = [0.0] * len(traces)
    samples, places = [], []
    for at, trace in enumerate(traces):
        if trace.prompt is None:
            out[at] = Score(name="perplexity", value=None, source="reward", reason="the trace has no prompt")
            continue
        target = encode(trace.reply, reference.causal.tokenizer)
        if target:
            samples.append(reference.sample(trace, target))
            places.append(at)
    for at, value in zip(places, reference.values(samples, tokens_per_batch), strict=True):
        out[at] = value
    return out


@dataclass(kw_only=True)
class _Reference:
    """A language model with memory of what it has scored."""

    causal: causal.CausalModel = field(repr=False)
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = field(default_factory=dict, repr=False)

    def sample(self, trace: Trace, target: tuple[int, ...]) -> Sample:
        """The reply behind its prompt."""
        room = self.causal.max_length - 1
        target = target[:room]
        prompt = encode(trace.prompt or "", self.causal.tokenizer)[-(room + 1 - len(target)) :]
        return Sample(
            id=trace.id,
            conversation_id=trace.conversation_id,
            turn=trace.turn,
            prompt=prompt or (self.causal.pad_id,),
            target=target,
            text=trace.reply,
        )

    def values(self, samples: Sequence[Sample], tokens_per_batch: int) -> list[float]:
        """exp of the mean log-likelihood of each."""
        new = {(s.prompt, s.target): s for s in samples if (s.prompt, s.target) not in self.known}
        losses = likelihood(self.causal, list(new.values()), tokens_per_batch=tokens_per_batch) if new else []
        found = {key: math.exp(-loss.text_nll / loss.text_tokens) for key, loss in zip(new, losses, strict=True)}
        known = {key: self.known[key] for s in samples if (key := (s.prompt, s.target)) in self.known}
        if len(self.known) + len(found) > judge.REMEMBER:
            self.known.clear()
        self.known.update(found)
        return [found[key] if (key := (s.prompt, s.target)) in found else known[key] for s in samples]


@lru_cache(maxsize=2)
def _reference(model: str) -> _Reference:
    return _Reference(causal=causal.load(model))
