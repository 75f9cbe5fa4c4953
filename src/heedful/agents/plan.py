"""From `plan:` in a configuration to the rule by which a system chooses what it does before it writes.

Vanilla has none. Joint takes the most probable label (`argmax`) or draws one (`sample`), Oracle takes the corpus' own
(`gold`), and a label's name forces it everywhere. Accuracies of the first two are different numbers, never mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from heedful import classify, taxonomy
from heedful.agents.plan_mix import MIX, PlanMix, load_mix
from heedful.classify import LabelModel
from heedful.errors import ConfigError, DataError, unknown
from heedful.formats import Format
from heedful.models.plan import Choose, Floats, PlanRule
from heedful.settings import Settings
from heedful.types import Conversation

MODES = ("argmax", "sample", "gold")


class PlanConfig(Settings):
    """How the plan before a reply (a strategy marker) is chosen, apart from the words; see `heedful.models.plan`."""

    choose: str = Field(default="argmax", description="argmax, sample, gold (Oracle), or a label that is forced")
    ask: list[str] = Field(default_factory=list, description="scorers of the next label (target: next), asked too")
    weight: float = Field(
        default=0.5, ge=0, le=1, description="of the scorers: log p = (1 - w) log own + w mean log theirs"
    )
    mix: str | None = Field(
        default=None, description="run of method: mix, whose scorers and weights are taken instead of ask and weight"
    )
    temperature: float = Field(default=1.0, gt=0, description="of choose: sample")
    top_p: float = Field(default=0.9, gt=0, le=1, description="of choose: sample")
    guidance_scale: float = Field(
        default=1.0, ge=0, description="how strongly the words follow the plan; 1 = the model alone"
    )

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> PlanConfig:
        if self.mix is not None and (self.ask or self.weight != 0.5):
            raise ValueError("either 'ask' with 'weight' or 'mix', which has scorers and weights of its own; drop one")
        if self.choose != "sample" and (self.temperature != 1.0 or self.top_p != 0.9):
            raise ValueError("'temperature' and 'top_p' are of choose: sample; leave them out")
        return self


@dataclass(frozen=True, kw_only=True)
class PlanSetting:
    """A checked `plan:`.

    Args:
        label_set: of the labels that are chosen from.
        markers: label -> the vocabulary entry that stands for it.
        readers: the scorers that are asked too.
        mix: how much each counts; None: as `weight` says.
    """

    config: PlanConfig
    label_set: str
    markers: Mapping[str, str]
    readers: tuple[LabelModel, ...] = field(default=(), repr=False)
    mix: PlanMix | None = None

    @property
    def is_oracle(self) -> bool:
        """Whether the corpus' own label is handed over: an upper bound and no system."""
        return self.config.choose == "gold"

    @property
    def predicts(self) -> bool:
        """Whether the system decides itself; False where a label is handed over or forced."""
        return self.config.choose in ("argmax", "sample")

    def identity(self) -> dict[str, Any]:
        """What replies depend on."""
        about = {
            **self.config.model_dump(exclude={"ask", "mix", "guidance_scale"}),
            **({} if self.config.guidance_scale == 1.0 else {"guidance_scale": self.config.guidance_scale}),
            "scorers": [reader.fingerprint for reader in self.readers],
        }
        return about if self.mix is None else {**about, "mix": self.mix.to_dict()}

    def rule(
        self,
        vocabulary: Mapping[str, int],
        contexts: Mapping[str, Conversation],
        gold: Mapping[str, str | None] | None = None,
    ) -> PlanRule:
        """The rule for replies.

        Args:
            vocabulary: of the tokenizer, markers included.
            contexts: id of a reply -> the conversation before it.
            gold: id -> the corpus' label of the reply, for `choose: gold`.

        Raises:
            DataError: `choose: gold`, but a reply has no label.
        """
        mode = self.config.choose
        given: dict[str, str] = {}
        if mode == "gold":
            given = {name: self._gold(name, (gold or {}).get(name)) for name in contexts}
        elif mode not in MODES:
            given = dict.fromkeys(contexts, mode)
        others: dict[str, Floats] = {}
        if self.readers:
            others = dict(zip(contexts, self.asked(list(contexts.values())), strict=True))
        choose: Choose = "argmax" if mode == "argmax" else "sample" if mode == "sample" else "given"
        return PlanRule(
            marks={label: vocabulary[marker] for label, marker in self.markers.items()},
            choose=choose,
            given=given,
            own=1.0 if not self.readers else self.mix.own if self.mix else 1 - self.config.weight,
            others=others,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            guidance_scale=self.config.guidance_scale,
        )

    def check_vocabulary(self, vocabulary: Mapping[str, int]) -> None:
        """Raises:
        ConfigError: the tokenizer lacks a marker, so the model was not trained in this format.
        """
        missing = [marker for marker in self.markers.values() if marker not in vocabulary]
        if missing:
            raise ConfigError(
                f"The tokenizer of this model has no entry for {missing[0]} and {len(missing) - 1} others, so it was "
                "not trained to write a strategy; train it with format: strategy, or take another model."
            )

    def asked(self, contexts: Sequence[Conversation]) -> Floats:
        """What the scorers add to the log-probabilities of the replies that follow, (N, K)."""
        found = asked(self.readers, list(self.markers), contexts)
        if self.mix is not None:
            return self.mix.scores(found)
        scores: Floats = self.config.weight * np.mean(found, axis=0)
        return scores

    def _gold(self, name: str, label: str | None) -> str:
        if label is None:
            raise DataError(
                f"plan: gold needs a label of '{self.label_set}' on every reply, but '{name}' has none; give labelled "
                "data, or take another plan."
            )
        return label

    def described(self, probabilities: Sequence[float]) -> dict[str, Any]:
        """What a trace keeps of a choice: label -> probability, four digits."""
        rounded = np.round(np.asarray(probabilities), 4).tolist()
        return {"probabilities": {self.label_set: dict(zip(self.markers, rounded, strict=True))}}


def asked(readers: Sequence[LabelModel], labels: Sequence[str], contexts: Sequence[Conversation]) -> Floats:
    """Log-probabilities that scorers of the next label give, (scorers, N, K), columns in the order of `labels`."""
    found = np.empty((len(readers), len(contexts), len(labels)))
    for k, reader in enumerate(readers):
        order = [reader.labels.index(label) for label in labels]
        found[k] = np.log(np.maximum(reader.next_probabilities(contexts)[:, order], 1e-12))
    return found


def settle_plan(spec: str | PlanConfig | None, fmt: Format, *, model: str = "") -> PlanSetting | None:
    """Check a `plan:` against the format that it is for. Labels may be spelt in any way that their set knows.

    Args:
        model: whose plans they are, which a mix must have been fitted with.

    Raises:
        ConfigError: the format writes no plan of one marker, there is no such mode or label, or a mix of another model.
    """
    if spec is None:
        return None
    config = PlanConfig(choose=spec) if isinstance(spec, str) else spec
    if fmt.plan_marks is None:
        raise ConfigError(
            f"plan: {config.choose} needs a format whose replies begin with one marker, such as format: strategy, but "
            f"this one is '{fmt.name}'; leave plan out."
        )
    label_set, markers = fmt.plan_marks
    label = taxonomy.get(label_set).resolve(config.choose)
    if config.choose not in MODES and label in markers:
        config = config.model_copy(update={"choose": label})
    if config.choose not in (*MODES, *markers):
        raise unknown("plan", config.choose, [*MODES, *markers])
    mix, paths = load_mix(config.mix) if config.mix is not None else (None, tuple(config.ask))
    readers = ask_readers(paths, label_set)
    if mix is not None:
        scorers = tuple(r.fingerprint for r in readers)
        mix.check(label_set, tuple(markers), scorers, model=model, where=str(config.mix))
    return PlanSetting(config=config, label_set=label_set, markers=markers, readers=readers, mix=mix)


def settle_talk_plan(spec: str | None, fmt: Format, *, model: str, guidance_scale: float = 1.0) -> PlanSetting | None:
    """The `plan:` of a talk that goes on, in which nobody knows what the next strategy should be.

    Args:
        spec: `argmax`, `sample`, a label, or the folder of a mix; None: `argmax` where the format writes plans.

        guidance_scale: how strongly the words follow it.

    Raises:
        ConfigError: `gold`, a guidance_scale for a format without plans, or as for `settle_plan`.
    """
    wanted = spec or ("argmax" if fmt.plan_marks else None)
    if wanted == "gold":
        raise ConfigError("Nobody knows the right strategy of a talk that goes on; take argmax, sample or a name.")
    if wanted is None:
        if guidance_scale != 1.0:
            raise ConfigError(
                f"guidance_scale is for models that write a plan first, and the format '{fmt.name}' has none; leave it "
                "out, or take a model of format: strategy."
            )
        return None
    if (Path(wanted).expanduser() / MIX).is_file():
        return settle_plan(PlanConfig(mix=wanted, guidance_scale=guidance_scale), fmt, model=model)
    return settle_plan(PlanConfig(choose=wanted, guidance_scale=guidance_scale), fmt, model=model)


def ask_readers(paths: Sequence[str], label_set: str) -> tuple[LabelModel, ...]:
    """Scorers of the next label.

    Raises:
        ConfigError: one is of another label set, or judges the turn that it is shown.
    """
    readers = tuple(classify.load(path) for path in paths)
    for path, reader in zip(paths, readers, strict=True):
        if reader.label_set != label_set or not reader.predicts_next:
            raise ConfigError(
                f"plan.ask needs scorers of '{label_set}' with target: next, but '{path}' is one of "
                f"'{reader.label_set}' with target: {'next' if reader.predicts_next else 'this'}."
            )
    return readers
