"""Scores of a study: every system under one decoding, over all seeds, with intervals and paired differences.

The value of several seeds is the mean of the seeds' values. Its interval redraws dialogues, and a dialogue brings the
replies of all its seeds along: seeds are no new dialogues, and counting them as such would make intervals too narrow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from heedful.classify import LabelModel
from heedful.evaluation import perplexity
from heedful.evaluation._words import group_of
from heedful.models.forward import SampleLoss
from heedful.scoring.base import COLUMNS, Floats, Metric, Result, Rows
from heedful.scoring.intervals import interval, paired
from heedful.scoring.rewards import Component, RewardConfig, RewardSet, Scored, Task
from heedful.scoring.rewards.labels import gold_label
from heedful.scoring.suite import resolve
from heedful.scoring.text import signature
from heedful.types import Trace

TOTAL = "reward"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What rewards said of the replies of one system, one decoding and one seed.

    Args:
        values: score -> [N], NaN = unscored; rewards are `reward/<label>`, their total `reward`, held-out scores
            `heldout/<label>`.
        reasons: score -> why some replies have no value.
        clipped, raised: score -> how many values lay outside the declared range; where the function raised.
    """

    values: dict[str, Floats] = field(repr=False)
    reasons: dict[str, str]
    clipped: dict[str, int]
    raised: dict[str, int]


def judge(traces: Sequence[Trace], tasks: Mapping[str, Task], rewards: RewardSet, heldout: RewardSet) -> Judged:
    """Give every reply to both sets; a place without a reply is unscored."""
    found = Judged(values={}, reasons={}, clipped={}, raised={})
    written = [i for i, trace in enumerate(traces) if trace.finish != "error"]
    for prefix, chosen in (("reward", rewards), ("heldout", heldout)):
        if not chosen.components:
            continue
        kept = [traces[i] for i in written]
        scored = chosen(kept, [tasks[t.id] for t in kept])
        for column, name in enumerate(scored.names):
            key = f"{prefix}/{name}"
            _spread(found, key, scored.values[:, column], written, len(traces))
            why = {str(r[column]) for r in scored.reasons if r[column] is not None}
            if len(kept) < len(traces):
                why.add("no reply")
            if why:
                found.reasons[key] = "; ".join(sorted(why))
            found.clipped[key], found.raised[key] = int(scored.clipped[column]), int(scored.raised[column])
        if prefix == "reward":
            _spread(found, TOTAL, scored.total, written, len(traces))
            if np.isnan(found.values[TOTAL]).any():
                found.reasons[TOTAL] = _unscored_total(scored)
    return found


def _spread(found: Judged, key: str, values: Floats, at: Sequence[int], n: int) -> None:
    column = np.full(n, np.nan)
    column[list(at)] = values
    found.values[key] = column


def _unscored_total(scored: Scored) -> str:
    missing = [name for k, name in enumerate(scored.names) if scored.weights[k] and np.isnan(scored.values[:, k]).any()]
    return f"a component that counts is unscored ({', '.join(missing)})" if missing else "no reply"


class Board:
    """All replies under one decoding, and what was measured of them.

    Args:
        rows: system -> rows per seed, at the same places in the same order; a baseline's rows stand once for each seed.
        judged: the same for rewards.
        losses: system -> likelihoods of the replies in the corpus, in the order of the places; they know no decoding.
    """

    def __init__(
        self,
        *,
        metrics: Sequence[str],
        seeds: Sequence[int],
        rows: Mapping[str, Sequence[Rows]],
        judged: Mapping[str, Sequence[Judged]],
        losses: Mapping[str, Sequence[SampleLoss]],
        bootstrap: int,
        seed: int,
    ) -> None:
        self.metrics = resolve(metrics)
        self.seeds, self.rows, self.judged, self.losses = tuple(seeds), rows, judged, losses
        self.bootstrap, self.seed = bootstrap, seed
        self.clusters = next(iter(rows.values()))[0].cluster_index
        self._known: dict[tuple[int, str, tuple[int, ...]], Result] = {}

    # ------------------------------------------------------------------ one system

    def table(self, system: str) -> dict[str, dict[str, Any]]:
        """Score -> value, interval, n, unscored, reason, value of each seed."""
        out = {name: self._reward(system, name) for name in self._reward_names(system)}
        if self.losses.get(system):
            for name, result in perplexity.results(self.losses[system]).items():
                out[name] = self._entry(system, result, [result], n=len(self.losses[system]), unscored=0, reason=None)
        for metric, group in sorted(self.metrics, key=lambda pair: pair[0].stage):
            why_not = metric.missing() if group else None
            index, reason = self._complete(metric, system)
            if why_not or not index:
                out[metric.name] = _nothing(why_not or reason or "no rows", unscored=len(self.clusters))
                continue
            results = self._results(metric, system, index)
            out[metric.name] = self._counted(system, results, index, reason)
        return out

    def _reward_names(self, system: str) -> list[str]:
        names = list(self.judged[system][0].values)
        return [TOTAL] * (TOTAL in names) + [name for name in names if name != TOTAL]

    def _reward(self, system: str, name: str) -> dict[str, Any]:
        judged = self.judged[system]
        results = [Result.mean(j.values[name]) for j in judged]
        once = judged[:1] if self._is_baseline(system) else judged
        n = int(sum((~np.isnan(j.values[name])).sum() for j in once))
        found = self._entry(
            system,
            averaged(results),
            results,
            n=n,
            unscored=len(once) * len(self.clusters) - n,
            reason=next((j.reasons[name] for j in judged if name in j.reasons), None),
        )
        for key in ("clipped", "raised"):
            found[key] = sum(getattr(j, key).get(name, 0) for j in once)
        return found

    def _counted(self, system: str, results: Sequence[Result], index: list[int], reason: str | None) -> dict[str, Any]:
        once = results[:1] if self._is_baseline(system) else results
        n = sum(len(index) if r.per_sample is None else int((~np.isnan(r.per_sample)).sum()) for r in once)
        unscored = len(once) * len(self.clusters) - n
        parts = [reason, *(r.reason for r in once if unscored)]
        why = "; ".join(dict.fromkeys(p for p in parts if p)) or None
        clusters = self.clusters[index] if len(index) < len(self.clusters) else self.clusters
        return self._entry(system, averaged(results), results, n=n, unscored=unscored, reason=why, clusters=clusters)

    def _entry(
        self,
        system: str,
        result: Result,
        results: Sequence[Result],
        *,
        n: int,
        unscored: int,
        reason: str | None,
        clusters: Any = None,
    ) -> dict[str, Any]:
        if np.isnan(result.value):
            return _nothing(reason or "nothing to count in any row", unscored=unscored + n)
        numbers = self.clusters if clusters is None else _renumbered(clusters)
        ends = interval(result, numbers, draws=self.bootstrap, seed=self.seed)
        low, high = ends or (None, None)
        # Where nothing was drawn (greedy, baselines, perplexity) there is one value, and no seed's to show beside it.
        several = len(results) > 1 and not self._is_baseline(system)
        each = {str(s): r.value for s, r in zip(self.seeds, results, strict=True)} if several else {}
        return {
            "value": result.value,
            "low": low,
            "high": high,
            "n": n,
            "unscored": unscored,
            "reason": reason,
            "seeds": each,
        }

    def _is_baseline(self, system: str) -> bool:
        return len(self.rows[system]) > 1 and self.rows[system][0] is self.rows[system][1]

    def _complete(self, metric: Metric, *systems: str) -> tuple[list[int], str | None]:
        """Places at which all of `systems` have, with every seed, what the metric needs; and why others do not."""
        index, reasons = list(range(len(self.clusters))), []
        for name in metric.needs:
            columns = [rows.column(name) for system in systems for rows in self.rows[system]]
            kept = [i for i in index if all(column[i] is not None for column in columns)]
            if len(kept) < len(index):
                reasons.append(COLUMNS[name][1])
            index = kept
        return index, "; ".join(reasons) or None

    def _results(self, metric: Metric, system: str, index: list[int]) -> list[Result]:
        return [self._result(metric, rows, index) for rows in self.rows[system]]

    def _result(self, metric: Metric, rows: Rows, index: list[int]) -> Result:
        key = (id(rows), metric.name, () if len(index) == len(rows) else tuple(index))
        if key not in self._known:
            self._known[key] = metric.compute(rows.take(index))
        return self._known[key]

    # ------------------------------------------------------------------ two systems

    def compare(self, first: str, second: str) -> list[dict[str, Any]]:
        """Second minus first on every score that both have, on the rows that both have."""
        out = []
        for name in self._reward_names(first):
            a, b = self._both_scored(first, second, name)
            out.append(self._difference(first, second, name, a, b, self.clusters))
        if self.losses.get(first) and self.losses.get(second):
            ours, theirs = (perplexity.results(self.losses[s]) for s in (first, second))
            shared = [name for name in ours if name in theirs]
            out += [self._difference(first, second, n, ours[n], theirs[n], self.clusters) for n in shared]
        for metric, group in sorted(self.metrics, key=lambda pair: pair[0].stage):
            index, _ = self._complete(metric, first, second)
            if (group and metric.missing()) or not index:
                continue
            a, b = (averaged(self._results(metric, s, index)) for s in (first, second))
            out.append(self._difference(first, second, metric.name, a, b, _renumbered(self.clusters[index])))
        return out

    def _both_scored(self, first: str, second: str, name: str) -> tuple[Result, Result]:
        one, two = ([j.values[name] for j in self.judged[s]] for s in (first, second))
        gone = [np.isnan(a) | np.isnan(b) for a, b in zip(one, two, strict=True)]
        a, b = (
            averaged([Result.mean(np.where(g, np.nan, v)) for v, g in zip(vs, gone, strict=True)]) for vs in (one, two)
        )
        return a, b

    def _difference(self, first: str, second: str, name: str, a: Result, b: Result, clusters: Any) -> dict[str, Any]:
        values = [a.value, b.value]
        test = None if np.isnan(values).any() else paired(a, b, clusters, draws=self.bootstrap, seed=self.seed)
        return {
            "a": second,
            "b": first,
            "metric": name,
            "difference": test.difference if test else None,
            "low": test.low if test else None,
            "high": test.high if test else None,
            "p": test.p_randomisation if test else None,
        }


def averaged(results: Sequence[Result]) -> Result:
    """The mean over seeds as one result that can be resampled: a dialogue's sums of all seeds stand side by side.

    A seed without a value (all rows unscored) is left out of the mean.
    """
    if len(results) == 1:
        return results[0]
    value = _mean(np.array([[r.value] for r in results]))[0]
    tables = [(r.statistics, r.combine) for r in results if r.statistics is not None and r.combine is not None]
    if len(tables) == len(results):
        ends = np.cumsum([t.shape[1] for t, _ in tables])[:-1]

        def combine(sums: Floats) -> Floats:
            parts = np.split(sums, ends, axis=1)
            return _mean(np.array([how(part) for part, (_, how) in zip(parts, tables, strict=True)]))

        return Result(value=float(value), statistics=np.hstack([t for t, _ in tables]), combine=combine)
    drawn = [r.resample for r in results if r.resample is not None]
    if len(drawn) == len(results):
        return Result(value=float(value), resample=lambda weights: _mean(np.array([how(weights) for how in drawn])))
    return Result(value=float(value))


def _mean(values: Floats) -> Floats:
    """Over the first axis, NaN left out; NaN where nothing is left."""
    scored = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = np.where(scored, values, 0.0).sum(axis=0) / scored.sum(axis=0)
    return mean


def _renumbered(clusters: Any) -> Any:
    """Cluster numbers 0 to C - 1 of a part of the rows, in the order that `Rows.take` gives them."""
    return np.unique(clusters, return_inverse=True)[1]


def _nothing(reason: str, *, unscored: int) -> dict[str, Any]:
    return {
        "value": None, "low": None, "high": None, "n": 0, "unscored": unscored, "reason": reason, "seeds": {},
    }  # fmt: skip


# ---------------------------------------------------------------------- what each score is


def definitions(
    metrics: Sequence[str],
    rewards: RewardSet,
    heldout: RewardSet,
    *,
    prints: Mapping[str, str],
    plan_tokens: bool | None,
) -> dict[str, dict[str, Any]]:
    """Score -> title, definition, signature, better end, scale, group.

    Args:
        prints: path of a scorer -> its fingerprint, for the signatures.
        plan_tokens: whether perplexity of a plan was measured; None = no perplexity at all.
    """
    out: dict[str, dict[str, Any]] = {}
    if rewards.components:
        formula = " ".join(f"{c.weight:+g} {c.name}" for c in rewards.components if c.weight) or "no part has a weight"
        out[TOTAL] = {
            "title": "training reward, total",
            "definition": f"Weighted sum of its parts ({formula}), mean over replies.",
            "signature": signature("reward", *(f"{c.weight:g}*{c.name}" for c in rewards.components)),
            "higher_is_better": True,
            "scale": "weighted sum",
            "group": "reward",
        }
    for prefix, chosen in (("reward", rewards), ("heldout", heldout)):
        for component in chosen.components:
            out[f"{prefix}/{component.name}"] = _reward_info(component, prefix, prints)
    for name, title in perplexity.TITLES.items() if plan_tokens is not None else ():
        if name != "ppl_plan" or plan_tokens:
            out[name] = {
                "title": title,
                "definition": perplexity.DEFINITIONS[name],
                "signature": f"heedful {metadata.version('heedful')}",
                "higher_is_better": False,
                "scale": perplexity.SCALES[name],
                "group": group_of(name),
            }
    for metric, _ in resolve(metrics):
        out[metric.name] = {
            "title": metric.title,
            "definition": metric.definition,
            "signature": metric.signature(),
            "higher_is_better": metric.higher_is_better,
            "scale": metric.unit,
            "group": group_of(metric.name),
        }
    return out


def _reward_info(component: Component, prefix: str, prints: Mapping[str, str]) -> dict[str, Any]:
    params = {key: prints.get(str(value), value) for key, value in component.params.items()}
    weight = f", weight {component.weight:g}" if prefix == "reward" else ""
    return {
        "title": component.name + weight,
        "definition": f"{component.reward.definition} Mean over replies.".strip(),
        "signature": signature(component.name, *(f"{key}:{value}" for key, value in sorted(params.items()))),
        "higher_is_better": component.reward.higher_is_better,
        "scale": component.scale,
        "group": prefix,
    }


def with_constants(
    infos: dict[str, dict[str, Any]],
    chosen: Mapping[str, Sequence[RewardConfig]],
    tasks: Sequence[Task],
    judges: Mapping[str, LabelModel],
) -> dict[str, dict[str, Any]]:
    """The definitions, with what the constant reaches in the title of every score that is an accuracy.

    `tag` and a scorer with `hard: true` give 1 or 0 per reply, so their mean is an accuracy, and no table may show one
    without the constant that always names the most frequent gold label (`evaluation.emotion`).
    """
    for prefix, specs in chosen.items():
        for spec in specs:
            if not (spec.name == "tag" or spec.params.get("hard")) or spec.params.get("label"):
                continue
            scorer = judges.get(str(spec.params.get("scorer")))
            label_set = str(spec.params.get("label_set")) if scorer is None else scorer.label_set
            gold = [gold_label(task, label_set, spec.params.get("of", "reference")) for task in tasks]
            counts = Counter(label for label in gold if label is not None)
            if counts:
                label, n = counts.most_common(1)[0]
                info = infos[f"{prefix}/{spec.label or spec.name.rpartition(':')[2]}"]
                info["title"] += f" (always “{label}”: {n / counts.total():.4f})"
    return infos


def plans_measured(losses: Mapping[str, Sequence[SampleLoss]]) -> bool | None:
    """Whether any system wrote a plan (True or False); None where no likelihood was measured."""
    if not any(losses.values()):
        return None
    return any(loss.plan_tokens for found in losses.values() for loss in found)


def aligned(traces: Sequence[Trace], ids: Sequence[str]) -> list[Trace]:
    """The traces of `ids`, in that order."""
    by_id = {trace.id: trace for trace in traces}
    return [by_id[i] for i in ids]


def as_plain(judged: Judged, traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """One record per reply with its rewards; NaN becomes null."""
    return [
        {"id": trace.id, "scores": {k: None if np.isnan(v[i]) else float(v[i]) for k, v in judged.values.items()}}
        for i, trace in enumerate(traces)
    ]
