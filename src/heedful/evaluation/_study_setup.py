"""From a study's configuration to checked parts: which model reads what, in which format, and who may judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from heedful import classify, corpora, taxonomy
from heedful.classify import LabelModel
from heedful.classify.features import parts_of
from heedful.classify.selector import ReplySelector, is_selector, load_selector
from heedful.errors import ConfigError, LeakError
from heedful.evaluation.baselines import Place, places
from heedful.evaluation.config import EvalConfig
from heedful.evaluation.run import Setting, settle
from heedful.evaluation.study_config import StudyConfig, SystemConfig
from heedful.scoring.rewards import RewardConfig, RewardSet, make
from heedful.settings import read_yaml
from heedful.types import Conversation, Label, Turn


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of a study, every value decided.

    Args:
        path, adapter: what to load.
        readers: label set -> the scorer whose reading of the client's turns stands in the prompts instead of gold.
        selector: what picks the replies, where the system is no language model.
    """

    name: str
    setting: Setting
    path: str
    adapter: bool
    readers: Mapping[str, LabelModel] = field(repr=False)
    selector: ReplySelector | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with everything that its configuration names at hand; no weights of a language model are read yet.

    Args:
        readers: label set -> what tables call it -> scorer.
        judges: path -> scorer of the rewards and held-out scores that have one.
        notes: what a reader of the numbers must know about the scorers.
    """

    config: StudyConfig
    folder: Path
    entries: tuple[Entry, ...]
    rewards: RewardSet
    heldout: RewardSet
    readers: Mapping[str, Mapping[str, LabelModel]] = field(repr=False)
    judges: Mapping[str, LabelModel] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Setting:
        """The setting that places, baselines and data are taken from."""
        return self.entries[0].setting


@dataclass(frozen=True, kw_only=True)
class View:
    """The corpus as one system is asked about it.

    Args:
        gold: conversations in the shape of the system's format, with the corpus' labels.
        shown: the same with predicted client labels, where the system gets those.
        notes: place -> what its trace records about predicted labels.
    """

    gold: list[Conversation] = field(repr=False)
    shown: list[Conversation] = field(repr=False)
    where: list[Place] = field(repr=False)
    notes: Mapping[str, Mapping[str, Any]] = field(repr=False)


def settle_study(config: StudyConfig) -> Plan:
    """Look up all that a configuration names.

    Raises:
        NotFoundError: a run, scorer, metric, reward, baseline or label set that is not there.
        ConfigError: no data set, a format without a name, or a held-out score that is one of the reward.
        LeakError: a scorer that learned from the part that is to be judged.
    """
    entries = []
    dataset, options = config.dataset, config.dataset_options
    for name, spec in config.systems.items():
        entry = _entry(name, spec, config, dataset=dataset, options=options)
        dataset, options = entry.setting.dataset, entry.setting.dataset_options
        entries.append(entry)
    for name, wanted in config.labels.items():
        taxonomy.get(name)
        if not wanted.scorers and not any(emits(entry, name) for entry in entries):
            raise ConfigError(
                f"labels.{name} reads nothing but tags, and no system's format has the model write one; add scorers, "
                "or a system whose format emits this label."
            )
    readers = {
        name: {title: _reader(path, name) for title, path in spec.scorers.items()}
        for name, spec in config.labels.items()
    }
    named = dict.fromkeys(str(s.params["scorer"]) for s in (*config.rewards, *config.heldout) if s.params.get("scorer"))
    judges = {path: classify.load(path) for path in named}
    everyone = [r for found in readers.values() for r in found.values()]
    everyone += [r for entry in entries for r in entry.readers.values()]
    everyone += judges.values()
    everyone += [reader for e in entries if e.setting.plan for reader in e.setting.plan.readers]
    for reader in everyone:
        _refuse_leak(reader, str(dataset), config.split)
    for entry in entries:
        if entry.selector is not None:
            _refuse_leak(entry.selector, str(dataset), config.split)
    folder = f"runs/study-{Path(str(dataset)).name.split('.')[0]}-{config.split or 'all'}"
    return Plan(
        config=config,
        folder=Path(config.output_dir or folder),
        entries=tuple(entries),
        rewards=make(config.rewards),
        heldout=make(config.heldout),
        readers=readers,
        judges=judges,
        notes=(*_kinship(config.rewards, config.heldout), *_chosen_here(entries, config)),
    )


def _entry(
    name: str, spec: SystemConfig, config: StudyConfig, *, dataset: str | None, options: dict[str, Any]
) -> Entry:
    folder = Path(spec.model_name_or_path).expanduser()
    recorded = folder / "config.resolved.yaml"
    run = read_yaml(recorded) if recorded.is_file() else None
    path = spec.model_name_or_path
    selector = _selector(name, spec) if is_selector(path) else None
    if not spec.adapter and not (folder / "adapter_config.json").is_file():
        if run is None:
            raise ConfigError(
                f"System '{name}' has adapter: false, but '{path}' is no run with an adapter; leave adapter out."
            )
        path = str(run["model_name_or_path"])  # a run that trained all weights: its base is another model
    setting = settle(
        EvalConfig(
            model_name_or_path=spec.model_name_or_path,
            dataset=dataset,
            dataset_options=options,
            split=config.split,
            train_split=config.train_split,
            max_conversations=config.max_conversations,
            format=_format(name, spec, run),
            planners=spec.planners,
            plan=spec.plan,
            max_length=spec.max_length,
            overlong=spec.overlong,
            dtype=config.dtype,
            baselines=config.baselines,
            metrics=config.metrics,
            branches=config.branches,
            bootstrap=config.bootstrap,
            seed=config.seed,
            output_dir=config.output_dir,
        )
    )
    predicted = config.predicted_labels if spec.predicted_labels is None else spec.predicted_labels
    if selector is not None:
        predicted = {}  # it reads words and the corpus' labels of earlier replies
    return Entry(
        name=name,
        setting=setting,
        path=path,
        adapter=spec.adapter,
        readers={key: _reader(scorer, key) for key, scorer in predicted.items()},
        selector=selector,
    )


def _selector(name: str, spec: SystemConfig) -> ReplySelector:
    for key in ("format", "plan", "planners", "predicted_labels", "max_length", "overlong"):
        if getattr(spec, key) is not None:
            raise ConfigError(f"System '{name}' is a selector, which takes no '{key}'; leave it out.")
    if not spec.adapter:
        raise ConfigError(f"System '{name}' is a selector, which has no adapter; leave adapter out.")
    return load_selector(spec.model_name_or_path)


def emits(entry: Entry, label_set: str) -> bool:
    """Whether the format of a system knows labels of this set on the supporter's turns."""
    return ("assistant", label_set) in entry.setting.fmt.reads.values()


def _chosen_here(entries: Sequence[Entry], config: StudyConfig) -> list[str]:
    """What a reader must know of selectors that were fitted to other conditions, or tuned on what is judged."""
    notes = []
    for entry in entries:
        if entry.selector is None:
            continue
        record = entry.selector.record
        if corpora.overlaps(record.get("dataset"), record.get("chosen_on"), str(entry.setting.dataset), config.split):
            notes.append(f"The penalty of the selector '{entry.name}' was chosen on the part that is judged here.")
        if config.merge_turns:
            notes.append(f"The selector '{entry.name}' was fitted on turns as they are, and reads merged ones here.")
    return notes


def _format(name: str, spec: SystemConfig, run: Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    if not isinstance(spec.format, dict) or "name" in spec.format:
        return spec.format
    if run is None:
        raise ConfigError(
            f"The format of system '{name}' has no 'name', and '{spec.model_name_or_path}' is no run of heedful whose "
            "own format it could change; add format.name."
        )
    own = run.get("format") or "chat"
    return {**({"name": own} if isinstance(own, str) else own), **spec.format}


def _reader(path: str, label_set: str) -> LabelModel:
    found = classify.load(path)
    if found.label_set != label_set:
        raise ConfigError(f"The scorer '{path}' reads '{found.label_set}', but it is named for '{label_set}'.")
    return found


def _refuse_leak(reader: LabelModel | ReplySelector, dataset: str, split: str | None) -> None:
    """A judge that has seen the answers is no judge."""
    record = reader.record
    learned = record.get("train_split")
    if corpora.overlaps(record.get("dataset"), learned, dataset, split):
        what = "scorer" if isinstance(reader, LabelModel) else "selector"
        raise LeakError(
            f"The {what} '{reader.name}' learned from {dataset} ({learned or 'all parts'}), which includes the part "
            f"that is to be judged ({split or 'all parts'}); train a {what} on another part."
        )


_OVERLAP = {"bleu1", "rouge1", "rouge2", "rougeL", "meteor", "meteor_exact_stem"}
_VECTORS = {"similarity", "relevance", "bertscore", "reader_paper", "reader_released"}
"""Rewards that ask a sentence encoder, `minilm` unless `encoder` says otherwise."""


def _tie(spec: RewardConfig, other: RewardConfig) -> str | None:
    """Why a held-out score sees what a reward sees, or None."""
    one, two = (classify.load(str(s.params["scorer"])) if s.params.get("scorer") else None for s in (spec, other))
    if one is not None and two is not None and one.label_set == two.label_set:
        return classify.same_family(one, two)
    if {spec.name, other.name} <= _OVERLAP:
        return "both count words in common with the reference"
    both = _senses(spec, one) & _senses(other, two)
    return f"both use the features {', '.join(sorted(both))}" if both else None


def _senses(spec: RewardConfig, scorer: LabelModel | None) -> set[str]:
    """Features through which a score sees a reply, as far as that is known."""
    if scorer is not None:
        return {part.removesuffix("_tuned") for part in parts_of(str(scorer.record["features"]))}
    return {str(spec.params.get("encoder", "minilm"))} if spec.name in _VECTORS else set()


def _kinship(rewards: Sequence[RewardConfig], heldout: Sequence[RewardConfig]) -> tuple[str, ...]:
    """What ties the held-out scorers to those of the reward.

    Raises:
        ConfigError: a held-out score is one of the reward, so it is not held out.
    """
    notes = []
    for other in heldout:
        for spec in rewards:
            if (spec.name, spec.params) == (other.name, other.params):
                raise ConfigError(
                    f"The held-out score '{other.label or other.name}' is the reward '{spec.label or spec.name}' "
                    "itself, so it was not held out; give it another scorer or leave it out."
                )
            if why := _tie(spec, other):
                notes.append(
                    f"The held-out scorer '{other.label or other.name}' is close to the reward's "
                    f"'{spec.label or spec.name}' ({why}), so it is a weak check."
                )
    return tuple(notes)


# ---------------------------------------------------------------------- the corpus as a system sees it


def views(plan: Plan, conversations: Sequence[Conversation]) -> dict[str, View]:
    """System -> the corpus as it is asked about it.

    Raises:
        DataError: labels that a format needs are missing.
        ConfigError: two systems would reply at different places.
    """
    found: dict[str, View] = {}
    talks = [c.merged() for c in conversations] if plan.config.merge_turns else list(conversations)
    for entry in plan.entries:
        fmt = entry.setting.fmt
        gold = [fmt.prepare(c) for c in entry.setting.planners.plan(talks)]
        shown, notes = _predicted(gold, entry.readers)
        fmt.check(shown)
        where = [place for c in gold for place in places(c, fmt)]
        found[entry.name] = View(gold=gold, shown=shown, where=where, notes=notes)
    first = plan.entries[0].name
    due = {(p.id, p.reference) for p in found[first].where}
    for name, view in found.items():
        if {(p.id, p.reference) for p in view.where} != due:
            raise ConfigError(
                f"The systems '{first}' and '{name}' would reply at different places ({len(due):,} and "
                f"{len(view.where):,}), because their formats cut turns differently; set merge_turns: true or give "
                "them one format."
            )
    return found


def _predicted(
    conversations: Sequence[Conversation], readers: Mapping[str, LabelModel]
) -> tuple[list[Conversation], dict[str, dict[str, Any]]]:
    """Client turns with a scorer's reading instead of the gold label, and for each place what its client turn got."""
    found, notes = list(conversations), dict[str, dict[str, Any]]()
    for name, reader in readers.items():
        places = [(k, i) for k, c in enumerate(found) for i, turn in enumerate(c.turns) if turn.role == "user"]
        read = reader.predict(
            [found[k].turns[i].text for k, i in places],
            [[turn.text for turn in found[k].turns[:i]] for k, i in places],
            roles=["user"] * len(places),
        )
        labels = dict(zip(places, read, strict=True))
        found = [
            replace(c, turns=tuple(_relabelled(t, name, labels.get((k, i))) for i, t in enumerate(c.turns)))
            for k, c in enumerate(found)
        ]
        for conv in found:
            last = None
            for index, turn in enumerate(conv.turns):
                if last is not None:
                    note = notes.setdefault(f"{conv.id}/{index}", {"predicted_labels": {}})["predicted_labels"]
                    note[name] = {"value": last, "scorer": reader.fingerprint}
                last = turn.label(name) if turn.role == "user" else last
    return found, notes


def _relabelled(turn: Turn, name: str, value: str | None) -> Turn:
    if value is None:
        return turn
    kept = tuple(label for label in turn.labels if label.set != name)
    return replace(turn, labels=(*kept, Label(set=name, value=value, source="model")))
