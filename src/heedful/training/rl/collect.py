"""Rollouts to experience: the engine writes, the rewards judge, the policy and its reference score every token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from heedful.formats import Format, Sample
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding, Written
from heedful.models.engine import Engine
from heedful.scoring.rewards import RewardSet, Task
from heedful.training.rl.experience import Experience, Prompt
from heedful.training.rl.heads import ValueHead
from heedful.training.rl.passes import Passing, Seen, lay_out, run
from heedful.training.rl.quirks import Compat, one_early
from heedful.types import Conversation, Trace, text_hash

Autocast = AbstractContextManager[Any]


def prompts_of(
    conversations: Sequence[Conversation], fmt: Format, samples: Sequence[Sample], *, columns: Sequence[str] = ()
) -> list[Prompt]:
    """Samples of conversations as prompts with their tasks; replies of the speakers that the format lets a model write.

    Args:
        columns: names of `Conversation.extra` and turn extras that rewards get as columns.
    """
    prepared = {conv.id: fmt.prepare(conv) for conv in conversations}
    out = []
    for sample in samples:
        conv = prepared[sample.conversation_id]
        turn = fmt.target_turn(conv, sample.turn)
        if turn.role not in fmt.written:
            continue
        known = {**conv.extra, **turn.extra}
        task = Task(
            id=sample.id,
            context=conv.before(sample.turn),
            reference=turn,
            columns={name: known[name] for name in columns or known if name in known},
        )
        out.append(Prompt(task=task, tokens=sample.prompt, gold=sample.target))
    return out


@dataclass(kw_only=True)
class Collector:
    """Makes experience with one policy.

    Args:
        frozen: a copy of the start as the reference, where switching the adapter off does not give it.
        reference: whether log-probabilities under the reference are needed.
        recompute: whether those of the policy are computed anew, since the engine's are not exact.
        current: whether the update's own pass gives them, see `improve.Round`.
        together: prompts in one pass.
        half: run passes in bf16 (autocast).
        quirks: of the values, and of what rewards read; see `quirks.Compat`.
        seconds: what the last round took: `rollout`, `reward`, `score`.
    """

    causal: CausalModel
    fmt: Format
    engine: Engine
    rewards: RewardSet
    decoding: Decoding
    value_head: ValueHead | None
    frozen: Any = None
    reference: bool = True
    recompute: bool = True
    current: bool = False
    together: int = 2
    half: bool = False
    quirks: Compat = field(default_factory=Compat)
    system: str = "policy"
    seconds: dict[str, float] = field(default_factory=dict)

    def write(self, prompts: Sequence[Prompt], *, n: int, name: str, first: int = 0) -> list[list[Written]]:
        """`n` replies per prompt. `name` and a prompt's number, counted from `first`, key the random streams."""
        begun = time.monotonic()
        self.engine.sync(self.causal)
        names = [f"{name}/{first + i}" for i in range(len(prompts))]
        found = self.engine.sample([p.tokens for p in prompts], n=n, settings=self.decoding, names=names)
        self.seconds["rollout"] = time.monotonic() - begun
        return found

    def traces(self, prompts: Sequence[Prompt], written: Sequence[Sequence[Written]]) -> list[Trace]:
        """Replies as records."""
        return [self._trace(p, w, i) for p, mine in zip(prompts, written, strict=True) for i, w in enumerate(mine)]

    def _trace(self, prompt: Prompt, written: Written, number: int) -> Trace:
        tokenizer = self.causal.tokenizer
        reply = self.fmt.parse(tokenizer.decode(written.tokens, skip_special_tokens=False), tokenizer)
        text = tokenizer.decode(prompt.tokens, skip_special_tokens=False)
        task = prompt.task
        return Trace(
            id=f"{task.id}#{number}",
            conversation_id=task.context.id,
            turn=len(task.context),
            reply=reply.text,
            reference=task.reference.text if task.reference else None,
            system=self.system,
            prompt=text,
            plan=reply.plan,
            finish=written.finish,
            tokens=len(written.tokens),
            info={"prompt_hash": text_hash(text), "format": self.fmt.fingerprint},
        )

    def experience(self, prompts: Sequence[Prompt], written: Sequence[Sequence[Written]]) -> Experience:
        """Judge replies and score their tokens."""
        traces = self.traces(prompts, written)
        begun = time.monotonic()
        tasks = [p.task for p, mine in zip(prompts, written, strict=True) for _ in mine]
        ids = [w.tokens for mine in written for w in mine]
        scored = self.rewards(self._as_judged(traces, written), tasks, completion_ids=ids)
        self.seconds["reward"] = time.monotonic() - begun
        begun = time.monotonic()
        old, values, reference = self._score(prompts, written)
        self.seconds["score"] = time.monotonic() - begun
        return Experience(
            prompts=tuple(prompts),
            group=np.repeat(np.arange(len(prompts)), [len(mine) for mine in written]),
            written=tuple(w for mine in written for w in mine),
            traces=tuple(traces),
            scored=scored,
            old=old,
            values=values,
            reference=reference,
        )

    def _as_judged(self, traces: list[Trace], written: Sequence[Sequence[Written]]) -> list[Trace]:
        """Replies as rewards read them: their words, or with the quirk all that was written."""
        if not self.quirks.special_tokens_in_reward:
            return traces
        everything = [w for mine in written for w in mine]
        decode = self.causal.tokenizer.decode
        return [
            replace(trace, reply=decode(w.tokens, skip_special_tokens=False))
            for trace, w in zip(traces, everything, strict=True)
        ]

    def _score(self, prompts: Sequence[Prompt], written: Sequence[Sequence[Written]]) -> tuple[Any, Any, Any]:
        """(old [M], values [M] or None, reference [M] or None)."""
        parts: dict[str, list[np.ndarray[Any, Any]]] = {"old": [], "values": [], "reference": []}
        model = self.causal.model
        was = model.training
        model.eval()
        own = self.recompute or self.value_head is not None
        for begin in range(0, len(prompts), self.together):
            replies = [[w.tokens for w in mine] for mine in written[begin : begin + self.together]]
            kept = [i for i, mine in enumerate(replies) if mine]
            if not kept:
                continue
            mine, mine_replies = [prompts[begin + i] for i in kept], [replies[i] for i in kept]
            passing = lay_out(self.causal, mine, mine_replies, gold=False)
            with torch.no_grad(), autocast(self.causal, self.half):
                if own:
                    seen = run(model, passing, temperature=self.decoding.temperature, entropy=False)
                    parts["old"].append(_array(seen.logprobs))
                    if self.value_head is not None:
                        parts["values"].append(
                            self._values(self.value_head, seen, passing, [len(r) for r in mine_replies])
                        )
                if self.reference:
                    with self.as_reference() as other:
                        parts["reference"].append(
                            _array(run(other, passing, temperature=self.decoding.temperature, entropy=False).logprobs)
                        )
        model.train(was)
        sampler = np.array([x for replies in written for w in replies for x in w.logprobs], dtype=np.float64)
        found = {k: np.concatenate(v) if v else np.zeros(0) for k, v in parts.items()}
        return (
            found["old"] if self.recompute else sampler,
            found["values"] if self.value_head is not None else None,
            found["reference"] if self.reference else None,
        )

    def _values(self, head: ValueHead, seen: Seen, passing: Passing, counts: Sequence[int]) -> np.ndarray[Any, Any]:
        """V of the state before each token, [M]; `counts` are the replies of each prompt."""
        values = _array(head(seen.states))
        if not self.quirks.values_shifted:
            return values
        return one_early(values, np.repeat(_array(head(seen.before)), counts), passing.lengths.cpu().numpy())

    @contextmanager
    def as_reference(self) -> Iterator[Any]:
        """The frozen reference: the same model with its adapter off, or the copy that `delta: full` keeps."""
        if self.frozen is not None:
            yield self.frozen
            return
        with self.causal.model.disable_adapter():
            yield self.causal.model


def autocast(causal: CausalModel, half: bool) -> Autocast:
    """bf16 for matrix products where the run is in mixed precision."""
    found: Autocast = torch.autocast(causal.device.type, dtype=torch.bfloat16, enabled=half)
    return found


def _array(values: torch.Tensor) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = values.double().cpu().numpy()
    return found
