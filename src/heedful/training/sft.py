"""Supervised training on whole conversations.

The loop, mixed precision, accumulation, several processes and resuming are transformers' Trainer and accelerate; ours
is what enters them: one packed tree per conversation with the loss on every supporter turn.

    L = - 1/N * sum over all targets of log p(token | path),   N = target tokens of the whole (global) batch

With `plan_loss` the plan before the words has an objective of its own (`training.plan_loss`), and validation counts the
words alone. With an act head (reader.md, stage 1), coef * the mean cross-entropy of the act of each labelled reply is
added. It is a part of the model while the loop runs, so that optimiser, gradients and checkpoints know it. With a graph
(glhg.md) the loss is (1 - monitor) L + monitor * the mean cross-entropy of the problem type, and the graph has a rate
of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from heedful.errors import DataError, RunError
from heedful.formats import Format, TokenTree, pack
from heedful.models.causal import CausalModel
from heedful.models.forward import prediction_logits, predictions, states_and_logits, tensors
from heedful.models.memory import keep_freed_memory
from heedful.training.config import TrainConfig
from heedful.training.data import Filled, LengthBatches, Prepared
from heedful.training.graph import GraphPart, graph_for
from heedful.training.plan_loss import PlanPart, new_rows, plan_part
from heedful.training.rl.acts import gold_act, load_act_head, measure_acts, new_act_head, path_means, save_heads
from heedful.training.rl.collect import prompts_of
from heedful.training.rl.experience import Prompt
from heedful.training.rl.heads import ActHead
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
from heedful.types import Conversation


def sft(
    config: TrainConfig,
    causal: CausalModel,
    train: Prepared,
    evaluation: Prepared | None,
    *,
    folder: Path,
    resume: Path | None = None,
    log: Log | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    parts: Parts | None = None,
) -> Outcome:
    """Train `causal.model` in place.

    Args:
        parts: what is trained along with it, in place as well.
        folder: where checkpoints go.
        resume: a complete checkpoint to go on from.
        log: called with the numbers of a step.

    Raises:
        RunError: the loss is not a number, or the disk is full; earlier checkpoints stay.
    """
    at_end = evaluation is not None and config.eval_steps is None
    on_cpu = causal.device.type == "cpu"
    # A graph takes several passes in a step, a process without a conversation takes one; no buffer ever changes.
    more = {"ddp_broadcast_buffers": False} if config.graph else {}
    arguments = arguments_of(config, folder, evaluates=evaluation is not None, on_cpu=on_cpu, **more)
    clock = Clock(config.max_seconds, earlier=seconds_of(resume))
    parts = parts or Parts()
    keeps = [_Keeps(part, resume) for part in (parts.acts, parts.graph) if part]
    own = [clock, Best(), *keeps, Seal(config.save_total_limit, clock), *callbacks, *early_stopping(config)]
    trainer = ConversationTrainer(
        model=causal.model,
        args=arguments,
        train_dataset=Filled(train.trees, pad_id=causal.pad_id),
        eval_dataset=evaluation.trees if evaluation else None,
        data_collator=Collator(causal.pad_id, parts.acts.targets if parts.acts else {}, parts.graph),
        callbacks=own,
    )
    trainer.heedful_log, trainer.new_rate = log, config.new_token_learning_rate
    trainer.acts, trainer.plan, trainer.graph = parts.acts, parts.plan, parts.graph
    trainer.add_callback(Epoch(trainer))
    if on_cpu:
        keep_freed_memory()
    train_to_the_end(trainer, resume=resume)
    best = trainer.evaluate()["eval_loss"] if at_end else trainer.state.best_metric
    parts.leave(causal, trainer)
    early = trainer.state.global_step < trainer.state.max_steps and not clock.rang
    return Outcome(
        steps=trainer.state.global_step,
        weights_step=weights_step(trainer),
        seconds=clock.seconds(),
        tokens=trainer.state.num_input_tokens_seen,
        stopped="time" if clock.rang else "early" if early else "done",
        best_eval_loss=None if best is None else float(best),
    )


@dataclass(frozen=True, kw_only=True)
class Acts:
    """What a response-act head needs in supervised training.

    Args:
        coef: weight of its loss.
        targets: sample id -> number of the act of its reply; samples without a label are not in it.
        label_set: name of the acts' set, written beside the weights.
        train, held: the targets of both parts one by one, for the figures; `split` names the second.
    """

    head: ActHead
    coef: float
    targets: Mapping[str, int] = field(repr=False)
    label_set: str
    train: Sequence[Prompt] = field(repr=False)
    held: Sequence[Prompt] = field(repr=False)
    split: str | None

    def leave(self, model: Any, trainer: ConversationTrainer) -> None:
        """Take the head out of the model after the loop, since what is saved as the model is the model alone."""
        if weights_step(trainer) != trainer.state.global_step:
            self.load(Path(str(trainer.state.best_model_checkpoint)))
        del model.act_head

    def save(self, folder: Path) -> None:
        """Write the head's weights."""
        save_heads(folder, {"act": self.head}, label_set=self.label_set)

    def measured(self, causal: CausalModel) -> dict[str, Any] | None:
        """Figures on the evaluation part beside their floors, see `measure_acts`."""
        return measure_acts(causal, self.head, self.train, self.held, label_set=self.label_set, split=self.split)

    def load(self, folder: Path) -> None:
        """Take the head's weights of a checkpoint."""
        load_act_head(self.head, folder, self.label_set)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a configuration trains beside the model: a response-act head, the plan's objective, GLHG's graph."""

    acts: Acts | None = None
    plan: PlanPart | None = None
    graph: GraphPart | None = None

    @property
    def beside(self) -> Acts | GraphPart | None:
        """The one that has weights of its own, to be saved and measured."""
        return self.acts or self.graph

    def leave(self, causal: CausalModel, trainer: ConversationTrainer) -> None:
        """Take out of the model what the loop has put there, with the weights that the model has."""
        if self.acts:
            self.acts.leave(causal.model, trainer)
        if self.graph:
            taken_back = weights_step(trainer) != trainer.state.global_step
            self.graph.leave(causal, Path(str(trainer.state.best_model_checkpoint)) if taken_back else None)


def parts_for(
    config: TrainConfig,
    causal: CausalModel,
    fmt: Format,
    prepared: tuple[Prepared, Prepared | None],
    conversations: tuple[Sequence[Conversation], Sequence[Conversation]],
) -> Parts:
    """The parts that are configured, for the training part and the evaluation part.

    Raises:
        DataError: no reply carries what a part is to learn.
        ConfigError: parts that do not fit the format, the earlier run, or each other.
    """
    return Parts(
        acts=acts_for(config, causal, fmt, *conversations),
        graph=graph_for(config, causal, *prepared),
        plan=plan_part(config, causal, fmt, prepared[0].trees),
    )


def acts_for(
    config: TrainConfig,
    causal: CausalModel,
    fmt: Format,
    train: Sequence[Conversation],
    held: Sequence[Conversation],
) -> Acts | None:
    """The act head that is configured, that of the run it starts from where it has one, and what it is to learn.

    From here on until `Acts.leave` it is a part of `causal.model`.

    Raises:
        DataError: no reply carries an act.
        ConfigError: the earlier run's head knows other acts.
    """
    if config.act_head is None:
        return None
    name = config.act_head.label_set
    options: dict[str, Any] = {
        "max_length": config.max_length,
        "keep": config.keep_context,
        "overlong": config.overlong,
    }
    parts = [
        prompts_of(part, fmt, [s for conv in part for s in fmt.samples(conv, causal.tokenizer, **options)])
        for part in (train, held)
    ]
    head = new_act_head(config.act_head, causal.model.get_output_embeddings().weight.shape[1], seed=config.seed)
    load_act_head(head, Path(config.model_name_or_path).expanduser(), name)
    targets = {p.task.id: act for p in parts[0] if (act := gold_act(p, head, name)) is not None}
    if not targets:
        raise DataError(
            f"No reply in split {config.train_split} of '{config.dataset}' carries an act of '{name}', so act_head has "
            "nothing to learn; choose another label_set or dataset, or leave act_head out."
        )
    causal.model.act_head = head.to(causal.device)
    return Acts(
        head=head, coef=config.act_head.coef, targets=targets, label_set=name, train=parts[0],
        held=parts[1], split=config.eval_split,
    )  # fmt: skip


class Collator:
    """Trees -> one packed batch of tensors.

    Args:
        acts: sample id -> number of its act; of these the batch says where the first token is predicted.
        graph: lays trees out where a graph is to read them.
    """

    def __init__(self, pad_id: int, acts: Mapping[str, int] | None = None, graph: GraphPart | None = None) -> None:
        self.pad_id, self.acts, self.graph = pad_id, acts or {}, graph

    def __call__(self, trees: Sequence[TokenTree]) -> dict[str, torch.Tensor]:
        # A filler enters only where there is nothing else: every process has to take its part in the step.
        real = [tree for tree in trees if len(tree.label)]
        if real and self.graph:
            filled = torch.tensor(sum(len(tree) for tree in real))
            return {**self.graph.lay_out(real, pad_id=self.pad_id), "filled": filled}
        packed = pack(real or trees[:1], pad_id=self.pad_id)
        found = {
            **tensors(packed),
            "plan": torch.from_numpy(packed.plan),
            "filled": torch.tensor(packed.filled if real else 0),
        }
        if self.acts:
            due = [(i, self.acts[name]) for i, name in enumerate(packed.samples) if name in self.acts]
            first = [int(np.argmax(packed.owner == i)) for i, _ in due]
            found["act_at"] = torch.tensor(first, dtype=torch.long)
            found["act"] = torch.tensor([act for _, act in due], dtype=torch.long)
        return found


class ConversationTrainer(StopsAtItsEnd):
    """transformers' Trainer with our batches, our loss and a token-weighted validation loss."""

    heedful_log: Log | None = None
    sampler: LengthBatches | None = None
    acts: Acts | None = None
    acts_in_batch = 1
    graph: GraphPart | None = None
    problems_in_batch = 1
    plan: PlanPart | None = None
    plans_in_batch = 1
    new_rate: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.problem_losses: list[float] = []
        # Our loss is divided by the targets of the whole accumulated batch already.
        self.loss_is_scaled_for_ga = True

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        trees: Filled = train_dataset if train_dataset is not None else self.train_dataset
        together = self.args.per_device_train_batch_size * max(1, self.args.world_size)
        self.sampler = LengthBatches(
            [len(t) for t in trees.trees],
            global_batch=together * self.args.gradient_accumulation_steps,
            seed=self.args.seed,
            fill=together if self.args.world_size > 1 else 1,
        )
        return self.sampler

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The optimiser; a graph, and rows that a format added to the vocabulary, can have rates of their own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.graph is not None:
            _give_rate(optimizer, list(self.graph.graph.parameters()), self.graph.config.learning_rate)
        if self.new_rate is not None:
            _give_rate(optimizer, new_rows(self.model), self.new_rate)
        return optimizer

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: Any) -> Any:
        if not batch_samples:
            return None
        count = torch.tensor([_counted(b) for b in batch_samples], device=device).sum(0)
        if self.args.world_size > 1:
            count = self.accelerator.reduce(count, reduction="sum")
        # Part of the trainer's state, so that a resumed run goes on counting.
        self.state.num_input_tokens_seen += int(count[1])
        self.acts_in_batch, self.problems_in_batch = max(1, int(count[2])), max(1, int(count[3]))
        self.plans_in_batch = max(1, int(count[4]))
        return count[0] - count[4] if self.plan else count[0]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        act_loss = plan_loss = problem_loss = None
        if self.graph is not None and "parts" in inputs:
            with self.accelerator.autocast():
                total, problem_loss = self.graph.losses(model, inputs)
        elif self.acts is None and self.plan is None:
            total = -predictions(model, inputs).sum()
        else:
            states, logits = states_and_logits(model, inputs)
            total, plan_loss, _ = self._words_and_plans(logits, inputs)
            if self.acts is not None:
                said = self.acts.head(path_means(states, inputs, inputs["act_at"]))
                act_loss = torch.nn.functional.cross_entropy(said, inputs["act"], reduction="sum")
        if not torch.isfinite(total):
            raise RunError(
                f"The loss became {total.item()} at step {self.state.global_step + 1}; lower learning_rate or use "
                "precision: fp32, then continue with --resume from the last good checkpoint."
            )
        plans = inputs["plan"].sum() if self.plan else 0
        items = num_items_in_batch if num_items_in_batch is not None else len(inputs["label"]) - plans
        # Gradients are averaged over processes, and `items` counts all of them: undo the average.
        loss = total * self.args.world_size / items
        if self.graph is not None:
            weight = self.graph.config.monitor
            more = self.graph.nothing() if problem_loss is None else problem_loss / self.problems_in_batch
            if weight and problem_loss is not None:
                self.problem_losses.append(problem_loss.item() / max(1, int((inputs["problem"] >= 0).sum())))
            loss = (1 - weight) * loss + weight * more * self.args.world_size
        if act_loss is not None and self.acts is not None:
            loss = loss + self.acts.coef * act_loss * self.args.world_size / self.acts_in_batch
        if plan_loss is not None and self.plan is not None:
            loss = loss + self.plan.config.weight * plan_loss * self.args.world_size / self.plans_in_batch
        return (loss, None) if return_outputs else loss

    def _words_and_plans(
        self, logits: torch.Tensor, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Summed losses of words and of plans, and plans that are right; without a plan's objective all are words."""
        plan, labels = inputs["plan"], inputs["label"]
        if self.plan is None:
            return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum"), None, None
        words = torch.nn.functional.cross_entropy(logits[~plan].float(), labels[~plan], reduction="sum")
        return words, *self.plan.loss(logits[plan], labels[plan])

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        trees: list[TokenTree] = eval_dataset if eval_dataset is not None else self.eval_dataset
        mine = sorted(range(len(trees)), key=lambda i: -len(trees[i]))
        mine = mine[self.args.process_index :: max(1, self.args.world_size)]
        size = self.args.per_device_eval_batch_size
        sums = torch.zeros(4, dtype=torch.float64)
        self.model.eval()
        for begin in range(0, len(mine), size):
            batch = self._prepare_inputs(self.data_collator([trees[i] for i in mine[begin : begin + size]]))
            with torch.no_grad(), self.accelerator.autocast():
                right = None
                if self.graph is not None and "parts" in batch:
                    words = self.graph.losses(self.model, batch)[0]
                else:
                    words, _, right = self._words_and_plans(prediction_logits(self.model, batch), batch)
            plans = int(batch["plan"].sum()) if right is not None else 0
            hits = 0.0 if right is None else float(right)
            sums += torch.tensor([words.item(), len(batch["label"]) - plans, hits, plans], dtype=torch.float64)
        self.model.train()
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device), reduction="sum").cpu()
        loss = float(sums[0] / sums[1])
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_perplexity": math.exp(min(loss, 50.0))}
        if sums[3]:
            metrics[f"{metric_key_prefix}_plan_accuracy"] = float(sums[2] / sums[3])
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.problem_losses:
            logs = {**logs, "problem_loss": sum(self.problem_losses) / len(self.problem_losses)}
            self.problem_losses.clear()
        super().log(logs, start_time)
        if self.heedful_log and self.is_world_process_zero() and "train_runtime" not in logs:
            self.heedful_log({k: v for k, v in logs.items() if isinstance(v, float)}, self.state.global_step)


def _counted(batch: dict[str, torch.Tensor]) -> tuple[int, int, int, int, int]:
    """Target tokens, tokens, acts, problem types and plans of a batch."""
    problems = int((batch["problem"] >= 0).sum()) if "problem" in batch else 0
    plans = int(batch["plan"].sum()) if "plan" in batch else 0
    return len(batch["label"]), int(batch["filled"]), len(batch.get("act", ())), problems, plans


def _give_rate(optimizer: Any, parameters: Sequence[torch.nn.Parameter], rate: float) -> None:
    """Move parameters into groups with a learning rate of their own."""
    own = {id(p) for p in parameters}
    for group in list(optimizer.param_groups):
        mine = [p for p in group["params"] if id(p) in own]
        if mine:
            group["params"] = [p for p in group["params"] if id(p) not in own]
            optimizer.add_param_group({**group, "lr": rate, "params": mine})


class _Keeps(TrainerCallback):
    """Writes a part beside the model into each checkpoint before its seal, takes it from the one that is resumed."""

    def __init__(self, part: Acts | GraphPart, resume: Path | None) -> None:
        self.part, self.resume = part, resume

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.resume is not None:
            self.part.load(self.resume)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.part.save(folder)
