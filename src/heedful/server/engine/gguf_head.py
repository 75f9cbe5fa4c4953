"""The head of a GGUF file: which tokens are no words. A tenth of a second; `gguf.GGUFReader` takes seconds for the
same.

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
    tokens: Any = ()
    types: Any = ()
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF" or _one(file, "I") not in (2, 3):
                raise DataError(f"'{path}' is no GGUF file of version 2 or 3.")
            _one(file, "Q")
            for _ in range(min(_one(file, "Q"), _MOST)):
                name = _text(file)
                value = _value(file, _one(file, "I"))
                tokens = value if name == "tokenizer.ggml.tokens" else tokens
                types = value if name == "tokenizer.ggml.token_type" else types
    except (struct.error, UnicodeDecodeError, KeyError, MemoryError):
        raise DataError(f"'{path}' is damaged: its head cannot be read.") from None
    if not tokens:
        raise DataError(f"'{path}' holds no vocabulary; it is no language model.")
    return tuple(token for token, kind in zip(tokens, types, strict=False) if kind in _SPECIAL and len(token) > 1)


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
