"""Did the model get better, or did it only learn to please the reward? A rule over two validations.

    two validations -> Change of the training reward, Change of each held-out score, the gap between them -> Verdict

A score "rose" or "fell" only where the 95 % interval of the paired difference excludes zero and swapping whole
conversations between the two validations gives such a difference less than one time in twenty (Koehn, 2004; Riezler and
Maxwell, 2005). Everything else can be chance, and the sentence says so. Several held-out scores are several chances to
be wrong, so their p are adjusted for their number (Holm, 1979). Held-out scores never entered the reward, so a
reward that rises alone was pleased, not earned (Gao, Schulman and Hilton, 2023, call this overoptimisation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from heedful.pages.numbers import Parts, digits, estimate, said
from heedful.scoring.base import Floats, Result
from heedful.scoring.intervals import interval, paired
from heedful.scoring.text import Ints

LEVEL = 0.05
Moved = Literal["rose", "fell", "chance", "unknown"]
Path = tuple[str, ...]
Kind = Literal["gap", "behind", "both", "mixed", "heldout_only", "neither", "worse", "no_heldout", "unknown"]
"""What a verdict says.

`gap`: the training reward rose and no held-out score got better, and either the gap between them is more than chance
or a held-out score got worse. `behind`: the same, but the gap can be chance, so there are too few data to tell. `both`:
the reward rose, and so did held-out scores, none got worse. `mixed`: it rose, some held-out scores got better and some
worse. `heldout_only`: held-out scores got better without it. `neither`: nothing moved beyond chance. `worse`: the
training reward fell, or held-out scores did without its rising. `no_heldout`: nothing was held out. `unknown`: the data
allow no interval.
"""

_Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One score at two validations, over the replies that have it at both.

    Args:
        path: where it stands in a row of validation.jsonl.
        before, after: means; None where no reply has the score at both.
        n, unscored: replies that are compared; replies that are not, as the score is missing on one side or both.
        conversations: how many are resampled.
        difference, low, high: after minus before with its 95 % interval over conversations; no interval with fewer
            than two conversations.
        p: of the swap test; of held-out scores in a verdict, adjusted for their number.
        deviation: standard deviation over the replies compared, at the first validation; where all were equal there,
            at the last one; None where they were equal again.
        higher_is_better: False for a penalty.
    """

    name: str
    path: Path
    before: float | None
    after: float | None
    n: int
    unscored: int
    conversations: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    deviation: float | None
    higher_is_better: bool = True

    @property
    def moved(self) -> Moved:
        """Whether it moved beyond chance, and which way."""
        if self.low is None or self.high is None or self.difference is None:
            return "unknown"
        if self.low <= 0 <= self.high or (self.p is not None and self.p >= LEVEL):
            return "chance"
        return "rose" if self.difference > 0 else "fell"

    @property
    def better(self) -> bool:
        """Moved beyond chance towards its better end."""
        return self.moved == ("rose" if self.higher_is_better else "fell")

    @property
    def worse(self) -> bool:
        """Moved beyond chance towards its worse end."""
        return self.moved == ("fell" if self.higher_is_better else "rose")

    @property
    def standardised(self) -> float | None:
        """The difference in standard deviations; positive = towards the better end."""
        if self.difference is None or not self.deviation:
            return None
        return self.difference / self.deviation * (1 if self.higher_is_better else -1)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value in standard deviations of the first validation, with its 95 % interval over conversations."""

    value: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int | None:
        """1 or -1 where the interval excludes zero, 0 where it does not, None without one."""
        if self.low is None or self.high is None:
            return None
        return 0 if self.low <= 0 <= self.high else 1 if self.low > 0 else -1


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found between two validations; `sentence` says it for people, `kind` for programs.

    Args:
        heldout_mean: how far the held-out scores moved on average, positive = better.
        gap: how much further the training reward moved than `heldout_mean`. None where nothing can be standardised.
    """

    kind: Kind
    first_step: int
    last_step: int
    training: Change
    heldout: tuple[Change, ...]
    heldout_mean: Estimate | None
    gap: Estimate | None
    parts: Parts

    @property
    def sentence(self) -> str:
        """The finding in words, numbers rounded."""
        return said(self.parts)

    @property
    def declined(self) -> tuple[str, ...]:
        """Held-out scores that got worse beyond chance: what a stop rule asks for."""
        return tuple(change.name for change in self.heldout if change.worse)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for summary.json."""

        def moved(change: Change) -> dict[str, Any]:
            return {
                "before": change.before, "after": change.after, "n": change.n, "unscored": change.unscored,
                "conversations": change.conversations, "difference": change.difference, "low": change.low,
                "high": change.high, "p": change.p, "standardised": change.standardised, "moved": change.moved,
            }  # fmt: skip

        gap = None if self.gap is None else {"value": self.gap.value, "low": self.gap.low, "high": self.gap.high}
        return {
            "kind": self.kind,
            "sentence": self.sentence,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "training": moved(self.training),
            "heldout": {change.name: moved(change) for change in self.heldout},
            "gap": gap,
        }


def verdict(
    first: Mapping[str, Any],
    last: Mapping[str, Any],
    *,
    lower_is_better: Collection[str] = (),
    draws: int = 1000,
    seed: int = 13,
) -> Verdict:
    """Judge a run by two rows of its validation.jsonl: `step`, `ids`, `clusters`, `total`, `heldout`.

    Args:
        first, last: the start, and the weights that are judged: those that a run kept, or its last ones. Replies are
            paired by id, and several of one id in their order; others are left out.
        lower_is_better: held-out scores that are penalties, besides those that a row names under `lower_is_better`.
        draws: resamplings of the bootstrap and of the swap test.
    """
    low = {*lower_is_better, *last.get("lower_is_better", ())}
    options: dict[str, Any] = {"draws": draws, "seed": seed}
    training = change(first, last, ("total",), name="training reward", **options)
    heldout = adjusted(
        [
            change(first, last, ("heldout", name), higher_is_better=name not in low, **options)
            for name in first.get("heldout", {})
            if name in last.get("heldout", {})
        ]
    )
    rows = _pair(first, last)
    columns = [_standard(c, _column(first, c.path), _column(last, c.path), rows) for c in heldout]
    moved = _standard(training, first["total"], last["total"], rows)
    gap = None if moved is None else _distance(moved, columns, rows, **options)
    kind = _kind(training, heldout, gap)
    return Verdict(
        kind=kind, first_step=int(first["step"]), last_step=int(last["step"]), training=training, heldout=heldout,
        heldout_mean=_distance(None, columns, rows, **options), gap=gap, parts=_words(kind, training, heldout, gap),
    )  # fmt: skip


def change(
    first: Mapping[str, Any],
    last: Mapping[str, Any],
    path: Path,
    *,
    name: str | None = None,
    higher_is_better: bool = True,
    draws: int = 1000,
    seed: int = 13,
) -> Change:
    """How one column moved between two rows of validation.jsonl.

    Args:
        path: where the column stands, as `("total",)`, `("train", "copy")`, `("heldout", "emotion")` or `("length",)`.
        name: what to call it; default: the end of the path.
    """
    rows = _pair(first, last)
    before, after = _column(first, path), _column(last, path)
    a, b = _columns(before, after, rows)
    scored = np.isfinite(a)
    n = int(scored.sum())
    # Conversations without a scored reply are no evidence: they are neither drawn nor counted.
    clusters = np.unique(rows.clusters[scored], return_inverse=True)[1]
    found = paired(Result.mean(a[scored]), Result.mean(b[scored]), clusters, draws=draws, seed=seed) if n else None
    # One reply has no spread; equal ones have none that is worth dividing by.
    spreads = [float(column[scored].std(ddof=1)) for column in (a, b)] if n > 1 else []
    return Change(
        name=path[-1] if name is None else name,
        path=path,
        before=float(a[scored].mean()) if n else None,
        after=float(b[scored].mean()) if n else None,
        n=n,
        unscored=max(len(before), len(after)) - n,
        conversations=int(clusters.max()) + 1 if n else 0,
        difference=float((b - a)[scored].mean()) if n else None,
        low=found.low if found else None,
        high=found.high if found else None,
        p=found.p_randomisation if found else None,
        deviation=next((spread for spread in spreads if spread > 1e-9), None),
        higher_is_better=higher_is_better,
    )


def adjusted(changes: Sequence[Change]) -> tuple[Change, ...]:
    """The same with Holm's p: that any of them is called moved by chance alone stays below one in twenty.

    A change without p (nothing to compare) is no test and does not count.
    """
    tested = sorted((c.p, i) for i, c in enumerate(changes) if c.p is not None)
    found, least = list(changes), 0.0
    for rank, (p, i) in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - rank) * p))
        found[i] = replace(changes[i], p=least)
    return tuple(found)


def component_changes(
    first: Mapping[str, Any], last: Mapping[str, Any], *, draws: int = 1000, seed: int = 13
) -> tuple[Change, ...]:
    """How each component of the training reward moved; one with a negative weight is a penalty."""
    weights = last.get("weights", {})
    return tuple(
        change(first, last, ("train", name), higher_is_better=weights.get(name, 1) >= 0, draws=draws, seed=seed)
        for name in first.get("train", {})
        if name in last.get("train", {})
    )


def _column(row: Mapping[str, Any], path: Path) -> Sequence[float | None]:
    found: Any = row
    for key in path:
        found = found[key]
    return cast("Sequence[float | None]", found)


@dataclass(frozen=True)
class _Rows:
    """Which reply of the first validation belongs to which of the last one, and their conversations."""

    first: list[int]
    last: list[int]
    clusters: Ints


def _pair(first: Mapping[str, Any], last: Mapping[str, Any]) -> _Rows:
    before = {key: i for i, key in enumerate(_keys(first["ids"]))}
    found = [(before[key], i) for i, key in enumerate(_keys(last["ids"])) if key in before]
    names = [str(last["clusters"][i]) for _, i in found]
    clusters = np.unique(np.asarray(names), return_inverse=True)[1] if names else np.zeros(0, dtype=np.int64)
    return _Rows([i for i, _ in found], [i for _, i in found], clusters)


def _keys(ids: Sequence[Any]) -> list[_Key]:
    """Ids made unique by counting: the second reply to one prompt is not its first."""
    seen: Counter[str] = Counter()
    keys = []
    for name in map(str, ids):
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys


def _columns(before: Sequence[float | None], after: Sequence[float | None], rows: _Rows) -> tuple[Floats, Floats]:
    """Both columns over the paired rows; NaN on both sides where either has no value."""
    a = np.array([before[i] for i in rows.first], dtype=np.float64)
    b = np.array([after[i] for i in rows.last], dtype=np.float64)
    missing = ~(np.isfinite(a) & np.isfinite(b))
    a[missing] = b[missing] = np.nan
    return a, b


def _standard(
    change: Change, before: Sequence[float | None], after: Sequence[float | None], rows: _Rows
) -> Floats | None:
    """Differences per paired row in standard deviations, positive = better; None where there is no deviation."""
    if change.standardised is None or not change.deviation:
        return None
    a, b = _columns(before, after, rows)
    moved: Floats = (b - a) / change.deviation * (1 if change.higher_is_better else -1)
    return moved


def _distance(
    training: Floats | None, heldout: Sequence[Floats | None], rows: _Rows, *, draws: int, seed: int
) -> Estimate | None:
    """Mean of `training` minus the mean over scores of each score's mean; `training=None`: the held-out mean alone.

    None where a part has no deviation. A score that had one value at both validations is left out of the mean.
    """
    kept = [column for column in heldout if column is not None]
    wanted = training is not None
    if not kept or not len(rows.clusters) or (training is not None and not np.isfinite(training).any()):
        return None
    columns = ([training] if training is not None else []) + kept
    sums = np.column_stack([part for c in columns for part in (np.nan_to_num(c), np.isfinite(c).astype(np.float64))])

    def combine(totals: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            means: Floats = totals[:, 0::2] / totals[:, 1::2]
        ahead: Floats = means[:, 0] - means[:, 1:].mean(axis=1) if wanted else means.mean(axis=1)
        return ahead

    result = Result.from_sums(sums, combine)
    found = interval(result, rows.clusters, draws=draws, seed=seed)
    return Estimate(value=result.value, low=found[0] if found else None, high=found[1] if found else None)


def _kind(training: Change, heldout: Sequence[Change], gap: Estimate | None) -> Kind:
    if training.moved == "unknown":
        return "unknown"
    better, worse = any(c.better for c in heldout), any(c.worse for c in heldout)
    if training.moved == "fell":
        return "worse"
    if training.moved == "chance":
        return "heldout_only" if better and not worse else "worse" if worse else "neither"
    if not heldout or all(c.moved == "unknown" for c in heldout):
        return "no_heldout"
    if better:
        return "mixed" if worse else "both"
    # That no score rose beyond chance is not yet that none rose: the gap itself must be more than chance, or the
    # held-out scores must not have moved at all.
    still = all(not c.difference for c in heldout)
    return "gap" if worse or still or (gap is not None and gap.sign == 1) else "behind"


def _words(kind: Kind, training: Change, heldout: Sequence[Change], gap: Estimate | None) -> Parts:
    """The sentence of a verdict. Rules, not judgement: each kind has one."""
    better = listed([c.name for c in heldout if c.better])
    worse = listed([c.name for c in heldout if c.worse])
    rose: Parts = ("The training reward rose by ", *_by(training), " on validation")
    few = {1: "the held-out scorer", 2: "both held-out scorers"}
    scores = few.get(len(heldout), f"all {len(heldout)} held-out scorers")
    if kind == "unknown":
        why = "no reply was scored at both validations" if not training.n else "one conversation gives no interval"
        return (f"Whether the training reward rose cannot be said: {why}.",)
    if kind == "no_heldout":
        text = ", but no held-out scorer has an answer, so this run cannot tell a better model from a pleased reward."
        return (*rose, text)
    if kind == "gap":
        one = "the held-out scorer did not follow" if len(heldout) == 1 else "none of the held-out scorers did"
        fell = f", and {worse} got worse" if worse else ""
        return (*rose, f" while {one}{fell}: the model learnt to please the reward.", *_ahead(gap))
    if kind == "behind":
        unsure = "the gap between them can be chance: more conversations would tell"
        return (*rose, f" while no held-out scorer got better beyond chance, but {unsure}.")
    if kind == "both":
        who = scores if all(c.better for c in heldout) else f"{better} of the {len(heldout)} held-out scorers"
        return (*rose, f", and so did {who}; none got worse.", *_ahead(gap))
    if kind == "mixed":
        return (*rose, f". Of the held-out scorers {better} got better and {worse} got worse.", *_ahead(gap))
    if training.moved == "fell":
        also = f" Held-out scorers that got better: {better}." if better else ""
        also += f" Held-out scorers that got worse: {worse}." if worse else ""
        return ("The training reward fell by ", *_by(training, sign=-1), f" on validation.{also}")
    still: Parts = ("The training reward did not rise beyond chance (", *_by(training), ")")
    if kind == "heldout_only":
        return (*still, f", yet {better} of the held-out scorers got better.")
    if kind == "worse":
        also = f"; {better} got better" if better else ""
        return (*still, f", and of the held-out scorers {worse} got worse{also}.")
    return (*still, ", and neither did any held-out scorer." if heldout else ", and nothing was held out.")


def _by(change: Change, *, sign: int = 1) -> Parts:
    """The size of a change with its interval; `sign=-1` turns it round, for "fell by"."""
    if change.difference is None:
        return ("an unknown amount",)
    low, high = (change.low, change.high) if sign > 0 else (change.high, change.low)
    ends = [None if end is None else sign * end for end in (low, high)]
    value = sign * change.difference
    return estimate(value, ends[0], ends[1], digits([(value, ends[0], ends[1])]))


def _ahead(gap: Estimate | None) -> Parts:
    """How far the training reward ran ahead, where it did beyond chance."""
    if gap is None or gap.sign != 1:
        return ()
    size = estimate(gap.value, gap.low, gap.high, 2)
    return (" It moved ", *size, " standard deviations further than the held-out scores did on average.")


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
