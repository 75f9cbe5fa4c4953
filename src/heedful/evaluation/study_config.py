"""The configuration of a study: several systems, several decodings, one test part."""

from __future__ import annotations

import itertools
import re
from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from heedful.agents.plan import PlanConfig
from heedful.errors import nearest
from heedful.evaluation.config import DecodingConfig
from heedful.scoring.rewards import RewardConfig
from heedful.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names become parts of file names that are separated by dots."""
ECHO = "_echo"
"""What is added to a system's name for its row with prompt echo."""


class SystemConfig(Settings):
    """One model of a study; what is left out comes from its run (`config.resolved.yaml`)."""

    model_name_or_path: str
    adapter: bool = Field(default=True, description="false: the model that the run's adapter was trained on")
    format: str | dict[str, Any] | None = Field(
        default=None, description="a mapping without 'name' changes options of the run's own format"
    )
    planners: list[str | dict[str, Any]] | None = Field(default=None, description="default: the run's own")
    max_length: int | None = Field(default=None, ge=8)
    overlong: Literal["error", "skip"] | None = None
    plan: str | PlanConfig | None = Field(
        default=None, description="argmax, sample, gold, a label, or a mapping; default: like any other token"
    )
    predicted_labels: dict[str, str] | None = Field(
        default=None, description="label set: scorer; default: the study's. {} keeps the gold labels in the prompts"
    )


class StudyDecoding(DecodingConfig):
    """One way to decode. Only drawing has seeds: greedy and beams write the same words every time."""

    seeds: list[int] | None = Field(default=None, min_length=1, description="default with do_sample: the study's seed")

    @model_validator(mode="after")
    def _seeds_draw(self) -> StudyDecoding:
        if self.seeds and not self.do_sample:
            raise ValueError("'seeds' need do_sample: true; greedy and beams write the same words with any seed")
        if self.seeds and (len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0):
            raise ValueError("'seeds' must be different whole numbers of 0 or more")
        self.plain().decoding(0)
        return self

    def plain(self) -> DecodingConfig:
        """The settings without the seeds."""
        return DecodingConfig(**self.model_dump(exclude={"seeds"}))


class LabelConfig(Settings):
    """What is read from the replies under one label set, and from what."""

    scorers: dict[str, str] = Field(default_factory=dict, description="what tables call it: a scorer's run")
    tag: bool = Field(default=False, description="also the label that the model wrote before its reply")
    target: Literal["therapist", "client"] = Field(
        default="therapist", description="whose gold label: of the reply in the corpus, or of the turn before it"
    )

    @model_validator(mode="after")
    def _something_reads(self) -> LabelConfig:
        if not self.scorers and not self.tag:
            raise ValueError("expected 'scorers' or tag: true; otherwise nothing reads a label from the replies")
        return self


class StudyConfig(Settings):
    """Systems x decodings on one part of one corpus."""

    kind: Literal["study"] = Field(default="study", validation_alias=AliasChoices("kind", "method"))
    dataset: str | None = Field(default=None, description="default: that of the first system's run")
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    split: str | None = "test"
    train_split: str | None = Field(default="train", description="where the nearest-reply baseline looks")
    max_conversations: int | None = Field(default=None, ge=1)
    merge_turns: bool = Field(
        default=False, description="join runs of turns by one speaker for every format, so that all reply at one place"
    )
    systems: dict[str, SystemConfig] = Field(min_length=1)
    decodings: dict[str, StudyDecoding] = Field(default_factory=lambda: {"greedy": StudyDecoding()}, min_length=1)
    metrics: list[str] = Field(default_factory=lambda: ["lexical", "bertscore", "similarity"])
    score_prompt_echo: bool = Field(
        default=False,
        description="also score input and reply together, as code does that decodes the prompt too; rows <system>_echo",
    )
    perplexity: bool = Field(default=True, description="how expected the replies in the corpus are")
    rewards: list[RewardConfig] = Field(default_factory=list, description="what training maximised")
    heldout: list[RewardConfig] = Field(default_factory=list, description="scorers that training never saw")
    labels: dict[str, LabelConfig] = Field(default_factory=dict, description="label set: who reads it")
    compare: list[tuple[str, str]] | None = Field(
        default=None,
        description="pairs [first, second], read as second minus first; default: each model and the one before it",
    )
    baselines: list[str] = Field(default_factory=lambda: ["fixed_reply", "copy_last_turn", "nearest_reply"])
    predicted_labels: dict[str, str] = Field(
        default_factory=dict, description="label set: scorer that reads the client's turns instead of the corpus' gold"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    branches: int = Field(default=64, ge=1, description="replies (times beams or candidates) decoded in one batch")
    bootstrap: int = Field(default=1000, ge=1)
    examples: int = Field(default=5, ge=0, description="dialogues shown side by side, drawn with the seed")
    seed: int = Field(default=13, ge=0)
    output_dir: str | None = Field(default=None, description="default: runs/study-<dataset>-<split>")

    @field_validator("systems", "decodings")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{name}' must be letters, digits, - and _ only, as it becomes part of a file name")
        return value

    @model_validator(mode="after")
    def _names_fit(self) -> StudyConfig:
        known = [*self.systems, *self.baselines]
        rows = [*known, *(name + ECHO for name in self.systems if self.score_prompt_echo)]
        for name in rows:
            if rows.count(name) > 1:
                raise ValueError(f"two systems are called '{name}' (baselines and echoes count); rename one")
        for pair in self.pairs:
            for name in pair:
                if name not in known:
                    raise ValueError(f"'compare' names the system '{name}', which is not there.{nearest(name, known)}")
            if pair[0] == pair[1]:
                raise ValueError(f"'compare' sets '{pair[0]}' beside itself; name two systems")
        labels = [spec.label or spec.name.rpartition(":")[2] for spec in (*self.rewards, *self.heldout)]
        for name in labels:
            if labels.count(name) > 1:
                raise ValueError(f"two scores are called '{name}' (rewards and heldout); give one another 'label'")
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(first, second) of every comparison."""
        names = list(self.systems)
        return list(itertools.pairwise(names)) if self.compare is None else self.compare

    def seeds(self, decoding: str) -> list[int]:
        """The seeds of one decoding."""
        return self.decodings[decoding].seeds or [self.seed]
