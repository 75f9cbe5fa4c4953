"""Rows, Metric and Result: what is scored, what a score is, and what it leaves behind.

A metric returns more than its value: per row, numbers that may be *added up* (n-gram matches, lengths, sums), and the
function that turns added-up numbers into the value. So a bootstrap over dialogues costs one matrix product and never
tokenises again, also for corpus metrics such as BLEU that are no mean of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

from heedful.errors import DataError
from heedful.scoring.text import Encoded, Tokenisation
from heedful.types import Trace

Floats = npt.NDArray[np.float64]
T = TypeVar("T")
Column = Literal["hypothesis", "reference", "context", "gold", "predicted", "sampled", "distribution"]
COLUMNS: dict[Column, tuple[str, str]] = {
    "hypothesis": ("hypotheses", "no reply"),
    "reference": ("references", "no reference"),
    "context": ("contexts", "no client turn before the reply"),
    "gold": ("gold", "no gold label"),
    "predicted": ("predicted", "no predicted label"),
    "sampled": ("sampled", "no sampled label"),
    "distribution": ("distributions", "no distribution over the labels"),
}
"""Column -> (attribute of Rows, why a row without it is unscored)."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns of equal length, one entry per reply. `None` in a column means: not there, so unscored where needed.

    Args:
        hypotheses: what a system wrote.
        references: what a person wrote there.
        contexts: the client's words before the reply.
        clusters: what is resampled together (the dialogue); by default each row stands alone.
        gold, predicted: labels, for classification metrics; `predicted` is the most probable one.
        sampled: labels drawn from a distribution. They are right less often than the most probable ones, so they
            have a column and a score of their own.
        distributions: per row a probability for each of `labels`, in their order.
        labels: all labels of the set, so that averages run over every class, also absent ones.
    """

    hypotheses: tuple[str | None, ...] = field(repr=False)
    references: tuple[str | None, ...] = field(default=(), repr=False)
    contexts: tuple[str | None, ...] = field(default=(), repr=False)
    clusters: tuple[str, ...] = field(default=(), repr=False)
    gold: tuple[str | None, ...] = field(default=(), repr=False)
    predicted: tuple[str | None, ...] = field(default=(), repr=False)
    sampled: tuple[str | None, ...] = field(default=(), repr=False)
    distributions: tuple[tuple[float, ...] | None, ...] = field(default=(), repr=False)
    labels: tuple[str, ...] = ()
    _memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = max(len(self.hypotheses), len(self.gold))
        for name in (*(attribute for attribute, _ in COLUMNS.values()), "clusters"):
            column = getattr(self, name)
            if len(column) == 0:
                filled = tuple(str(i) for i in range(n)) if name == "clusters" else (None,) * n
                object.__setattr__(self, name, filled)
            elif len(column) != n:
                raise DataError(f"All columns need one entry per row: there are {n} rows but {len(column)} {name}.")

    @classmethod
    def of(
        cls,
        hypotheses: Iterable[str | None] = (),
        references: Iterable[str | None] = (),
        *,
        contexts: Iterable[str | None] = (),
        clusters: Iterable[object] = (),
        gold: Iterable[str | None] = (),
        predicted: Iterable[str | None] = (),
        sampled: Iterable[str | None] = (),
        distributions: Iterable[Sequence[float] | None] = (),
        labels: Iterable[str] = (),
    ) -> Rows:
        """Rows from any iterables; cluster ids become strings."""
        return cls(
            hypotheses=tuple(hypotheses),
            references=tuple(references),
            contexts=tuple(contexts),
            clusters=tuple(str(c) for c in clusters),
            gold=tuple(gold),
            predicted=tuple(predicted),
            sampled=tuple(sampled),
            distributions=tuple(None if row is None else tuple(map(float, row)) for row in distributions),
            labels=tuple(labels),
        )

    @classmethod
    def from_traces(cls, traces: Sequence[Trace], *, contexts: Mapping[str, str] | None = None) -> Rows:
        """Rows from traces; `contexts` maps trace ids to the client's words. A trace with an error has no reply."""
        return cls.of(
            [None if trace.finish == "error" else trace.reply for trace in traces],
            [trace.reference for trace in traces],
            contexts=[(contexts or {}).get(trace.id) for trace in traces],
            clusters=[trace.conversation_id for trace in traces],
        )

    def __len__(self) -> int:
        return len(self.hypotheses)

    def __repr__(self) -> str:
        return f"Rows({len(self)} rows, {len(set(self.clusters))} clusters)"

    def column(self, name: Column) -> tuple[str | None, ...]:
        """One column by the name that metrics use (a `distribution` is no text, but only asked whether it is there)."""
        return cast("tuple[str | None, ...]", getattr(self, COLUMNS[name][0]))

    def texts(self, name: Column) -> list[str]:
        """A column without gaps.

        Raises:
            DataError: some rows lack it; the suite leaves such rows out before a metric sees them.
        """
        column = self.column(name)
        if None in column:
            attribute, reason = COLUMNS[name]
            raise DataError(f"This metric needs all {attribute}, but {column.count(None)} rows have {reason}.")
        return cast("list[str]", list(column))

    def shares(self) -> Floats:
        """The distributions as numbers, shape (N, K), K labels.

        Raises:
            DataError: a row has none, or is no distribution over `labels`.
        """
        if None in self.distributions:
            raise DataError(f"{self.distributions.count(None)} rows have {COLUMNS['distribution'][1]}.")
        rows = [row for row in self.distributions if row is not None]
        if any(len(row) != len(self.labels) for row in rows):
            raise DataError(f"A distribution needs one number for each of the {len(self.labels)} labels of the rows.")
        found = np.asarray(rows, dtype=np.float64).reshape(len(rows), len(self.labels))
        if (found < 0).any() or (np.abs(found.sum(axis=1) - 1) > 1e-3).any() or not np.isfinite(found).all():
            raise DataError("A distribution must hold numbers of 0 or more that add up to 1, but one row does not.")
        return found

    def take(self, index: Sequence[int]) -> Rows:
        """The rows at `index`, in that order."""
        if len(index) == len(self) and all(i == at for at, i in enumerate(index)):
            return self  # keeps what is already tokenised
        parts = {a: tuple(getattr(self, a)[i] for i in index) for a in (*(c[0] for c in COLUMNS.values()), "clusters")}
        return replace(self, **parts, _memo={})

    def with_hypotheses(self, hypotheses: Sequence[str | None]) -> Rows:
        """The same rows answered by another system."""
        return replace(self, hypotheses=tuple(hypotheses), _memo={})

    def memo(self, key: str, make: Callable[[], T]) -> T:
        """`make()` once per `key`: shared work of several metrics."""
        if key not in self._memo:
            self._memo[key] = make()
        return cast(T, self._memo[key])

    def encoded(self, how: Tokenisation, *columns: Column) -> Encoded:
        """The named columns under one tokenisation, made once."""
        # A metric of replies alone is served by the table that replies and references share.
        wider = self._memo.get(f"encoded {how} hypothesis reference")
        if wider is not None and set(columns) <= set(wider.columns):
            return cast(Encoded, wider)
        key = " ".join(("encoded", how, *columns))
        return self.memo(key, lambda: Encoded.build({name: self.texts(name) for name in columns}, how))

    @property
    def cluster_index(self) -> npt.NDArray[np.int64]:
        """Row -> number of its cluster, shape (N,)."""
        return self.memo("clusters", lambda: np.unique(np.asarray(self.clusters), return_inverse=True)[1])


@dataclass(frozen=True, kw_only=True)
class Result:
    """A value with what is needed to resample it.

    Attributes:
        value: over all rows, in the metric's unit; NaN where no row could be scored.
        per_sample: shape (N,), NaN = unscored; None where the metric has no meaning for one row.
        reason: why rows of `per_sample` are NaN.
        statistics: shape (N, S), numbers that add up over rows.
        combine: sums (D, S) -> values (D,).
        resample: for values that are no function of sums (distinct-n): row weights by cluster (D, C) -> values (D,);
            takes the place of `statistics` and `combine`.
    """

    value: float
    per_sample: Floats | None = field(default=None, repr=False)
    reason: str | None = None
    statistics: Floats | None = field(default=None, repr=False)
    combine: Callable[[Floats], Floats] | None = field(default=None, repr=False)
    resample: Callable[[Floats], Floats] | None = field(default=None, repr=False)

    @classmethod
    def mean(cls, per_sample: npt.ArrayLike, *, scale: float = 1.0, reason: str | None = None) -> Result:
        """A metric that is the mean of its rows, times `scale`; NaN rows are left out."""
        values = np.asarray(per_sample, dtype=np.float64) * scale
        scored = ~np.isnan(values)
        statistics = np.column_stack([np.where(scored, values, 0.0), scored])
        return cls.from_sums(statistics, _ratio, per_sample=values, reason=reason)

    @classmethod
    def from_sums(
        cls,
        statistics: npt.ArrayLike,
        combine: Callable[[Floats], Floats],
        *,
        per_sample: Floats | None = None,
        reason: str | None = None,
    ) -> Result:
        """A corpus metric that is a function of sums over rows."""
        numbers = np.asarray(statistics, dtype=np.float64)
        value = float(combine(numbers.sum(axis=0, keepdims=True))[0])
        return cls(value=value, per_sample=per_sample, reason=reason, statistics=numbers, combine=combine)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Floats = sums[:, 0] / sums[:, 1]
    return ratio


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named score.

    Args:
        name: as in the table.
        title: a short heading.
        definition: one or two sentences, with the source.
        signature: settings and versions, to be printed with the value; called late, so that listing is cheap.
        unit: what the number counts.
        higher_is_better: None where neither end is good (length).
        needs: columns that a row must have.
        compute: rows (all with the needed columns) -> Result.
        missing: why the metric cannot run on this machine, or None.
        stage: metrics with a smaller number run first (BERTScore before similarity: one pass of the encoder for both).
    """

    name: str
    title: str
    definition: str
    signature: Callable[[], str]
    compute: Callable[[Rows], Result] = field(repr=False)
    unit: str = "x100"
    higher_is_better: bool | None = True
    needs: tuple[Column, ...] = ("hypothesis", "reference")
    missing: Callable[[], str | None] = field(default=lambda: None, repr=False)
    stage: int = 1
