"""What every training run needs: a folder of its own, data that do not leak, a model with a delta method, a record."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from heedful import agents, corpora, formats
from heedful.errors import ConfigError, NotFoundError, RunError, UserError, nearest
from heedful.models import DELTAS
from heedful.models.architecture import Accept
from heedful.models.causal import CausalModel, check_architecture, offline, offline_hint, refuse_judges, resolve_path
from heedful.models.delta import DeltaSettings, attach, trainable
from heedful.models.embedded import EMBEDDED
from heedful.settings import Settings, read_yaml
from heedful.training.checkpoints import disk_is_full, full_disk, newest, to_resume
from heedful.training.config import DataSettings, RunSettings
from heedful.training.data import refuse_leaks
from heedful.training.resume import RESOLVED
from heedful.training.start import BASE
from heedful.types import Conversation

METRICS, SUMMARY = "metrics.jsonl", "summary.json"
C = TypeVar("C", bound=RunSettings)


def default_folder(config: RunSettings) -> Path:
    """`runs/<time>_<method>_<model>_<seed>`: names sort by time."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    model = Path(config.model_name_or_path).name
    return Path("runs") / f"{now}_{config.method}_{model}_{config.seed}"


def with_format(config: C, default: str = "chat") -> C:
    """The configuration with its format and planners decided: as given, else those of the run it starts from, else
    `default` and none."""
    if config.format is not None and config.planners is not None:
        return config
    recorded = Path(config.model_name_or_path).expanduser() / RESOLVED
    run = read_yaml(recorded) if recorded.is_file() else {}
    planners = config.planners if config.planners is not None else run.get("planners") or []
    return config.model_copy(update={"format": config.format or run.get("format") or default, "planners": planners})


def load_split(config: DataSettings, split: str | None, limit: int | None) -> list[Conversation]:
    """Conversations of one split, the first `limit` of them."""
    found = corpora.load(config.dataset, split, **config.dataset_options)
    return found[:limit] if limit else found


def planned(config: RunSettings, conversations: list[Conversation]) -> list[Conversation]:
    """The conversations with what the run's planners add to them."""
    return agents.needed(agents.make(config.planners), formats.make(config.format or "chat")).plan(conversations)


def leak_notes(config: DataSettings, train: list[Conversation], held: list[Conversation]) -> list[str]:
    named = [replace(c, split="train") for c in train] + [replace(c, split="eval") for c in held]
    if not config.allow_leaks:
        return refuse_leaks(config.dataset, [c for c in train if c.split], [c for c in held if c.split])
    return ["leaks allowed by configuration: " + f.sentence() for f in corpora.find_leaks(named).leaks]


def tokenizer_for(config: RunSettings, name: str, *, accept: Accept = "causal") -> Any:
    from transformers import AutoTokenizer

    refuse_judges(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(_tokenizer_place(name), local_files_only=offline())
    except (OSError, ValueError) as err:  # transformers has both for a tokenizer that is not there
        raise NotFoundError(
            f"Cannot load the tokenizer of '{name}'{offline_hint()}; expected a folder with model and tokenizer, a "
            "Hugging Face name that is in the cache or reachable, or one of "
            f"{', '.join(EMBEDDED)}.{nearest(name, EMBEDDED)}"
        ) from err
    check_architecture(name, accept=accept)
    fmt = formats.make(config.format or "chat")
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


def is_main() -> bool:
    """Whether this process is the first or the only one; launchers tell by RANK."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def one_sentence_for_a_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as err:  # safetensors has an error of its own for a full disk
        if not disk_is_full(err):
            raise
        raise full_disk(folder) from err


def claim(config: RunSettings) -> tuple[Path, Path | None]:
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
    if process_count() == 1:
        return folder
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.cuda.is_available())
    return Path(broadcast_object_list([str(folder)])[0])


def with_delta(config: RunSettings, causal: CausalModel, new_tokens: tuple[int, ...]) -> Any:
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
        task="SEQ_2_SEQ_LM" if causal.encodes else "CAUSAL_LM",
    )
    made = DELTAS.get(config.delta)(settings)
    if made is None:
        return causal.model
    model = attach(causal.model, made, name=config.delta)
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def prepare_folder(folder: Path, config: RunSettings, causal: CausalModel, *, keeps: bool, fresh: bool) -> None:
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


def resolved_values(config: RunSettings) -> dict[str, Any]:
    """Every setting with its default; a resumed run is recorded as the run that it continues."""
    return {**config.model_dump(), "resume_from_checkpoint": False}


def made(folder: Path) -> Path:
    """The folder of a run, made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"Cannot create output_dir {folder} ({err.strerror}); choose another.") from err
    return folder


def finished(folder: Path, config: Settings, *, resume: bool) -> dict[str, Any] | None:
    """The summary of a complete run of a method without steps, where the settings ask to go on with it.

    Raises:
        UserError: a run is there, and nobody asked to go on.
        ConfigError: it had other settings.
    """
    if not (folder / SUMMARY).is_file():
        return None
    if not resume:
        raise UserError(f"{folder} holds a run already; continue it with --resume, or choose another output_dir.")
    earlier = read_yaml(folder / RESOLVED)
    for key, value in config.model_dump(mode="json").items():
        if key not in ("output_dir", "resume_from_checkpoint") and earlier.get(key) != value:
            raise ConfigError(
                f"The run in {folder} had {key}: {earlier.get(key)}, and now it is {value}; "
                "take it back, or start anew in another output_dir."
            )
    found: dict[str, Any] = json.loads((folder / SUMMARY).read_text("utf-8"))
    return found


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    out = {"python": platform.python_version()}
    for name in ("heedful", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy"):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "missing"
    return out


def forget_after(metrics: Path, step: int, *, end: bool) -> None:
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
    mode = metrics.stat().st_mode & 0o777  # some of these files only their owner may read
    scratch.unlink(missing_ok=True)
    with open(scratch, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, mode)) as file:
        file.write("".join(kept))
    os.replace(scratch, metrics)


def append_line(path: Path, values: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
