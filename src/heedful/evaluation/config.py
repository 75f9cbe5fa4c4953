"""The configuration of an evaluation: which model, on what, decoded how, scored by what."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from heedful.agents.plan import PlanConfig
from heedful.models.decoding import Decoding
from heedful.settings import Settings


class DecodingConfig(Settings):
    """Decoding keys, as in transformers' GenerationConfig; see `heedful.models.decoding.Decoding`."""

    max_new_tokens: int = Field(default=64, ge=1)
    min_new_tokens: int = Field(default=0, ge=0)
    do_sample: bool = False
    temperature: float = Field(default=1.0, gt=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    num_beams: int = Field(default=1, ge=1)
    length_penalty: float = 1.0
    num_candidates: int = Field(default=1, ge=1)
    mbr_utility: Literal["rougeL", "bleu2"] = "rougeL"
    repetition_penalty: float = Field(default=1.0, gt=0)
    no_repeat_ngram_size: int = Field(default=0, ge=0)

    def decoding(self, seed: int) -> Decoding:
        """The settings as decoders take them."""
        return Decoding(seed=seed, **self.model_dump())


class LookConfig(Settings):
    """What a look at a run needs that scores no text: which run, which places. Nothing else is accepted and ignored."""

    model_name_or_path: str
    dataset: str | None = Field(default=None, description="default: the run's own")
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    split: str = "test"
    max_conversations: int | None = Field(default=None, ge=1)
    format: str | dict[str, Any] | None = None
    planners: list[str | dict[str, Any]] | None = Field(default=None, description="default: the run's own")
    max_length: int | None = Field(default=None, ge=8)
    overlong: Literal["error", "skip"] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    output_dir: str | None = Field(default=None, description="default: below the run, eval/<data>-<split>-<what>")

    def as_eval(self) -> EvalConfig:
        """As settings of an evaluation, which resolve what is left to the run."""
        return EvalConfig(**self.model_dump(include=set(LookConfig.model_fields)))


class EvalConfig(Settings):
    """One evaluation.

    `format`, `max_length` and the base model come from the run (`config.resolved.yaml`) unless they are given here.
    """

    model_name_or_path: str
    dataset: str | None = Field(default=None, description="default: the run's own")
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    split: str | None = "test"
    train_split: str | None = Field(default="train", description="where the nearest-reply baseline looks")
    max_conversations: int | None = Field(default=None, ge=1)
    format: str | dict[str, Any] | None = None
    planners: list[str | dict[str, Any]] | None = Field(default=None, description="default: the run's own")
    max_length: int | None = Field(default=None, ge=8)
    overlong: Literal["error", "skip"] | None = Field(
        default=None, description="what to do with a turn that does not fit into max_length; default: as the run did"
    )
    plan: str | PlanConfig | None = Field(
        default=None, description="argmax, sample, gold, a label, or a mapping; default: like any other token"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compare_base: bool = Field(default=True, description="evaluate the run's base model beside it")
    baselines: list[str] = Field(default_factory=lambda: ["fixed_reply", "copy_last_turn", "nearest_reply"])
    generate: bool = True
    decoding: DecodingConfig = Field(default_factory=DecodingConfig)
    branches: int = Field(default=64, ge=1, description="replies (times beams or candidates) decoded in one batch")
    metrics: list[str] = Field(default_factory=lambda: ["all"])
    bootstrap: int = Field(default=1000, ge=0)
    examples: int = Field(default=3, ge=0, description="dialogues shown per rule: random, best, worst")
    seed: int = Field(default=13, ge=0)
    output_dir: str | None = Field(default=None, description="default: <run>/eval/<dataset>-<split>")

    @model_validator(mode="after")
    def _decoding_is_possible(self) -> EvalConfig:
        self.decoding.decoding(self.seed)
        return self
