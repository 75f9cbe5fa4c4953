"""What a run would do, worked out before any model is loaded: samples, tokens, steps, memory, disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from heedful.errors import NotFoundError
from heedful.models.causal import resolve_path
from heedful.training.config import LoopSettings, RunSettings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a run. `memory_bytes` is an estimate of the peak (see `estimate_memory`); the rest is counted."""

    conversations: int
    targets: int
    separate_tokens: int
    tokens: int
    target_tokens: int
    longest: int
    skipped: int
    eval_targets: int
    steps: int
    tokens_in_all: int
    memory_bytes: int
    data_hash: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


class HasLength(Protocol):
    """Settings that say how long training takes."""

    @property
    def max_steps(self) -> int: ...
    @property
    def num_train_epochs(self) -> float: ...
    @property
    def per_device_train_batch_size(self) -> int: ...
    @property
    def gradient_accumulation_steps(self) -> int: ...


def steps_of(config: HasLength, *, trees: int, processes: int = 1) -> int:
    """Optimiser steps of a run, as transformers' Trainer counts them."""
    if config.max_steps > 0:
        return config.max_steps
    batches = math.ceil(math.ceil(trees / config.per_device_train_batch_size) / processes)
    per_epoch = max(1, math.ceil(batches / config.gradient_accumulation_steps))
    return max(1, math.ceil(config.num_train_epochs * per_epoch))


def epochs_of(steps: int, *, trees: int, batch: int) -> float:
    """Times that each conversation is seen; the last batch of an epoch may be a short one."""
    whole, rest = divmod(steps, math.ceil(trees / batch))
    return whole + min(1.0, rest * batch / trees)


class Rows(Protocol):
    """Prepared data of one split: trees, or pairs of an input and a reply."""

    @property
    def lengths(self) -> Sequence[int]: ...
    @property
    def samples(self) -> int: ...
    @property
    def separate_tokens(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def target_tokens(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def hash(self) -> str: ...


def make_plan(
    config: LoopSettings, train: Rows, evaluation: Rows | None, *, processes: int = 1, predicted: int | None = None
) -> Plan:
    """Work out a run from its prepared data.

    Args:
        predicted: tokens of a row that the output layer runs over; all of them if None.
    """
    rows = len(train.lengths)
    steps = steps_of(config, trees=rows, processes=processes)
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes
    longest = max(train.lengths)
    return Plan(
        conversations=rows,
        targets=train.samples,
        separate_tokens=train.separate_tokens,
        tokens=train.tokens,
        target_tokens=train.target_tokens,
        longest=longest,
        skipped=train.skipped,
        eval_targets=evaluation.samples if evaluation else 0,
        steps=steps,
        tokens_in_all=round(epochs_of(steps, trees=rows, batch=batch) * train.tokens),
        memory_bytes=estimate_memory(
            config,
            row_tokens=longest * config.per_device_train_batch_size,
            predicted=(longest if predicted is None else predicted) * config.per_device_train_batch_size,
        ),
        data_hash=train.hash,
    )


LIBRARIES = 480 << 20
"""Bytes that Python, torch, transformers and peft take before a model is there (CPU build of torch 2.13)."""


def estimate_memory(config: RunSettings, *, row_tokens: int, predicted: int | None = None) -> int:
    """Bytes at the peak of a step: weights, gradients, Adam's two moments, activations and logits.

    Activations: about 34 bytes per token, layer and hidden unit in 16 bit (Korthikanti et al. 2022, without the
    attention matrix, which sdpa does not keep), twice that in fp32; one layer's worth with gradient checkpointing.
    Logits: fp32, their gradient and the log-softmax. Then `LIBRARIES`. A rule of thumb: `make bench` prints it beside
    the measured peak.
    """
    shape = model_shape(config.model_name_or_path)
    if shape is None:
        return 0
    width, layers, vocabulary, parameters = shape
    trained = parameters if config.delta == "full" else 14 * config.lora_rank * width * layers
    wide = 2 if config.precision == "fp32" else 1
    layers_kept = 1 + layers / 8 if config.gradient_checkpointing else layers
    activations = 34 * wide * row_tokens * width * layers_kept
    logits = 3 * 4 * (row_tokens if predicted is None else predicted) * vocabulary
    return round(LIBRARIES + 4 * parameters + 12 * trained + activations + logits)


def model_shape(name: str) -> tuple[int, int, int, int] | None:
    """(hidden size, layers, vocabulary, parameters) from a model's config.json, or None if it is not on this disk."""
    try:
        path = Path(resolve_path(name))
    except NotFoundError:  # the base of an adapter, or the run that a resumed one came from, may have gone
        return None
    if (path / "adapter_config.json").is_file():
        base = json.loads((path / "adapter_config.json").read_text("utf-8")).get("base_model_name_or_path", "")
        return model_shape(base) if base else None
    if not (path / "config.json").is_file():
        return None
    found = json.loads((path / "config.json").read_text("utf-8"))
    if found.get("is_encoder_decoder"):
        return _pair_shape(found)
    width = int(found.get("hidden_size") or found.get("n_embd") or 0)
    layers = int(found.get("num_hidden_layers") or found.get("n_layer") or 0)
    vocabulary = int(found.get("vocab_size") or 0)
    inner = int(found.get("intermediate_size") or found.get("n_inner") or 4 * width)
    tied = found.get("tie_word_embeddings", True)
    return (
        width,
        layers,
        vocabulary,
        vocabulary * width * (1 if tied else 2) + layers * (4 * width**2 + 3 * width * inner),
    )


def _pair_shape(found: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """`model_shape` of an encoder-decoder; a block of its decoder attends twice."""
    width, vocabulary = int(found.get("d_model") or 0), int(found.get("vocab_size") or 0)
    encoder = int(found.get("encoder_layers") or found.get("num_layers") or 0)
    decoder = int(found.get("decoder_layers") or found.get("num_decoder_layers") or encoder)
    inner = int(found.get("encoder_ffn_dim") or found.get("d_ff") or 4 * width)
    blocks = encoder * (4 * width**2 + 2 * width * inner) + decoder * (8 * width**2 + 2 * width * inner)
    return width, encoder + decoder, vocabulary, vocabulary * width + blocks
