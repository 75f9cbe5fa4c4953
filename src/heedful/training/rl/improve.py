"""Updates on one round of experience: mini-batches, passes, gradients summed over passes and processes, one step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from heedful.errors import RunError
from heedful.models.causal import CausalModel
from heedful.training.rl.acts import act_logits, gold_act
from heedful.training.rl.advantages import spans
from heedful.training.rl.algorithms import Algorithm, Flat, Targets
from heedful.training.rl.collect import autocast
from heedful.training.rl.config import PPOConfig, RLConfig
from heedful.training.rl.experience import Experience, Prompt
from heedful.training.rl.heads import ActHead, ValueHead
from heedful.training.rl.losses import Counts, value_loss
from heedful.training.rl.passes import Passing, Seen, lay_out, run
from heedful.training.rl.processes import Processes
from heedful.training.rl.quirks import pooled_with_replies


@dataclass(frozen=True, kw_only=True)
class Improved:
    """Numbers of a round's updates for the log."""

    values: dict[str, float]


@dataclass
class _Sums:
    parts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.parts[name] = self.parts.get(name, 0.0) + value


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round's work.

    Args:
        current: the policy of the only update is the one that wrote, so its own log-probabilities are the old ones.
        exact: the sampler's log-probabilities are the policy's.
        sums: what the log is made of.
    """

    seen: Experience
    targets: Targets
    kl_coef: float
    current: bool
    exact: bool
    sums: _Sums = field(default_factory=_Sums)


class Improver:
    """Owns the optimiser.

    Args:
        updates: planned in all, for the learning rate's schedule.
        heads: trained beside the policy: `value`, `act`.
    """

    def __init__(
        self,
        config: RLConfig,
        causal: CausalModel,
        algorithm: Algorithm,
        *,
        updates: int,
        value_head: ValueHead | None,
        act_head: ActHead | None,
        half: bool,
        processes: Processes,
    ) -> None:
        self.config, self.causal, self.algorithm, self.half = config, causal, algorithm, half
        self.value_head, self.act_head, self.processes = value_head, act_head, processes
        self.quirks = config.quirks()
        policy = [p for p in causal.model.parameters() if p.requires_grad]
        own_rate = config.value_learning_rate if isinstance(config, PPOConfig) else None
        groups: list[dict[str, Any]] = [{"params": policy, "weight_decay": config.weight_decay}]
        if value_head is not None:
            groups.append({"params": list(value_head.parameters()), "lr": own_rate or config.learning_rate})
        if act_head is not None:
            groups.append({"params": list(act_head.parameters())})
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.0)
        warmup = config.warmup_steps if config.warmup_steps >= 1 else config.warmup_steps * updates
        self.scheduler = get_scheduler(
            config.lr_scheduler_type, self.optimizer, num_warmup_steps=int(warmup), num_training_steps=max(updates, 1)
        )

    def improve(self, work: Round, *, draw: np.random.Generator) -> Improved:
        """All updates of a round.

        Args:
            draw: order of the prompts, and what dropout of a head draws.

        Raises:
            RunError: a loss or gradient is not a number; nothing was changed by it.
        """
        begun, updates, seen = time.monotonic(), 0, work.seen
        self.causal.model.train()
        # A round has a random state of its own, so that a resumed run need not keep one for each process.
        torch.manual_seed(int(draw.integers(2**31)) + self.processes.rank)
        with_replies = [p for p in range(len(seen.prompts)) if seen.keep[seen.group == p].any()]
        for _ in range(self.config.num_iterations):
            order = draw.permutation(with_replies)
            for begin in range(0, len(order), self.config.mini_batch_size):
                part = sorted(order[begin : begin + self.config.mini_batch_size].tolist())
                if not self._update(work, part, first=updates == 0):
                    work.sums.add("early", 1.0)
                    return self._report(work, updates, begun)
                updates += 1
        return self._report(work, updates, begun)

    def _report(self, work: Round, updates: int, begun: float) -> Improved:
        parts = self.processes.sum(work.sums.parts, but=("grad_norm", "early"))
        each = max(updates, 1)
        values = {name: value / each for name, value in parts.items() if name.endswith("_loss") or name == "grad_norm"}
        values["clip_fraction"] = parts.get("held", 0.0) / max(parts.get("of", 0.0), 1.0)
        values["entropy"] = parts.get("entropy", 0.0) / max(parts.get("tokens", 0.0), 1.0)
        if "mismatch" in parts:
            values["mismatch"] = parts["mismatch"] / max(parts["first_tokens"], 1.0)
        if work.current and "kl" in parts:
            values["kl"] = parts["kl"] / max(int(work.seen.keep.sum()), 1)
        if "act_right" in parts:
            values["act_accuracy"] = parts["act_right"] / max(parts["act_of"], 1.0)
        if "early" in parts:
            values["early_stop"] = 1.0
        values["learning_rate"] = float(self.scheduler.get_last_lr()[0])
        values["updates"] = float(updates)
        values["seconds/update"] = time.monotonic() - begun
        return Improved(values=values)

    def _update(self, work: Round, part: Sequence[int], *, first: bool) -> bool:
        """One optimiser step on the prompts `part`; False where the policy had moved too far for another one."""
        seen = work.seen
        chosen = [n for p in part for n in np.flatnonzero((seen.group == p) & seen.keep)]
        counts = Counts(replies=len(chosen), tokens=int(seen.lengths[chosen].sum()), longest=self.config.max_new_tokens)
        gold = sum(len(seen.prompts[p].gold) for p in part)
        if self.quirks.lm_on_samples:
            gold = counts.tokens + sum(len(q.tokens) - q.padding - 1 for q in (seen.prompts[p] for p in part))
        moved = 0.0
        for passed in self.processes.share(part, size=self.config.per_device_train_batch_size):
            moved += self._pass(work, passed, counts, gold=gold, prompts=len(part), first=first)
        limit = self.config.iteration_kl
        if limit is not None and self.processes.sum({"moved": moved})["moved"] / max(counts.tokens, 1) > limit:
            self.optimizer.zero_grad(set_to_none=True)
            return False
        self.processes.sum_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or math.inf)
        if not torch.isfinite(norm):
            raise RunError(
                "The gradient is not a number although the loss was; lower learning_rate or use precision: fp32, then "
                "continue with --resume from the last checkpoint."
            )
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        work.sums.add("grad_norm", float(norm))
        return True

    def _pass(self, work: Round, part: Sequence[int], counts: Counts, *, gold: int, prompts: int, first: bool) -> float:
        """Gradients of one pass; returns how far its tokens are from the round's start, summed."""
        seen, targets, sums = work.seen, work.targets, work.sums
        chosen = [np.flatnonzero((seen.group == p) & seen.keep) for p in part]
        passing = lay_out(
            self.causal,
            [seen.prompts[p] for p in part],
            [[seen.written[n].tokens for n in mine] for mine in chosen],
            gold=self.config.ptx_coef > 0,
            prompts_as_gold=self.quirks.lm_on_samples,
        )
        with autocast(self.causal, self.half):
            found = run(
                self.causal.model,
                passing,
                temperature=self.config.temperature,
                entropy_gradient=self.config.entropy_coef > 0,
            )
        at = _tokens_of(seen, np.concatenate(chosen))
        flat = self._flat(work, at, found, passing)
        policy = self.algorithm.loss(flat, counts, kl_coef=work.kl_coef)
        terms = {"policy_loss": policy.loss}
        assert found.entropy is not None
        if self.config.entropy_coef:
            terms["entropy_loss"] = -self.config.entropy_coef * found.entropy.sum() / max(counts.tokens, 1)
        if self.config.ptx_coef:
            learnt = found.gold.sum() + (found.logprobs.sum() if self.quirks.lm_on_samples else 0.0)
            terms["ptx_loss"] = -self.config.ptx_coef * learnt / max(gold, 1)
        if self.value_head is not None and targets.returns is not None and isinstance(self.config, PPOConfig):
            assert seen.values is not None
            losses = value_loss(
                self.value_head(found.states), self._to(seen.values[at]), self._to(targets.returns[at]),
                clip=self.config.value_clip,
            )  # fmt: skip
            terms["value_loss"] = self.config.value_coef * losses.sum() / max(counts.tokens, 1)
        if self.act_head is not None:
            terms["act_loss"] = self._act_loss(seen, part, chosen, found, passing, counts, prompts, sums)
        self._refuse_nan(terms)
        torch.stack(list(terms.values())).sum().backward()
        for name, term in terms.items():
            sums.add(name, float(term.detach()))
        sums.add("held", policy.held)
        sums.add("of", policy.of)
        sums.add("entropy", float(found.entropy.detach().sum()))
        sums.add("tokens", len(at))
        now = found.logprobs.detach()
        if first and not work.exact:
            # Before any step, so that it is the engine's distance and not the way the policy went since.
            sums.add("mismatch", float((now - self._to(seen.sampler[at])).abs().sum()))
            sums.add("first_tokens", len(at))
        if work.current and flat.reference is not None:
            sums.add("kl", float((now - flat.reference).sum()))
        apart = flat.old - now
        return float((apart.neg().exp() - 1 + apart).sum())

    def _flat(self, work: Round, at: Any, found: Seen, passing: Passing) -> Flat:
        seen = work.seen
        old = found.logprobs.detach() if work.current else self._to(seen.old[at])
        return Flat(
            new=found.logprobs,
            old=old,
            reference=self._to(seen.reference[at]) if seen.reference is not None else None,
            advantages=self._to(work.targets.advantages[at]),
            drift=None if work.exact else old - self._to(seen.sampler[at]),
            owner=passing.owner,
            lengths=passing.lengths,
            cap=self.config.importance_cap,
        )

    def _act_loss(
        self,
        seen: Experience,
        part: Sequence[int],
        chosen: Sequence[np.ndarray[Any, Any]],
        found: Seen,
        passing: Passing,
        counts: Counts,
        prompts: int,
        sums: _Sums,
    ) -> torch.Tensor:
        """Cross-entropy of the act of the reply that is due (reader.md, L_act); prompts without a label have none."""
        assert self.act_head is not None
        assert self.config.act_head is not None
        rows, each = list(part), prompts
        pooled = found.prompts
        if self.quirks.act_sees_reply:
            owner = [i for i, mine in enumerate(chosen) for _ in mine]
            pooled = pooled_with_replies(found, passing, torch.tensor(owner, device=pooled.device))
            rows, each = [part[i] for i in owner], counts.replies
        labels = [gold_act(seen.prompts[p], self.act_head, self.config.act_head.label_set) for p in rows]
        known = [i for i, label in enumerate(labels) if label is not None]
        logits = self.act_head(pooled)
        if not known:
            return 0.0 * logits.sum()
        wanted = torch.tensor([label for label in labels if label is not None], device=logits.device)
        sums.add("act_right", float((logits[known].argmax(-1) == wanted).sum()))
        sums.add("act_of", len(known))
        loss = torch.nn.functional.cross_entropy(logits[known], wanted, reduction="sum") / max(each, 1)
        return self.config.act_head.coef * loss

    def predicted_acts(self, prompts: Sequence[Prompt]) -> list[dict[str, str]]:
        """For each prompt what the act head says of the reply that is due, as a plan: {label set: act} or nothing."""
        if self.act_head is None or self.config.act_head is None:
            return [{} for _ in prompts]
        name, labels = self.config.act_head.label_set, self.act_head.labels
        found = act_logits(self.causal, self.act_head, prompts, half=self.half).argmax(1)
        return [{name: labels[k]} for k in found]

    def _to(self, values: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(values).float().to(self.causal.device)

    def _refuse_nan(self, terms: dict[str, torch.Tensor]) -> None:
        for name, term in terms.items():
            if not torch.isfinite(term):
                raise RunError(
                    f"The {name.replace('_', ' ')} is not a number; nothing was changed by it. Lower learning_rate, "
                    "raise kl_coef or use precision: fp32, then continue with --resume from the last good checkpoint."
                )


def _tokens_of(seen: Experience, replies: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Places in [M] of the tokens of `replies`, in their order."""
    where = spans(seen.lengths)
    return np.concatenate([np.arange(*where[n]) for n in replies]) if len(replies) else np.zeros(0, dtype=np.int64)
