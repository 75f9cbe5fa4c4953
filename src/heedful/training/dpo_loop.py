"""The loop of `method: dpo`: TRL's DPOTrainer, handed token ids so that nothing is rendered or cut a second time."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from heedful.errors import ConfigError, RunError
from heedful.models.causal import CausalModel
from heedful.models.delta import expected_warnings
from heedful.models.memory import keep_freed_memory
from heedful.training.dpo import DPOSettings, TokenPair
from heedful.training.preference_run import loop_arguments
from heedful.training.trainer import Clock, Log, Outcome, Seal, StopsAtItsEnd, one_device, seconds_of, train_to_the_end


def fit(
    config: DPOSettings,
    causal: CausalModel,
    delta: Any,
    train: Sequence[TokenPair],
    held: Sequence[TokenPair],
    *,
    folder: Path,
    resume: Path | None = None,
    log: Log | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[Outcome, Any]:
    """Train `causal.model` in place.

    Args:
        delta: a peft configuration, or None to train all weights beside a copy of them.
        folder: where checkpoints go.
        resume: a complete checkpoint to go on from.
        log: called with the numbers of a step.

    Returns:
        the outcome, and the reference model (None: the adapter switched off).

    Raises:
        ConfigError: a delta method that does not fit the model.
        RunError: the loss is not a number, or the disk is full; earlier checkpoints stay.
    """
    on_cpu = causal.device.type == "cpu"
    reference = copy.deepcopy(causal.model).eval() if delta is None else None
    clock = Clock(config.max_seconds, earlier=seconds_of(resume))
    with _remarks_of_trl():
        trainer = _trainer(
            config, causal, delta, reference, train, held, folder=folder,
            callbacks=[clock, Seal(config.save_total_limit, clock), *callbacks],
        )  # fmt: skip
        trainer.heedful_log = log
        if on_cpu:
            keep_freed_memory()
        train_to_the_end(trainer, resume=resume)
    steps = trainer.state.global_step
    outcome = Outcome(
        steps=steps,
        weights_step=steps,
        seconds=clock.seconds(),
        tokens=trainer.state.num_input_tokens_seen,
        stopped="time" if clock.rang else "done",
        best_eval_loss=None,
    )
    return outcome, reference


def _trainer(
    config: DPOSettings,
    causal: CausalModel,
    delta: Any,
    reference: Any,
    train: Sequence[TokenPair],
    held: Sequence[TokenPair],
    *,
    folder: Path,
    callbacks: list[TrainerCallback],
) -> PairTrainer:
    """TRL's trainer; afterwards `causal.model` is the model that it trains."""
    try:
        trainer = PairTrainer(
            model=causal.model,
            ref_model=reference,
            args=_arguments(config, folder, evaluates=bool(held), on_cpu=causal.device.type == "cpu"),
            train_dataset=_rows(train),
            eval_dataset=_rows(held) if held else None,
            processing_class=causal.tokenizer,
            peft_config=delta,
            callbacks=callbacks,
        )
    except ValueError as err:
        raise ConfigError(f"DPO cannot train this model with delta: {config.delta} ({err}).") from err
    causal.model = trainer.model
    for parameter in causal.model.parameters():
        if parameter.requires_grad:  # an update of 1e-5 vanishes in bf16's 8 bits of mantissa
            parameter.data = parameter.data.float()
    return trainer


def _rows(pairs: Sequence[TokenPair]) -> Dataset:
    return Dataset.from_list(
        [{"prompt_ids": list(p.prompt), "chosen_ids": list(p.chosen), "rejected_ids": list(p.rejected)} for p in pairs]
    )


def _arguments(config: DPOSettings, folder: Path, *, evaluates: bool, on_cpu: bool) -> DPOConfig:
    arguments = DPOConfig(
        **loop_arguments(config, folder, evaluates=evaluates, on_cpu=on_cpu),
        beta=config.beta,
        loss_type=[config.loss_type],
        label_smoothing=config.label_smoothing,
        gradient_checkpointing=config.gradient_checkpointing,
        max_length=None,  # cut already, by the turn and not by the token
        precompute_ref_log_probs=False,
    )
    found: DPOConfig = one_device(arguments)
    return found


@contextmanager
def _remarks_of_trl() -> Iterator[None]:
    """Without remarks about names that TRL's own settings use."""
    with expected_warnings(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
        yield


class PairTrainer(StopsAtItsEnd, DPOTrainer):
    """TRL's trainer without its own tokenising and its own card, stopping where the loss is not a number."""

    heedful_log: Log | None = None

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The run writes its own, from what happened."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = found[0] if return_outputs else found
        if model.training:
            self.state.num_input_tokens_seen += int(inputs["attention_mask"].sum())
        if not torch.isfinite(loss):
            raise RunError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1}; lower learning_rate or use "
                "precision: fp32, then continue with --resume from the last good checkpoint."
            )
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self.heedful_log and "train_runtime" not in logs:
            self.heedful_log({k: v for k, v in logs.items() if isinstance(v, float)}, self.state.global_step)
