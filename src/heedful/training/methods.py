"""The table of training methods: what `method:` in a configuration file may say.

A method is a configuration class and a function. Adding one is a file beside this one with both, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError
from heedful.models.causal import need_train_extra
from heedful.registry import Registry
from heedful.settings import Settings, check

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: where it lies and what its summary says."""

    folder: Path
    summary: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to train.

    Args:
        config: the class that checks its settings; has `output_dir`, `seed` and `resume_from_checkpoint`.
        train: `(config, say=..., callbacks=...) -> Run`; resumes where the settings say so.
        plan: `(config) -> mapping` of what a run would do, without loading weights (`--dry-run`, `validate`).
    """

    config: type[Settings]
    train: Callable[..., Run] = field(repr=False)
    plan: Callable[[Any], Mapping[str, Any]] = field(repr=False)


METHODS = Registry(
    "training method",
    {
        "sft": "heedful.training.run:SFT",
        "seq2seq": "heedful.training.seq2seq:SEQ2SEQ",
        "ppo": "heedful.training.rl.run:PPO",
        "grpo": "heedful.training.rl.run:GRPO",
        "rloo": "heedful.training.rl.run:RLOO",
        "reinforce++": "heedful.training.rl.run:REINFORCE",
        "scorer": "heedful.training.scorer:SCORER",
        "belief": "heedful.training.belief:BELIEF",
        "selector": "heedful.training.selector:SELECTOR",
        "mix": "heedful.training.plan_mix:MIX_METHOD",
        "reward": "heedful.training.reward_model:REWARD",
        "dpo": "heedful.training.dpo:DPO",
    },
)


def configured(values: Mapping[str, Any], *, where: str = "configuration") -> tuple[Method, Settings]:
    """The method that `values` name (`sft` where they name none), and its checked settings.

    Raises:
        NotFoundError: no such method.
        ConfigError: a setting that the method does not have, or a value that it does not take.
    """
    name = values.get("method", "sft")
    if not isinstance(name, str):
        raise ConfigError(
            f"{where}: 'method' must be one of {', '.join(METHODS.names())}, but it is a {type(name).__name__}."
        )
    try:
        method: Method = METHODS.get(name)
    except ModuleNotFoundError:
        need_train_extra()  # says what to install where that is what is missing
        raise
    return method, check(method.config, values, where=where)
