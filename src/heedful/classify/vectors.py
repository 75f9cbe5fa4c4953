"""Sentence vectors of training turns, kept on disk: several scorers of one corpus need each vector once.

One file per encoder in the cache folder. A text is known by its 128-bit BLAKE2 hash; no text is kept. The file is
readable by its owner alone, because a vector still tells something of what was said. Deleting it is always safe.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from heedful.classify.base import Dense
from heedful.models.embedded import cache_dir
from heedful.models.encoder import SentenceEncoder

MOST = 200_000
"""Texts in the file (about 300 MB at 384 dimensions); the oldest go first."""


class VectorStore:
    """Vectors of an encoder by text. `encode` reads the file once and never writes; `keep` writes what is new."""

    def __init__(self, encoder: SentenceEncoder, *, folder: Path | None = None) -> None:
        self.encoder = encoder
        name = "".join(ch if ch.isalnum() else "-" for ch in encoder.signature)
        self.path = (folder or cache_dir() / "vectors") / f"{name}.npz"
        self._known: dict[bytes, Dense] | None = None

    def encode(self, texts: Sequence[str]) -> Dense:
        """Unit vectors (N, dim), from the file where they are there."""
        known = self._read()
        keys = [_key(text) for text in texts]
        new = [text for key, text in zip(keys, texts, strict=True) if key not in known]
        fresh = dict(zip((_key(text) for text in new), self.encoder.encode(new), strict=True))
        if not texts:
            return np.zeros((0, self.encoder.dim), dtype=np.float32)
        return np.stack([known[key] if key in known else fresh[key] for key in keys])

    def keep(self, texts: Sequence[str]) -> None:
        """Add the vectors of `texts` to the file, replacing it in one step. A cache that cannot be written is none."""
        known = self._read()
        vectors = self.encode(texts)
        before = len(known)
        for text, vector in zip(texts, vectors, strict=True):
            known.setdefault(_key(text), vector)
        if len(known) == before:
            return
        for key in list(known)[: max(0, len(known) - MOST)]:
            del known[key]
        scratch: str | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
            keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), -1)
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, keys=keys, vectors=np.stack(list(known.values())))
            os.replace(scratch, self.path)
        except OSError:
            if scratch is not None:
                Path(scratch).unlink(missing_ok=True)

    def _read(self) -> dict[bytes, Dense]:
        if self._known is None:
            try:
                with self.path.open("rb") as packed, np.load(packed, allow_pickle=False) as file:
                    keys, vectors = file["keys"], file["vectors"]
                if len(keys) != len(vectors) or vectors.shape[1] != self.encoder.dim:
                    raise ValueError("not a store of this encoder")
                self._known = {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)}
            except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
                self._known = {}  # none yet, or one that a full disk has torn: computed anew
        return self._known


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=16).digest()
