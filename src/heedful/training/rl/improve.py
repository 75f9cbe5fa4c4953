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
    updates: int
    tokens: int


@dataclass
class _Sums:
    parts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.parts[name] = self.parts.get(name, 0.0) + value


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

    def improve(
        self,
        seen: Experience,
        targets: Targets,
        *,
        kl_coef: float,
        draw: np.random.Generator,
        current: bool,
        exact: bool,
    ) -> Improved:
        """All updates of a round.

        Args:
            draw: order of the prompts.
            current: the policy of the only update is the one that wrote, so its log-probabilities are the old ones.
            exact: the sampler's log-probabilities are the policy's.

        Raises:
            RunError: a loss or gradient is not a number; nothing was changed by it.
        """
        begun, sums, updates = time.monotonic(), _Sums(), 0
        config = self.config
        self.causal.model.train()
        with_replies = [p for p in range(len(seen.prompts)) if seen.keep[seen.group == p].any()]
        for _ in range(config.num_iterations):
            order = draw.permutation(with_replies)
            for begin in range(0, len(order), config.mini_batch_size):
                part = sorted(order[begin : begin + config.mini_batch_size].tolist())
                moved = self._update(seen, targets, part, kl_coef=kl_coef, sums=sums, current=current, exact=exact)
                updates += 1
                if config.iteration_kl is not None and moved > config.iteration_kl:
                    sums.add("early", 1.0)
                    return self._report(sums, updates, begun)
        return self._report(sums, updates, begun)

    def _report(self, sums: _Sums, updates: int, begun: float) -> Improved:
        parts = self.processes.sum(sums.parts, but=("grad_norm", "early"))
        each = max(updates, 1)
        tokens = max(parts.get("tokens", 0.0), 1.0)
        values = {name: value / each for name, value in parts.items() if name.endswith("_loss") or name == "grad_norm"}
        values["clip_fraction"] = parts.get("held", 0.0) / max(parts.get("of", 0.0), 1.0)
        for name in ("entropy", "mismatch"):
            if name in parts:
                values[name] = parts[name] / tokens
        if "act_right" in parts:
            values["act_accuracy"] = parts["act_right"] / max(parts["act_of"], 1.0)
        if "early" in parts:
            values["early_stop"] = 1.0
        values["learning_rate"] = float(self.scheduler.get_last_lr()[0])
        values["updates"] = float(updates)
        values["seconds/update"] = time.monotonic() - begun
        return Improved(values=values, updates=updates, tokens=int(tokens))

    def _update(
        self,
        seen: Experience,
        targets: Targets,
        part: Sequence[int],
        *,
        kl_coef: float,
        sums: _Sums,
        current: bool,
        exact: bool,
    ) -> float:
        """One optimiser step on the prompts `part`; returns how far the policy is from the round's start, per token."""
        chosen = [n for p in part for n in np.flatnonzero((seen.group == p) & seen.keep)]
        counts = Counts(replies=len(chosen), tokens=int(seen.lengths[chosen].sum()), longest=self.config.max_new_tokens)
        gold = sum(len(seen.prompts[p].gold) for p in part)
        if self.quirks.lm_on_samples:
            gold = counts.tokens + sum(len(q.tokens) - q.padding - 1 for q in (seen.prompts[p] for p in part))
        moved = 0.0
        for passed in self.processes.share(part, size=self.config.per_device_train_batch_size):
            moved += self._pass(
                seen, targets, passed, counts, gold=gold, prompts=len(part), kl_coef=kl_coef, sums=sums,
                current=current, exact=exact,
            )  # fmt: skip
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
        sums.add("grad_norm", float(norm))
        return self.processes.sum({"moved": moved})["moved"] / max(counts.tokens, 1)

    def _pass(
        self,
        seen: Experience,
        targets: Targets,
        part: Sequence[int],
        counts: Counts,
        *,
        gold: int,
        prompts: int,
        kl_coef: float,
        sums: _Sums,
        current: bool,
        exact: bool,
    ) -> float:
        chosen = [np.flatnonzero((seen.group == p) & seen.keep) for p in part]
        passing = lay_out(
            self.causal,
            [seen.prompts[p] for p in part],
            [[seen.written[n].tokens for n in mine] for mine in chosen],
            gold=self.config.ptx_coef > 0,
            prompts_as_gold=self.quirks.lm_on_samples,
        )
        with autocast(self.causal, self.half):
            found = run(self.causal.model, passing, entropy_gradient=self.config.entropy_coef > 0)
        at = _tokens_of(seen, np.concatenate(chosen))
        flat = self._flat(seen, targets, at, found, passing.owner, passing.lengths, current=current, exact=exact)
        policy = self.algorithm.loss(flat, counts, kl_coef=kl_coef)
        terms = {"policy_loss": policy.loss}
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
        if flat.drift is not None:
            sums.add("mismatch", float(flat.drift.abs().sum()))
        apart = (flat.old - flat.new).detach()
        return float((apart.neg().exp() - 1 + apart).sum())

    def _flat(
        self,
        seen: Experience,
        targets: Targets,
        at: Any,
        found: Seen,
        owner: Any,
        lengths: Any,
        *,
        current: bool,
        exact: bool,
    ) -> Flat:
        new = found.logprobs
        old = new.detach() if current else self._to(seen.old[at])
        return Flat(
            new=new,
            old=old,
            reference=self._to(seen.reference[at]) if seen.reference is not None else None,
            advantages=self._to(targets.advantages[at]),
            drift=None if exact else old - self._to(seen.sampler[at]),
            owner=owner,
            lengths=lengths,
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
