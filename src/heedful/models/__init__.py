"""Causal language models, delta methods, decoding and likelihood. Importing this package does not import torch."""

from heedful.registry import Registry

DELTAS = Registry(
    "delta method",
    {
        "full": "heedful.models.delta:full",
        "lora": "heedful.models.delta:lora",
        "rslora": "heedful.models.delta:rslora",
        "dora": "heedful.models.delta:dora",
        "ia3": "heedful.models.delta:ia3",
        "vera": "heedful.models.delta:vera",
        "norms": "heedful.models.delta:norms",
        "bias": "heedful.models.delta:bias",
    },
)
"""How much of a model is trained: name -> function(settings) -> peft config, or None for all weights."""

__all__ = ["DELTAS"]
