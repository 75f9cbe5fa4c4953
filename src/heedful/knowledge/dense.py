"""Cosines of unit vectors, exact: every row is scanned in single precision, and what can be among the first k is summed
again in double precision. So the order depends neither on the number of threads, nor on the batch, nor on where a row
stands in the matrix, and equal texts have equal scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from heedful.classify.features import shared_vectors
from heedful.classify.vectors import VectorStore
from heedful.knowledge.item import Vectors
from heedful.knowledge.keys import best
from heedful.knowledge.readers import Encoder
from heedful.models.encoder import SentenceEncoder

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

BLOCK = 64
"""Queries that are scanned at once."""
KEPT, CHUNK = 256, 4096
"""From so many texts a call, vectors are kept on disk; so many are computed before they are written."""


def cosines(vectors: Vectors, query: Vectors) -> Floats:
    """Of some rows with one query, shape (N,), in double precision."""
    found: Floats = np.multiply(vectors, query, dtype=np.float64).sum(axis=1)
    return found


@dataclass(frozen=True)
class Dense:
    """The rows of a matrix of unit vectors (N, dim)."""

    vectors: Vectors = field(repr=False)

    def scan(self, queries: Vectors) -> Vectors:
        """Cosines in single precision, shape (B, N): near, not exact."""
        found: Vectors = queries @ self.vectors.T
        return found

    def top(
        self, queries: Vectors, k: int, *, begin: int = 0, end: int | None = None, mask: Any = None
    ) -> list[tuple[Rows, Floats]]:
        """For each query the `k` nearest rows and their cosines, nearest first; among equals the smaller row.

        Args:
            queries: unit vectors (B, dim).
            begin, end: rows that are looked at.
            mask: shape (end - begin,): which of them may be found; None = all.
        """
        part = Dense(self.vectors[begin:end])
        # Twice the largest error of a sum of `dim` products of unit vectors in single precision.
        slack = 2 * queries.shape[1] * float(np.finfo(np.float32).eps)
        found = []
        for at in range(0, len(queries), BLOCK):
            near = part.scan(queries[at : at + BLOCK])
            if mask is not None:
                near = np.where(mask, near, -np.inf)
            for row, query in zip(near, queries[at : at + BLOCK], strict=True):
                found.append(part._exact(row, query, k, slack, begin))
        return found

    def _exact(self, near: Vectors, query: Vectors, k: int, slack: float, begin: int) -> tuple[Rows, Floats]:
        first = best(near, k)
        if not len(first):
            return first, np.zeros(0)
        rows = np.flatnonzero(near >= near[first[-1]] - slack)
        exact = cosines(self.vectors[rows], query)
        order = best(exact, k)
        return rows[order] + begin, exact[order]


class KeptEncoder:
    """The embedded encoder; vectors of a whole store or corpus are kept on disk, those of somebody's talk are not."""

    def __init__(self, store: VectorStore) -> None:
        self.store = store
        self.name = store.encoder.name
        self.model = store.encoder.model

    @property
    def signature(self) -> str:
        """As of the encoder."""
        return self.store.encoder.signature

    def encode(self, texts: Sequence[str]) -> Vectors:
        """As `SentenceEncoder.encode`."""
        if len(texts) < KEPT:
            return self.store.encoder.encode(texts)
        for begin in range(0, len(texts), CHUNK):  # a build that is killed goes on from there
            self.store.keep(texts[begin : begin + CHUNK])
        return self.store.encode(texts)


@cache
def shared_encoder(name: str) -> Encoder:
    """The encoder of that name, loaded once per process.

    Raises:
        MissingExtraError, NotFoundError: it is not installed, or there is none.
    """
    return KeptEncoder(shared_vectors()) if name == "minilm" else SentenceEncoder.load(name)


def describe(encoder: Encoder) -> dict[str, str]:
    """Which encoder it is: name, signature, and the first 16 hex digits of the SHA-256 of its weights."""
    digest = hashlib.sha256(encoder.signature.encode())
    model = getattr(encoder, "model", None)
    if model is not None:
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return {"name": encoder.name, "signature": encoder.signature, "hash": digest.hexdigest()[:16]}
