"""A training run from a configuration to a folder that peft, transformers and `heedful chat` can open."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from heedful import formats
from heedful.errors import ConfigError
from heedful.formats import Format
from heedful.models.causal import (
    CausalModel,
    add_markers,
    need_train_extra,
)
from heedful.models.delta import trainable
from heedful.settings import write_yaml
from heedful.training.card import model_card
from heedful.training.config import LoopSettings, TrainConfig
from heedful.training.data import Prepared, prepare
from heedful.training.methods import Method, Run, Say
from heedful.training.plan import Plan, Rows, make_plan
from heedful.training.resume import RESOLVED, Earlier, earlier_run, note_on_steps, refuse_other_inputs, step_of
from heedful.training.shared import (
    METRICS,
    append_line,
    claim,
    forget_after,
    is_main,
    leak_notes,
    load_split,
    one_sentence_for_a_full_disk,
    planned,
    prepare_folder,
    process_count,
    resolved_values,
    tokenizer_for,
    versions,
    with_delta,
    with_format,
)
from heedful.training.sharing import combined, inherited, licence_of
from heedful.training.start import BASE, keeps_base, load_start, stand_on_base, start_place
from heedful.types import Conversation


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a run needs besides the model's weights.

    Args:
        conversations: of the training part and of the evaluation part.
    """

    fmt: Format
    train: Prepared
    evaluation: Prepared | None
    notes: tuple[str, ...]
    licence: str | None
    conversations: tuple[list[Conversation], list[Conversation]] = field(repr=False)


def gather(config: TrainConfig, tokenizer: Any) -> Inputs:
    """Load, check and render the data of a run.

    Raises:
        UserError: whatever is wrong with dataset, split or format, in one sentence.
    """
    fmt = formats.make(config.format or "chat")
    train = load_split(config, config.train_split, config.max_train_conversations)
    held = load_split(config, config.eval_split, config.max_eval_conversations) if config.eval_split else []
    notes = leak_notes(config, train, held)
    train, held = planned(config, train), planned(config, held)
    options: dict[str, Any] = {
        "max_length": config.max_length,
        "keep": config.keep_context,
        "overlong": config.overlong,
    }
    return Inputs(
        fmt=fmt,
        train=prepare(train, fmt, tokenizer, **options),
        evaluation=prepare(held, fmt, tokenizer, **options) if held else None,
        notes=tuple(notes),
        licence=licence_of(train),
        conversations=(train, held),
    )


def dry_run(config: TrainConfig) -> Plan:
    """What `train` would do; needs the tokenizer, loads no weights."""
    need_train_extra()
    config = with_format(config)
    tokenizer = tokenizer_for(config, config.model_name_or_path)
    inputs = gather(config, tokenizer)
    return make_plan(config, inputs.train, inputs.evaluation)


def train(config: TrainConfig, *, say: Say = lambda text: None, callbacks: tuple[Any, ...] = ()) -> Run:
    """Run supervised training as configured.

    Args:
        say: takes one line of progress; of several processes only the first one talks.
        callbacks: transformers callbacks, for progress bars.

    Raises:
        UserError: something in the configuration, the data or the model's place, or a run that is to go on with other
            settings than it had.
        RunError: the loss is not a number, or the disk is full.
    """
    need_train_extra()
    from heedful.training.sft import parts_for, sft

    config, main = with_format(config), is_main()
    say = say if main else lambda text: None
    folder, resume = claim(config)
    earlier = earlier_run(config, resume) if resume else None
    place = start_place(config, folder, resumed=resume is not None)
    # Data before weights: a slip in a file should not cost the minutes that a model takes to load.
    inputs = gather(config, tokenizer_for(config, place))
    plan = make_plan(config, inputs.train, inputs.evaluation, processes=process_count())
    base_run = earlier.base_run if earlier else inherited(config.model_name_or_path)
    record = record_of(inputs, plan, base_run, earlier)
    if earlier is not None:
        refuse_other_inputs(earlier, record, plan)
    say_what_comes(say, config, plan, earlier)
    causal = load_start(config, place)
    _check_positions(inputs, causal)
    keeps = keeps_base(config, place)
    if main:
        prepare_folder(folder, config, causal, keeps=keeps, fresh=resume is None)
        write_yaml(folder / RESOLVED, {**resolved_values(config), "x_heedful": record})
        forget_after(folder / METRICS, step_of(resume), end=config.eval_steps is None)
    if keeps:
        say(f"the adapter of {place} becomes part of the base model, which is kept in {folder / BASE}")
        with one_sentence_for_a_full_disk(folder):
            stand_on_base(config, causal, folder, write=main)
    new_tokens = add_markers(causal, inputs.fmt.markers)
    causal.model = with_delta(config, causal, new_tokens)
    parts = parts_for(config, causal, inputs.fmt, (inputs.train, inputs.evaluation), inputs.conversations)
    causal.model.train()
    outcome = sft(
        config,
        causal,
        inputs.train,
        inputs.evaluation,
        folder=folder / "checkpoints",
        resume=resume,
        log=lambda values, step: append_line(folder / METRICS, {"step": step, **values}),
        callbacks=callbacks,
        parts=parts,
    )
    causal.model.eval()
    if not main:
        return Run(folder=folder, summary={})
    with one_sentence_for_a_full_disk(folder):
        beside = ("graph" if config.graph else "acts", parts.beside) if parts.beside else None
        return finish(config, causal, inputs, plan, folder, outcome, record, beside=beside)


class Gathered(Protocol):
    """What a run's record and summary need of its inputs."""

    @property
    def fmt(self) -> Format: ...
    @property
    def evaluation(self) -> Rows | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def licence(self) -> str | None: ...


def say_what_comes(say: Say, config: LoopSettings, plan: Plan, earlier: Earlier | None) -> None:
    """One line each on data, what is continued, and the model."""
    import torch

    say(
        f"data {config.dataset}: {plan.conversations:,} passes for {plan.targets:,} supporter turns, "
        f"{plan.tokens:,} tokens (one by one: {plan.separate_tokens:,}); {plan.steps:,} steps"
    )
    if earlier is not None:
        say(f"goes on from step {earlier.step:,}")
    note = note_on_steps(earlier, plan) if earlier else None
    if note is not None:
        say(note)
    say(f"model {config.model_name_or_path}")
    devices = torch.cuda.device_count()
    if devices > 1 and process_count() == 1:
        say(
            f"{devices} GPUs are visible and one process uses one of them; for all of them: "
            f"torchrun --nproc_per_node {devices} -m heedful train ..."
        )


def _check_positions(inputs: Inputs, causal: CausalModel) -> None:
    held = inputs.evaluation.trees if inputs.evaluation else []
    longest = 1 + max(int(tree.position.max()) for tree in [*inputs.train.trees, *held])
    if longest > causal.max_length:
        raise ConfigError(
            f"A conversation has {longest:,} tokens, but {causal.name} was built for {causal.max_length:,}; "
            f"set max_length: {causal.max_length} or less."
        )


def record_of(inputs: Gathered, plan: Plan, base_run: dict[str, Any] | None, earlier: Earlier | None) -> dict[str, Any]:
    """What a run depends on besides its settings: hashes, versions, the run before it, continuations."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join(["heedful", *sys.argv[1:]])
    return {
        "format_fingerprint": inputs.fmt.fingerprint,
        "data_hash": plan.data_hash,
        "eval_data_hash": inputs.evaluation.hash if inputs.evaluation else None,
        "processes": process_count(),
        "base_run": base_run,
        "plan": plan.to_dict(),
        "versions": versions(),
        "command": earlier.record.get("command", command) if earlier else command,
        "created": earlier.record.get("created", now) if earlier else now,
        "continued": earlier.continued(command, now) if earlier else [],
    }


def finish(
    config: LoopSettings,
    causal: CausalModel,
    inputs: Gathered,
    plan: Plan,
    folder: Path,
    outcome: Any,
    record: Mapping[str, Any],
    *,
    beside: tuple[str, Any] | None = None,
    **more: Any,
) -> Run:
    """Write weights, tokenizer, card and, last, the summary of a run that is over.

    Args:
        beside: a part that has weights of its own, and what the summary calls its figures.
        more: what else the summary says.
    """
    trained, everything = trainable(causal.model)
    base_run = record["base_run"]
    licence, publishable = combined(config.dataset, inputs.licence, base_run)
    summary: dict[str, Any] = {
        "kind": "train",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": config.method,
        "model": config.model_name_or_path,
        "model_note": causal.note or (base_run or {}).get("model_note", ""),
        "base_run": base_run,
        "delta": config.delta,
        "trainable_parameters": trained,
        "parameters": everything,
        "steps": outcome.steps,
        "weights_step": outcome.weights_step,
        "planned_steps": plan.steps,
        "stopped": outcome.stopped,
        "seconds": round(outcome.seconds, 1),
        "tokens": outcome.tokens,
        "best_eval_loss": outcome.best_eval_loss,
        "format": inputs.fmt.fingerprint,
        "dataset": config.dataset,
        "licence": licence,
        "publishable": publishable,
        "data_hash": plan.data_hash,
        "notes": list(inputs.notes),
        "seed": config.seed,
        "continued": record["continued"],
        "versions": record["versions"],
        **more,
    }
    causal.model.save_pretrained(str(folder))
    causal.tokenizer.save_pretrained(str(folder))
    if beside is not None:
        name, part = beside
        part.save(folder)
        summary[name] = part.measured(causal)
    (folder / "README.md").write_text(model_card(config, summary, plan), "utf-8")
    scratch = folder / "summary.json.part"
    scratch.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    os.replace(scratch, folder / "summary.json")
    return Run(folder=folder, summary=summary)


SFT = Method(config=TrainConfig, train=train, plan=lambda config: dry_run(config).to_dict())
