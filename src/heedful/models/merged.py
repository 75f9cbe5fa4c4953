"""Decode at the speed of the base model: an adapter is merged into its base for a while, then taken out exactly.

An unmerged LoRA costs two more products and some casts in each of some 200 layers at every token. Merging in place and
subtracting again would leave rounding errors in a 16-bit base, so the base's own tensors are put aside and put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def merged(model: Any, *, dtype: Any = None) -> Iterator[Any]:
    """Within this block `model` computes as if its adapter were part of the weights; afterwards it is as before.

    A merged bf16 base holds the policy rounded to 8 bits of mantissa, so log-probabilities differ a little from those
    of the unmerged model; in fp32 they agree to about 1e-6. A model without an adapter only changes its dtype.

    Args:
        dtype: torch dtype of all weights within the block; None = each as it is.

    Memory: one more copy of the adapted weights while the block lasts.
    """
    layers = _adapter_layers(model)
    was = [layer.disable_adapters for layer in layers]
    kept = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        for layer in layers:
            if not _exchanges(layer):
                _unshare(layer)
            layer.merge(safe_merge=False)
        if dtype is not None:
            for parameter, _ in kept:
                parameter.data = parameter.data.to(dtype)
        yield model
    finally:
        for parameter, data in kept:
            parameter.data = data
        for layer, off in zip(layers, was, strict=True):
            if _exchanges(layer):
                layer.unmerge()
            else:
                layer.merged_adapters.clear()
            layer._disable_adapters = off


def _exchanges(layer: Any) -> bool:
    """Norm layers are exchanged for their trained copies rather than added to: that undoes itself exactly."""
    return hasattr(layer, "ln_tuning_layers")


def _unshare(layer: Any) -> None:
    """Give the base layer tensors of its own to merge into; those that were there are put back later."""
    for parameter in layer.get_base_layer().parameters(recurse=False):
        parameter.data = parameter.data.clone()


def _adapter_layers(model: Any) -> list[Any]:
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
