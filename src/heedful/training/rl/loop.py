"""The one loop of reinforcement learning: collect, improve, log, validate, checkpoint, stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heedful.models.decoding import Written, stream
from heedful.scoring.rewards import RewardSet
from heedful.training.checkpoints import unseal_after
from heedful.training.rl.algorithms import Algorithm
from heedful.training.rl.collect import Collector
from heedful.training.rl.config import RLConfig
from heedful.training.rl.experience import Experience, Prompt, joined
from heedful.training.rl.improve import Improver, Round
from heedful.training.rl.processes import Processes
from heedful.training.rl.state import restore, restore_weights, save
from heedful.training.rl.watch import Stop, Watch, explained_variance, round_numbers, validation_row
from heedful.types import Trace

Write = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished loop reports; see `training.trainer.Outcome`.

    Args:
        stopped: `done`, `time`, `kl`, `repetition` or `heldout`; `reason` says it in a sentence.
        replies: written by the policy in training.
    """

    steps: int
    weights_step: int
    seconds: float
    tokens: int
    replies: int
    stopped: str
    reason: str
    last: dict[str, Any] | None = field(repr=False, default=None)


@dataclass(kw_only=True)
class Loop:
    """Everything that a run has at hand.

    Args:
        prompts, validation: what is trained on, and what is measured on.
        steps: rounds in all.
        write: takes a file's short name (`metrics`, `validation`, `probes`, `traces`) and one row.
        say: takes one line of progress.
        folder: of checkpoints.
    """

    config: RLConfig
    prompts: Sequence[Prompt]
    validation: Sequence[Prompt]
    steps: int
    algorithm: Algorithm
    collector: Collector
    improver: Improver
    rewards: RewardSet
    heldout: RewardSet
    processes: Processes
    folder: Path
    write: Write
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.watch = Watch(config=self.config)
        self.stopped: Stop | None = None
        self.orders: dict[int, np.ndarray[Any, Any]] = {}
        self.kl_coef = self.config.kl_coef
        self.tokens = self.replies = 0
        self.earlier, self.begun = 0.0, time.monotonic()
        self.last_row: dict[str, Any] | None = None

    # ------------------------------------------------------------------ the whole

    def run(self, resume: Path | None) -> Outcome:
        """All rounds, from the start or from a checkpoint."""
        step = self._resume(resume) if resume else 0
        if self.processes.first:
            unseal_after(self.folder, step)
        stop = self.stopped if resume else self._validate(0)
        if not resume and self.config.load_best_model_at_end:
            self._save(0)  # the start may turn out to be the best
        while step < self.steps and stop is None:
            step += 1
            stop = self._round(step)
            last = step == self.steps or stop is not None
            if last or (self.config.eval_steps is not None and step % self.config.eval_steps == 0):
                stop = self._validate(step) or stop
                last = last or stop is not None
            best = self.config.load_best_model_at_end and self.watch.best_step == step
            if last or best or step % self.config.save_steps == 0:
                self._save(step, stop)
        return self._outcome(step, stop)

    def _outcome(self, step: int, stop: Stop | None) -> Outcome:
        weights_step = step
        best = self.watch.best_step
        if self.config.load_best_model_at_end and self.watch.best is not None and best < step:
            restore_weights(self.folder / f"checkpoint-{best}", self.collector.causal.model, self.heads)
            weights_step = best
        return Outcome(
            steps=step,
            weights_step=weights_step,
            seconds=self._seconds(),
            tokens=self.tokens,
            replies=self.replies,
            stopped=stop.kind if stop else "done",
            reason=stop.sentence if stop else f"all {self.steps} steps were done",
            last=self.last_row,
        )

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.begun

    # ------------------------------------------------------------------ a round

    def _round(self, step: int) -> Stop | None:
        begun = time.monotonic()
        seen = self._collect(step)
        numbers = round_numbers(seen)
        if not seen.keep.any():
            self._log(step, numbers, begun)
            self.say(f"step {step}: no reply has a total reward, so nothing was learnt")
            return self._time_is_over()
        targets = self.algorithm.targets(seen, kl_coef=0.0 if self.algorithm.kl_in_loss else self.kl_coef)
        if targets.returns is not None and seen.values is not None:
            kept = seen.keep[seen.owner]
            variance = explained_variance(seen.values[kept], targets.returns[kept])
            numbers.update({} if variance is None else {"explained_variance": variance})
        work = Round(
            seen=seen, targets=targets, kl_coef=self.kl_coef, current=self.collector.current,
            exact=self.collector.engine.exact,
        )  # fmt: skip
        improved = self.improver.improve(work, draw=stream(self.config.seed, f"updates/{step}"))
        numbers.update(improved.values)
        self.tokens += int(seen.lengths.sum())
        self.replies += len(seen.written)
        self._log(step, {**numbers, "kl_coefficient": self.kl_coef}, begun)
        self._adapt(numbers.get("kl"))
        return self.watch.after_round(numbers) or self._time_is_over()

    def _collect(self, step: int) -> Experience:
        size = self.config.rollout_batch_size
        chosen = [self._prompt((step - 1) * size + i) for i in range(size)]
        mine = self.processes.slice(size)
        part = [chosen[i] for i in mine]
        written = self.collector.write(part, n=self.config.num_generations, name=f"step/{step}", first=mine.start)
        seen = joined(self.processes.gather(self.collector.experience(part, written)))
        if self.config.save_traces:
            for n, trace in enumerate(seen.traces):
                self.write("traces", {"step": step, **trace.with_scores(*seen.scored.scores(n)).to_dict()})
        return seen

    def _prompt(self, number: int) -> Prompt:
        """The prompt at place `number` of an endless stream: each pass over the prompts has an order of its own."""
        epoch, place = divmod(number, len(self.prompts))
        if epoch not in self.orders:  # a round can reach into the next pass, so the last one is kept too
            order = np.random.default_rng((self.config.seed, epoch)).permutation(len(self.prompts))
            self.orders = {e: o for e, o in self.orders.items() if e == epoch - 1} | {epoch: order}
        return self.prompts[int(self.orders[epoch][place])]

    def _adapt(self, kl: float | None) -> None:
        """kl_coef <- kl_coef * (1 + gain * clip(KL / target - 1, -0.2, 0.2)) (Ziegler et al. 2019)."""
        if self.config.kl_target is not None and kl is not None:
            error = min(max(kl / self.config.kl_target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + self.config.kl_gain * error

    def _time_is_over(self) -> Stop | None:
        limit = self.config.max_seconds
        if limit is None or not self.processes.agree(time.monotonic() - self.begun > limit):
            return None
        return Stop(kind="time", sentence=f"max_seconds ({limit:g}) were over")

    def _log(self, step: int, numbers: Mapping[str, float], begun: float) -> None:
        took = {f"seconds/{name}": value for name, value in self.collector.seconds.items()}
        row = {"step": step, **numbers, **took, "seconds": time.monotonic() - begun, "tokens": self.tokens}
        self.write("metrics", {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)})
        if step % self.config.logging_steps == 0 or step in (1, self.steps):
            reward, kl, length = numbers.get("reward"), numbers.get("kl"), numbers.get("length")
            said = [f"step {step}/{self.steps}"]
            said += [f"reward {reward:.3f}"] if reward is not None else []
            said += [f"KL {kl:.2f}"] if kl is not None else []
            said += [f"length {length:.1f}"] if length is not None else []
            self.say(f"{', '.join(said)} ({self._seconds():.0f} s)")

    # ------------------------------------------------------------------ validation

    def _validate(self, step: int) -> Stop | None:
        if not self.validation:
            return None
        mine = self.processes.slice(len(self.validation))
        part = [self.validation[i] for i in mine]
        # The same random streams each time: what differs between two validations is the policy.
        written = self.collector.write(part, n=1, name="valid", first=mine.start) if part else []
        # A prompt without an answer keeps its place, so that validations can be compared prompt by prompt.
        written = [mine or [Written(tokens=(), logprobs=(), finish="error")] for mine in written]
        local = list(zip(part, self.collector.traces(part, written), [w.tokens for (w,) in written], strict=True))
        found = [row for rows in self.processes.gather(local) for row in rows]
        prompts, traces, ids = [p for p, _, _ in found], [t for _, t, _ in found], [i for _, _, i in found]
        # One process judges and all hear of it: a judge that answers otherwise the second time would part them.
        row = self.processes.from_first(
            lambda: validation_row(step, prompts, traces, ids, (self.rewards, self.heldout))
        )
        self.last_row = row
        self.write("validation", row)
        self._probe(step, prompts, traces, row)
        known = [v for v in row["total"] if v is not None]
        self.say(f"validation at step {step}: reward {np.mean(known):.3f} on {len(known)} replies" if known else
                 f"validation at step {step}: no reply has a total reward")  # fmt: skip
        return self.watch.after_validation(row)

    def _probe(self, step: int, prompts: Sequence[Prompt], traces: Sequence[Trace], row: Mapping[str, Any]) -> None:
        count = min(self.config.probe_prompts, len(prompts))
        chosen = [int(i) for i in np.linspace(0, len(prompts) - 1, count, dtype=int)] if count else []
        acts = self.improver.predicted_acts([prompts[i] for i in chosen])
        for i, act in zip(chosen, acts, strict=True):
            scores = {name: values[i] for part in ("train", "heldout") for name, values in row[part].items()}
            self.write(
                "probes",
                {
                    "step": step, "id": prompts[i].task.id, "said": prompts[i].task.said, "reply": traces[i].reply,
                    "scores": {**scores, "reward": row["total"][i]}, "plan": {**act, **traces[i].plan},
                },
            )  # fmt: skip

    # ------------------------------------------------------------------ checkpoints

    @property
    def heads(self) -> dict[str, torch.nn.Module]:
        """What is trained beside the policy, by name."""
        heads = {"value": self.improver.value_head, "act": self.improver.act_head}
        return {name: head for name, head in heads.items() if head is not None}

    def _save(self, step: int, stop: Stop | None = None) -> None:
        if self.processes.first:
            watch = {k: v for k, v in asdict(replace(self.watch)).items() if k != "config"}
            save(
                self.folder, step=step, model=self.collector.causal.model, heads=self.heads,
                optimizer=self.improver.optimizer, scheduler=self.improver.scheduler,
                state={
                    "kl_coef": self.kl_coef, "tokens": self.tokens, "replies": self.replies,
                    "seconds": self._seconds(), "watch": watch, "stopped": asdict(stop) if stop else None,
                },
                keep=self.config.save_total_limit,
                spare=self.watch.best_step if self.config.load_best_model_at_end else None,
            )  # fmt: skip
        self.processes.wait()

    def _resume(self, folder: Path) -> int:
        state = restore(
            folder, model=self.collector.causal.model, heads=self.heads, optimizer=self.improver.optimizer,
            scheduler=self.improver.scheduler,
        )  # fmt: skip
        self.kl_coef, self.tokens, self.replies = state["kl_coef"], state["tokens"], state["replies"]
        self.earlier = float(state["seconds"])
        self.watch = Watch(config=self.config, **state["watch"])
        # Time is over again with each leg of a run; every other rule has spoken for good.
        known = state.get("stopped")
        self.stopped = Stop(**known) if known and known["kind"] != "time" else None
        return int(state["global_step"])
