"""Floors of a corpus: what trivial predictors and trivial replies reach, with intervals, before any model is asked.

They are printed beside every result on ESConv (esconv.md, anchors.md). A folder keeps them as numbers for a comparison
page: `floors.json`, and `predictions.json` with the labels that each predictor gave (no text of a turn in either).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from heedful import corpora, taxonomy
from heedful.errors import ConfigError, DataError, MissingExtraError, NotFoundError
from heedful.evaluation import reply_floors, strategy_floors
from heedful.evaluation._study_scores import averaged
from heedful.evaluation.reply_floors import REPLY_FLOORS, ReplyFloor
from heedful.evaluation.run import hash_of, write_json
from heedful.evaluation.strategy_floors import STRATEGY_FLOORS, Spot, StrategyFloor, spots
from heedful.registry import Registry
from heedful.scoring.base import Metric, Result, Rows
from heedful.scoring.intervals import interval
from heedful.scoring.suite import resolve, score
from heedful.types import Conversation

Say = Callable[[str], None]
STRATEGY_METRICS = ("accuracy", "macro_f1", "weighted_f1", "preference_bias", "top3")
SEEDS = (0, 1, 2, 3, 4)
FILE, PREDICTIONS = "floors.json", "predictions.json"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A score with its 95 % interval over dialogues.

    Args:
        value: mean over the seeds where replies are drawn; None = unscored, and then `reason` says why.
        low, high: None with fewer than two dialogues, without draws, or where the score has no interval.
        n: rows that were scored, of one seed.
        seeds: value of each seed; empty where nothing is drawn.
        spread: standard deviation over the seeds (n - 1); None with fewer than two.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    seeds: tuple[float, ...] = ()
    spread: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Floor:
    """One trivial system. `reason` says why it could not be computed; then there are no scores."""

    name: str
    title: str
    definition: str
    scores: dict[str, Measure] = field(default_factory=dict)
    note: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Floors:
    """All floors of one part of a corpus.

    Args:
        settings: what the numbers depend on: corpus, split, turns, label set with its hash, seeds, draws, hashes of the
            data, versions.
        labels: of the label set, in its order; empty without one.
        gold: label -> turns of the part that carry it.
        turns, dialogues: of the part that is judged; `unlabelled` turns have no place in the strategy floors.
        train_turns: what the floors learned from.
        metrics: score -> title, definition, signature, unit, direction.
        strategies, replies: the floors.
        notes: what cannot be computed, and why.
    """

    settings: dict[str, Any]
    labels: tuple[str, ...]
    gold: dict[str, int]
    turns: int
    unlabelled: int
    dialogues: int
    train_turns: int
    metrics: dict[str, dict[str, Any]]
    strategies: tuple[Floor, ...]
    replies: tuple[Floor, ...]
    notes: tuple[str, ...] = ()

    def floor(self, name: str) -> Floor:
        """One floor by its name.

        Raises:
            NotFoundError: there is no such floor here.
        """
        for found in (*self.strategies, *self.replies):
            if found.name == name:
                return found
        names = [f.name for f in (*self.strategies, *self.replies)]
        raise NotFoundError(f"There is no floor '{name}' here. Known: {', '.join(names) or 'none'}.")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Floors:
        """Undo `to_dict`.

        Raises:
            DataError: not what `to_dict` makes.
        """
        try:
            parts = {
                name: tuple(
                    Floor(
                        **{
                            **entry,
                            "scores": {
                                k: Measure(**{**m, "seeds": tuple(m["seeds"])}) for k, m in entry["scores"].items()
                            },
                        }
                    )
                    for entry in record[name]
                )
                for name in ("strategies", "replies")
            }
            lists = {name: tuple(record[name]) for name in ("labels", "notes")}
            return cls(**{**record, **parts, **lists})
        except (KeyError, TypeError, AttributeError):
            raise DataError("This record holds no floors; run: heedful eval floors --fresh") from None


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Labels that the strategy floors gave, for paired comparisons: one entry per labelled turn."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    gold: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: dict[str, tuple[str, ...]]

    def rows(self, floor: str) -> Rows:
        """Rows of one floor, as `scoring.compare` takes them.

        Raises:
            NotFoundError: no predictions of such a floor.
        """
        if floor not in self.predicted:
            raise NotFoundError(f"There are no predictions of '{floor}'. Known: {', '.join(self.predicted) or 'none'}.")
        return Rows.of(gold=self.gold, predicted=self.predicted[floor], clusters=self.clusters, labels=self.labels)


# ------------------------------------------------------------------------------------------------------ the function


def floors(
    dataset: str,
    split: str = "test",
    *,
    train_split: str = "train",
    opening: bool = False,
    label_set: str | None = None,
    merge_turns: bool = False,
    options: Mapping[str, Any] | None = None,
    path: str | Path | None = None,
    max_conversations: int | None = None,
    seeds: Sequence[int] = SEEDS,
    bootstrap: int = 1000,
    seed: int = 13,
    folder: str | Path | None = None,
    fresh: bool = False,
    say: Say = lambda text: None,
) -> Floors:
    """The floors of a corpus, computed or read from `folder` if they were computed from the same data and settings.

    Args:
        dataset: a corpus, or a file of conversations.
        split, train_split: what is judged, and what the floors learn from.
        opening: count a supporter's very first turn of a talk too (2,895 instead of 2,801 turns of ESConv's test part).
        label_set: of the strategies; by default the corpus' only set whose name ends in `_strategy`.
        merge_turns: join runs of turns by one speaker first.
        options, path: of the corpus.
        max_conversations: judge the first so many talks of `split`; all of `train_split` are learnt from.
        seeds: of the drawn replies.
        bootstrap, seed: of the intervals; 0 draws leave them out.
        folder: where results are kept.
        fresh: compute even if they are there.

    Raises:
        NotFoundError: no such corpus, split or label set.
        ConfigError: no seed, a negative number of draws, or a label set of which a turn may carry several.
        DataError: a part without supporter turns.
    """
    if not seeds or bootstrap < 0:
        raise ConfigError(f"Floors need at least one seed and 0 draws or more, but got {len(seeds)} and {bootstrap}.")
    parts = {name: _load(dataset, name, merge_turns, path, options or {}) for name in (train_split, split)}
    parts[split] = parts[split] if train_split == split else parts[split][:max_conversations]
    chosen, notes = _label_set(dataset, label_set, parts[split])
    asked = {"split": split, "train_split": train_split, "opening": opening, "merge_turns": merge_turns}
    draws = {"seeds": list(seeds), "bootstrap": bootstrap, "seed": seed}
    settings = {"dataset": _named(dataset), **asked, "options": dict(options or {}), **draws}
    settings |= _fingerprints(chosen, parts[split], parts[train_split])
    kept = None if fresh or folder is None else _read(Path(folder), settings)
    if kept is not None:
        say(f"read from {folder}")
        return kept
    train, test = (spots(parts[part], chosen, opening=opening) for part in (train_split, split))
    for part, found in ((train_split, train), (split, test)):
        if not found:
            raise DataError(f"The part '{part}' of '{dataset}' has no supporter turn to judge or to learn from.")
    computed, predictions = _compute(settings, train, test, notes, say)
    if folder is not None:
        write_json(Path(folder) / PREDICTIONS, asdict(predictions))
        write_json(Path(folder) / FILE, computed.to_dict())
    return computed


def _named(dataset: str) -> str:
    """A file without the folders that lead to it."""
    return Path(dataset).name if corpora.is_file(dataset) else dataset


def _load(
    dataset: str, split: str, merge_turns: bool, path: str | Path | None, options: Mapping[str, Any]
) -> list[Conversation]:
    found = corpora.load(dataset, split, path=path, **options)
    return [conv.merged() for conv in found] if merge_turns else found


def _fingerprints(
    label_set: str | None, judged: Sequence[Conversation], train: Sequence[Conversation]
) -> dict[str, Any]:
    """What else numbers depend on: labels, data, and the libraries that compute them."""
    return {
        "label_set": label_set,
        "label_set_hash": taxonomy.get(label_set).hash if label_set else None,
        "data": hash_of(judged),
        "train_data": hash_of(train),
        "versions": {name: _version(name) for name in ("heedful", "numpy", "scikit-learn", "scipy")},
    }


def read_floors(folder: str | Path) -> Floors:
    """Floors that were computed before.

    Raises:
        NotFoundError: there are none.
        DataError: the file is damaged.
    """
    return Floors.from_dict(_json(Path(folder) / FILE))


def read_predictions(folder: str | Path) -> Predictions:
    """The labels that the strategy floors gave.

    Raises:
        NotFoundError: there are none.
        DataError: the file is damaged.
    """
    path = Path(folder) / PREDICTIONS
    record = _json(path)
    try:
        columns = {name: tuple(record[name]) for name in ("ids", "clusters", "gold", "labels")}
        return Predictions(**columns, predicted={k: tuple(v) for k, v in record["predicted"].items()})
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{path} holds no predictions; run: heedful eval floors --fresh") from None


def _json(path: Path) -> Any:
    if not path.is_file():
        raise NotFoundError(f"There is no '{path}'; make it with: heedful eval floors DATASET --out {path.parent}")
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        raise DataError(f"{path} is damaged (no JSON); run: heedful eval floors --fresh") from None


def _read(folder: Path, settings: Mapping[str, Any]) -> Floors | None:
    """What lies in `folder`, if it is about the same data under the same settings."""
    try:
        found = read_floors(folder)
        read_predictions(folder)
    except (NotFoundError, DataError):
        return None
    return found if found.settings == json.loads(json.dumps(settings)) else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _label_set(
    dataset: str, asked: str | None, conversations: Sequence[Conversation]
) -> tuple[str | None, tuple[str, ...]]:
    """The label set of the strategy floors, or None and a note why there are no such floors."""
    carried = Counter(
        name for c in conversations for t in c.turns if t.role == "assistant" for name in {n.set for n in t.labels}
    )
    having = ", ".join(sorted(carried)) or "none"
    if asked is None:
        known = corpora.get(dataset).info.layers if not corpora.is_file(dataset) else tuple(sorted(carried))
        strategies = [name for name in known if name.endswith("_strategy")]
        if len(strategies) == 1:
            asked = strategies[0]
        else:
            many = "several label sets whose names end" if strategies else "no label set whose name ends"
            return None, (
                f"No strategy floors: '{dataset}' has {many} in _strategy. Name a set with --label-set; supporter "
                f"turns carry: {having}.",
            )
    if taxonomy.get(asked).cardinality == "multi":
        raise ConfigError(
            f"A turn may carry several labels of '{asked}', and these floors predict one; name a set of single labels. "
            f"Supporter turns carry: {having}."
        )
    if not carried[asked]:
        return None, (
            f"No strategy floors: no supporter turn of this part carries a label of '{asked}'; they carry: {having}.",
        )
    return asked, ()


# ------------------------------------------------------------------------------------------------------- computation


def _compute(
    settings: dict[str, Any], train: Sequence[Spot], test: Sequence[Spot], notes: tuple[str, ...], say: Say
) -> tuple[Floors, Predictions]:
    chosen = settings["label_set"]
    labels = taxonomy.get(chosen).names if chosen else ()
    counts = Counter(spot.label for spot in test)
    asked = [spot for spot in test if spot.label is not None]
    if chosen and counts[None]:
        notes = (*notes, f"{counts[None]:,} of {len(test):,} turns have no label and no place in the strategy floors.")
    predicted: dict[str, tuple[str, ...]] = {}
    strategies = []
    for name in _listed(STRATEGY_FLOORS, strategy_floors.ORDER) if chosen else ():
        say(f"strategy floor: {name}")
        found, guesses = _strategy_floor(name, train, asked, labels, settings)
        strategies.append(found)
        if guesses is not None:
            predicted[name] = guesses
    replies = []
    for name in _listed(REPLY_FLOORS, reply_floors.ORDER):
        say(f"reply floor: {name}")
        replies.append(_reply_floor(name, train, test, settings))
    made = Floors(
        settings=settings,
        labels=labels,
        gold={label: counts[label] for label in labels},
        turns=len(test),
        unlabelled=counts[None] if chosen else 0,
        dialogues=len({spot.conversation_id for spot in test}),
        train_turns=len(train),
        metrics=_about([*(STRATEGY_METRICS if strategies else ()), *_reply_metrics()]),
        strategies=tuple(strategies),
        replies=tuple(replies),
        notes=notes,
    )
    return made, Predictions(
        ids=tuple(spot.id for spot in asked),
        clusters=tuple(spot.conversation_id for spot in asked),
        gold=tuple(str(spot.label) for spot in asked),
        labels=labels,
        predicted=predicted,
    )


def _strategy_floor(
    name: str, train: Sequence[Spot], test: Sequence[Spot], labels: Sequence[str], settings: Mapping[str, Any]
) -> tuple[Floor, tuple[str, ...] | None]:
    kind: StrategyFloor = STRATEGY_FLOORS.get(name)
    floor = Floor(name=name, title=kind.title, definition=kind.definition)
    try:
        guess = kind.predict(train, test, labels)
    except (DataError, MissingExtraError) as err:
        return replace(floor, reason=str(err)), None
    rows = Rows.of(
        gold=[spot.label for spot in test],
        predicted=guess.predicted,
        distributions=guess.shares.tolist(),
        clusters=[spot.conversation_id for spot in test],
        labels=labels,
    )
    table = score(rows, metrics=STRATEGY_METRICS, bootstrap=settings["bootstrap"], seed=settings["seed"])
    scores = {line.name: Measure(value=line.value, low=line.low, high=line.high, n=line.n) for line in table.lines}
    return replace(floor, scores=scores, note=guess.note), guess.predicted


def _reply_floor(name: str, train: Sequence[Spot], test: Sequence[Spot], settings: Mapping[str, Any]) -> Floor:
    kind: ReplyFloor = REPLY_FLOORS.get(name)
    floor = Floor(name=name, title=kind.title, definition=kind.definition)
    if kind.needs_label and settings["label_set"] is None:
        return replace(floor, reason="needs the labels of a label set")
    written = [kind.write(train, test, seed) for seed in (settings["seeds"] if kind.drawn else settings["seeds"][:1])]
    index = [i for i, reply in enumerate(written[0]) if reply is not None]
    if not index:
        return replace(floor, reason="no turn of this part carries a label that a training reply has")
    base = Rows.of(written[0], [spot.reply for spot in test], clusters=[spot.conversation_id for spot in test]).take(
        index
    )
    rows = [base.with_hypotheses([replies[i] for i in index]) for replies in written]
    scores = {metric.name: _measured(metric, rows, settings) for metric, _ in resolve(kind.metrics)}
    left_out = len(test) - len(index)
    note = f"turns left out, since no training reply has their label: {left_out:,}" if left_out else None
    return replace(floor, scores=scores, note=note)


def _measured(metric: Metric, rows: Sequence[Rows], settings: Mapping[str, Any]) -> Measure:
    """The mean over seeds; a dialogue brings the replies of all its seeds along when it is drawn."""
    results: list[Result] = [metric.compute(part) for part in rows]
    whole = averaged(results)
    if np.isnan(whole.value):
        return Measure(value=None, reason=results[0].reason or "nothing to count in any row")
    ends = None
    if settings["bootstrap"]:
        ends = interval(whole, rows[0].cluster_index, draws=settings["bootstrap"], seed=settings["seed"])
    values = [result.value for result in results]
    several = len(values) > 1
    return Measure(
        value=whole.value,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        n=len(rows[0]),
        seeds=tuple(values) if several else (),
        spread=float(np.std(values, ddof=1)) if several else None,
    )


def _listed(table: Registry, order: Sequence[str]) -> list[str]:
    return [*order, *(name for name in table.names() if name not in order)]


def _reply_metrics() -> list[str]:
    return list(dict.fromkeys(name for floor in REPLY_FLOORS.names() for name in REPLY_FLOORS.get(floor).metrics))


def _about(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        metric.name: {
            "title": metric.title,
            "definition": metric.definition,
            "signature": metric.signature(),
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
        }
        for metric, _ in resolve(names)
    }
