"""The table of rewards, and reward sets from configuration.

>>> rewards = make([{"name": "repetition", "weight": -0.3}, {"name": "length", "weight": -0.2}])
>>> rewards.names
('repetition', 'length')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from heedful.registry import Registry
from heedful.scoring.rewards.base import Component, Reward, RewardSet, Scored, Task, as_reward, component, reward
from heedful.settings import Settings, check

__all__ = [
    "REWARDS",
    "Component",
    "Reward",
    "RewardConfig",
    "RewardSet",
    "Scored",
    "Task",
    "as_reward",
    "component",
    "make",
    "reward",
]

_HERE = "heedful.scoring.rewards"

REWARDS = Registry(
    "reward",
    {
        "copy": f"{_HERE}.lexical:copy",
        "repetition": f"{_HERE}.lexical:repetition",
        "bleu1": f"{_HERE}.lexical:bleu1",
        "rouge1": f"{_HERE}.lexical:rouge1",
        "rouge2": f"{_HERE}.lexical:rouge2",
        "rougeL": f"{_HERE}.lexical:rougeL",
        "meteor": f"{_HERE}.lexical:meteor",
        "meteor_exact_stem": f"{_HERE}.lexical:meteor_exact_stem",
        "similarity": f"{_HERE}.similarity:similarity",
        "relevance": f"{_HERE}.similarity:relevance",
        "bertscore": f"{_HERE}.similarity:bertscore",
        "length": f"{_HERE}.shape:length",
        "length_between": f"{_HERE}.shape:length_between",
        "question": f"{_HERE}.shape:question",
        "reader_released": f"{_HERE}.reader:reader_released",
        "reader_paper": f"{_HERE}.reader:reader_paper",
        "risk_gate": f"{_HERE}.safety:risk_gate",
        "reward_model": f"{_HERE}.learned:reward_model",
        "perplexity": f"{_HERE}.learned:perplexity",
        "emotion": f"{_HERE}.labels:label",
        "strategy": f"{_HERE}.labels:label",
        "act": f"{_HERE}.labels:label",
        "tag": f"{_HERE}.labels:tag",
    },
)
"""name -> Reward. Add one: a function in a file beside this one, and a line here."""


class RewardConfig(Settings):
    """One reward of a set."""

    name: str = Field(description="a name of the table, or module:function")
    label: str | None = Field(default=None, description="what logs call it; default: its name")
    weight: float = Field(default=1.0, allow_inf_nan=False)
    params: dict[str, Any] = Field(default_factory=dict)
    range: tuple[float, float] | None = Field(default=None, description="default: as the reward declares")
    gate: float | None = Field(default=None, description="below this value the reply's total is gate_total")
    gate_total: float | None = Field(
        default=None, allow_inf_nan=False, description="default: one below the least sum that the weights allow"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def make(specs: Sequence[RewardConfig | Mapping[str, Any] | str]) -> RewardSet:
    """A reward set from names, mappings or checked records.

    Raises:
        NotFoundError: a reward that is not there.
        ConfigError: an unknown key or option, a weight that is no number, a range upside down, a name twice, a gate
            outside its range, a gate_total above what other replies can have.
    """
    return RewardSet(components=tuple(_component(spec) for spec in specs))


def _component(spec: RewardConfig | Mapping[str, Any] | str) -> Component:
    if not isinstance(spec, RewardConfig):
        values = {"name": spec} if isinstance(spec, str) else spec
        spec = check(RewardConfig, values, where=f"reward '{values.get('name', '?')}'")
    low, high = spec.range or (None, None)
    return component(
        spec.label or spec.name.rpartition(":")[2],
        REWARDS.get(spec.name),
        weight=spec.weight,
        params=spec.params,
        low=low,
        high=high,
        gate=spec.gate,
        gate_total=spec.gate_total,
    )
