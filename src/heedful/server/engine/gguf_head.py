"""The head of a GGUF file: which tokens are no words, and what a token takes in memory. A tenth of a second;
`gguf.GGUFReader` takes seconds for the same.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3 (and 2).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

from heedful.errors import DataError

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_SPECIAL: Final = (3, 4)
"""Token types: control, defined by a user."""
_MOST: Final = 1 << 24


def special_tokens(path: Path) -> tuple[str, ...]:
    """Tokens of the vocabulary that stand for something else than their letters (`<|im_end|>`).

    Raises:
        DataError: no GGUF file, or one without a vocabulary.
    """
    found = _head(path)
    tokens, types = found.get("tokenizer.ggml.tokens", ()), found.get("tokenizer.ggml.token_type", ())
    if not tokens:
        raise DataError(f"'{path}' holds no vocabulary; it is no language model.")
    return tuple(token for token, kind in zip(tokens, types, strict=False) if kind in _SPECIAL and len(token) > 1)


def token_bytes(path: Path) -> int | None:
    """Bytes that the keys and values of one token take at 16 bits; None where the file does not say (models that are no
    plain transformers).

    Raises:
        DataError: no GGUF file, or a damaged one.
    """
    found = _head(path)
    name = found.get("general.architecture")

    def whole(what: str) -> int:
        value = found.get(f"{name}.{what}")
        return value if isinstance(value, int) else 0

    layers, heads, width = whole("block_count"), whole("attention.head_count"), whole("embedding_length")
    pairs = whole("attention.head_count_kv") if f"{name}.attention.head_count_kv" in found else heads
    if not (layers and heads and width and pairs):
        return None
    both = sum(whole(f"attention.{what}_length") or width // heads for what in ("key", "value"))
    return 2 * layers * pairs * both


def _head(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF" or _one(file, "I") not in (2, 3):
                raise DataError(f"'{path}' is no GGUF file of version 2 or 3.")
            _one(file, "Q")
            return {_text(file): _value(file, _one(file, "I")) for _ in range(min(_one(file, "Q"), _MOST))}
    except (struct.error, UnicodeDecodeError, KeyError, MemoryError):
        raise DataError(f"'{path}' is damaged: its head cannot be read.") from None


def _one(file: BinaryIO, kind: str) -> Any:
    size = struct.calcsize(f"<{kind}")
    return struct.unpack(f"<{kind}", file.read(size))[0]


def _text(file: BinaryIO) -> str:
    size = _one(file, "Q")
    if size > _MOST:
        raise struct.error
    return file.read(size).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind != _ARRAY:
        return _one(file, _SCALARS[kind])
    inner, count = _one(file, "I"), _one(file, "Q")
    if count > _MOST:
        raise struct.error
    if inner == _TEXT:
        return [_text(file) for _ in range(count)]
    letter = _SCALARS[inner]
    return struct.unpack(f"<{count}{letter}", file.read(count * struct.calcsize(f"<{letter}")))
