"""A run of reinforcement learning from a configuration to a folder: `method: ppo | grpo | rloo | reinforce++`."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heedful import classify, formats
from heedful.errors import ConfigError, DataError
from heedful.formats import Format
from heedful.models.causal import CausalModel, add_markers, need_train_extra, use_bf16
from heedful.models.decoding import Decoding, SeenBanned
from heedful.models.delta import trainable
from heedful.models.engine import Engine, make_engine
from heedful.models.memory import keep_freed_memory
from heedful.models.talk import unwritable
from heedful.scoring.rewards import RewardConfig, RewardSet, make
from heedful.settings import write_yaml
from heedful.training.card import model_card
from heedful.training.methods import Method, Run, Say
from heedful.training.plan import Plan, estimate_memory
from heedful.training.resume import RESOLVED, Earlier, earlier_run, refuse_other_inputs, step_of
from heedful.training.rl.acts import load_act_head, measure_acts, new_act_head, save_heads
from heedful.training.rl.collect import Collector, prompts_of
from heedful.training.rl.config import GRPOConfig, PPOConfig, ReinforceConfig, RLConfig, RLOOConfig
from heedful.training.rl.experience import Prompt
from heedful.training.rl.heads import ActHead, ValueHead
from heedful.training.rl.improve import Improver
from heedful.training.rl.loop import Loop, Outcome
from heedful.training.rl.processes import Processes
from heedful.training.rl.quirks import one_session, padded
from heedful.training.rl.report import write as write_report
from heedful.training.shared import (
    METRICS,
    claim,
    forget_after,
    leak_notes,
    load_split,
    one_sentence_for_a_full_disk,
    planned,
    prepare_folder,
    resolved_values,
    tokenizer_for,
    versions,
    with_delta,
    with_format,
)
from heedful.training.sharing import combined, inherited, licence_of
from heedful.training.start import keeps_base, load_start, stand_on_base, start_place

FILES = {"metrics": METRICS, "validation": "validation.jsonl", "probes": "probes.jsonl", "traces": "traces.jsonl"}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a run needs besides the model's weights."""

    fmt: Format
    prompts: list[Prompt] = field(repr=False)
    validation: list[Prompt] = field(repr=False)
    rewards: RewardSet
    heldout: RewardSet
    notes: tuple[str, ...]
    licence: str | None
    plan: Plan
    eval_hash: str | None


def gather(config: RLConfig, tokenizer: Any) -> Inputs:
    """Load, check and render the data, and make the rewards.

    Raises:
        UserError: whatever is wrong with data, format or rewards, in one sentence.
    """
    rewards, heldout = make(config.rewards), make(config.heldout)
    refuse_shared_scorers(config)
    fmt = formats.make(config.format or "chat")
    train = load_split(config, config.train_split, config.max_train_conversations)
    held = load_split(config, config.eval_split, config.max_eval_conversations) if config.eval_split else []
    notes = leak_notes(config, train, held)
    train, held = planned(config, train), planned(config, held)
    quirks = config.quirks()
    if quirks.cross_sessions:
        train = one_session(train, act_set=config.act_head.label_set if config.act_head else None)
    prompts = _prompts(config, train, fmt, tokenizer)
    validation = _spread(_prompts(config, held, fmt, tokenizer), config.max_eval_prompts) if held else []
    if quirks.pad_prompts is not None:
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        prompts = [padded(p, length=quirks.pad_prompts, pad_id=pad_id) for p in prompts]
    if not validation and (config.stop_heldout or config.load_best_model_at_end):
        raise DataError(
            f"stop_heldout and load_best_model_at_end need validation prompts, but split '{config.eval_split}' of "
            f"{config.dataset} has none; set eval_split."
        )
    if not prompts:
        raise DataError(f"No supporter turn to answer in {len(train)} conversations of {config.dataset}.")
    return Inputs(
        fmt=fmt,
        prompts=prompts,
        validation=validation,
        rewards=rewards,
        heldout=heldout,
        notes=tuple(notes),
        licence=licence_of(train),
        plan=_plan(config, len(train), prompts, validation),
        eval_hash=_hash(validation) if validation else None,
    )


def _prompts(config: RLConfig, conversations: Sequence[Any], fmt: Format, tokenizer: Any) -> list[Prompt]:
    fmt.check(conversations)
    options: dict[str, Any] = {
        "max_length": config.max_length,
        "keep": config.keep_context,
        "overlong": config.overlong,
    }
    samples = [s for conv in conversations for s in fmt.samples(conv, tokenizer, **options)]
    return prompts_of(conversations, fmt, samples)


def _spread(prompts: list[Prompt], most: int) -> list[Prompt]:
    """At most `most` prompts, evenly over all of them: the first dialogues alone would be a few people's."""
    if len(prompts) <= most:
        return prompts
    return [prompts[int(i)] for i in np.linspace(0, len(prompts) - 1, most, dtype=int)]


def _hash(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(np.array([*prompt.tokens, -1, *prompt.gold, -2], dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]


def rounds(config: RLConfig, prompts: int) -> int:
    """Rounds of a run."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, math.ceil(config.num_train_epochs * prompts / config.rollout_batch_size))


def _plan(config: RLConfig, conversations: int, prompts: Sequence[Prompt], validation: Sequence[Prompt]) -> Plan:
    longest = max(len(p.tokens) for p in prompts) + config.num_generations * config.max_new_tokens
    read = sum(len(p.tokens) for p in prompts)
    steps = rounds(config, len(prompts))
    return Plan(
        conversations=conversations,
        targets=len(prompts),
        separate_tokens=config.num_generations * (read + len(prompts) * config.max_new_tokens),
        tokens=read + config.num_generations * len(prompts) * config.max_new_tokens,
        target_tokens=config.num_generations * len(prompts) * config.max_new_tokens,
        longest=longest,
        skipped=0,
        eval_targets=len(validation),
        steps=steps,
        tokens_in_all=round(
            steps * config.rollout_batch_size * (read / len(prompts) + config.num_generations * config.max_new_tokens)
        ),
        memory_bytes=estimate_memory(config, row_tokens=longest * config.per_device_train_batch_size),
        data_hash=_hash(prompts),
    )


def refuse_shared_scorers(config: RLConfig) -> None:
    """A held-out score must be another one than the reward's, or it sees nothing that the reward does not see.

    Raises:
        ConfigError: a score is both rewarded and held out, two scorers share features or seed, or a scorer was trained
            on the test part.
    """
    rewarded = [r for r in config.rewards if r.weight or r.gate is not None]
    for held in config.heldout:
        for used in rewarded:
            if (held.name, held.params) == (used.name, used.params) or _shares("model", held, used):
                raise ConfigError(
                    f"'{held.label or held.name}' is held out and part of the reward too, so it cannot judge it; take "
                    "it out of one of the two."
                )
            scorers = used.params.get("scorer"), held.params.get("scorer")
            reason = classify.same_family(*(classify.load(str(s)) for s in scorers)) if all(scorers) else None
            if reason is not None:
                raise ConfigError(
                    f"The held-out scorer {scorers[1]} is not independent of the reward's {scorers[0]}: {reason}; "
                    "train another one with other features and another seed."
                )


def _shares(key: str, held: RewardConfig, used: RewardConfig) -> bool:
    return held.params.get(key) is not None and held.params.get(key) == used.params.get(key)


def judges_hash(config: RLConfig) -> str:
    """Twelve hex digits over the weights of every trained scorer and model that rewards name."""
    digest = hashlib.sha256()
    for spec in (*config.rewards, *config.heldout):
        for key in ("scorer", "model"):
            folder = Path(str(spec.params.get(key, ""))).expanduser()
            if spec.params.get(key) and folder.is_dir():
                for file in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".npz")):
                    digest.update(f"{spec.name}/{file.name}".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def plan(config: RLConfig) -> Mapping[str, Any]:
    """What `train` would do; needs the tokenizer, loads no weights of the policy."""
    need_train_extra()
    config = with_format(config)
    return gather(config, tokenizer_for(config, config.model_name_or_path)).plan.to_dict()


def train(config: RLConfig, *, say: Say = lambda text: None, callbacks: tuple[Any, ...] = ()) -> Run:
    """Run reinforcement learning as configured.

    Args:
        say: takes one line of progress; of several processes only the first one talks.
        callbacks: none is known here; progress goes to `say`.

    Raises:
        UserError: something in the configuration, the data, the rewards or the model's place.
        RunError: a loss is not a number, or the disk is full.
    """
    need_train_extra()
    processes = Processes()
    config = _in_shares(with_format(config), processes)
    say = say if processes.first else lambda text: None
    folder, resume = claim(config)
    earlier = earlier_run(config, resume) if resume else None
    place = start_place(config, folder, resumed=resume is not None)
    inputs = gather(config, tokenizer_for(config, place))
    base_run = earlier.base_run if earlier else inherited(config.model_name_or_path)
    record = _record(config, inputs, base_run, earlier, processes)
    if earlier is not None:
        refuse_other_inputs(earlier, record, inputs.plan)
    say(
        f"data {config.dataset}: {len(inputs.prompts):,} prompts, {len(inputs.validation):,} for validation; "
        f"{inputs.plan.steps:,} steps of {config.rollout_batch_size} x {config.num_generations} replies"
    )
    if earlier is not None:
        say(f"goes on from step {earlier.step:,}")
    say(f"model {config.model_name_or_path}")
    causal = load_start(config, place)
    _check_positions(config, inputs, causal)
    keeps = keeps_base(config, place)
    if processes.first:
        prepare_folder(folder, config, causal, keeps=keeps, fresh=resume is None)
        write_yaml(folder / RESOLVED, {**resolved_values(config), "x_heedful": record})
        for name in FILES.values():
            # Validation at step 0 stays on a fresh start only; everything after the checkpoint is done again.
            forget_after(folder / name, step_of(resume) if resume else -1, end=False)
    if keeps:
        with one_sentence_for_a_full_disk(folder):
            stand_on_base(config, causal, folder, write=processes.first)
    loop = _loop(config, causal, inputs, folder, processes, say)
    try:
        with one_sentence_for_a_full_disk(folder):
            outcome = loop.run(resume)
            if not processes.first:
                return Run(folder=folder, summary={})
            return _finish(config, causal, inputs, folder, outcome, record, loop)
    finally:
        loop.collector.engine.close()


def _in_shares(config: RLConfig, processes: Processes) -> RLConfig:
    if config.mini_batch_size % processes.count:
        raise ConfigError(
            f"mini_batch_size is {config.mini_batch_size}, which {processes.count} processes cannot share evenly; "
            f"choose a multiple of {processes.count}."
        )
    return config


def _check_positions(config: RLConfig, inputs: Inputs, causal: CausalModel) -> None:
    longest = max(len(p.tokens) for p in [*inputs.prompts, *inputs.validation]) + config.max_new_tokens
    if longest > causal.max_length:
        raise ConfigError(
            f"A prompt and its reply can have {longest:,} tokens, but {causal.name} was built for "
            f"{causal.max_length:,}; set max_length: {causal.max_length - config.max_new_tokens} or less."
        )


def _loop(config: RLConfig, causal: CausalModel, inputs: Inputs, folder: Path, processes: Processes, say: Say) -> Loop:
    """Put the parts together."""
    new_tokens = add_markers(causal, inputs.fmt.markers)
    # `full` and `bias` change the base itself, so switching an adapter off would not give the start back.
    in_place = config.delta in ("full", "bias")
    algorithm = config.algorithm()
    needs_reference = config.log_kl or config.kl_coef > 0 or config.stop_kl is not None
    frozen = copy.deepcopy(causal.model).eval().requires_grad_(False) if in_place and needs_reference else None
    causal.model = with_delta(config, causal, new_tokens)
    _without_dropout(causal.model)
    if config.gradient_checkpointing:
        causal.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if causal.device.type == "cpu":
        keep_freed_memory()
    half = use_bf16(config.precision, on_cpu=causal.device.type == "cpu")
    engine = _engine(config, causal, inputs.fmt, half)
    recompute, current = _old_from(config, engine, algorithm.kl_in_loss)
    width = causal.model.get_output_embeddings().weight.shape[1]
    value_head = ValueHead(width).to(causal.device) if algorithm.uses_values else None
    collector = Collector(
        causal=causal,
        fmt=inputs.fmt,
        engine=engine,
        rewards=inputs.rewards,
        decoding=decoding(config),
        value_head=value_head,
        frozen=frozen,
        reference=needs_reference,
        recompute=recompute,
        current=current,
        together=config.per_device_train_batch_size,
        half=half,
        quirks=config.quirks(),
        system=config.method,
    )
    steps = inputs.plan.steps
    updates = steps * config.num_iterations * (config.rollout_batch_size // config.mini_batch_size)
    improver = Improver(
        config, causal, algorithm, updates=updates, value_head=value_head, act_head=_act_head(config, width, causal),
        half=half, processes=processes,
    )  # fmt: skip

    def write(name: str, row: Mapping[str, Any]) -> None:
        if processes.first:
            append_private(folder / FILES[name], row)

    return Loop(
        config=config, prompts=inputs.prompts, validation=inputs.validation, steps=steps, algorithm=algorithm,
        collector=collector, improver=improver, rewards=inputs.rewards, heldout=inputs.heldout, processes=processes,
        folder=folder / "checkpoints", write=write, say=say,
    )  # fmt: skip


def _without_dropout(model: Any) -> None:
    """Switch dropout off: it would make the policy that is updated another one than the policy that wrote."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def decoding(config: RLConfig) -> Decoding:
    """How rollouts are drawn."""
    made = SeenBanned if config.quirks().ban_seen_tokens else Decoding
    return made(
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=config.min_new_tokens,
        do_sample=True,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=config.seed,
    )


def _engine(config: RLConfig, causal: CausalModel, fmt: Format, half: bool) -> Engine:
    banned = [] if config.quirks().special_tokens_in_reward else unwritable(fmt, causal.tokenizer)
    options = dict(config.engine_options)
    if config.engine == "transformers":
        # The trainer computes in mixed precision, the engine in pure bf16: near, but not the same.
        options = {"dtype": torch.bfloat16 if half else None, **options}
    return make_engine(config.engine, causal, options, banned)


def _old_from(config: RLConfig, engine: Engine, kl_in_loss: bool) -> tuple[bool, bool]:
    """Where old log-probabilities come from: (a pass of their own, the update's own pass); neither: the engine."""
    if config.old_logprobs != "auto":
        return config.old_logprobs == "recompute", False
    if engine.exact:
        return False, False
    # With one update per round, that update's own pass gives them; a KL inside the reward is needed before it.
    current = config.single_update and kl_in_loss
    return not current, current


def _act_head(config: RLConfig, width: int, causal: CausalModel) -> ActHead | None:
    if config.act_head is None:
        return None
    head: ActHead = new_act_head(config.act_head, width, seed=config.seed).to(causal.device)
    load_act_head(head, Path(config.model_name_or_path).expanduser(), config.act_head.label_set)
    return head


def append_private(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line to a file that only its owner may read: it can hold words of people."""
    with open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _record(
    config: RLConfig,
    inputs: Inputs,
    base_run: dict[str, Any] | None,
    earlier: Earlier | None,
    processes: Processes,
) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join(["heedful", *sys.argv[1:]])
    return {
        "format_fingerprint": inputs.fmt.fingerprint,
        "data_hash": inputs.plan.data_hash,
        "eval_data_hash": inputs.eval_hash,
        "judges_hash": judges_hash(config),
        "processes": processes.count,
        "base_run": base_run,
        "plan": inputs.plan.to_dict(),
        "versions": versions(),
        "command": earlier.record.get("command", command) if earlier else command,
        "created": earlier.record.get("created", now) if earlier else now,
        "continued": earlier.continued(command, now) if earlier else [],
    }


def _finish(
    config: RLConfig, causal: CausalModel, inputs: Inputs, folder: Path, outcome: Outcome, record: Mapping[str, Any],
    loop: Loop,
) -> Run:  # fmt: skip
    trained, everything = trainable(causal.model)
    licence, publishable = combined(config.dataset, inputs.licence, record["base_run"])
    summary: dict[str, Any] = {
        "kind": "train",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": config.method,
        "model": config.model_name_or_path,
        "model_note": causal.note or (record["base_run"] or {}).get("model_note", ""),
        "base_run": record["base_run"],
        "delta": config.delta,
        "trainable_parameters": trained,
        "parameters": everything,
        "steps": outcome.steps,
        "weights_step": outcome.weights_step,
        "planned_steps": inputs.plan.steps,
        "stopped": outcome.stopped,
        "stop_reason": outcome.reason,
        "seconds": round(outcome.seconds, 1),
        "tokens": outcome.tokens,
        "replies": outcome.replies,
        "rewards": {c.name: c.weight for c in inputs.rewards.components},
        "heldout": list(inputs.heldout.names),
        "best_eval_loss": None,
        "format": inputs.fmt.fingerprint,
        "dataset": config.dataset,
        "licence": licence,
        "publishable": publishable,
        "data_hash": inputs.plan.data_hash,
        "eval_data_hash": inputs.eval_hash,
        "notes": list(inputs.notes),
        "seed": config.seed,
        "continued": record["continued"],
        "versions": record["versions"],
    }
    causal.model.eval()
    causal.model.save_pretrained(str(folder))
    causal.tokenizer.save_pretrained(str(folder))
    save_heads(folder, loop.heads, label_set=config.act_head.label_set if config.act_head else None)
    if loop.improver.act_head is not None and config.act_head is not None:
        summary["acts"] = measure_acts(
            causal, loop.improver.act_head, inputs.prompts, inputs.validation,
            label_set=config.act_head.label_set, split=config.eval_split, half=loop.improver.half,
        )  # fmt: skip
    (folder / "README.md").write_text(model_card(config, summary, inputs.plan), "utf-8")
    scratch = folder / "summary.json.part"
    scratch.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    # A folder with a summary is finished, so the page comes first.
    write_report(folder, summary=summary)
    os.replace(scratch, folder / "summary.json")
    return Run(folder=folder, summary=summary)


def _method(config: type[RLConfig]) -> Method:
    return Method(config=config, train=train, plan=plan)


PPO, GRPO, RLOO, REINFORCE = _method(PPOConfig), _method(GRPOConfig), _method(RLOOConfig), _method(ReinforceConfig)
