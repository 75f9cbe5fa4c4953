"""`method: reward`: train a judge of replies from preferences.

pairwise   -log sigma(z_chosen - z_rejected), the head that RLHF uses (Bradley and Terry, 1952)
binary     P(positive | context, reply) as ChatMGL's classifier; as a reward 2 (P - 0.5) (chatmgl.md, part A)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from heedful.errors import ConfigError, unknown
from heedful.models import DELTAS
from heedful.models import reward as judge
from heedful.models.causal import need_train_extra
from heedful.models.delta import DeltaSettings, attach, trainable
from heedful.models.reward import RewardModel, Wording, to_ids
from heedful.registry import load_path
from heedful.settings import Settings
from heedful.training.methods import Method, Run, Say
from heedful.training.plan import steps_of
from heedful.training.preference_run import (
    Begun,
    PreferenceLoopSettings,
    answer_figures,
    begin,
    card,
    open_folder,
    pair_figures,
    summarise,
    write_end,
)
from heedful.training.preferences import Example, Preference, Preferences, gather
from heedful.training.shared import one_sentence_for_a_full_disk
from heedful.training.start import BASE, is_adapter, load_start, stand_on_base, start_place

WARNING = """\
A research model that gives replies of supportive conversations a number. **The number is no measure of good support**:
it says how much a reply resembles those that were called better in its training data. Beside it, always look at scores
that had no part in training."""


class Texts(Settings):
    """How turns are written; `{text}` stands for the words. The default is ChatMGL's."""

    user: str = Wording.user
    assistant: str = Wording.assistant


class RewardModelConfig(PreferenceLoopSettings):
    """Settings of `method: reward`. Lengths are tokens."""

    method: Literal["reward"] = "reward"
    model_name_or_path: str = Field(default="minilm", description="an encoder, or a causal language model")
    objective: Literal["pairwise", "binary"] = "pairwise"
    delta: str | None = Field(default=None, description="None: full for an encoder, lora for a causal model")
    lora_rank: int = Field(default=16, ge=1)
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_target: str | list[str] = "all-linear"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    texts: Texts = Texts()
    context: int | None = Field(default=1, ge=0, description="joined turns before the reply that are shown; null = all")
    max_length: int = Field(default=256, ge=8)
    # ChatMGL's values (chatmgl.md, hyper-parameters), but for its five epochs.
    learning_rate: float = Field(default=5e-5, gt=0)
    warmup_steps: float = Field(default=0.2, ge=0, description="steps, or a share of all steps below 1")
    num_train_epochs: float = Field(default=2.0, gt=0)

    @field_validator("delta")
    @classmethod
    def _known_delta(cls, value: str | None) -> str | None:
        if value is not None and value not in DELTAS.names() and ":" not in value:
            raise ValueError(str(unknown("delta method", value, DELTAS.names())))
        return value

    @model_validator(mode="after")
    def _texts_can_be_filled(self) -> RewardModelConfig:
        try:
            _ = self.wording
        except ConfigError as err:
            raise ValueError(str(err).rstrip(".")) from err
        return self

    @property
    def wording(self) -> Wording:
        """How contexts and replies become text."""
        return Wording(user=self.texts.user, assistant=self.texts.assistant, turns=self.context)


def fingerprint(config: RewardModelConfig) -> str:
    """Of how examples become input."""
    found = json.dumps([judge.wording_of(config.wording), config.max_length])
    return f"reward/v{judge.VERSION}#{hashlib.sha256(found.encode()).hexdigest()[:8]}"


def plan(config: RewardModelConfig) -> Mapping[str, Any]:
    """What a run would do; loads no weights."""
    data = gather(config, seed=config.seed)
    _refuse_form(config, data)
    return {
        "form": data.form,
        "examples": len(data.train),
        "held_out": len(data.held),
        "negatives": data.negatives,
        "steps": steps_of(config, trees=len(data.train)),
        "data_hash": data.hash,
        "eval_data_hash": data.held_hash,
        "notes": list(data.notes),
    }


def train(config: RewardModelConfig, *, say: Say = lambda text: None, callbacks: tuple[Any, ...] = ()) -> Run:
    """Train a reward model as configured.

    Args:
        say: takes one line of progress.
        callbacks: transformers callbacks, for progress bars.

    Raises:
        UserError: something in the configuration, the data or the model's place; the test split among the data.
        RunError: the loss is not a number, or the disk is full.
    """
    need_train_extra()
    fit = load_path("heedful.training.reward_loop:fit")
    begun = begin(config, fingerprint=fingerprint(config), base=config.model_name_or_path, say=say)
    _refuse_form(config, begun.data)
    place = start_place(config, begun.folder, resumed=begun.resume is not None)
    base = judge.place_of(place)
    kind = judge.kind_of(base, named=config.model_name_or_path)
    delta = config.delta or ("full" if kind == "encoder" else "lora")
    say(f"model {config.model_name_or_path} ({kind}, {delta})")
    open_folder(config, begun)
    model, tokenizer = _start(config, base, begun.folder, kind=kind, delta=delta)
    train_items, cut = items(config, begun.data.train, tokenizer)
    held_items, _ = items(config, begun.data.held, tokenizer)
    if cut:
        say(f"{cut:,} inputs are longer than max_length = {config.max_length} and lose the oldest words")
    outcome = fit(
        config,
        model,
        train_items,
        held_items,
        folder=begun.folder / "checkpoints",
        resume=begun.resume,
        log=begun.log,
        callbacks=callbacks,
    )
    with one_sentence_for_a_full_disk(begun.folder):
        return _finish(config, begun, model.eval(), tokenizer, outcome, kind=kind, delta=delta, cut=cut)


def _refuse_form(config: RewardModelConfig, data: Preferences) -> None:
    if config.objective == "pairwise" and data.form == "answers":
        raise ConfigError(
            f"objective: pairwise compares two replies, but {config.dataset} holds single ones (completion, label); "
            "set objective: binary."
        )


def _start(config: RewardModelConfig, place: str, folder: Path, *, kind: str, delta: str) -> tuple[Any, Any]:
    """The model with its new output, on its device, and its tokenizer."""
    import torch
    from transformers import set_seed

    if kind == "causal" and is_adapter(place):
        # The adapter of an earlier run becomes part of the weights, which are kept beside the new one.
        causal = load_start(config, place)
        stand_on_base(config, causal, folder, write=True)
        place = str((folder / BASE).absolute())
        del causal
    set_seed(config.seed)  # the new output's weights are drawn here
    model, tokenizer = judge.with_one_output(place, named=config.model_name_or_path)
    targets = config.lora_target
    settings = DeltaSettings(
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
    )
    made = DELTAS.get(delta)(settings)
    if made is not None:
        made.task_type = "SEQ_CLS"  # so that peft trains and saves the new output too
        model = attach(model, made, name=delta)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def items(config: RewardModelConfig, examples: Sequence[Example], tokenizer: Any) -> tuple[list[Any], int]:
    """Examples as rows of token ids, and how many inputs had to be cut."""
    make = load_path("heedful.training.reward_loop:Item")
    found, cut = [], 0
    write = partial(to_ids, tokenizer=tokenizer, wording=config.wording, max_length=config.max_length)
    for example in examples:
        texts = _replies(example)
        rows = [write(example.context, text) for text, _ in texts]
        cut += sum(over > 0 for _, over in rows)
        found.append(make(rows=tuple(ids for ids, _ in rows), labels=tuple(float(good) for _, good in texts)))
    return found, cut


def _replies(example: Example) -> list[tuple[str, bool]]:
    if isinstance(example, Preference):
        return [(example.chosen.text, True), (example.rejected.text, False)]
    return [(example.reply.text, example.label)]


def held_figures(config: RewardModelConfig, found: RewardModel, held: Sequence[Example]) -> dict[str, Any] | None:
    """Accuracy on held-out examples beside chance and length; for `binary` calibration as well."""
    if not held:
        return None
    asked = [(e, text, good) for e in held for text, good in _replies(e)]
    z = found.logits([(e.context, text) for e, text, _ in asked])
    figures: dict[str, Any] = {}
    if isinstance(held[0], Preference):
        words = [len(text.split()) for _, text, _ in asked]
        figures["pairs"] = pair_figures(
            z[0::2],
            z[1::2],
            words=list(zip(words[0::2], words[1::2], strict=True)),
            conversations=[e.conversation_id for e in held],
            seed=config.seed,
        )
    if config.objective == "binary":
        figures["answers"] = answer_figures(
            (np.tanh(z / 2) + 1) / 2,
            [good for _, _, good in asked],
            words=[len(text.split()) for _, text, _ in asked],
            conversations=[e.conversation_id for e, _, _ in asked],
            seed=config.seed,
        )
    return figures


def _finish(
    config: RewardModelConfig,
    begun: Begun,
    model: Any,
    tokenizer: Any,
    outcome: Any,
    *,
    kind: str,
    delta: str,
    cut: int,
) -> Run:
    trained, everything = trainable(model)
    record = {
        "objective": config.objective,
        "wording": judge.wording_of(config.wording),
        "max_length": config.max_length,
        "base": config.model_name_or_path,
        "kind": kind,
        "dataset": config.dataset,
        "train_split": config.train_split,
        "data_hash": begun.data.hash,
        "negatives": begun.data.negatives,
        "seed": config.seed,
    }
    found = RewardModel(model=model, tokenizer=tokenizer, record=record, name=str(begun.folder))
    summary = summarise(
        config,
        begun,
        outcome,
        objective=config.objective,
        delta=delta,
        trainable_parameters=trained,
        parameters=everything,
        cut=cut,
        held=held_figures(config, found, begun.data.held),
    )
    judge.save(begun.folder, model, tokenizer, record)
    limits = [
        "It has learnt what tells the better replies of its data from the worse ones, and no more. "
        + ("Random replies of other talks teach topicality, not quality of support."
           if "at random" in begun.data.negatives else "Where the worse ones were easy to tell, that is little."),
        "A policy that is trained on it will find replies that please it and nobody else; hold other scorers back.",
    ]  # fmt: skip
    text = card(
        summary,
        title=f"reward model ({config.objective}) on {config.dataset}",
        warning=WARNING,
        how=f"reward model, {config.objective}, {delta}: {trained:,} of {everything:,} parameters trained",
        limits=limits,
    )
    write_end(begun.folder, summary, text)
    return Run(folder=begun.folder, summary=summary)


REWARD = Method(config=RewardModelConfig, train=train, plan=plan)
