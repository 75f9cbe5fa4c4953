"""The loop of `method: seq2seq`: transformers' Trainer with our batches, our loss and the paper's validation loss.

Trained is every token of a target, its strategy included. Validated are the words alone, among the base vocabulary and
after the corpus' own strategy: the perplexity by which the released code chooses its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl

from heedful.errors import RunError
from heedful.formats import Sample
from heedful.models.causal import CausalModel
from heedful.models.memory import keep_freed_memory
from heedful.models.pairs import NOTHING, losses, pair_logits, pair_tensors
from heedful.training.data import LengthBatches
from heedful.training.seq2seq import Seq2SeqConfig
from heedful.training.trainer import (
    Best,
    Clock,
    Epoch,
    Log,
    Outcome,
    Seal,
    StopsAtItsEnd,
    arguments_of,
    early_stopping,
    seconds_of,
    train_to_the_end,
    weights_step,
)


def fit(
    config: Seq2SeqConfig,
    causal: CausalModel,
    train: Sequence[Sample],
    held: Sequence[Sample] | None,
    *,
    folder: Path,
    resume: Path | None = None,
    log: Log | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Outcome:
    """Train `causal.model` in place.

    Args:
        folder: where checkpoints go.
        resume: a complete checkpoint to go on from.
        log: called with the numbers of a step.

    Raises:
        RunError: the loss is not a number, or the disk is full; earlier checkpoints stay.
    """
    on_cpu = causal.device.type == "cpu"
    clock = Clock(config.max_seconds, earlier=seconds_of(resume))
    trainer = ReplyTrainer(
        model=causal.model,
        args=arguments_of(config, folder, evaluates=held is not None, on_cpu=on_cpu),
        train_dataset=list(train),
        eval_dataset=None if held is None else list(held),
        data_collator=lambda samples: pair_tensors(causal, samples),
        callbacks=[clock, Best(), Seal(config.save_total_limit, clock), *callbacks, *early_stopping(config)],
    )
    trainer.heedful_log, trainer.marks = log, causal.marks
    trainer.add_callback(Epoch(trainer))
    if on_cpu:
        keep_freed_memory()
    train_to_the_end(trainer, resume=resume)
    at_end = held is not None and config.eval_steps is None
    best = trainer.evaluate()["eval_loss"] if at_end else trainer.state.best_metric
    early = trainer.state.global_step < trainer.state.max_steps and not clock.rang
    return Outcome(
        steps=trainer.state.global_step,
        weights_step=weights_step(trainer),
        seconds=clock.seconds(),
        tokens=trainer.state.num_input_tokens_seen,
        stopped="time" if clock.rang else "early" if early else "done",
        best_eval_loss=None if best is None else float(best),
    )


class ReplyTrainer(StopsAtItsEnd):
    """transformers' Trainer over replies. `marks` are the ids of the strategies; none in Vanilla."""

    heedful_log: Log | None = None
    sampler: LengthBatches | None = None
    marks: tuple[int, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Our loss is divided by the targets of the whole accumulated batch already.
        self.loss_is_scaled_for_ga = True

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: list[Sample] = train_dataset if train_dataset is not None else self.train_dataset
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        self.sampler = LengthBatches([len(sample) for sample in rows], global_batch=batch, seed=self.args.seed)
        return self.sampler

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: Any) -> Any:
        if not batch_samples:
            return None
        targets = sum(int((b["labels"] != NOTHING).sum()) for b in batch_samples)
        # Part of the trainer's state, so that a resumed run goes on counting.
        self.state.num_input_tokens_seen += targets + sum(int(b["attention_mask"].sum()) for b in batch_samples)
        return torch.tensor(targets, device=device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        logits = pair_logits(model, inputs)
        total = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), inputs["labels"].flatten(), ignore_index=NOTHING, reduction="sum"
        )
        if not torch.isfinite(total):
            raise RunError(
                f"The loss became {total.item()} at step {self.state.global_step + 1}; lower learning_rate or use "
                "precision: fp32, then continue with --resume from the last good checkpoint."
            )
        items = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"] != NOTHING).sum()
        loss = total / items
        return (loss, None) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        rows: list[Sample] = eval_dataset if eval_dataset is not None else self.eval_dataset
        rows = sorted(rows, key=lambda sample: -len(sample))
        size = self.args.per_device_eval_batch_size
        nll, words, right, plans = 0.0, 0, 0, 0
        self.model.eval()
        for begin in range(0, len(rows), size):
            batch = self._prepare_inputs(self.data_collator(rows[begin : begin + size]))
            with torch.no_grad(), self.accelerator.autocast():
                logits = pair_logits(self.model, batch)
            found, plan = losses(logits, batch, self.marks)
            said = (batch["labels"] != NOTHING) & ~plan
            nll += float(found[said].double().sum())
            words += int(said.sum())
            right += self._right(logits, batch, plan)
            plans += int(plan.sum())
        self.model.train()
        loss = nll / words
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_perplexity": math.exp(min(loss, 50.0))}
        if plans:
            metrics[f"{metric_key_prefix}_plan_accuracy"] = right / plans
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _right(self, logits: torch.Tensor, batch: dict[str, torch.Tensor], plan: torch.Tensor) -> int:
        """Strategies that are the most probable of all strategies."""
        if not self.marks:
            return 0
        marks = torch.tensor(self.marks, device=logits.device)
        best = marks[logits[plan][:, marks].argmax(1)]
        return int((best == batch["labels"][plan]).sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self.heedful_log and "train_runtime" not in logs:
            self.heedful_log({k: v for k, v in logs.items() if isinstance(v, float)}, self.state.global_step)
