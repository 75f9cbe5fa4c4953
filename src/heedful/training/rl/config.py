"""The configuration of reinforcement learning: what all algorithms share, and a class per algorithm.

Names are those of Hugging Face where it has one; a *step* is one round: rollouts, rewards, and the updates on them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from heedful.scoring.rewards import RewardConfig
from heedful.training.config import ActHeadConfig, RunSettings
from heedful.training.rl.algorithms import GRPO, PPO, RLOO, Algorithm, ReinforcePlusPlus
from heedful.training.rl.quirks import Compat


class RLConfig(RunSettings, ABC):
    """What every algorithm has. Lengths are tokens, times seconds; prompts and replies count over all processes."""

    learning_rate: float = Field(default=1.41e-5, gt=0)
    warmup_steps: float = Field(default=0.0, ge=0, description="updates, or a share of all updates below 1")
    max_grad_norm: float = Field(default=0.5, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    # what is rewarded
    rewards: list[RewardConfig] = Field(min_length=1)
    heldout: list[RewardConfig] = Field(default_factory=list, description="measured on validation, never trained on")
    # rounds
    max_steps: int = Field(default=-1, ge=-1, description="rounds; -1: as num_train_epochs says")
    num_train_epochs: float = Field(default=1.0, gt=0, description="passes over the prompts")
    rollout_batch_size: int = Field(default=32, ge=1, description="prompts per round")
    num_generations: int = Field(default=8, ge=1, description="replies per prompt")
    num_iterations: int = Field(default=1, ge=1, description="passes over a round's replies")
    mini_batch_size: int = Field(default=8, ge=1, description="prompts per update")
    per_device_train_batch_size: int = Field(default=2, ge=1, description="prompts in one forward and backward pass")
    iteration_kl: float | None = Field(
        default=None, gt=0, description="end a round's updates when the policy moved this far from its start, per token"
    )
    # rollouts
    max_new_tokens: int = Field(default=64, ge=1)
    min_new_tokens: int = Field(
        default=0, ge=0, description="as many as max_new_tokens: replies never stop by themselves"
    )
    temperature: float = Field(default=1.0, gt=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    engine: str = Field(default="transformers", description="transformers, llama_cpp, server, or module:Class")
    engine_options: dict[str, Any] = Field(default_factory=dict)
    old_logprobs: Literal["auto", "rollout", "recompute"] = "auto"
    importance_cap: float = Field(default=2.0, ge=1, description="largest weight of sampler against trainer")
    # leash
    kl_coef: float = Field(default=0.05, ge=0)
    kl_target: float | None = Field(default=None, gt=0, description="nats per reply; adapts kl_coef")
    log_kl: bool = Field(default=True, description="measure the KL also where kl_coef is 0; costs a pass")
    kl_gain: float = Field(default=0.1, gt=0, description="how fast kl_coef adapts")
    ptx_coef: float = Field(default=0.0, ge=0, description="weight of the supervised loss on the gold replies")
    entropy_coef: float = Field(default=0.0, ge=0)
    act_head: ActHeadConfig | None = None
    # seeing
    eval_steps: int | None = Field(default=10, ge=1, description="validate every so many rounds; None: first and last")
    max_eval_prompts: int = Field(default=64, ge=1)
    probe_prompts: int = Field(default=4, ge=0, description="validation prompts whose replies the report shows")
    save_traces: bool = Field(default=True, description="keep every rollout in traces.jsonl")
    # stopping
    stop_kl: float | None = Field(default=None, gt=0, description="stop at this mean KL to the reference, per reply")
    stop_repetition: float | None = Field(
        default=None, gt=0, le=1, description="stop at this share of repeated 3-grams"
    )
    stop_heldout: int | None = Field(
        default=None, ge=1, description="stop after so many validations in which held-out scores fell below their best"
    )
    load_best_model_at_end: bool = Field(default=False, description="go back to the best held-out validation")

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("expected -1 (as many as the epochs have) or at least 1, but got 0")
        return value

    @model_validator(mode="after")
    def _sizes_agree(self) -> RLConfig:
        if self.rollout_batch_size % self.mini_batch_size:
            raise ValueError(
                f"rollout_batch_size ({self.rollout_batch_size}) must be a multiple of mini_batch_size "
                f"({self.mini_batch_size})"
            )
        if self.mini_batch_size % self.per_device_train_batch_size:
            raise ValueError(
                f"mini_batch_size ({self.mini_batch_size}) must be a multiple of per_device_train_batch_size "
                f"({self.per_device_train_batch_size})"
            )
        if not any(r.weight or r.gate is not None for r in self.rewards):
            raise ValueError("no reward has a weight other than 0, so there is nothing to learn from")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens ({self.min_new_tokens}) must not exceed max_new_tokens ({self.max_new_tokens})"
            )
        if (self.stop_heldout or self.load_best_model_at_end) and not (self.heldout and self.eval_split):
            raise ValueError("stop_heldout and load_best_model_at_end need heldout scorers and an eval_split")
        if self.lora_dropout:
            raise ValueError(
                "lora_dropout would make the policy that is updated another one than the policy that wrote; remove it"
            )
        if not self.kl_coef and self.kl_target is not None and "kl_target" in self.model_fields_set:
            raise ValueError("kl_target adapts kl_coef, which is 0 and stays so; remove one of the two")
        cut = self.top_k or self.top_p < 1 or self.min_new_tokens
        if cut and self.quirks() == Compat():
            raise ValueError(
                "top_k, top_p and min_new_tokens draw from another distribution than the one that is trained; they are "
                "for compat switches of method: ppo only"
            )
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                "gradient_accumulation_steps follows from mini_batch_size and per_device_train_batch_size; remove it"
            )
        return self

    @property
    def single_update(self) -> bool:
        """Whether each round has one optimiser step only, so that the policy that is trained is the one that wrote."""
        return self.num_iterations == 1 and self.mini_batch_size == self.rollout_batch_size

    @abstractmethod
    def algorithm(self) -> Algorithm:
        """The algorithm object; each method's class has its own."""

    def quirks(self) -> Compat:
        """Deviations from the loop, none unless a method knows some."""
        return Compat()


class PPOConfig(RLConfig):
    """`method: ppo`; defaults of TRL 0.4.4 as ChatMGL used them, with one reply per prompt."""

    method: Literal["ppo"] = "ppo"
    num_generations: int = Field(default=1, ge=1, description="replies per prompt")
    num_iterations: int = Field(default=4, ge=1, description="passes over a round's replies")
    kl_coef: float = Field(default=0.2, ge=0)
    kl_target: float | None = Field(default=6.0, gt=0, description="nats per reply; adapts kl_coef")
    gamma: float = Field(default=1.0, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    epsilon: float = Field(default=0.2, gt=0)
    value_clip: float = Field(default=0.2, gt=0)
    value_coef: float = Field(default=0.1, ge=0)
    value_learning_rate: float | None = Field(default=None, gt=0, description="default: learning_rate")
    whiten_advantages: Literal["batch", "reply", "none"] = "batch"
    compat: Compat = Field(default_factory=Compat, description="quirks of READER's released code, all off")

    @model_validator(mode="after")
    def _quirks_have_an_effect(self) -> PPOConfig:
        if self.compat.lm_on_samples and not self.ptx_coef:
            raise ValueError("compat.lm_on_samples needs a ptx_coef above 0")
        if self.compat.act_sees_reply and self.act_head is None:
            raise ValueError("compat.act_sees_reply needs act_head")
        if self.compat.of_sampler and self.engine != "transformers":
            raise ValueError("compat.ban_seen_tokens and special_tokens_in_reward need engine: transformers")
        return self

    def algorithm(self) -> Algorithm:
        """PPO as configured."""
        return PPO(
            gamma=self.gamma, lam=self.lam, epsilon=self.epsilon, whiten=self.whiten_advantages,
            kl_relu=self.compat.kl_relu, kl_scale=self.compat.kl_scale,
        )  # fmt: skip

    def quirks(self) -> Compat:
        """Those of `compat`."""
        return self.compat


class GRPOConfig(RLConfig):
    """`method: grpo`; names as in TRL's GRPOConfig."""

    method: Literal["grpo"] = "grpo"
    num_generations: int = Field(default=8, ge=2, description="replies per prompt")
    kl_coef: float = Field(default=0.04, ge=0)
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "grpo"
    scale_rewards: Literal["group", "batch", "none"] | None = Field(
        default=None, description="default: group; none for dr_grpo"
    )
    aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    epsilon: float = Field(default=0.2, gt=0)
    epsilon_high: float | None = Field(
        default=None, gt=0, description="default: epsilon; 0.28 for dapo; for cispo the largest weight, 5.0"
    )

    @model_validator(mode="after")
    def _scale_is_used(self) -> GRPOConfig:
        if self.aggregation == "normalize_then_sum" and self.scale_rewards is not None:
            raise ValueError("aggregation: normalize_then_sum scales each reward by itself; remove scale_rewards")
        return self

    def algorithm(self) -> Algorithm:
        """GRPO or the relative that `loss_type` names."""
        high = {"dapo": 0.28, "cispo": 5.0}.get(self.loss_type, self.epsilon)
        scale = self.scale_rewards or ("none" if self.loss_type == "dr_grpo" else "group")
        return GRPO(
            scale=scale,
            aggregation=self.aggregation,
            loss_type=self.loss_type,
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high or high,
        )


class RLOOConfig(RLConfig):
    """`method: rloo`."""

    method: Literal["rloo"] = "rloo"
    num_generations: int = Field(default=4, ge=2, description="replies per prompt")
    epsilon: float = Field(default=0.2, gt=0)

    def algorithm(self) -> Algorithm:
        """RLOO as configured."""
        return RLOO(epsilon=self.epsilon)


class ReinforceConfig(RLConfig):
    """`method: reinforce++`."""

    method: Literal["reinforce++"] = "reinforce++"
    num_generations: int = Field(default=1, ge=1, description="replies per prompt")
    kl_coef: float = Field(default=0.01, ge=0)
    gamma: float = Field(default=1.0, ge=0, le=1)
    epsilon: float = Field(default=0.2, gt=0)
    baseline: Literal["none", "group"] = "none"

    @model_validator(mode="after")
    def _group_is_a_group(self) -> ReinforceConfig:
        if self.baseline == "group" and self.num_generations < 2:
            raise ValueError("baseline: group needs num_generations of at least 2")
        return self

    def algorithm(self) -> Algorithm:
        """REINFORCE++ as configured."""
        return ReinforcePlusPlus(epsilon=self.epsilon, gamma=self.gamma, baseline=self.baseline)
