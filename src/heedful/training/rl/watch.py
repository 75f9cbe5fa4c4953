"""Seeing reward hacking: the numbers of every round, validation, and the rules that end a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heedful.scoring.base import Rows
from heedful.scoring.metrics import METRICS
from heedful.scoring.rewards import RewardSet, Scored
from heedful.training.rl.advantages import Floats
from heedful.training.rl.config import RLConfig
from heedful.training.rl.experience import Experience, Prompt
from heedful.types import Trace


def round_numbers(seen: Experience) -> dict[str, float]:
    """What the log says of a round before its updates. Absent means: nothing to measure; missing is not zero."""
    if not seen.written:  # a server that gave no answer that can be used
        return {}
    scored, lengths = seen.scored, seen.lengths.astype(np.float64)
    cut = np.array([w.finish == "length" for w in seen.written])
    out: dict[str, float] = {
        "length": float(lengths.mean()),
        "truncated": float(cut.mean()),
        "empty": float(np.mean([not t.reply for t in seen.traces])),
        "unscored": float(np.isnan(scored.total).mean()),
        "gated": float(scored.gated.mean()),
        **_spread("reward", scored.total),
        **_measured("repetition", "repetition", seen.traces),
        **_measured("distinct2", "distinct2", seen.traces),
    }
    if seen.reference is not None:
        out["kl"] = float(seen.kl.mean())
    for k, name in enumerate(scored.names):
        column = scored.values[:, k]
        out.update(_spread(f"reward/{name}", column))
        out[f"reward/{name}/unscored"] = float(np.isnan(column).mean())
        out[f"reward/{name}/clipped"] = float(scored.clipped[k])
        out[f"reward/{name}/raised"] = float(scored.raised[k])
        _put(out, f"reward/{name}/length_corr", correlation(column, lengths))
        for other in range(k):
            _put(out, f"reward/corr/{scored.names[other]}/{name}", correlation(scored.values[:, other], column))
    return out


def explained_variance(values: Floats, returns: Floats) -> float | None:
    """1 - var(G - V) / var(G) over tokens; None where all returns are equal."""
    spread = float(returns.var())
    return None if spread < 1e-12 else 1.0 - float((returns - values).var()) / spread


def correlation(left: Floats, right: Floats) -> float | None:
    """Pearson's r over the entries that both have; None with fewer than three of them or without any spread."""
    both = ~(np.isnan(left) | np.isnan(right))
    x, y = left[both], right[both]
    if len(x) < 3 or x.std() < 1e-12 or y.std() < 1e-12:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _spread(name: str, values: Floats) -> dict[str, float]:
    seen = values[~np.isnan(values)]
    return {name: float(seen.mean()), f"{name}/std": float(seen.std())} if len(seen) else {}


def _put(out: dict[str, float], name: str, value: float | None) -> None:
    if value is not None:
        out[name] = value


def _measured(name: str, metric: str, traces: Sequence[Trace]) -> dict[str, float]:
    value = METRICS.get(metric).compute(Rows.of([t.reply for t in traces])).value / 100.0
    return {} if np.isnan(value) else {name: float(value)}


def validation_row(
    step: int,
    prompts: Sequence[Prompt],
    traces: Sequence[Trace],
    ids: Sequence[tuple[int, ...]],
    sets: tuple[RewardSet, RewardSet],
) -> dict[str, Any]:
    """One line of validation.jsonl: every score of every reply, so that intervals can be had later.

    Args:
        ids: token ids of each reply.
        sets: the training reward, and what is held out.
    """
    tasks = [p.task for p in prompts]
    rewards, heldout = sets
    scored, held = (judge(traces, tasks, completion_ids=ids) for judge in sets)
    return {
        "step": step,
        "n": len(traces),
        "ids": [task.id for task in tasks],
        "clusters": [task.context.id for task in tasks],
        "total": _column(scored.total),
        "train": _columns(scored),
        "weights": {c.name: c.weight for c in rewards.components},
        "heldout": _columns(held),
        "lower_is_better": [c.name for c in heldout.components if not c.reward.higher_is_better],
        "length": [t.tokens for t in traces],
        "finish": [t.finish for t in traces],
        **_measured("distinct2", "distinct2", traces),
        **_measured("repetition", "repetition", traces),
    }


def _columns(scored: Scored) -> dict[str, list[float | None]]:
    return {name: _column(scored.values[:, k]) for k, name in enumerate(scored.names)}


def _column(values: Floats) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]


def heldout_level(row: dict[str, Any], start: dict[str, Any]) -> float | None:
    """How good the held-out scores of a validation are: their mean change since `start`, each in its own spread there.

    The change of a score of which less is better counts the other way round.
    """
    changes = []
    for name in (name for name in row["heldout"] if name in start["heldout"]):  # in order: sums of floats depend on it
        pairs = [
            (now, was) for now, was in zip(row["heldout"][name], start["heldout"][name], strict=True)
            if now is not None and was is not None
        ]  # fmt: skip
        if not pairs:
            continue
        now, was = np.array(pairs).T
        sign = -1.0 if name in row["lower_is_better"] else 1.0
        spread = float(was.std()) or float(now.std())
        if spread < 1e-9:
            continue  # equal everywhere, then as now: it says nothing about a change
        changes.append(sign * float((now - was).mean()) / spread)
    return float(np.mean(changes)) if changes else None


@dataclass(kw_only=True)
class Stop:
    """Why a run ends before its planned end."""

    kind: str
    sentence: str


@dataclass(kw_only=True)
class Watch:
    """The rules that end a run.

    Args:
        start: the validation before the first update.
        best, best_step: the best held-out level so far, and where it was.
        worse: validations in a row below the best.
    """

    config: RLConfig
    start: dict[str, Any] | None = None
    best: float | None = None
    best_step: int = 0
    worse: int = 0
    history: list[float | None] = field(default_factory=list)

    def after_round(self, numbers: dict[str, float]) -> Stop | None:
        """Rules on KL and repetition."""
        kl, limit = numbers.get("kl"), self.config.stop_kl
        if limit is not None and kl is not None and kl > limit:
            return Stop(
                kind="kl",
                sentence=f"the KL to the reference reached {kl:.1f} nats per reply; stop_kl is {limit:g}",
            )
        share, most = numbers.get("repetition"), self.config.stop_repetition
        if most is not None and share is not None and share > most:
            return Stop(
                kind="repetition",
                sentence=f"{100 * share:.0f} % of 3-grams repeat within replies; stop_repetition is {100 * most:g} %",
            )
        return None

    def after_validation(self, row: dict[str, Any]) -> Stop | None:
        """The rule on held-out scores; also remembers which validation was the best."""
        if self.start is None:
            self.start = row
        level = heldout_level(row, self.start)
        self.history.append(level)
        if level is None:
            return None
        if self.best is None or level >= self.best:
            self.best, self.best_step, self.worse = level, int(row["step"]), 0
            return None
        self.worse += 1
        if self.config.stop_heldout is not None and self.worse >= self.config.stop_heldout:
            return Stop(
                kind="heldout",
                sentence=(
                    f"{self.worse} validation{'' if self.worse == 1 else 's'} in a row had held-out scores below those "
                    f"of step {self.best_step}"
                ),
            )
        return None
