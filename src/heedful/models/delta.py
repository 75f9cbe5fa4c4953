"""Delta methods: train a small part of the model, keep the rest. One function each, one key to choose (`delta`).

All of them live inside the layers, so they work with merged samples (`TokenTree`). Methods that put virtual tokens in
front of the prompt (prompt and prefix tuning) do not and are left out: docs/decisions/0003-delta-methods.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from heedful.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DeltaSettings:
    """The keys that delta methods share; names as in PEFT and LLaMA-Factory.

    Args:
        rank: size of the low-rank update (lora, rslora, dora, vera).
        alpha: its scale.
        dropout: on its input.
        target_modules: names of the layers to adapt; "all-linear" for all of them.
        new_tokens: ids of vocabulary entries that the format added; their rows are trained in full.
        task: PEFT's name for the kind of model.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    new_tokens: tuple[int, ...] = ()
    task: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM"] = "CAUSAL_LM"

    @property
    def modules(self) -> str | list[str]:
        """`target_modules` in PEFT's type."""
        return self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)


def full(settings: DeltaSettings) -> None:
    """All weights."""


def lora(settings: DeltaSettings) -> Any:
    """Low-rank updates (Hu et al. 2021)."""
    return _lora(settings)


def rslora(settings: DeltaSettings) -> Any:
    """Rank-stabilised LoRA: scale alpha / sqrt(rank) (Kalajdzievski 2023)."""
    return _lora(settings, use_rslora=True)


def dora(settings: DeltaSettings) -> Any:
    """LoRA on the direction, with a trained magnitude (Liu et al. 2024)."""
    return _lora(settings, use_dora=True)


def ia3(settings: DeltaSettings) -> Any:
    """Learnt scales on keys, values and the feed-forward output (Liu et al. 2022)."""
    from peft import IA3Config

    _no_new_tokens("ia3", settings)
    _refuse_unused("ia3", settings, "rank", "alpha", "dropout")
    # PEFT knows which layers these are for the common architectures; "all-linear" is not IA3's idea.
    named = None if settings.target_modules == "all-linear" else settings.modules
    return IA3Config(task_type=settings.task, target_modules=named)


def vera(settings: DeltaSettings) -> Any:
    """Shared random low-rank matrices with trained scales (Kopiczko et al. 2024)."""
    from peft import VeraConfig

    _no_new_tokens("vera", settings)
    _refuse_unused("vera", settings, "alpha")
    # VeRA shares one random pair between all adapted layers, so they must have one shape.
    modules = ["q_proj", "o_proj"] if settings.target_modules == "all-linear" else settings.modules
    return VeraConfig(task_type=settings.task, r=settings.rank, vera_dropout=settings.dropout, target_modules=modules)


def norms(settings: DeltaSettings) -> Any:
    """Only the layer norms (Zhao et al. 2023)."""
    from peft import LNTuningConfig

    _no_new_tokens("norms", settings)
    _refuse_unused("norms", settings, "rank", "alpha", "dropout")
    named = None if settings.target_modules == "all-linear" else settings.modules
    return LNTuningConfig(task_type=settings.task, target_modules=named)


def bias(settings: DeltaSettings) -> Any:
    """Only the bias terms (BitFit, Ben Zaken et al. 2022), beside a rank-1 LoRA whose effect PEFT needs to attach to.

    Architectures without biases (Llama, SmolLM2) have nothing to train here; `attach` refuses them.
    """
    _refuse_unused("bias", settings, "rank", "alpha", "dropout")
    return _lora(settings, bias="all", r=1, lora_alpha=1)


def _lora(settings: DeltaSettings, **more: Any) -> Any:
    from peft import LoraConfig

    values: dict[str, Any] = {
        "task_type": settings.task,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": settings.modules,
        "trainable_token_indices": list(settings.new_tokens) or None,
        **more,
    }
    return LoraConfig(**values)


def _no_new_tokens(name: str, settings: DeltaSettings) -> None:
    if settings.new_tokens:
        raise ConfigError(
            f"delta: {name} cannot train the {len(settings.new_tokens)} tokens that this format adds to the "
            "vocabulary; use lora, rslora, dora or full."
        )


def _refuse_unused(name: str, settings: DeltaSettings, *keys: str) -> None:
    """A setting that does nothing would stand in the run's record as if it had."""
    given = [key for key in keys if getattr(settings, key) != getattr(DeltaSettings, key)]
    if given:
        raise ConfigError(
            f"delta: {name} has no {' and no '.join(given)}; remove {' and '.join(f'lora_{key}' for key in given)}."
        )


def attach(model: Any, config: Any, *, name: str) -> Any:
    """The model with the delta method in place; trained weights are fp32, whatever the base is stored in.

    Raises:
        ConfigError: the method finds nothing to train in this architecture.
    """
    from peft import get_peft_model

    if name == "bias" and not any(n.endswith(".bias") for n, _ in model.named_parameters()):
        raise ConfigError("delta: bias trains bias terms, but this model has none; use lora, dora, ia3, vera or norms.")
    try:
        with expected_warnings():
            model = get_peft_model(model, config)
    except ValueError as err:
        raise ConfigError(f"delta: {name} does not fit this model: {err}") from err
    if name == "bias":
        for parameter_name, parameter in model.named_parameters():
            # Rows that the format added are trained with every method that can: nothing has ever trained them.
            parameter.requires_grad = parameter_name.endswith(".bias") or "trainable_tokens" in parameter_name
    for parameter in model.parameters():
        if parameter.requires_grad:
            # An update of 1e-5 vanishes in bf16's 8 bits of mantissa.
            parameter.data = parameter.data.float()
    return model


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Keeps two remarks of PEFT from people who can do nothing about them; both cases are tested here.

    It does not know the norm layers that LN tuning adapts, and it sets `fan_in_fan_out` for GPT-2's layers itself.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type", category=UserWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        yield


def trainable(model: Any) -> tuple[int, int]:
    """(trained parameters, all parameters)."""
    counted = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, on in counted if on), sum(n for n, _ in counted)
