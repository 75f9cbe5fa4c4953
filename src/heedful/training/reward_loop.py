"""The loop of `method: reward`: transformers' Trainer with the two losses of a reward model.

pairwise   L = - mean log sigma(z_chosen - z_rejected)                          (Bradley and Terry, 1952)
binary     L = - mean [y log sigma(z) + (1 - y) log sigma(-z)]                  (ChatMGL, chatmgl.md part A)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainingArguments

from heedful.errors import RunError
from heedful.models.memory import keep_freed_memory
from heedful.models.reward import padded
from heedful.training.data import LengthBatches
from heedful.training.preference_run import loop_arguments
from heedful.training.trainer import (
    Clock,
    Epoch,
    Log,
    Outcome,
    Seal,
    StopsAtItsEnd,
    one_device,
    seconds_of,
    train_to_the_end,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One example as token ids: for a pair the chosen row and then the rejected one."""

    rows: tuple[tuple[int, ...], ...] = field(repr=False)
    labels: tuple[float, ...]

    def __len__(self) -> int:
        return max(len(row) for row in self.rows)


def fit(
    config: Any,
    model: Any,
    train: Sequence[Item],
    held: Sequence[Item],
    *,
    folder: Path,
    resume: Path | None = None,
    log: Log | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Outcome:
    """Train `model` in place.

    Args:
        folder: where checkpoints go.
        resume: a complete checkpoint to go on from.
        log: called with the numbers of a step.

    Raises:
        RunError: the loss is not a number, or the disk is full; earlier checkpoints stay.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    arguments = one_device(TrainingArguments(**loop_arguments(config, folder, evaluates=bool(held), on_cpu=on_cpu)))
    clock = Clock(config.max_seconds, earlier=seconds_of(resume))
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=list(train),
        eval_dataset=list(held) or None,
        data_collator=Collator(int(model.config.pad_token_id)),
        callbacks=[clock, Seal(config.save_total_limit, clock), *callbacks],
    )
    trainer.objective = config.objective
    trainer.heedful_log = log
    # The head of a causal model takes any keyword, which transformers reads as "divides its loss itself".
    trainer.model_accepts_loss_kwargs = False
    trainer.add_callback(Epoch(trainer))
    if on_cpu:
        keep_freed_memory()
    train_to_the_end(trainer, resume=resume)
    steps = trainer.state.global_step
    return Outcome(
        steps=steps,
        weights_step=steps,
        seconds=clock.seconds(),
        tokens=trainer.state.num_input_tokens_seen,
        stopped="time" if clock.rang else "done",
        best_eval_loss=None,
    )


class Collator:
    """Items -> padded rows [B, T], pairs side by side, with the label of each row."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        rows = [row for item in items for row in item.rows]
        goodness = torch.tensor([label for item in items for label in item.labels])
        return {**padded(rows, pad_id=self.pad_id), "goodness": goodness}


class RewardTrainer(StopsAtItsEnd):
    """transformers' Trainer with our losses, and batches of similar length."""

    objective = "pairwise"
    heedful_log: Log | None = None
    sampler: LengthBatches | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        items = train_dataset if train_dataset is not None else self.train_dataset
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        self.sampler = LengthBatches([len(item) for item in items], global_batch=batch, seed=self.args.seed)
        return self.sampler

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        self.state.num_input_tokens_seen += int(inputs["attention_mask"].sum())
        z = logits(model, inputs)
        loss = loss_of(z, inputs["goodness"], self.objective)
        if not torch.isfinite(loss):
            raise RunError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1}; lower learning_rate or use "
                "precision: fp32, then continue with --resume from the last good checkpoint."
            )
        return (loss, {"z": z}) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        items: list[Item] = sorted(eval_dataset or self.eval_dataset, key=lambda item: -len(item))
        size, total, right, count = self.args.per_device_eval_batch_size, 0.0, 0.0, 0
        self.model.eval()
        for begin in range(0, len(items), size):
            batch = self._prepare_inputs(self.data_collator(items[begin : begin + size]))
            with torch.no_grad(), self.accelerator.autocast():
                z = logits(self.model, batch)
            n = len(items[begin : begin + size])
            total += float(loss_of(z, batch["goodness"], self.objective)) * n
            right += float(hits(z, batch["goodness"], self.objective).mean()) * n
            count += n
        self.model.train()
        metrics = {f"{metric_key_prefix}_loss": total / count, f"{metric_key_prefix}_accuracy": right / count}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self.heedful_log and "train_runtime" not in logs:
            self.heedful_log({k: v for k, v in logs.items() if isinstance(v, float)}, self.state.global_step)


def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """z [B], fp32."""
    z: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].float()
    return z


def loss_of(z: torch.Tensor, goodness: torch.Tensor, objective: str) -> torch.Tensor:
    """The loss of rows [B]; for pairs, chosen and rejected alternate."""
    if objective == "pairwise":
        return -torch.nn.functional.logsigmoid(z[0::2] - z[1::2]).mean()
    return torch.nn.functional.binary_cross_entropy_with_logits(z, goodness.to(z.dtype))


def hits(z: torch.Tensor, goodness: torch.Tensor, objective: str) -> torch.Tensor:
    """1 where a pair, or a single reply, is judged rightly."""
    if objective == "pairwise":
        return (torch.sign(z[0::2] - z[1::2]) + 1) / 2
    return ((z > 0) == (goodness > 0.5)).float()
