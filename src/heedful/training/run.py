"""A training run from a configuration to a folder that peft, transformers and `heedful chat` can open."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from heedful import corpora, formats
from heedful.errors import ConfigError, NotFoundError, RunError, UserError, nearest
from heedful.formats import Format
from heedful.models import DELTAS
from heedful.models.causal import (
    CausalModel,
    add_markers,
    check_architecture,
    need_train_extra,
    offline,
    offline_hint,
    resolve_path,
)
from heedful.models.delta import DeltaSettings, attach, trainable
from heedful.models.embedded import EMBEDDED
from heedful.settings import write_yaml
from heedful.training.card import model_card
from heedful.training.checkpoints import disk_is_full, full_disk, newest, to_resume
from heedful.training.config import TrainConfig
from heedful.training.data import Prepared, prepare, refuse_leaks
from heedful.training.plan import Plan, make_plan
from heedful.training.resume import RESOLVED, Earlier, earlier_run, note_on_steps, refuse_other_inputs, step_of
from heedful.training.sharing import combined, inherited, licence_of
from heedful.training.start import BASE, keeps_base, load_start, stand_on_base, start_place
from heedful.types import Conversation

Say = Callable[[str], None]
METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: where it lies and what its summary says."""

    folder: Path
    summary: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a run needs besides the model's weights."""

    fmt: Format
    train: Prepared
    evaluation: Prepared | None
    notes: tuple[str, ...]
    licence: str | None


def default_folder(config: TrainConfig) -> Path:
    """`runs/<time>_<method>_<model>_<seed>`: names sort by time."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    model = Path(config.model_name_or_path).name
    return Path("runs") / f"{now}_{config.method}_{model}_{config.seed}"


def load_split(config: TrainConfig, split: str | None, limit: int | None) -> list[Conversation]:
    """Conversations of one split, the first `limit` of them."""
    found = corpora.load(config.dataset, split, **config.dataset_options)
    return found[:limit] if limit else found


def gather(config: TrainConfig, tokenizer: Any) -> Inputs:
    """Load, check and render the data of a run.

    Raises:
        UserError: whatever is wrong with dataset, split or format, in one sentence.
    """
    fmt = formats.make(config.format)
    train = load_split(config, config.train_split, config.max_train_conversations)
    held = load_split(config, config.eval_split, config.max_eval_conversations) if config.eval_split else []
    notes = _leak_notes(config, train, held)
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
    )


def _leak_notes(config: TrainConfig, train: list[Conversation], held: list[Conversation]) -> list[str]:
    named = [replace(c, split="train") for c in train] + [replace(c, split="eval") for c in held]
    if not config.allow_leaks:
        return refuse_leaks(config.dataset, [c for c in train if c.split], [c for c in held if c.split])
    return ["leaks allowed by configuration: " + f.sentence() for f in corpora.find_leaks(named).leaks]


def dry_run(config: TrainConfig) -> Plan:
    """What `train` would do; needs the tokenizer, loads no weights."""
    need_train_extra()
    tokenizer = _tokenizer_for(config, config.model_name_or_path)
    inputs = gather(config, tokenizer)
    return make_plan(config, inputs.train, inputs.evaluation)


def _tokenizer_for(config: TrainConfig, name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(_tokenizer_place(name), local_files_only=offline())
    except (OSError, ValueError) as err:  # transformers has both for a tokenizer that is not there
        raise NotFoundError(
            f"Cannot load the tokenizer of '{name}'{offline_hint()}; expected a folder with model and tokenizer, a "
            "Hugging Face name that is in the cache or reachable, or one of "
            f"{', '.join(EMBEDDED)}.{nearest(name, EMBEDDED)}"
        ) from err
    check_architecture(name)
    fmt = formats.make(config.format)
    fresh = [m for m in fmt.markers if m not in tokenizer.get_vocab()]
    if fresh:
        tokenizer.add_special_tokens({"additional_special_tokens": fresh}, replace_extra_special_tokens=False)
    return tokenizer


def _tokenizer_place(name: str) -> str:
    path = Path(resolve_path(name))
    adapter = path / "adapter_config.json"
    if adapter.is_file() and not (path / "tokenizer_config.json").is_file():  # an adapter that peft alone has saved
        return resolve_path(json.loads(adapter.read_text("utf-8")).get("base_model_name_or_path") or str(path))
    return str(path) if path.is_dir() else name


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
    from heedful.training.sft import sft

    main = is_main()
    say = say if main else lambda text: None
    folder, resume = _claim(config)
    earlier = earlier_run(config, resume) if resume else None
    place = start_place(config, folder, resumed=resume is not None)
    # Data before weights: a slip in a file should not cost the minutes that a model takes to load.
    inputs = gather(config, _tokenizer_for(config, place))
    plan = make_plan(config, inputs.train, inputs.evaluation, processes=_processes())
    base_run = earlier.base_run if earlier else inherited(config.model_name_or_path)
    record = _record(inputs, plan, base_run, earlier)
    if earlier is not None:
        refuse_other_inputs(earlier, record, plan)
    _say_what_comes(say, config, plan, earlier)
    causal = load_start(config, place)
    _check_positions(inputs, causal)
    keeps = keeps_base(config, place)
    if main:
        _prepare_folder(folder, config, causal, keeps=keeps, fresh=resume is None)
        write_yaml(folder / RESOLVED, {**resolved_values(config), "x_heedful": record})
        _forget_after(folder / METRICS, step_of(resume), end=config.eval_steps is None)
    if keeps:
        say(f"the adapter of {place} becomes part of the base model, which is kept in {folder / BASE}")
        with _one_sentence_for_a_full_disk(folder):
            stand_on_base(config, causal, folder, write=main)
    new_tokens = add_markers(causal, inputs.fmt.markers)
    causal.model = _with_delta(config, causal, new_tokens)
    causal.model.train()
    outcome = sft(
        config,
        causal,
        inputs.train,
        inputs.evaluation,
        folder=folder / "checkpoints",
        resume=resume,
        log=lambda values, step: _append(folder / METRICS, {"step": step, **values}),
        callbacks=callbacks,
    )
    causal.model.eval()
    if not main:
        return Run(folder=folder, summary={})
    with _one_sentence_for_a_full_disk(folder):
        return _finish(config, causal, inputs, plan, folder, outcome, record)


def is_main() -> bool:
    """Whether this process is the first or the only one; launchers tell by RANK."""
    return int(os.environ.get("RANK", "0")) == 0


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _say_what_comes(say: Say, config: TrainConfig, plan: Plan, earlier: Earlier | None) -> None:
    import torch

    say(
        f"data {config.dataset}: {plan.conversations:,} passes for {plan.targets:,} supporter turns, "
        f"{plan.tokens:,} tokens (one by one: {plan.separate_tokens:,}); {plan.steps:,} steps"
    )
    note = note_on_steps(earlier, plan) if earlier else None
    if note is not None:
        say(note)
    say(f"model {config.model_name_or_path}")
    devices = torch.cuda.device_count()
    if devices > 1 and _processes() == 1:
        say(
            f"{devices} GPUs are visible and one process uses one of them; for all of them: "
            f"torchrun --nproc_per_node {devices} -m heedful train ..."
        )


@contextmanager
def _one_sentence_for_a_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as err:  # safetensors has an error of its own for a full disk
        if not disk_is_full(err):
            raise
        raise full_disk(folder) from err


def _claim(config: TrainConfig) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to go on from; a folder that holds a run is not written over."""
    folder = Path(config.output_dir) if config.output_dir else _agreed(default_folder(config))
    resume = to_resume(folder / "checkpoints", config.resume_from_checkpoint)
    if resume is None and (newest(folder / "checkpoints") is not None or (folder / "summary.json").is_file()):
        raise UserError(f"{folder} holds a run already; continue it with --resume, or choose another output_dir.")
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir():
        raise UserError(f"output_dir is '{folder}', but {above} is a file; choose another.")
    return folder, resume


def _agreed(folder: Path) -> Path:
    """The first process's choice: clocks differ, and a name holds a second."""
    if _processes() == 1:
        return folder
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.cuda.is_available())
    return Path(broadcast_object_list([str(folder)])[0])


def _check_positions(inputs: Inputs, causal: CausalModel) -> None:
    held = inputs.evaluation.trees if inputs.evaluation else []
    longest = 1 + max(int(tree.position.max()) for tree in [*inputs.train.trees, *held])
    if longest > causal.max_length:
        raise ConfigError(
            f"A conversation has {longest:,} tokens, but {causal.name} was built for {causal.max_length:,}; "
            f"set max_length: {causal.max_length} or less."
        )


def _with_delta(config: TrainConfig, causal: CausalModel, new_tokens: tuple[int, ...]) -> Any:
    from transformers import set_seed

    # The trainer seeds itself later, but the first values of a delta method are drawn here.
    set_seed(config.seed)
    targets = config.lora_target
    settings = DeltaSettings(
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        new_tokens=new_tokens,
    )
    made = DELTAS.get(config.delta)(settings)
    if made is None:
        return causal.model
    model = attach(causal.model, made, name=config.delta)
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def _prepare_folder(folder: Path, config: TrainConfig, causal: CausalModel, *, keeps: bool, fresh: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"Cannot create output_dir {folder} ({err.strerror}); choose another.") from err
    if fresh:  # what a run that died early has left
        shutil.rmtree(folder / BASE, ignore_errors=True)
    parameters = trainable(causal.model)[1]
    need = 3 * 16 * parameters if config.delta == "full" else (1 << 28) + (4 * parameters if keeps else 0)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise RunError(
            f"{folder} has {free / 2**30:.1f} GiB free, and checkpoints of this run need about {need / 2**30:.1f} GiB; "
            "free some space, choose another output_dir or set save_total_limit: 1."
        )


def _record(inputs: Inputs, plan: Plan, base_run: dict[str, Any] | None, earlier: Earlier | None) -> dict[str, Any]:
    """What a run depends on besides its settings: hashes, versions, the run before it, continuations."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join(["heedful", *sys.argv[1:]])
    return {
        "format_fingerprint": inputs.fmt.fingerprint,
        "data_hash": plan.data_hash,
        "eval_data_hash": inputs.evaluation.hash if inputs.evaluation else None,
        "processes": _processes(),
        "base_run": base_run,
        "plan": plan.to_dict(),
        "versions": versions(),
        "command": earlier.record.get("command", command) if earlier else command,
        "created": earlier.record.get("created", now) if earlier else now,
        "continued": earlier.continued(command, now) if earlier else [],
    }


def resolved_values(config: TrainConfig) -> dict[str, Any]:
    """Every setting with its default; a resumed run is recorded as the run that it continues."""
    return {**config.model_dump(), "resume_from_checkpoint": False}


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    out = {"python": platform.python_version()}
    for name in ("heedful", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy"):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "missing"
    return out


def _forget_after(metrics: Path, step: int, *, end: bool) -> None:
    """Drop what was logged after `step`: it is computed anew, and a kill may have torn the last line.

    Args:
        end: whether evaluations are those of the end, which are done again too.
    """
    if not metrics.is_file():
        return
    kept = []
    for line in metrics.read_text("utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] <= step and not (end and "eval_loss" in row):
            kept.append(line)
    scratch = metrics.with_name(metrics.name + ".part")
    scratch.write_text("".join(kept), "utf-8")
    os.replace(scratch, metrics)


def _append(path: Path, values: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _finish(
    config: TrainConfig,
    causal: CausalModel,
    inputs: Inputs,
    plan: Plan,
    folder: Path,
    outcome: Any,
    record: Mapping[str, Any],
) -> Run:
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
    }
    causal.model.save_pretrained(str(folder))
    causal.tokenizer.save_pretrained(str(folder))
    (folder / "README.md").write_text(model_card(config, summary, plan), "utf-8")
    scratch = folder / "summary.json.part"
    scratch.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    os.replace(scratch, folder / "summary.json")
    return Run(folder=folder, summary=summary)
