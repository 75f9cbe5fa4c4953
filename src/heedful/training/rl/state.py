"""Checkpoints of reinforcement learning: all that the next round depends on, sealed when complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from heedful.errors import RunError
from heedful.training.checkpoints import prune, seal

WEIGHTS, OPTIMISER, STATE = "trainable.safetensors", "optimizer.pt", "trainer_state.json"


def trainable_state(model: Any, heads: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Trained weights by name: of the policy, and of heads under `head.<name>.`."""
    out = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    for head, module in heads.items():
        out.update({f"head.{head}.{name}": p.detach().cpu().contiguous() for name, p in module.named_parameters()})
    return out


def restore_weights(folder: Path, model: Any, heads: Mapping[str, Any]) -> None:
    """Put the weights of a checkpoint in place.

    Raises:
        RunError: it holds other weights than this run trains.
    """
    found = load_file(str(folder / WEIGHTS))
    targets = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for head, module in heads.items():
        targets.update({f"head.{head}.{name}": p for name, p in module.named_parameters()})
    if set(found) != set(targets):
        raise RunError(f"{folder} holds other weights than this run trains; start anew in another output_dir.")
    with torch.no_grad():
        for name, parameter in targets.items():
            parameter.copy_(found[name].to(parameter.device))


def save(
    root: Path, *, step: int, model: Any, heads: Mapping[str, Any], optimizer: Any, scheduler: Any,
    state: Mapping[str, Any], keep: int, spare: int | None,
) -> Path:  # fmt: skip
    """Write `checkpoint-<step>` and delete older ones, but for the one of step `spare`.

    Raises:
        RunError: a weight is not a number.
    """
    weights = trainable_state(model, heads)
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise RunError(
            f"The weights became nan at step {step}; lower learning_rate or use precision: fp32, then continue with "
            "--resume from the last good checkpoint."
        )
    folder = root / f"checkpoint-{step}"
    shutil.rmtree(folder, ignore_errors=True)  # what a kill in the middle of writing has left
    folder.mkdir(parents=True)
    save_file(weights, str(folder / WEIGHTS))
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, folder / OPTIMISER)
    (folder / STATE).write_text(json.dumps({"global_step": step, **state}), "utf-8")
    seal(folder)
    prune(root, keep=keep, spare=root / f"checkpoint-{spare}" if spare is not None else None)
    return folder


def restore(folder: Path, *, model: Any, heads: Mapping[str, Any], optimizer: Any, scheduler: Any) -> dict[str, Any]:
    """Put everything of a checkpoint in place; returns its state."""
    restore_weights(folder, model, heads)
    kept = torch.load(folder / OPTIMISER, weights_only=True, map_location="cpu")
    optimizer.load_state_dict(kept["optimizer"])
    scheduler.load_state_dict(kept["scheduler"])
    found: dict[str, Any] = json.loads((folder / STATE).read_text("utf-8"))
    return found
