"""A study: several systems x several decodings on one test part -> one table, one page.

    systems (runs, bases, ablations) x decodings (greedy, beams, draws with seeds)
      -> traces/<system>.<decoding>.<seed>.jsonl
      -> metrics, reward parts, held-out scorers, labels read from the replies beside the constant row
      -> paired differences over dialogues -> summary.json, report.html

Replies are stored as they are written, so a killed study goes on where it stopped, with the same words. Scores are
computed anew each time; they take seconds to minutes.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from heedful import taxonomy
from heedful.classify import LabelModel
from heedful.classify.selector import ReplySelector
from heedful.errors import DataError
from heedful.evaluation import study_page
from heedful.evaluation._study_scores import (
    Board,
    Judged,
    aligned,
    as_plain,
    definitions,
    judge,
    plans_measured,
    with_constants,
)
from heedful.evaluation._study_setup import Entry, Plan, View, emits, settle_study, views
from heedful.evaluation._study_words import findings
from heedful.evaluation.emotion import label_report
from heedful.evaluation.run import (
    corpus_facts,
    hash_of,
    header_of,
    input_hash,
    likelihoods,
    load_split,
    make_baselines,
    samples_of,
    write_json,
    write_replies,
)
from heedful.evaluation.study_config import ECHO, LabelConfig, StudyConfig
from heedful.evaluation.summary import LIMITS, System, examples_at, machine_facts, versions
from heedful.evaluation.traces import Records, private
from heedful.models.causal import CausalModel, add_markers, check_architecture, load, need_train_extra
from heedful.models.forward import SampleLoss
from heedful.models.merged import merged
from heedful.scoring import Rows
from heedful.scoring.rewards import Task
from heedful.types import Trace

Say = Callable[[str], None]
"""Takes one line about what goes on."""

STUDY_LIMITS = (
    "Scores are x100 as everywhere in heedful; papers that print BLEU, ROUGE or METEOR between 0 and 1 print a "
    "hundredth of them.",
    "A reward is what training was told to raise, so a high reward is no evidence of a good reply. Held-out scorers "
    "are other readers of the same kind and can share its blind spots.",
    "A system is one training run. Intervals and tests redraw conversations, and seeds of a decoding redraw words; "
    "trained again with another seed, a model can move further than they say.",
)
ECHO_LIMIT = (
    f"Rows that end in {ECHO} score input and reply together against the reply in the corpus. They show how much of a "
    "published score can be echo, and say nothing of the replies."
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A finished study."""

    folder: Path
    summary: dict[str, Any] = field(repr=False)

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"


@dataclass(kw_only=True)
class _Made:
    """What the systems wrote.

    Args:
        traces: system -> decoding -> one list of traces per seed; a baseline has one list for all.
        planned: systems whose format puts something (a label, a marker) before the words of a reply.
        echoes: rows in which input and reply are scored together; only metrics look at them.
    """

    traces: dict[str, dict[str, list[list[Trace]]]] = field(default_factory=dict)
    losses: dict[str, list[SampleLoss]] = field(default_factory=dict)
    planned: set[str] = field(default_factory=set)
    echoes: set[str] = field(default_factory=set)
    about: list[dict[str, Any]] = field(default_factory=list)
    floors: list[System] = field(default_factory=list)


def study(config: StudyConfig, *, say: Say = lambda text: None, command: str = "") -> Study:
    """Run a study as configured.

    Raises:
        UserError: something in configuration, data, models or scorers.
    """
    plan = settle_study(config)
    need_train_extra()
    for entry in plan.entries:
        if entry.selector is None:
            check_architecture(entry.path, accept="any")  # before anything is written
    begun = time.monotonic()
    conversations = load_split(plan.first, config.split, config.max_conversations)
    seen = views(plan, conversations)
    first = seen[plan.entries[0].name]
    if not first.where:
        raise DataError(
            f"Nothing to study: split '{config.split}' of {plan.first.dataset} has no supporter turn that format "
            f"'{plan.first.fmt.name}' can use as a target."
        )
    data_hash = hash_of(first.gold)
    part = f"{plan.first.dataset}, {config.split or 'all'}"
    say(f"{part}: {len(conversations):,} conversations, {len(first.where):,} places")
    made = _Made(floors=make_baselines(_in(plan, plan.first), first.where, input_hash(first.gold), say))
    _write(plan, seen, made, say)
    ids, note = _shared_places(first, made)
    say("scores")
    facts = corpus_facts(plan.first, len(conversations), len(ids), data_hash)
    summary = _summarise(plan, first, made, ids, {**facts, "note": note}, command=command, say=say)
    summary["machine"]["seconds"]["all"] = round(time.monotonic() - begun, 1)
    summary["findings"] = [{"status": c.status, "text": c.text.strip()} for c in findings(summary)]
    write_json(plan.folder / "summary.json", summary)
    study_page.write(plan.folder / "report.html", summary)
    return Study(folder=plan.folder, summary=summary)


def _in(plan: Plan, setting: Any, **changes: Any) -> Any:
    """The setting with its files in the study's folder and other decoding values."""
    return replace(setting, folder=plan.folder, config=setting.config.model_copy(update=changes))


# ---------------------------------------------------------------------- replies


def _write(plan: Plan, seen: Mapping[str, View], made: _Made, say: Say) -> None:
    loaded: tuple[Any, CausalModel] | None = None
    for entry in plan.entries:
        if entry.selector is not None:
            _select(entry, entry.selector, plan, seen[entry.name], made, say)
            continue
        key = (entry.path, entry.adapter, entry.setting.fmt.markers)
        if loaded is None or loaded[0] != key:
            loaded = None  # the old model goes before the new one comes
            say(f"{entry.name}: loading")
            causal = load(entry.path, dtype=plan.config.dtype, adapter=entry.adapter, accept="any")
            add_markers(causal, entry.setting.fmt.markers)
            loaded = (key, causal)
        _write_system(entry, loaded[1], plan, seen[entry.name], made, say)
    for floor in made.floors:
        made.traces[floor.name] = {d: [floor.traces or []] for d in plan.config.decodings}
        made.about.append(
            {"name": floor.name, "kind": "baseline", "description": floor.description, "note": None, "model": None}
        )


def _select(entry: Entry, selector: ReplySelector, plan: Plan, view: View, made: _Made, say: Say) -> None:
    """The replies of a system that picks them. No decoding and no seed changes them, and each still has its file."""
    say(f"{entry.name}: picks {len(view.where):,} of {len(selector.replies):,} replies")
    by_id = {conv.id: conv for conv in view.shown}
    chosen = selector.choose([by_id[place.conversation_id].before(place.turn) for place in view.where])
    traces = [
        Trace(
            id=place.id, conversation_id=place.conversation_id, turn=place.turn, system=entry.name, reply=choice.reply,
            reference=place.reference, finish="stop", info={"candidate": choice.number, "expected": choice.expected},
        )
        for place, choice in zip(view.where, chosen, strict=True)
    ]  # fmt: skip
    header = {"system": entry.name, "selector": selector.fingerprint, "data": input_hash(view.shown)}
    for name in plan.config.decodings:
        for seed in plan.config.seeds(name):
            records = Records(plan.folder / "traces" / f"{entry.name}.{name}.{seed}.jsonl", header)
            known = records.open()
            records.add([trace.to_dict() for trace in traces if trace.id not in known])
    made.traces[entry.name] = {name: [traces] * len(plan.config.seeds(name)) for name in plan.config.decodings}
    made.about.append(
        {
            "name": entry.name,
            "kind": "model",
            "description": f"{entry.path}: picks one of {len(selector.replies):,} replies of the training part",
            "note": None,
            "model": {"name": entry.path, "hash": selector.fingerprint},
            "format": "none: it picks replies, and writes none",
            "client_labels": {},
        }
    )


def _write_system(entry: Entry, causal: CausalModel, plan: Plan, view: View, made: _Made, say: Say) -> None:
    setting = _in(plan, entry.setting)
    samples = samples_of(causal, setting, view.shown, view.where)
    header = header_of(entry.name, causal, setting, input_hash(view.shown))
    if any(sample.plan for sample in samples):
        made.planned.add(entry.name)
    if plan.config.perplexity:
        twin = _twin(entry, plan, made)  # the corpus' replies are as likely whatever plan a system chooses for its own
        made.losses[entry.name] = twin or likelihoods(entry.name, causal, setting, samples, header, say)
    found: dict[str, list[list[Trace]]] = {}
    for name, decoding in plan.config.decodings.items():
        found[name] = []
        for seed in plan.config.seeds(name):
            part = _in(plan, entry.setting, decoding=decoding.plain(), seed=seed)
            file = f"{entry.name}.{name}.{seed}"
            with merged(causal.model):  # half the time of an adapter beside its base; the header says so
                found[name].append(
                    write_replies(
                        file, causal, part, samples, view.where, {**header, "adapter": "merged"}, say,
                        prompts="kept", notes=view.notes, prepared=view.shown,
                    )
                )  # fmt: skip
    made.traces[entry.name] = found
    made.about.append(
        {
            "name": entry.name,
            "kind": "model",
            "description": entry.setting.config.model_name_or_path + ("" if entry.adapter else ", without its adapter"),
            "note": causal.note or None,
            "model": {"name": entry.path, "hash": header["model"]},
            "dtype": header["dtype"],
            "format": header["format"],
            "max_length": header["max_length"],
            "client_labels": {
                name: f"predicted by {reader.name} ({reader.fingerprint})" for name, reader in entry.readers.items()
            },
        }
    )
    if plan.config.score_prompt_echo:
        inputs = {s.id: causal.tokenizer.decode(s.prompt, skip_special_tokens=True).strip() for s in samples}
        _add_echo(entry.name, inputs, made)


def _twin(entry: Entry, plan: Plan, made: _Made) -> list[SampleLoss] | None:
    """Likelihoods of an earlier system that reads the same with the same weights."""
    for other in plan.entries:
        if other.name in made.losses and _reads_as(other) == _reads_as(entry):
            return made.losses[other.name]
    return None


def _reads_as(entry: Entry) -> tuple[Any, ...]:
    one = entry.setting
    readers = tuple(sorted((key, reader.fingerprint) for key, reader in entry.readers.items()))
    return (entry.path, entry.adapter, one.fmt.fingerprint, one.planners.fingerprint, one.max_length, one.keep, readers)


def _add_echo(system: str, inputs: Mapping[str, str], made: _Made) -> None:
    """A row of a system's replies with the input before them, special tokens left out (ChatMGL's evaluation code)."""

    def echoed(trace: Trace) -> Trace:
        return replace(trace, system=system + ECHO, reply=f"{inputs[trace.id]} {trace.reply}".strip())

    made.traces[system + ECHO] = {
        decoding: [[echoed(trace) for trace in traces] for traces in lists]
        for decoding, lists in made.traces[system].items()
    }
    made.echoes.add(system + ECHO)
    what = f"the replies of {system} with the input before them, scored as one text"
    made.about.append({**made.about[-1], "name": system + ECHO, "description": what})


def _shared_places(first: View, made: _Made) -> tuple[list[str], str | None]:
    """Places at which every system could be asked (`overlong: skip` leaves some out), and a sentence about the rest."""
    due = {place.id for place in first.where}
    for found in made.traces.values():
        for lists in found.values():
            for traces in lists:
                due &= {t.id for t in traces}
    ids = [place.id for place in first.where if place.id in due]
    if not ids:
        raise DataError("No turn fits into max_length; raise it.")
    missing = len(first.where) - len(ids)
    note = f"{missing:,} of {len(first.where):,} places left out: too long for max_length (overlong: skip)"
    return ids, note if missing else None


# ---------------------------------------------------------------------- numbers


def _summarise(
    plan: Plan, first: View, made: _Made, ids: Sequence[str], corpus: dict[str, Any], *, command: str, say: Say
) -> dict[str, Any]:
    config, tasks = plan.config, _tasks(plan, first)
    ends: dict[str, dict[str, dict[str, int]]] = {d: {} for d in config.decodings}
    scores: dict[str, dict[str, Any]] = {}
    compared: list[dict[str, Any]] = []
    known: dict[str, tuple[Rows, Judged]] = {}  # baselines, which no decoding changes
    for decoding in config.decodings:
        say(f"scores: {decoding}")
        traces = {s: [aligned(t, ids) for t in found[decoding]] for s, found in made.traces.items()}
        ends[decoding] = {s: dict(Counter(t.finish for part in parts for t in part)) for s, parts in traces.items()}
        board = _board(plan, made, traces, tasks, first, decoding, ids, known)
        scores[decoding] = {system: board.table(system) for system in traces}
        for one, two in config.pairs:
            compared += [{"decoding": decoding, **row} for row in board.compare(one, two)]
    title = f"{len(config.systems)} systems on {corpus['title']} ({config.split or 'all parts'})"
    return {
        "kind": "study",
        "heedful": metadata.version("heedful"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "title": title,
        "corpus": corpus,
        "seed": config.seed,
        "bootstrap": config.bootstrap,
        "machine": machine_facts(),
        "versions": versions(),
        "systems": made.about,
        "decodings": {
            name: {**d.plain().model_dump(), "seeds": config.seeds(name) if d.do_sample else []}
            for name, d in config.decodings.items()
        },
        "metrics": with_constants(
            definitions(
                config.metrics,
                plan.rewards,
                plan.heldout,
                prints=_prints(plan),
                plan_tokens=plans_measured(made.losses),
            ),
            {"reward": config.rewards, "heldout": config.heldout},
            [tasks[i] for i in ids],
            plan.judges,
        ),
        "scores": scores,
        "comparisons": compared,
        "endings": ends,
        "labels": _labels(plan, made, tasks, ids),
        "findings": [],
        "examples": _examples(plan, made, first, ids),
        "limits": [*STUDY_LIMITS, *([ECHO_LIMIT] if made.echoes else []), *plan.notes, *LIMITS],
    }


def _tasks(plan: Plan, view: View) -> dict[str, Task]:
    """Place -> what rewards may look at, with the corpus' own labels whatever the systems were shown."""
    fmt, found = plan.first.fmt, {}
    by_id = {c.id: c for c in view.gold}
    for place in view.where:
        conv = by_id[place.conversation_id]
        found[place.id] = Task(
            id=place.id, context=conv.before(place.turn), reference=fmt.target_turn(conv, place.turn)
        )
    return found


def _board(
    plan: Plan,
    made: _Made,
    traces: Mapping[str, Sequence[Sequence[Trace]]],
    tasks: Mapping[str, Task],
    first: View,
    decoding: str,
    ids: Sequence[str],
    known: dict[str, tuple[Rows, Judged]],
) -> Board:
    config, seeds = plan.config, plan.config.seeds(decoding)
    contexts = {p.id: p.last for p in first.where if p.last is not None}
    floors = {floor.name for floor in made.floors}
    rows: dict[str, list[Rows]] = {}
    judged: dict[str, list[Judged]] = {}
    for system, parts in traces.items():
        if system in floors:
            if system not in known:
                known[system] = _judged(plan, parts[0], tasks, contexts, system)
            rows[system], judged[system] = [known[system][0]] * len(seeds), [known[system][1]] * len(seeds)
            continue
        if system in made.echoes:  # no reward or scorer was made for texts that hold both speakers
            rows[system] = [Rows.from_traces(part, contexts=contexts) for part in parts]
            judged[system] = [Judged(values={}, reasons={}, clipped={}, raised={})] * len(seeds)
            continue
        names = [f"{system}.{decoding}.{seed}" for seed in seeds]
        found = [_judged(plan, part, tasks, contexts, name) for part, name in zip(parts, names, strict=True)]
        rows[system], judged[system] = [r for r, _ in found], [j for _, j in found]
    at = {name: {loss.id: loss for loss in losses} for name, losses in made.losses.items()}
    return Board(
        metrics=config.metrics,
        seeds=seeds,
        rows=rows,
        judged=judged,
        losses={name: [losses[i] for i in ids] for name, losses in at.items()},
        bootstrap=config.bootstrap,
        seed=config.seed,
    )


def _judged(
    plan: Plan, traces: Sequence[Trace], tasks: Mapping[str, Task], contexts: Mapping[str, str], file: str
) -> tuple[Rows, Judged]:
    rows = Rows.from_traces(traces, contexts=contexts)
    judged = judge(traces, tasks, plan.rewards, plan.heldout)
    if judged.values:
        path = plan.folder / "scores" / f"{file}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".part")
        with open(scratch, "w", encoding="utf-8", opener=private) as out:
            out.writelines(json.dumps(record) + "\n" for record in as_plain(judged, traces))
        os.replace(scratch, path)
    return rows, judged


def _prints(plan: Plan) -> dict[str, str]:
    """Path of a scorer -> its name and fingerprint."""
    return {path: f"{reader.name}#{reader.fingerprint}" for path, reader in plan.judges.items()}


# ---------------------------------------------------------------------- labels


def _labels(plan: Plan, made: _Made, tasks: Mapping[str, Task], ids: Sequence[str]) -> dict[str, Any]:
    """Label set -> decoding -> one report per system and source; each holds the constant row."""
    out: dict[str, Any] = {}
    for name, spec in plan.config.labels.items():
        gold = [_gold(tasks[i], name, spec) for i in ids]
        if not any(gold):
            raise DataError(
                f"labels names '{name}', but not one {spec.target}'s turn at the places of {plan.first.dataset} "
                "carries such a label; leave it out."
            )
        tagged = {entry.name for entry in plan.entries if _writes(entry, name, made)} if spec.tag else set()
        out[name] = {
            decoding: [
                {"system": system, "target": spec.target, **report}
                for system, found in made.traces.items()
                if system not in made.echoes
                for report in _read(
                    plan, name, spec, gold, [aligned(t, ids) for t in found[decoding]], tasks, tagged=system in tagged
                )
            ]
            for decoding in plan.config.decodings
        }
    return out


def _gold(task: Task, name: str, spec: LabelConfig) -> str | None:
    if spec.target == "therapist":
        return task.reference.label(name) if task.reference else None
    return next((turn.label(name) for turn in reversed(task.context.turns) if turn.role == "user"), None)


def _writes(entry: Entry, name: str, made: _Made) -> bool:
    """Whether the system itself decides on a label of this set before its reply; not to do so is then wrong.

    A label that was handed over (Oracle, a forced strategy) is no prediction, and its accuracy says nothing.
    """
    decides = entry.setting.plan is None or entry.setting.plan.predicts
    return emits(entry, name) and entry.name in made.planned and decides


def _read(
    plan: Plan,
    name: str,
    spec: LabelConfig,
    gold: Sequence[str | None],
    parts: Sequence[Sequence[Trace]],
    tasks: Mapping[str, Task],
    *,
    tagged: bool,
) -> list[dict[str, Any]]:
    sources = {
        f"classifier: {title}": [_predicted(reader, part, tasks) for part in parts]
        for title, reader in plan.readers[name].items()
    }
    if tagged:
        sources["tag"] = [[trace.plan.get(name) for trace in part] for part in parts]
    return [
        label_report(
            gold,
            predicted,
            labels=taxonomy.get(name).names,
            clusters=[trace.conversation_id for trace in parts[0]],
            source=source,
            draws=plan.config.bootstrap,
            seed=plan.config.seed,
        ).to_dict()
        for source, predicted in sources.items()
    ]


def _predicted(reader: LabelModel, traces: Sequence[Trace], tasks: Mapping[str, Task]) -> list[str | None]:
    """What a scorer reads from each reply; None where there is no reply."""
    written = [trace for trace in traces if trace.finish != "error"]
    contexts = [[turn.text for turn in tasks[trace.id].context.turns] for trace in written]
    labels = reader.predict([t.reply for t in written], contexts, roles=["assistant"] * len(written))
    by_id = {trace.id: label for trace, label in zip(written, labels, strict=True)}
    return [by_id.get(trace.id) for trace in traces]


# ---------------------------------------------------------------------- examples


def _examples(plan: Plan, made: _Made, first: View, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Places of different dialogues, drawn with the seed, with the replies of every system and decoding."""
    lead = aligned(next(iter(made.traces.values()))[next(iter(plan.config.decodings))][0], ids)
    floors = {floor.name for floor in made.floors}
    several = len(plan.config.decodings) > 1
    replies: dict[str, dict[str, str | None]] = {}
    for system, found in made.traces.items():
        for decoding, lists in found.items() if system not in made.echoes else ():
            # Of several seeds the first one: all of them stand in the trace files.
            name = f"{system}, {decoding}" if several and system not in floors else system
            replies[name] = {t.id: None if t.finish == "error" else t.reply for t in lists[0]}
    return examples_at(lead, first.gold, replies, n=plan.config.examples, seed=plan.config.seed)
