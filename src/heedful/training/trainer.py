"""What every loop on transformers' Trainer shares: a clock, sealed checkpoints, an end that is the end.

The loops themselves (supervised, reward models, DPO) differ in what enters them and in their loss.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from heedful.errors import RunError
from heedful.models.causal import use_bf16
from heedful.training.checkpoints import disk_is_full, full_disk, prune, seal, unseal_after
from heedful.training.config import LoopSettings

CLOCK = "heedful-clock.json"
"""In a checkpoint, under its seal: the seconds that the run had taken."""

Log = Callable[[dict[str, float], int], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished loop reports.

    Args:
        steps: taken in all.
        weights_step: the step whose weights the model has now; an earlier one where that was the best.
        seconds, tokens: of all legs of a run that was continued, as far as checkpoints know of them.
        stopped: why it ended: `done`, `time` or `early`.
    """

    steps: int
    weights_step: int
    seconds: float
    tokens: int
    stopped: str
    best_eval_loss: float | None


class StopsAtItsEnd(Trainer):
    """Trainer without the one step too many that transformers takes when a run is resumed from its last checkpoint
    within an epoch."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        if self.state.global_step >= self.state.max_steps:
            return [], None
        found: tuple[list[Any], Any] = super().get_batch_samples(epoch_iterator, num_batches, device)
        return found


def train_to_the_end(trainer: Trainer, *, resume: Path | None) -> None:
    """Run the loop, from a checkpoint where one is given; nothing is printed to stdout, which belongs to results.

    Raises:
        RunError: the disk is full; earlier checkpoints stay.
    """
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except Exception as err:  # safetensors has an error of its own for a full disk
        if not disk_is_full(err):
            raise
        raise full_disk(Path(trainer.args.output_dir)) from err


class Epoch(TrainerCallback):
    """Tells the sampler which epoch begins: accelerate's wrappers do not pass it on when a run is resumed."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(math.floor((state.epoch or 0.0) + 1e-6))


class Clock(TrainerCallback):
    """Ends training when its time is over, and measures the last step, so that it can be the best one.

    Args:
        limit: seconds from now on.
        earlier: seconds that the run took before it was continued.
    """

    def __init__(self, limit: float | None, *, earlier: float) -> None:
        self.limit, self.earlier, self.begun, self.rang = limit, earlier, time.monotonic(), False

    def seconds(self) -> float:
        """Of the whole run."""
        return self.earlier + time.monotonic() - self.begun

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps
        if not last and self.limit is not None and self._is_over(args, self.limit):
            # Saved as well, so that `--resume` goes on from here and not from the last round number.
            self.rang = control.should_training_stop = control.should_save = True
        if (last or self.rang) and args.load_best_model_at_end:
            control.should_evaluate = control.should_save = True

    def _is_over(self, args: Any, limit: float) -> bool:
        over = time.monotonic() - self.begun > limit
        if args.world_size > 1:
            # Clocks differ, and a process that stopped alone would leave the others waiting for it.
            flag = torch.tensor(int(over), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            over = bool(flag.item())
        return over


class Best(TrainerCallback):
    """Saves every new best model: what was not saved cannot be taken back at the end."""

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        if args.load_best_model_at_end and (state.best_metric is None or metrics["eval_loss"] < state.best_metric):
            control.should_save = True


class Seal(TrainerCallback):
    """Seals a checkpoint once all its files are written, and only then deletes older ones."""

    def __init__(self, keep: int, clock: Clock) -> None:
        self.keep, self.clock = keep, clock

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_save = False  # it was on when the checkpoint was written
        if state.is_world_process_zero:
            unseal_after(Path(args.output_dir), state.global_step)
        # A checkpoint's state has the rhythms of its time and the place where its run was then.
        state.compute_steps(args, state.max_steps)
        here = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if here.is_dir():
            state.best_model_checkpoint = str(here)

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        # A gradient can break the weights while the loss before it was still a number.
        if not all(torch.isfinite(p).all() for p in model.parameters() if p.requires_grad):
            raise RunError(
                f"The weights became nan at step {state.global_step}; lower learning_rate or use precision: fp32, "
                "then continue with --resume from the last good checkpoint."
            )
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if args.world_size > 1:
            torch.distributed.barrier()  # every process writes the state of its random numbers
        if state.is_world_process_zero and folder.is_dir():
            (folder / CLOCK).write_text(json.dumps({"seconds": self.clock.seconds()}), "utf-8")
            seal(folder)
            best = state.best_model_checkpoint
            prune(folder.parent, keep=self.keep, spare=Path(best) if best else None)


def one_device(arguments: TrainingArguments) -> TrainingArguments:
    """Let one process use one GPU: nn.DataParallel would cut a packed batch where its rows are, not its targets."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def seconds_of(checkpoint: Path | None) -> float:
    if checkpoint is None or not (checkpoint / CLOCK).is_file():
        return 0.0
    return float(json.loads((checkpoint / CLOCK).read_text("utf-8"))["seconds"])


def early_stopping(config: LoopSettings) -> list[TrainerCallback]:
    """A callback that ends a run whose validation loss has stopped falling, where one is configured."""
    if config.early_stopping_patience is None:
        return []
    return [EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold)]


def arguments_of(
    config: LoopSettings, folder: Path, *, evaluates: bool, on_cpu: bool, **more: Any
) -> TrainingArguments:
    """The loop's settings in transformers' words.

    Args:
        evaluates: whether there is an evaluation part.
        more: what one method sets beside them.
    """
    at_steps = evaluates and config.eval_steps is not None
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=on_cpu,
        seed=config.seed,
        data_seed=config.seed,
        bf16=use_bf16(config.precision, on_cpu=on_cpu),
        fp16=config.precision == "fp16",
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if at_steps else "no",
        eval_steps=config.eval_steps if at_steps else None,
        save_strategy="steps",
        save_steps=_save_steps(config) if at_steps else config.save_steps,
        # The best model can only be taken back if it was saved, so the two rhythms must meet.
        load_best_model_at_end=at_steps,
        # Or a resumed run would forget how long it has been waiting for a better model.
        restore_callback_states_from_checkpoint=True,
        metric_for_best_model="eval_loss" if at_steps else None,
        greater_is_better=False if at_steps else None,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=False,
        log_level="error",
        **({"activation_checkpointing": True} if config.gradient_checkpointing else {}),
        **more,
    )
    return one_device(arguments)


def weights_step(trainer: Trainer) -> int:
    """The step whose weights the model has after the loop."""
    state, best = trainer.state, trainer.state.best_model_checkpoint
    taken_back = trainer.args.load_best_model_at_end and best is not None and Path(best).is_dir()
    return int(state.best_global_step if taken_back and state.best_global_step else state.global_step)


def _save_steps(config: LoopSettings) -> int:
    every = config.eval_steps or config.save_steps
    return max(1, round(config.save_steps / every)) * every
