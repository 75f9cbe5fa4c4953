"""What a run starts from: a base model, or an earlier run whose adapter is merged into its base first.

An adapter on an adapter is a folder that nobody can open, so the earlier run's becomes part of the weights. They exist
nowhere else then: the new run keeps them in `base/`, which its own adapter names.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol

from heedful.errors import ConfigError
from heedful.models.architecture import Accept
from heedful.models.causal import CausalModel, Dtype, load, resolve_path, use_bf16
from heedful.models.delta import expected_warnings
from heedful.training.checkpoints import is_complete, seal

BASE = "base"
"""The merged base within a run's folder."""


class Starts(Protocol):
    """Settings that say what a run starts from, and how it is rounded."""

    @property
    def model_name_or_path(self) -> str: ...
    @property
    def delta(self) -> str | None: ...
    @property
    def precision(self) -> str: ...


def start_place(config: Starts, folder: Path, *, resumed: bool) -> str:
    """Where the starting weights and tokenizer are: `model_name_or_path`, or the merged base of a resumed run."""
    kept = (folder / BASE).absolute()
    return str(kept) if resumed and is_complete(kept) else config.model_name_or_path


def is_adapter(name: str) -> bool:
    """Whether `name` is a folder with an adapter."""
    return (Path(resolve_path(name)) / "adapter_config.json").is_file()


def keeps_base(config: Starts, place: str) -> bool:
    """Whether a run that starts from `place` has merged weights to keep; those of `delta: full` hold them anyway."""
    return config.delta != "full" and is_adapter(place)


def load_start(config: Starts, place: str, *, accept: Accept = "causal") -> CausalModel:
    """The model that training starts from, in one piece and all of it trainable.

    Raises:
        ConfigError: a model of another kind than the caller accepts, an adapter that cannot become part of the weights,
            or a graph that would be lost.
    """
    if not is_adapter(place):
        causal = _with_its_graph(config, load(place, dtype=_dtype(config), device=_device(), accept=accept))
        causal.name = config.model_name_or_path
        return causal
    # A small update vanishes in bf16 weights, so merging is done in fp32.
    causal = _with_its_graph(config, load(place, dtype="float32", device=_device(), accept=accept))
    try:
        with expected_warnings():
            causal.model = causal.model.merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError, ValueError) as err:
        raise ConfigError(
            f"The adapter of '{place}' cannot be merged into its base model ({err}); start from a base model."
        ) from err
    causal.model.requires_grad_(True)
    return causal


def _with_its_graph(config: Starts, causal: CausalModel) -> CausalModel:
    if causal.graph is not None and getattr(config, "graph", None) is None:
        raise ConfigError(
            f"'{config.model_name_or_path}' writes with a graph, which only method: sft with graph: {{...}} goes on "
            "training; say so, or start from a run or model without a graph."
        )
    return causal


def stand_on_base(config: Starts, causal: CausalModel, folder: Path, *, write: bool) -> None:
    """Keep merged weights in `folder/base`, have the adapter to come name it, and round as `precision` says.

    Args:
        write: False in all processes but the first one.
    """
    import torch

    if write:
        _keep(causal, folder)
    causal.model.name_or_path = str((folder / BASE).absolute())
    dtype = getattr(torch, _dtype(config))
    for parameter in causal.model.parameters():
        # Not model.to(dtype): the frequencies of the positions are buffers, and they stay fp32.
        parameter.data = parameter.data.to(dtype)


def _keep(causal: CausalModel, folder: Path) -> None:
    """Write merged weights and their tokenizer, whole or not at all."""
    scratch = folder / f"{BASE}.part"
    for path in (scratch, folder / BASE):
        shutil.rmtree(path, ignore_errors=True)
    causal.model.save_pretrained(str(scratch))
    causal.tokenizer.save_pretrained(str(scratch))
    seal(scratch)
    os.replace(scratch, folder / BASE)


def _dtype(config: Starts) -> Dtype:
    import torch

    bf16 = use_bf16(config.precision, on_cpu=not torch.cuda.is_available())
    # A frozen base can be kept in bf16: autocast would round it so anyway at every step.
    return "bfloat16" if bf16 and config.delta != "full" else "float32"


def _device() -> str:
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
