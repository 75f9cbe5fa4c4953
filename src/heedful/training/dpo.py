"""`method: dpo`: direct preference optimisation (Rafailov et al., NeurIPS 2023) by TRL's trainer.

    L = - mean log sigma(beta ((log pi - log ref)(chosen) - (log pi - log ref)(rejected)))

What is ours: the data (`preferences.py`), the input (a format, so a policy reads what it read in `method: sft`), the
reference (the same model with its adapter off) and the run's folder.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, model_validator

from heedful import agents, formats
from heedful.errors import ConfigError, DataError, MissingExtraError
from heedful.formats import Format, Sample, Window, encode
from heedful.models import DELTAS
from heedful.models.causal import CausalModel, add_markers, need_train_extra
from heedful.models.delta import DeltaSettings, trainable
from heedful.models.forward import likelihood
from heedful.registry import load_path
from heedful.training.config import RunSettings
from heedful.training.methods import Method, Run, Say
from heedful.training.plan import steps_of
from heedful.training.preference_run import (
    Begun,
    PreferenceLoopSettings,
    begin,
    card,
    open_folder,
    pair_figures,
    summarise,
    write_end,
)
from heedful.training.preferences import Preference, Preferences, gather
from heedful.training.shared import one_sentence_for_a_full_disk, tokenizer_for, with_format
from heedful.training.start import BASE, keeps_base, load_start, stand_on_base, start_place
from heedful.types import Conversation, Turn

WARNING = """\
A research model that drafts replies in supportive conversations. **It is not a therapist, not a crisis service and not
a medical device.** A person who answers for the conversation reads every draft before it is sent."""

Loss = Literal[
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
]


class DPOSettings(PreferenceLoopSettings, RunSettings):
    """Settings of `method: dpo`. Lengths are tokens."""

    method: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0, description="how strongly the policy is held to the reference")
    loss_type: Loss = Field(default="sigmoid", description="TRL's names; sigmoid is DPO itself")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="share of pairs that are thought to be wrong")
    learning_rate: float = Field(default=5e-5, gt=0)
    per_device_train_batch_size: int = Field(default=4, ge=1, description="pairs in one pass")
    per_device_eval_batch_size: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> DPOSettings:
        if self.lora_dropout:
            raise ValueError("lora_dropout has no effect, since TRL turns dropout off for DPO; leave it out")
        if self.delta == "bias":
            raise ValueError("delta: bias changes the base itself, so there would be no reference; use lora or full")
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss_type: exo_pair needs a label_smoothing above 0; its authors take 1e-3")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """A preference as token ids; `start` is the first context turn that is still in the prompt."""

    id: str
    conversation_id: str
    prompt: tuple[int, ...] = field(repr=False)
    chosen: tuple[int, ...] = field(repr=False)
    rejected: tuple[int, ...] = field(repr=False)
    start: int
    words: tuple[int, int]


def need_trl() -> None:
    """Say how to install TRL, where it is missing."""
    need_train_extra()
    if importlib.util.find_spec("trl") is None or importlib.util.find_spec("datasets") is None:
        raise MissingExtraError(
            "method: dpo needs TRL, which is not installed: pip install torch==2.13.0 'heedful[dpo]'"
        )


def plan(config: DPOSettings) -> Mapping[str, Any]:
    """What a run would do; needs the tokenizer, loads no weights."""
    need_train_extra()
    config = with_format(config)
    fmt = formats.make(config.format or "chat")
    tokenizer = tokenizer_for(config, config.model_name_or_path)
    data = gather(config, seed=config.seed, cut=_cut(config, fmt))
    _refuse_answers(config, data)
    pairs, skipped = token_pairs(config, data.pairs("train"), fmt, tokenizer)
    return {
        "pairs": len(pairs),
        "held_out": len(data.held),
        "skipped": skipped,
        "negatives": data.negatives,
        "tokens": sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs),
        "longest": max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs),
        "steps": steps_of(config, trees=len(pairs)),
        "data_hash": data.hash,
        "eval_data_hash": data.held_hash,
        "notes": list(data.notes),
    }


def train(config: DPOSettings, *, say: Say = lambda text: None, callbacks: tuple[Any, ...] = ()) -> Run:
    """Train a policy on preferences as configured.

    Args:
        say: takes one line of progress.
        callbacks: transformers callbacks, for progress bars.

    Raises:
        UserError: something in the configuration, the data or the model's place; the test split among the data.
        RunError: the loss is not a number, or the disk is full.
    """
    need_trl()
    fit = load_path("heedful.training.dpo_loop:fit")
    config = with_format(config)
    fmt = formats.make(config.format or "chat")
    begun = begin(config, cut=_cut(config, fmt), fingerprint=fmt.fingerprint, base=config.model_name_or_path, say=say)
    _refuse_answers(config, begun.data)
    place = start_place(config, begun.folder, resumed=begun.resume is not None)
    # Data before weights: a slip in a file should not cost the minutes that a model takes to load.
    tokenizer = tokenizer_for(config, place)
    pairs, skipped = token_pairs(config, begun.data.pairs("train"), fmt, tokenizer)
    held, _ = token_pairs(config, begun.data.pairs("held"), fmt, tokenizer)
    say(f"model {config.model_name_or_path}")
    causal = load_start(config, place)
    open_folder(config, begun)
    if keeps_base(config, place):
        say(f"the adapter of {place} becomes part of the base model, which is kept in {begun.folder / BASE}")
        stand_on_base(config, causal, begun.folder, write=True)
    fresh = add_markers(causal, fmt.markers)
    if fresh and config.delta != "full":
        raise ConfigError(
            f"Format '{fmt.name}' adds {len(fresh)} tokens that this model has never seen, and DPO with delta: "
            f"{config.delta} does not train them; train method: sft with this format first and start from its run."
        )
    made = _delta(config)
    outcome, reference = fit(
        config,
        causal,
        made,
        pairs,
        held,
        folder=begun.folder / "checkpoints",
        resume=begun.resume,
        log=begun.log,
        callbacks=callbacks,
    )
    causal.model.eval()
    figures = held_figures(config, causal, reference, held)
    with one_sentence_for_a_full_disk(begun.folder):
        return _finish(config, begun, causal, outcome, fmt=fmt, figures=figures, skipped=skipped)


def _refuse_answers(config: DPOSettings, data: Preferences) -> None:
    if data.form != "pairs":
        raise ConfigError(
            f"method: dpo compares two replies, but {config.dataset} holds single ones (completion, label); give a "
            "file with chosen and rejected, or train method: reward with objective: binary."
        )


def _cut(config: DPOSettings, fmt: Format) -> Any:
    """The replies of a conversation as the format sees them, so that the policy reads what it read in `sft`."""
    planners = agents.make(config.planners)

    def cut(conv: Conversation) -> list[tuple[int, Conversation, Turn]]:
        conv = fmt.prepare(planners.plan([conv])[0])
        return [(i, conv.before(i), fmt.target_turn(conv, i)) for i in fmt.targets(conv)]

    return cut


def _delta(config: DPOSettings) -> Any:
    targets = config.lora_target
    settings = DeltaSettings(
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
    )
    return DELTAS.get(config.delta)(settings)


def token_pairs(
    config: DPOSettings, pairs: Sequence[Preference], fmt: Format, tokenizer: Any
) -> tuple[list[TokenPair], int]:
    """Preferences as token ids in the format's words, and how many were left out as too long (`overlong: skip`).

    Raises:
        DataError: a pair does not fit into max_length, or none of all does.
    """
    found, skipped = [], 0
    window = Window(max_length=config.max_length, keep=config.keep_context)
    for pair in pairs:
        chosen, rejected = (_target(turn, fmt, tokenizer) for turn in (pair.chosen, pair.rejected))
        context = fmt.prepare(pair.context)
        prompts: dict[int, tuple[int, ...]] = {}
        longer = max(len(chosen), len(rejected))

        def length(
            at: int, *, c: Conversation = context, p: dict[int, tuple[int, ...]] = prompts, more: int = longer
        ) -> int:
            p[at] = encode(fmt.prompt(c, tokenizer, start=at), tokenizer)
            return len(p[at]) + more

        start = window.fit(length, start=0, last=max(len(context) - 1, 0))
        if start is None and config.overlong == "error":
            raise DataError(
                f"Pair '{pair.id}': a reply and the turn before it need more than max_length = {config.max_length} "
                "tokens; raise max_length, or set overlong: skip."
            )
        if start is None:
            skipped += 1
            continue
        words = (len(pair.chosen.text.split()), len(pair.rejected.text.split()))
        found.append(
            TokenPair(
                id=pair.id, conversation_id=pair.conversation_id, prompt=prompts[start], chosen=chosen,
                rejected=rejected, start=start, words=words,
            )
        )  # fmt: skip
    if pairs and not found:
        raise DataError(f"All {len(pairs):,} pairs are longer than max_length = {config.max_length}; raise max_length.")
    return found, skipped


def _target(turn: Turn, fmt: Format, tokenizer: Any) -> tuple[int, ...]:
    plan_text, reply = fmt.target(turn, tokenizer)
    return (encode(plan_text, tokenizer) if plan_text else ()) + encode(reply, tokenizer)


def held_figures(
    config: DPOSettings, causal: CausalModel, reference: Any, held: Sequence[TokenPair]
) -> dict[str, Any] | None:
    """Implicit rewards beta (log pi - log ref) of held-out pairs: accuracy and margin, beside length and reference.

    Args:
        reference: a model of its own (`delta: full`), or None where the reference is the adapter switched off.
    """
    if not held:
        return None
    samples = [
        Sample(id=f"{i}/{k}", conversation_id=p.conversation_id, turn=i, prompt=p.prompt, target=target, start=p.start)
        for i, p in enumerate(held)
        for k, target in enumerate((p.chosen, p.rejected))
    ]

    def log_p(model: CausalModel) -> list[float]:
        return [-(loss.text_nll + loss.plan_nll) for loss in likelihood(model, samples)]

    policy = log_p(causal)
    if reference is None:
        with causal.model.disable_adapter():
            base = log_p(causal)
    else:
        base = log_p(CausalModel(model=reference, tokenizer=causal.tokenizer, name="reference"))
    rewards = [config.beta * (a - b) for a, b in zip(policy, base, strict=True)]
    figures = pair_figures(
        rewards[0::2],
        rewards[1::2],
        words=[p.words for p in held],
        conversations=[p.conversation_id for p in held],
        seed=config.seed,
    )
    # How much of it was there before: whether the reference finds the better reply likelier.
    wins = [(c > r) + (c == r) / 2 for c, r in zip(base[0::2], base[1::2], strict=True)]
    return {"pairs": {**figures, "reference_prefers_chosen": sum(wins) / len(wins)}}


def _finish(
    config: DPOSettings,
    begun: Begun,
    causal: CausalModel,
    outcome: Any,
    *,
    fmt: Format,
    figures: dict[str, Any] | None,
    skipped: int,
) -> Run:
    trained, everything = trainable(causal.model)
    summary = summarise(
        config,
        begun,
        outcome,
        model_note=causal.note or (begun.record["base_run"] or {}).get("model_note", ""),
        delta=config.delta,
        trainable_parameters=trained,
        parameters=everything,
        format=fmt.fingerprint,
        beta=config.beta,
        loss_type=config.loss_type,
        skipped=skipped,
        held=figures,
    )
    causal.model.save_pretrained(str(begun.folder))
    causal.tokenizer.save_pretrained(str(begun.folder))
    limits = [
        "Small models misread people, repeat themselves and sound sure when they are wrong.",
        "A higher implicit reward on held-out pairs says that it learnt the preferences, not that it writes well.",
        "Nothing here was measured with people in need.",
    ]
    how = (
        f"DPO ({config.loss_type}, beta {config.beta}), {config.delta}: {trained:,} of {everything:,} parameters "
        f"trained; input format `{fmt.fingerprint}`"
    )
    text = card(summary, title=f"dpo of {config.model_name_or_path}", warning=WARNING, how=how, limits=limits)
    write_end(begun.folder, summary, text)
    return Run(folder=begun.folder, summary=summary)


DPO = Method(config=DPOSettings, train=train, plan=plan)
