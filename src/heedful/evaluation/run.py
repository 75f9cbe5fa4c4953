"""An evaluation from a configuration to a folder: replies, perplexity, scores with baselines, a report.

Every part is stored as it is made, so a killed evaluation goes on where it stopped, with the same words (each reply
has its own random stream).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from heedful import corpora, formats
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.evaluation.baselines import BASELINES, Place, places
from heedful.evaluation.config import EvalConfig
from heedful.evaluation.report import write as write_report
from heedful.evaluation.summary import System, summarise
from heedful.evaluation.traces import Records
from heedful.formats import Format, Sample
from heedful.models.causal import CausalModel, add_markers, fingerprint, load
from heedful.models.forward import SampleLoss, likelihood
from heedful.models.generate import generate
from heedful.settings import read_yaml
from heedful.types import Conversation, Trace

Say = Callable[[str], None]


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
    fmt: Format
    max_length: int
    keep: float
    folder: Path
    run: dict[str, Any] | None


def settle(config: EvalConfig) -> Setting:
    """Fill in what the configuration leaves to the run.

    Raises:
        NotFoundError: the model's folder does not exist.
        ConfigError: no data set is named, neither here nor by the run.
    """
    path = Path(config.model_name_or_path).expanduser()
    recorded = path / "config.resolved.yaml"
    run = read_yaml(recorded) if recorded.is_file() else None
    dataset = config.dataset or (run or {}).get("dataset")
    if not dataset:
        raise ConfigError("No dataset: give dataset=NAME (this model is no run of heedful that would name its own).")
    spec = config.format or (run or {}).get("format") or "chat"
    name = Path(dataset).stem.removesuffix(".jsonl")
    here = path if run else Path("runs") / f"eval_{path.name}"
    folder = Path(config.output_dir) if config.output_dir else here / "eval" / f"{name}-{config.split or 'all'}"
    return Setting(
        config=config,
        dataset=dataset,
        fmt=formats.make(spec),
        max_length=config.max_length or int((run or {}).get("max_length") or 1024),
        keep=float((run or {}).get("keep_context") or 0.5),
        folder=folder,
        run=run,
    )


def evaluate(config: EvalConfig, *, say: Say = lambda text: None, command: str = "") -> Evaluation:
    """Run an evaluation as configured.

    Raises:
        UserError: something in configuration, data or model.
    """
    setting = settle(config)
    begun = time.monotonic()
    conversations = _load(setting, config.split, config.max_conversations)
    prepared = [setting.fmt.prepare(c) for c in conversations]
    where = [place for c in prepared for place in places(c, setting.fmt.targets(c))]
    if not where:
        raise DataError(
            f"Nothing to evaluate: split '{config.split}' of {setting.dataset} has no supporter turn that "
            f"format '{setting.fmt.name}' can use as a target."
        )
    say(f"{setting.dataset}, {config.split or 'all'}: {len(conversations):,} conversations, {len(where):,} replies due")
    data_hash = _hash(where)
    systems = _models(setting, conversations, where, data_hash, say)
    if config.baselines:
        train = _train_places(setting) if {"nearest_reply", "random_reply"} & set(config.baselines) else []
        systems += [_baseline(name, setting, where, train, data_hash, say) for name in config.baselines]
    say("scores")
    summary = summarise(
        setting.config,
        systems,
        prepared,
        where,
        corpus=_corpus(setting, len(conversations), len(where), data_hash),
        format_name=setting.fmt.fingerprint,
        run_folder=Path(config.model_name_or_path).expanduser() if setting.run else None,
        seconds=time.monotonic() - begun,
        command=command,
    )
    _write_json(setting.folder / "summary.json", summary)
    write_report(setting.folder / "report.html", summary)
    return Evaluation(folder=setting.folder, summary=summary)


def _load(setting: Setting, split: str | None, limit: int | None) -> list[Conversation]:
    found = corpora.load(setting.dataset, split, **setting.config.dataset_options)
    return found[:limit] if limit else found


def _train_places(setting: Setting) -> list[Place]:
    try:
        found = _load(setting, setting.config.train_split, None)
    except NotFoundError as err:
        raise ConfigError(
            f"The baselines nearest_reply and random_reply need training replies, but {err} Leave them out of "
            "baselines, or set train_split."
        ) from err
    prepared = [setting.fmt.prepare(c) for c in found]
    return [place for c in prepared for place in places(c, setting.fmt.targets(c))]


def _hash(where: Sequence[Place]) -> str:
    digest = hashlib.sha256()
    for place in where:
        digest.update(f"{place.id}\x1f{place.last}\x1f{place.reference}\x1e".encode())
    return digest.hexdigest()[:16]


def _corpus(setting: Setting, conversations: int, targets: int, data_hash: str) -> dict[str, Any]:
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
    is_run = setting.run is not None and (Path(config.model_name_or_path) / "adapter_config.json").is_file()
    wanted = [("trained" if setting.run else "model", config.model_name_or_path, True)]
    if config.compare_base and is_run:
        wanted.append(("base", config.model_name_or_path, False))
    elif config.compare_base and setting.run:
        wanted.append(("base", str(setting.run["model_name_or_path"]), True))
    systems = []
    for name, path, adapter in wanted:
        say(f"{name}: loading")
        causal = load(path, dtype=config.dtype, adapter=adapter)
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
    samples = [
        s
        for conv in conversations
        for s in setting.fmt.samples(conv, causal.tokenizer, max_length=setting.max_length, keep=setting.keep)
    ]
    weights = fingerprint(causal)
    dtype = str(next(causal.model.parameters()).dtype).removeprefix("torch.")
    header: dict[str, Any] = {
        "system": name,
        "model": weights,
        "dtype": dtype,
        "format": setting.fmt.fingerprint,
        "max_length": setting.max_length,
        "data": data_hash,
    }
    losses = _likelihood(name, causal, setting, samples, header, say)
    traces = _generate(name, causal, setting, samples, where, header, say) if setting.config.generate else None
    what = "the run's model" if name == "trained" else "the same model before training" if name == "base" else "model"
    return System(
        name=name,
        kind="model",
        description=f"{what}: {setting.config.model_name_or_path if name != 'base' else 'its base weights'}",
        note=causal.note or None,
        model={"name": setting.config.model_name_or_path, "hash": weights},
        dtype=dtype,
        losses=losses,
        traces=traces,
    )


def _likelihood(
    name: str, causal: CausalModel, setting: Setting, samples: Sequence[Sample], header: dict[str, Any], say: Say
) -> list[SampleLoss]:
    records = Records(setting.folder / "likelihood" / f"{name}.jsonl", header)
    known = records.open()
    rest = [s for s in samples if s.id not in known]
    begun, chunk = time.monotonic(), 256
    for begin in range(0, len(rest), chunk):
        # Whole conversations share a pass, so a chunk ends where a conversation does.
        fresh = [asdict(loss) for loss in likelihood(causal, rest[begin : begin + chunk])]
        records.add(fresh)
        known.update({r["id"]: r for r in fresh})
        say(f"{name}: perplexity {len(known):,}/{len(samples):,} ({time.monotonic() - begun:.0f} s)")
    return [SampleLoss(**known[s.id]) for s in samples]


def _generate(
    name: str,
    causal: CausalModel,
    setting: Setting,
    samples: Sequence[Sample],
    where: Sequence[Place],
    header: dict[str, Any],
    say: Say,
) -> list[Trace]:
    config = setting.config
    decoding = config.decoding.decoding(config.seed)
    records = Records(setting.folder / "traces" / f"{name}.jsonl", {**header, "decoding": asdict(decoding)})
    known = records.open()
    rest = [s for s in samples if s.id not in known]
    by_place = {place.id: place for place in where}
    # Special tokens other than the format's own would end up as words in the reply.
    allowed = {*setting.fmt.markers, causal.tokenizer.eos_token}
    banned = [
        i
        for i, token in zip(causal.tokenizer.all_special_ids, causal.tokenizer.all_special_tokens, strict=True)
        if token not in allowed
    ]
    begun, tokens = time.monotonic(), 0
    for batch in generate(causal, rest, decoding, branches=config.branches, banned=banned):
        fresh = []
        for made in batch:
            text = causal.tokenizer.decode(made.written.tokens, skip_special_tokens=False)
            reply = setting.fmt.parse(text, causal.tokenizer)
            place = by_place[made.id]
            trace = Trace(
                id=made.id,
                conversation_id=place.conversation_id,
                turn=place.turn,
                system=name,
                reply=reply.text,
                reference=place.reference,
                plan=reply.plan,
                finish=made.written.finish,
                tokens=len(made.written.tokens),
            )
            tokens += trace.tokens
            fresh.append(trace.to_dict())
        records.add(fresh)
        known.update({r["id"]: r for r in fresh})
        spent = max(time.monotonic() - begun, 1e-6)
        say(f"{name}: replies {len(known):,}/{len(samples):,} ({tokens / spent:.0f} tokens/s)")
    return [Trace.from_dict(known[s.id]) for s in samples]


# ---------------------------------------------------------------------- baselines


def _baseline(
    name: str, setting: Setting, where: Sequence[Place], train: Sequence[Place], data_hash: str, say: Say
) -> System:
    say(f"{name}")
    function = BASELINES.get(name)
    replies = function(where, train, seed=setting.config.seed)
    header = {"system": name, "data": data_hash, "seed": setting.config.seed, "train": len(train)}
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


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
    os.replace(scratch, path)
