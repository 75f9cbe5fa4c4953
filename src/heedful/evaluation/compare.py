"""Paired comparison of two stored evaluations: same replies due, other system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.evaluation import perplexity
from heedful.evaluation.traces import read_records
from heedful.models.forward import SampleLoss
from heedful.scoring import Comparison, Rows, compare
from heedful.scoring.suite import resolve
from heedful.types import Trace

NO_CONTEXTS = (
    "it needs the client's turns, which an evaluation stores only with the baseline copy_last_turn; add that to "
    "baselines and run the evaluation again, its replies are kept"
)


def read_summary(folder: Path, *, kinds: Sequence[str] | None = ("eval",)) -> dict[str, Any]:
    """`summary.json` of an evaluation; of any run whose `kind` is among `kinds` (None: whatever it is).

    Raises:
        NotFoundError: there is none, or it is a training run's.
        DataError: it is damaged.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise NotFoundError(f"'{folder}' holds no evaluation (no summary.json); expected a folder that eval run made.")
    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise DataError(f"{path} is damaged (no JSON); run the evaluation again, its replies are kept.") from None
    if not isinstance(found, dict) or (kinds is not None and found.get("kind") not in kinds):
        raise NotFoundError(f"'{folder}' is no evaluation; its evaluations are listed by: heedful eval ls {folder}")
    return found


def compare_folders(
    first: str, second: str, *, system: str, metrics: Sequence[str], bootstrap: int, seed: int
) -> list[Comparison]:
    """Second minus first. Each is an evaluation's folder, optionally with `:system`.

    Metrics that look at the client's words (copy_rate) take them from the baseline `copy_last_turn` of either
    evaluation; without it such a metric is not compared, and its `reason` says so.

    Raises:
        NotFoundError: no such evaluation or system.
        ConfigError: they are about different data, or there are no draws.
    """
    if bootstrap < 1:
        raise ConfigError(f"A paired comparison needs at least one draw, but bootstrap is {bootstrap}.")
    (one, a_losses), (two, b_losses) = _read(first, system), _read(second, system)
    ids = [t.id for t in one]
    by_id = {t.id: t for t in two}
    if set(ids) != set(by_id) or any(t.reference != by_id[t.id].reference for t in one):
        raise ConfigError(
            f"The evaluations are about different data ({len(one)} and {len(two)} replies); compare two evaluations of "
            "the same corpus, split and format."
        )
    found = _perplexities(a_losses, b_losses, ids, bootstrap=bootstrap, seed=seed)
    contexts = _contexts(first, system) or _contexts(second, system)
    rows = [Rows.from_traces(traces, contexts=contexts) for traces in (one, [by_id[i] for i in ids])]
    compared = compare(rows[0], rows[1], metrics=metrics, bootstrap=bootstrap, seed=seed)
    if contexts:
        return found + compared
    silent = {metric.name for metric, _ in resolve(metrics) if "context" in metric.needs}
    return found + [replace(c, reason=NO_CONTEXTS) if c.name in silent else c for c in compared]


def _contexts(place: str, system: str) -> dict[str, str]:
    """Place -> the client's last turn before it: what the baseline `copy_last_turn` of the same data said back."""
    folder, _, named = place.partition(":")
    path = Path(folder) / "traces" / "copy_last_turn.jsonl"
    if not path.is_file():
        return {}
    header, records = read_records(path)
    data = read_records(Path(folder) / "traces" / f"{named or system}.jsonl")[0].get("data")
    if header.get("data") != data:
        return {}
    return {t.id: t.reply for t in map(Trace.from_dict, records) if t.finish != "error"}


def _read(place: str, system: str) -> tuple[list[Trace], dict[str, SampleLoss]]:
    folder, _, named = place.partition(":")
    name = named or system
    path = Path(folder) / "traces" / f"{name}.jsonl"
    if not path.is_file():
        known = sorted(p.stem for p in (Path(folder) / "traces").glob("*.jsonl"))
        raise NotFoundError(f"'{folder}' has no system '{name}'. It has: {', '.join(known) or 'no evaluation'}.")
    traces = [Trace.from_dict(r) for r in read_records(path)[1]]
    likelihood = Path(folder) / "likelihood" / f"{name}.jsonl"
    losses = [SampleLoss(**r) for r in read_records(likelihood)[1]] if likelihood.is_file() else []
    return traces, {loss.id: loss for loss in losses}


def _perplexities(
    a: dict[str, SampleLoss], b: dict[str, SampleLoss], ids: Sequence[str], *, bootstrap: int, seed: int
) -> list[Comparison]:
    if not all(i in a and i in b for i in ids):
        return []
    one, two = [a[i] for i in ids], [b[i] for i in ids]
    clusters = [i.rsplit("/", 1)[0] for i in ids]
    values = [perplexity.results(losses) for losses in (one, two)]
    tests = perplexity.difference(one, two, clusters, draws=bootstrap, seed=seed)
    return [
        Comparison(
            name=name,
            first=values[0][name].value,
            second=values[1][name].value,
            difference=test.difference if test else None,
            low=test.low if test else None,
            high=test.high if test else None,
            p_bootstrap=test.p_bootstrap if test else None,
            p_randomisation=test.p_randomisation if test else None,
            n=len(ids),
        )
        for name, test in tests.items()
    ]
