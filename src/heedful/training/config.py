"""The configuration of a training run; keys are Hugging Face's wherever Hugging Face has one.

Groups of keys that several methods share are classes of their own; a method's configuration is what it needs of them.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from heedful.errors import unknown
from heedful.models import DELTAS
from heedful.models.embedded import DEFAULT_MODEL
from heedful.settings import Settings


class DataSettings(Settings):
    """Which conversations."""

    dataset: str = "commons"
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    train_split: str | None = "train"
    eval_split: str | None = "valid"
    max_train_conversations: int | None = Field(default=None, ge=1)
    max_eval_conversations: int | None = Field(default=None, ge=1)
    allow_leaks: bool = False


class BookSettings(Settings):
    """What is kept, and where. Times are seconds."""

    logging_steps: int = Field(default=5, ge=1)
    eval_steps: int | None = Field(default=None, ge=1, description="None: once at the end")
    save_steps: int = Field(default=50, ge=1)
    save_total_limit: int = Field(default=2, ge=1)
    max_seconds: float | None = Field(default=None, gt=0, description="stop after this time, keep what was learnt")
    seed: int = Field(default=13, ge=0, lt=2**32)
    output_dir: str | None = None
    resume_from_checkpoint: bool | str = False


class OptimiserSettings(Settings):
    """How weights move. Rates are per optimiser step."""

    learning_rate: float = Field(default=2e-4, gt=0)
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
    ] = "linear"
    warmup_steps: float = Field(default=10.0, ge=0, description="steps, or a share of all steps below 1")
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    gradient_accumulation_steps: int = Field(default=1, ge=1)


class ModelSettings(Settings):
    """A causal language model, what is trained of it, and how conversations become its input. Lengths are tokens."""

    model_name_or_path: str = DEFAULT_MODEL
    delta: str = Field(default="lora", description="full, lora, rslora, dora, ia3, vera, norms or bias")
    lora_rank: int = Field(default=16, ge=1)
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_target: str | list[str] = "all-linear"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    format: str | dict[str, Any] | None = Field(
        default=None, description="default: that of the run it starts from, else chat"
    )
    planners: list[str | dict[str, Any]] | None = Field(
        default=None,
        description="what is looked up before a reply; default: those of the run it starts from, else none",
    )
    max_length: int = Field(default=1024, ge=8)
    keep_context: float = Field(default=0.5, gt=0, le=1)
    overlong: Literal["error", "skip"] = "error"

    @field_validator("delta")
    @classmethod
    def _known_delta(cls, value: str) -> str:
        if value not in DELTAS.names() and ":" not in value:
            raise ValueError(str(unknown("delta method", value, DELTAS.names())))
        return value


class RunSettings(BookSettings, OptimiserSettings, DataSettings, ModelSettings):
    """What training a causal language model takes, by whatever method."""

    method: str


class ActHeadConfig(Settings):
    """READER's response-act head: predicts the label of the reply that is due from the prompt's states."""

    label_set: str
    coef: float = Field(default=0.1, ge=0, description="weight of its cross-entropy; 0: it is only measured")
    dropout: float = Field(default=0.5, ge=0, lt=1)


class GraphConfig(Settings):
    """GLHG's graph beside the model (glhg.md); needs `format: glhg`. Loss: (1 - monitor) words + monitor problem."""

    layers: int = Field(default=2, ge=0, description="of attention along the edges; 0: no graph, only its nodes")
    heads: int = Field(default=4, ge=1)
    radius: int = Field(default=5, ge=0, description="how far a token sees along the words, both ways")
    slope: float = Field(default=0.2, ge=0, lt=1, description="of LeakyReLU")
    dropout: float = Field(default=0.1, ge=0, lt=1)
    adapters: int = Field(default=3, ge=1, description="blocks after which the memory is read, evenly spread")
    context: int = Field(default=384, ge=1, description="most tokens of a conversation in a graph")
    global_node: bool = True
    local_node: bool = True
    monitor: float = Field(default=0.5, ge=0, lt=1, description="weight of the problem type's loss; 0: no monitor")
    pooling: Literal["max", "mean"] = Field(default="max", description="how a text becomes a node; the paper: max")
    monitor_warmup_epochs: int = Field(
        default=0, ge=0, description="passes over the causes alone that teach the monitor before the first step"
    )
    problem_set: str = Field(default="esconv_problem", description="label set of the monitor's classes")
    learning_rate: float = Field(default=3e-4, gt=0, description="of the graph; learning_rate is the model's")

    @model_validator(mode="after")
    def _monitor_needs_its_node(self) -> GraphConfig:
        if self.monitor and not self.global_node:
            raise ValueError("the monitor reads the global node; with global_node: false set monitor: 0")
        if self.monitor_warmup_epochs and not self.monitor:
            raise ValueError("monitor_warmup_epochs teach a monitor; with monitor: 0 leave them at 0")
        return self


class PlanLossConfig(Settings):
    """An objective of its own for the plan, the one marker that a target begins with (a strategy token).

    Without it the marker is one token among all others (P(s, y | x) of Liu et al. 2021): 1 of 22, out of 49,160.
    """

    weight: float = Field(default=0.5, gt=0, description="of its mean cross-entropy beside that of the words")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="against preference for a few labels")
    class_weight: Literal["none", "sqrt", "balanced"] = Field(
        default="sqrt", description="balanced lifts rare labels most, none not at all"
    )


class LoopSettings(RunSettings):
    """What supervised training on transformers' Trainer takes."""

    adam_beta2: float = Field(default=0.999, gt=0, lt=1)
    num_train_epochs: float = Field(default=1.0, gt=0)
    max_steps: int = Field(default=-1, ge=-1)
    per_device_train_batch_size: int = Field(default=4, ge=1, description="conversations in one pass")
    per_device_eval_batch_size: int = Field(default=4, ge=1)
    early_stopping_patience: int | None = Field(default=None, ge=1)
    early_stopping_threshold: float = Field(default=0.0, ge=0)

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("expected -1 (as many as the epochs have) or at least 1, but got 0")
        return value

    @model_validator(mode="after")
    def _early_stopping_needs_evaluation(self) -> Self:
        if self.early_stopping_patience is not None and (self.eval_steps is None or self.eval_split is None):
            raise ValueError("early_stopping_patience needs eval_steps and eval_split")
        return self


class TrainConfig(LoopSettings):
    """Supervised training (`method: sft`)."""

    method: Literal["sft"] = "sft"
    act_head: ActHeadConfig | None = None
    graph: GraphConfig | None = None
    plan_loss: PlanLossConfig | None = Field(default=None, description="for formats whose targets begin with a marker")
    new_token_learning_rate: float | None = Field(
        default=None, gt=0, description="of rows that the format added to the vocabulary; default: learning_rate"
    )

    @model_validator(mode="after")
    def _one_part_at_a_time(self) -> TrainConfig:
        if self.graph is not None and self.act_head is not None:
            raise ValueError("graph and act_head cannot be trained together; leave one of them out")
        if self.new_token_learning_rate is not None and self.delta == "full":
            raise ValueError(
                "delta: full trains all rows of the vocabulary as one matrix, so new_token_learning_rate has nothing "
                "to apply to; leave it out, or take delta: lora"
            )
        if self.graph is not None and self.gradient_checkpointing:
            raise ValueError(
                "a graph reads a conversation once and its replies after it, so gradient_checkpointing must be false"
            )
        return self
