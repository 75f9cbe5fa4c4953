"""KEMI's support retrieval, as we read it: a stressor, an answer to it and a feeling that belong together.

The published rule is not known (systems/kemi.md, C.5). Ours: of all triples (stressor S, answer R, affect A) with an
edge between S and R and one from S or R to A, take the one with the largest cos(q, S) + cos(q, R) + cos(q, A). Looked
at are the 20 stressors nearest to q and, of each, the 20 answers with the heaviest edges. A triple whose mean cosine is
below 0.25 is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heedful.errors import ConfigError
from heedful.knowledge.index import Hit, Index
from heedful.knowledge.item import Vectors

ANSWERS = ("response", "expectation")
"""Kinds that can answer a stressor, best first: HEAL has no responses, so expectations take their place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Triple:
    """What was chosen, each with its own cosine as the score."""

    stressor: Hit
    answer: Hit
    affect: Hit

    @property
    def hits(self) -> tuple[Hit, Hit, Hit]:
        """In the order of the strings of KEMI: answer, stressor, affect."""
        return self.answer, self.stressor, self.affect

    @property
    def mean(self) -> float:
        """Mean cosine."""
        return sum(hit.score for hit in self.hits) / 3


def answer_kind(index: Index) -> str:
    """Which kind of answers an index has.

    Raises:
        ConfigError: it is no support graph.
    """
    found = next((kind for kind in ANSWERS if kind in index.kinds), None)
    if found is None or not {"stressor", "affect"} <= set(index.kinds):
        raise ConfigError(
            f"The index '{index.folder.name}' is no support graph: it needs stressors, affects and one of "
            f"{' or '.join(ANSWERS)}, but has {', '.join(index.kinds)}. Take esc-graph or heal."
        )
    return found


def triples(
    index: Index,
    vectors: Vectors,
    *,
    origins: Sequence[str | None] | None = None,
    k: int = 1,
    floor: float = 0.25,
    stressors: int = 20,
    answers: int = 20,
) -> list[list[Triple]]:
    """The `k` best triples for each query, best first, each answer at most once; equal ones are ordered by their ids.

    Args:
        vectors: unit vectors of the queries (B, dim).
        origins: for each query the conversation that it is from (`source/id`); answers taken from it are not looked at.
        floor: least mean cosine.
        stressors, answers: how many of each are looked at.

    Raises:
        ConfigError: the index is no support graph, or has no vectors.
    """
    kind = answer_kind(index)
    names = [None] * len(vectors) if origins is None else list(origins)
    near = index.nearest(vectors, stressors, kinds=("stressor",))
    return [
        _Query(index, query, kind, name, answers).best(found, k, floor)
        for query, found, name in zip(vectors, near, names, strict=True)
    ]


@dataclass
class _Query:
    """One query: what it is compared with is compared once."""

    index: Index
    vector: Vectors
    kind: str
    origin: str | None
    answers: int

    def best(self, near: Sequence[tuple[int, float]], k: int, floor: float) -> list[Triple]:
        pairs = [(row, answer) for row, _ in near for answer in self._answers(row)]
        rows = np.array(sorted({answer for _, answer in pairs}), dtype=np.int64)
        cosine = {**dict(near), **dict(zip(rows.tolist(), self.index.cosines(rows, self.vector).tolist(), strict=True))}
        felt = self._affects(sorted({*rows.tolist(), *(row for row, _ in near)}))
        scored = []
        for stressor, answer in pairs:
            joined = [felt[row] for row in (stressor, answer) if row in felt]
            if joined:
                score, affect = max(joined, key=lambda pair: (pair[0], -pair[1]))
                scored.append((-(cosine[stressor] + cosine[answer] + score), stressor, answer, affect, score))
        scored.sort()
        found: list[Triple] = []
        used: set[int] = set()
        for total, stressor, answer, affect, score in scored:
            if len(found) == k or -total / 3 < floor:
                break
            if answer not in used:
                used.add(answer)
                found.append(
                    Triple(
                        stressor=self.index.hit(stressor, cosine[stressor]),
                        answer=self.index.hit(answer, cosine[answer]),
                        affect=self.index.hit(affect, score),
                    )
                )
        return found

    def _answers(self, stressor: int) -> list[int]:
        rows: npt.NDArray[np.int32] = self.index.near(stressor, self.kind)[0]
        if self.origin is None:
            return list(map(int, rows[: self.answers]))
        found: list[int] = []
        for row in rows.tolist():
            if len(found) == self.answers:
                break
            if self.origin not in self.index.origins(row):
                found.append(row)
        return found

    def _affects(self, rows: Sequence[int]) -> dict[int, tuple[float, int]]:
        """For each row with an affect: the nearest of its affects, as (cosine, row)."""
        joined = {row: self.index.near(row, "affect")[0].tolist() for row in rows}
        distinct = np.array(sorted({affect for found in joined.values() for affect in found}), dtype=np.int64)
        if not len(distinct):
            return {}
        cosine = dict(zip(distinct.tolist(), self.index.cosines(distinct, self.vector).tolist(), strict=True))
        return {
            row: max(((cosine[affect], affect) for affect in found), key=lambda pair: (pair[0], -pair[1]))
            for row, found in joined.items()
            if found
        }
