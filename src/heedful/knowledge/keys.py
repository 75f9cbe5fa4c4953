"""Texts as 64-bit keys in a sorted array: looked up by bisection in a mapped file, without reading a table of texts."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt


def key(text: str) -> int:
    """The first 64 bits of the text's BLAKE2 hash. Two of 100,000 texts share one with a probability of 3 in 10^10."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def find(keys: npt.NDArray[np.uint64], text: str) -> int | None:
    """Where the key of `text` stands in a sorted array, or None."""
    wanted = np.uint64(key(text))
    at = int(np.searchsorted(keys, wanted))
    return at if at < len(keys) and keys[at] == wanted else None


def best(scores: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """Indices of the `k` largest scores, largest first; among equals the smaller index. -inf is never among them."""
    k = min(k, len(scores))
    if k <= 0:
        return np.zeros(0, dtype=np.int64)
    least = scores[np.argpartition(scores, len(scores) - k)[len(scores) - k]]
    chosen = np.flatnonzero(scores >= least)  # more than k where the last place is shared; in order of index
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:k]
    return chosen[scores[chosen] > -np.inf].astype(np.int64)
