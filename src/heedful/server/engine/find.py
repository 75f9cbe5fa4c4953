"""From what somebody typed as a model to a GGUF file, and to the format that the model was trained with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from heedful.agents.manner import RECORD, record_of
from heedful.errors import ConfigError, MissingExtraError, RunError, UserError
from heedful.formats import Format, make
from heedful.models.causal import refuse_judges, resolve_path
from heedful.models.embedded import EMBEDDED, cache_dir, packaged_file

EXPORTED: Final = "model-q8_0.gguf"
"""What `heedful export gguf RUN` writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model on disk.

    Args:
        gguf: the file.
        run: the run that it comes from, whose tokenizer and format belong to it; None for a file that stands alone.
    """

    gguf: Path
    run: Path | None


def find_gguf(model: str) -> Found:
    """The GGUF file of a model; one that is missing is exported (once, in a process of its own, which needs torch).

    Args:
        model: a GGUF file, a run folder, the name of an embedded model, or a Hugging Face name or folder.

    Raises:
        MissingExtraError: the package of an embedded model is not installed.
        UserError: a model that cannot be exported; the sentence of `heedful export`.
        RunError: the export failed.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return Found(gguf=path, run=path.parent if (path.parent / RECORD).is_file() else None)
    if model in EMBEDDED:
        packaged = packaged_file(EMBEDDED[model])
        if packaged is None:
            raise MissingExtraError(f"The model '{model}' comes with a package: {EMBEDDED[model].install}")
        return Found(gguf=packaged, run=None)
    run = path if (path / RECORD).is_file() else None
    beside = path / EXPORTED
    if beside.is_file() and beside.stat().st_mtime_ns >= _written(path):
        return Found(gguf=beside, run=run)
    name = hashlib.sha256(f"{path.absolute() if path.is_dir() else model}\0{_written(path)}".encode()).hexdigest()
    target = cache_dir() / "gguf" / f"{name[:32]}.gguf"
    if not target.is_file():
        _export(model, target)
    return Found(gguf=target, run=run)


def check_model(model: str) -> None:
    """Look whether a model that lies on this machine can be one, without reading its weights.

    Raises:
        NotFoundError: a path at which nothing lies.
        ConfigError: a folder without a model, or one of heedful's judges, which write nothing.
        MissingExtraError: the package of an embedded model is not installed.
    """
    path = Path(model).expanduser()
    if path.is_file() or model in EMBEDDED:
        if model in EMBEDDED and packaged_file(EMBEDDED[model]) is None:
            raise MissingExtraError(f"The model '{model}' comes with a package: {EMBEDDED[model].install}")
        return
    refuse_judges(model)
    if not path.is_dir():
        resolve_path(model)
        return
    if not any((path / name).is_file() for name in (EXPORTED, "config.json", "adapter_config.json")):
        unfinished = " (a run that has not finished has none yet)" if (path / RECORD).is_file() else ""
        raise ConfigError(
            f"'{model}' holds no model: expected a GGUF file, or a folder with config.json or adapter_config.json"
            f"{unfinished}."
        )


def run_of(model: str) -> Path | None:
    """The run folder that a model comes from: it is one, or a file in one."""
    path = Path(model).expanduser()
    folder = path.parent if path.is_file() else path
    return folder if (folder / RECORD).is_file() else None


def format_of(model: str) -> Format | None:
    """The format that a run was trained with, where it is one of its own; None for chat and for models without a run.

    Such a run is given the conversation, and no system prompt: it was trained without one.

    Raises:
        UserError: a record that no format can be made from.
    """
    run = run_of(model)
    spec = record_of(str(run)).get("format") if run is not None else None
    fmt = make(spec) if spec else None
    return None if fmt is None or fmt.name == "chat" else fmt


def _written(folder: Path) -> int:
    """When the weights of a folder were written last."""
    return max((file.stat().st_mtime_ns for file in folder.glob("*.safetensors")), default=0) if folder.is_dir() else 0


def _export(model: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.stem}-{os.getpid()}.gguf")
    command = [sys.executable, "-m", "heedful", "export", "gguf", model, "--to", str(scratch)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    try:
        if done.returncode == 0:
            scratch.replace(target)
            return
    finally:
        scratch.unlink(missing_ok=True)
    said = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("heedful: ")), "")
    if done.returncode == 2 and said:
        raise UserError(said.removeprefix("heedful: "))
    raise RunError(f"The export of the model to GGUF failed (exit code {done.returncode}); try: heedful export gguf")
