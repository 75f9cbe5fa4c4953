"""An evaluation from a configuration to a folder: replies, perplexity, scores with baselines, a report.

Every part is stored as it is made, so a killed evaluation goes on where it stopped, with the same words (each reply
has its own random stream).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from heedful import agents, corpora, formats
from heedful.agents.plan import PlanSetting, settle_plan
from heedful.errors import ConfigError, DataError, LeakError, NotFoundError
from heedful.evaluation.baselines import BASELINES, Place, places
from heedful.evaluation.config import EvalConfig, LookConfig
from heedful.evaluation.report import write as write_report
from heedful.evaluation.summary import System, summarise
from heedful.evaluation.traces import Records, private
from heedful.formats import Format, Overlong, Sample
from heedful.models.causal import CausalModel, add_markers, check_architecture, fingerprint, load, need_train_extra
from heedful.models.forward import SampleLoss, likelihood
from heedful.models.generate import Generated, generate
from heedful.models.pairs import check_fits
from heedful.models.plan import PlanRule
from heedful.models.talk import unwritable
from heedful.scoring.suite import resolve
from heedful.settings import read_yaml
from heedful.types import Conversation, Trace, text_hash

Say = Callable[[str], None]
WITHOUT_TRAINING = ("fixed_reply", "copy_last_turn")
"""Baselines that never look at the training part."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A finished evaluation."""

    folder: Path
    summary: dict[str, Any] = field(repr=False)

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A configuration with what the run it names adds: every value decided."""

    config: EvalConfig
    dataset: str
    dataset_options: dict[str, Any]
    fmt: Format
    max_length: int
    keep: float
    overlong: Overlong
    folder: Path
    run: dict[str, Any] | None
    planners: agents.Planners = field(default_factory=agents.Planners)
    plan: PlanSetting | None = None


def settle(config: EvalConfig) -> Setting:
    """Fill in what the configuration leaves to the run.

    Raises:
        NotFoundError: a baseline or metric that no table has.
        ConfigError: no data set is named, neither here nor by the run; or a baseline is named twice.
    """
    for name in config.baselines:
        BASELINES.get(name)
        if config.baselines.count(name) > 1:
            raise ConfigError(f"baselines names '{name}' more than once; name each baseline once.")
    resolve(config.metrics)
    path = Path(config.model_name_or_path).expanduser()
    recorded = path / "config.resolved.yaml"
    run = read_yaml(recorded) if recorded.is_file() else None
    dataset = config.dataset or (run or {}).get("dataset")
    if not dataset:
        raise ConfigError("No dataset: give dataset=NAME (this model is no run of heedful that would name its own).")
    # Options belong to a data set: those of the run hold for the run's own only.
    options = config.dataset_options or ({} if config.dataset else (run or {}).get("dataset_options") or {})
    spec = config.format or (run or {}).get("format") or "chat"
    name = Path(dataset).stem.removesuffix(".jsonl")
    here = path if run else Path("runs") / f"eval_{path.name}"
    folder = Path(config.output_dir) if config.output_dir else here / "eval" / f"{name}-{config.split or 'all'}"
    fmt = formats.make(spec)
    return Setting(
        config=config,
        dataset=dataset,
        dataset_options=options,
        fmt=fmt,
        plan=_plan(config, fmt, dataset),
        max_length=config.max_length or int((run or {}).get("max_length") or 1024),
        keep=float((run or {}).get("keep_context") or 0.5),
        overlong=config.overlong or (run or {}).get("overlong") or "error",
        folder=folder,
        run=run,
        planners=agents.needed(
            agents.make(config.planners if config.planners is not None else (run or {}).get("planners")), fmt
        ),
    )


def look_folder(config: LookConfig, setting: Setting, what: str) -> Path:
    """Where a look leaves its numbers: `output_dir`, or a folder beside the evaluations of the run."""
    beside = setting.folder.with_name(f"{setting.folder.name}-{what}")
    folder = Path(config.output_dir) if config.output_dir else beside
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plan(config: EvalConfig, fmt: Format, dataset: str) -> PlanSetting | None:
    """The checked plan. What was fitted on the part that is judged is no predictor there."""
    found = settle_plan(config.plan, fmt, model=config.model_name_or_path)
    if found is None or not found.predicts:
        return found
    seen = [(r.name, r.record.get("dataset"), r.record.get("train_split")) for r in found.readers]
    if found.mix is not None:
        seen.append(("mix", found.mix.dataset, found.mix.split))
    for name, learned, part in seen:
        if corpora.overlaps(learned, part, dataset, config.split):
            raise LeakError(
                f"The plan asks '{name}', which learned from {dataset} ({part or 'all parts'}), and that includes the "
                f"part that is to be judged ({config.split or 'all parts'}); judge another part."
            )
    return found


def evaluate(config: EvalConfig, *, say: Say = lambda text: None, command: str = "") -> Evaluation:
    """Run an evaluation as configured.

    Raises:
        UserError: something in configuration, data or model.
    """
    setting = settle(config)
    need_train_extra()
    check_architecture(config.model_name_or_path, accept="any")  # before anything is written
    begun = time.monotonic()
    conversations = load_split(setting, config.split, config.max_conversations)
    conversations = setting.planners.plan(conversations)
    prepared = [setting.fmt.prepare(c) for c in conversations]
    setting.fmt.check(conversations)
    where = [place for c in prepared for place in places(c, setting.fmt)]
    if not where:
        raise DataError(
            f"Nothing to evaluate: split '{config.split}' of {setting.dataset} has no supporter turn that "
            f"format '{setting.fmt.name}' can use as a target."
        )
    say(f"{setting.dataset}, {config.split or 'all'}: {len(conversations):,} conversations, {len(where):,} replies due")
    data_hash, inputs = hash_of(prepared), input_hash(prepared)
    # Baselines take seconds, so whatever is missing for them is said before hours of generation.
    floors = make_baselines(setting, where, inputs, say)
    systems = _models(setting, conversations, where, inputs, say) + floors
    where, systems, note = _common(where, systems)
    say("scores")
    summary = summarise(
        setting.config,
        systems,
        prepared,
        where,
        corpus={**corpus_facts(setting, len(conversations), len(where), data_hash), "note": note},
        format_name=setting.fmt.fingerprint,
        run_folder=Path(config.model_name_or_path).expanduser() if setting.run else None,
        seconds=time.monotonic() - begun,
        command=command,
    )
    write_json(setting.folder / "summary.json", summary)
    write_report(setting.folder / "report.html", summary)
    return Evaluation(folder=setting.folder, summary=summary)


def _common(where: list[Place], systems: list[System]) -> tuple[list[Place], list[System], str | None]:
    """What every system can be asked (`overlong: skip` leaves turns out), so that all are scored on the same places."""
    due = {p.id for p in where}
    for system in systems:
        if system.losses is not None:
            due &= {loss.id for loss in system.losses}
    if not due:
        raise DataError("No turn fits into max_length; raise it.")
    if len(due) == len(where):
        return where, systems, None
    kept = [
        replace(
            s,
            losses=None if s.losses is None else [loss for loss in s.losses if loss.id in due],
            traces=None if s.traces is None else [t for t in s.traces if t.id in due],
        )
        for s in systems
    ]
    note = f"{len(where) - len(due):,} of {len(where):,} replies left out: too long for max_length (overlong: skip)"
    return [p for p in where if p.id in due], kept, note


def load_split(setting: Setting, split: str | None, limit: int | None) -> list[Conversation]:
    """A part of the corpus, the first `limit` conversations of it."""
    found = corpora.load(setting.dataset, split, **setting.dataset_options)
    return found[:limit] if limit else found


def sources_of(prepared: Sequence[Conversation], where: Sequence[Place]) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """Place -> what was looked up for the reply that is due there."""
    by_id = {conv.id: conv for conv in prepared}
    where = [place for place in where if place.conversation_id in by_id]
    return {place.id: by_id[place.conversation_id].before(place.turn).sources() for place in where}


def hash_of(prepared: Sequence[Conversation]) -> str:
    """Sixteen hex digits over the turns, their labels and sources: another word anywhere in a talk is other data."""
    digest = hashlib.sha256()
    for conv in prepared:
        digest.update(f"{conv.id}\x1e".encode())
        for turn in conv.turns:
            labels = "\x1d".join(f"{label.set}={label.value}" for label in turn.labels)
            digest.update(f"{turn.role}\x1f{turn.text}\x1f{labels}\x1e".encode())
            if turn.sources:
                digest.update(json.dumps(turn.sources, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def input_hash(prepared: Sequence[Conversation]) -> str:
    """`hash_of`, with what else a format may read: the situation and the problem from before the talk."""
    before = [[conv.situation, conv.problem_type] for conv in prepared]
    if not any(any(found) for found in before):
        return hash_of(prepared)
    return hashlib.sha256(json.dumps([hash_of(prepared), before]).encode("utf-8")).hexdigest()[:16]


def corpus_facts(setting: Setting, conversations: int, targets: int, data_hash: str) -> dict[str, Any]:
    """What a report says about the data."""
    info = None if corpora.is_file(setting.dataset) else corpora.get(setting.dataset).info
    return {
        "name": setting.dataset,
        "title": info.title if info else Path(setting.dataset).name,
        "split": setting.config.split,
        "licence": info.licence if info else None,
        "conversations": conversations,
        "targets": targets,
        "hash": data_hash,
        "note": None,
    }


# ---------------------------------------------------------------------- models


def _models(
    setting: Setting, conversations: Sequence[Conversation], where: Sequence[Place], data_hash: str, say: Say
) -> list[System]:
    config = setting.config
    folder = Path(config.model_name_or_path).expanduser()
    is_run = setting.run is not None and (folder / "adapter_config.json").is_file()
    wanted = [("trained" if setting.run else "model", config.model_name_or_path, True)]
    if config.compare_base and is_run:
        wanted.append(("base", config.model_name_or_path, False))
    elif config.compare_base and setting.run:
        wanted.append(("base", str(setting.run["model_name_or_path"]), True))
    systems = []
    for name, path, adapter in wanted:
        say(f"{name}: loading")
        causal = load(path, dtype=config.dtype, adapter=adapter, accept="any")
        add_markers(causal, setting.fmt.markers)
        systems.append(_model(name, causal, setting, conversations, where, data_hash, say))
        del causal
    return systems


def _model(
    name: str,
    causal: CausalModel,
    setting: Setting,
    conversations: Sequence[Conversation],
    where: Sequence[Place],
    data_hash: str,
    say: Say,
) -> System:
    samples = samples_of(causal, setting, conversations, where)
    header = header_of(name, causal, setting, data_hash)
    losses = likelihoods(name, causal, setting, samples, header, say)
    traces = None
    if setting.config.generate:
        prepared = [setting.fmt.prepare(c) for c in conversations]
        traces = write_replies(name, causal, setting, samples, where, header, say, prepared=prepared)
    what = "the run's model" if name == "trained" else "the same model before training" if name == "base" else "model"
    return System(
        name=name,
        kind="model",
        description=f"{what}: {setting.config.model_name_or_path if name != 'base' else 'its base weights'}",
        note=causal.note or None,
        model={"name": setting.config.model_name_or_path, "hash": header["model"]},
        dtype=header["dtype"],
        losses=losses,
        traces=traces,
    )


def samples_of(
    causal: CausalModel, setting: Setting, conversations: Sequence[Conversation], where: Sequence[Place]
) -> list[Sample]:
    """The prompts at the places, in order.

    Raises:
        ConfigError: the format is made for the other kind of model.
    """
    check_fits(causal, setting.fmt)
    due = {place.id for place in where}
    return [
        s
        for conv in conversations
        for s in setting.fmt.samples(
            conv, causal.tokenizer, max_length=setting.max_length, keep=setting.keep, overlong=setting.overlong
        )
        if s.id in due
    ]


def header_of(name: str, causal: CausalModel, setting: Setting, data_hash: str) -> dict[str, Any]:
    """What replies depend on besides the decoding; a file with another header is never continued."""
    return {
        "system": name,
        "model": fingerprint(causal),
        "dtype": str(next(causal.model.parameters()).dtype).removeprefix("torch."),
        "format": setting.fmt.fingerprint,
        **({"planners": setting.planners.fingerprint} if setting.planners.steps else {}),
        "max_length": setting.max_length,
        "data": data_hash,
    }


def likelihoods(
    name: str, causal: CausalModel, setting: Setting, samples: Sequence[Sample], header: dict[str, Any], say: Say
) -> list[SampleLoss]:
    records = Records(setting.folder / "likelihood" / f"{name}.jsonl", header)
    known = records.open()
    begun, chunk = time.monotonic(), 256
    for begin in range(0, len(samples), chunk):
        # Chunks lie at the same places whatever is known: in 16 bit the last digits depend on the rows of a batch.
        part = samples[begin : begin + chunk]
        if all(s.id in known for s in part):
            continue
        fresh = [asdict(loss) for loss in likelihood(causal, part) if loss.id not in known]
        records.add(fresh)
        known.update({r["id"]: r for r in fresh})
        say(f"{name}: perplexity {len(known):,}/{len(samples):,} ({time.monotonic() - begun:.0f} s)")
    return [SampleLoss(**known[s.id]) for s in samples]


def write_replies(
    name: str,
    causal: CausalModel,
    setting: Setting,
    samples: Sequence[Sample],
    where: Sequence[Place],
    header: dict[str, Any],
    say: Say,
    *,
    prompts: Literal["hashed", "kept"] = "hashed",
    notes: Mapping[str, Mapping[str, Any]] | None = None,
    prepared: Sequence[Conversation] = (),
) -> list[Trace]:
    """Write what is missing of `traces/<name>.jsonl`, and read all of it.

    Args:
        notes: place -> what goes into the info of its reply.
        prepared: the conversations in the shape of the format, for their sources and for a plan that needs them.
    """
    config = setting.config
    decoding = config.decoding.decoding(config.seed)
    whole = {**header, "decoding": decoding.record(), "branches": config.branches}
    if setting.plan is not None:
        whole["plan"] = setting.plan.identity()
    records = Records(setting.folder / "traces" / f"{name}.jsonl", whole)
    known = records.open()
    by_place = {place.id: place for place in where}
    inputs, sources = {s.id: s.prompt for s in samples}, sources_of(prepared, where)
    rule = _rule(setting, causal, prepared, where)
    banned = unwritable(setting.fmt, causal.tokenizer)
    begun, tokens = time.monotonic(), 0
    for batch in generate(
        causal, samples, decoding, branches=config.branches, banned=banned, plan=rule, written=frozenset(known)
    ):
        fresh = []
        for made in batch:
            if made.id in known:
                continue
            place = by_place[made.id]
            trace = _trace(made, inputs[made.id], place, causal, setting, header, kept=prompts == "kept")
            info = {**trace.info, **(notes or {}).get(made.id, {})}
            trace = replace(trace, info=info, sources=sources.get(made.id, ()))
            tokens += trace.tokens
            fresh.append(trace.to_dict())
        records.add(fresh)
        known.update({r["id"]: r for r in fresh})
        spent = max(time.monotonic() - begun, 1e-6)
        say(f"{name}: replies {len(known):,}/{len(samples):,} ({tokens / spent:.0f} tokens/s)")
    return [Trace.from_dict(known[s.id]) for s in samples]


def _rule(
    setting: Setting, causal: CausalModel, prepared: Sequence[Conversation], where: Sequence[Place]
) -> PlanRule | None:
    """How plans are chosen at the places, if by a rule of their own."""
    if setting.plan is None:
        return None
    by_id = {conv.id: conv for conv in prepared}
    label_set = setting.plan.label_set
    gold = {p.id: setting.fmt.target_turn(by_id[p.conversation_id], p.turn).label(label_set) for p in where}
    contexts = {p.id: by_id[p.conversation_id].before(p.turn) for p in where}
    return setting.plan.rule(causal.tokenizer.get_vocab(), contexts, gold)


def _trace(
    made: Generated,
    prompt: tuple[int, ...],
    place: Place,
    causal: CausalModel,
    setting: Setting,
    header: Mapping[str, Any],
    *,
    kept: bool,
) -> Trace:
    """What was written at a place; `kept`: with its input."""
    text = causal.tokenizer.decode(made.written.tokens, skip_special_tokens=False)
    reply, given = setting.fmt.parse(text, causal.tokenizer), causal.tokenizer.decode(prompt)
    chosen = setting.plan.described(made.written.probabilities) if setting.plan else {}
    return Trace(
        id=made.id,
        conversation_id=place.conversation_id,
        turn=place.turn,
        system=header["system"],
        reply=reply.text,
        reference=place.reference,
        prompt=given if kept else None,
        plan={**reply.plan, **chosen},
        finish=made.written.finish,
        tokens=len(made.written.tokens),
        info={"model": header["model"], "format": header["format"], "prompt_hash": text_hash(given)},
        usage={"prompt_tokens": len(prompt), "completion_tokens": len(made.written.tokens)},
    )


# ---------------------------------------------------------------------- baselines


def make_baselines(setting: Setting, where: Sequence[Place], data_hash: str, say: Say) -> list[System]:
    """Replies of the baselines that the configuration names."""
    names = setting.config.baselines
    learners = [name for name in names if name not in WITHOUT_TRAINING]
    train: list[Place] = []
    train_hash = None
    if learners:
        try:
            found = load_split(setting, setting.config.train_split, None)
        except NotFoundError as err:
            raise ConfigError(
                f"Baselines that need training replies ({', '.join(learners)}) cannot be made: {err} Leave them out "
                "of baselines, or set train_split."
            ) from err
        prepared = [setting.fmt.prepare(c) for c in found]
        train = [place for c in prepared for place in places(c, setting.fmt)]
        train_hash = hash_of(prepared)
    out = []
    for name in names:
        # The part is in the header of those alone that look at it: adding a baseline later leaves the others valid.
        seen = (train, train_hash) if name in learners else ([], None)
        out.append(_baseline(name, setting, where, *seen, data_hash, say))
    return out


def _baseline(
    name: str,
    setting: Setting,
    where: Sequence[Place],
    train: Sequence[Place],
    train_hash: str | None,
    data_hash: str,
    say: Say,
) -> System:
    say(f"{name}")
    function = BASELINES.get(name)
    replies = function(where, train, seed=setting.config.seed)
    header = {"system": name, "data": data_hash, "seed": setting.config.seed, "train": train_hash}
    records = Records(setting.folder / "traces" / f"{name}.jsonl", header)
    known = records.open()
    traces = [
        Trace(
            id=place.id,
            conversation_id=place.conversation_id,
            turn=place.turn,
            system=name,
            reply=reply or "",
            reference=place.reference,
            finish="stop" if reply is not None else "error",
        )
        for place, reply in zip(where, replies, strict=True)
    ]
    records.add([t.to_dict() for t in traces if t.id not in known])
    doc = (function.__doc__ or name).strip().splitlines()[0]
    return System(name=name, kind="baseline", description=doc, traces=traces)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a mapping as JSON in one step; only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.unlink(missing_ok=True)
    with open(scratch, "w", encoding="utf-8", opener=private) as file:
        file.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    os.replace(scratch, path)
