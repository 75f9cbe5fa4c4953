"""Authenticated encryption of small texts: AES-256-GCM (NIST SP 800-38D), bound to the place where the text lies.

    1 byte format | 4 bytes key version | 12 bytes nonce | ciphertext | 16 bytes tag

The place (table, row, column) is associated data: a ciphertext that is copied into another row does not open there.
Nonces are random, so one key version must seal fewer than 2**32 texts; a counselling service writes a few million.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from heedful.errors import MissingExtraError, TamperError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as err:
    raise MissingExtraError("Encryption needs the package cryptography; run: pip install 'heedful[serve]'") from err

Context = tuple[str, ...]
"""Where a sealed text belongs, from the outside in: table, row, column."""

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_FORMAT: Final = 1
_HEAD: Final = struct.Struct(">BI")
_SHORTEST: Final = _HEAD.size + NONCE_BYTES + 16


def random_key() -> bytes:
    """A new AES-256 key (32 bytes) from the operating system."""
    return os.urandom(KEY_BYTES)


def place(*parts: str) -> bytes:
    """The parts as bytes, each with its length in front, so that ("a", "bc") and ("ab", "c") differ.

    >>> place("a", "bc") == place("ab", "c")
    False
    """
    return b"".join(struct.pack(">I", len(raw)) + raw for raw in (part.encode("utf-8") for part in parts))


def seal_with(key: bytes, version: int, data: bytes, context: Context) -> bytes:
    """`data` encrypted under `key`; `version` is written in front, so that the right key is found again."""
    head, nonce = _HEAD.pack(_FORMAT, version), os.urandom(NONCE_BYTES)
    return head + nonce + AESGCM(key).encrypt(nonce, data, head + place(*context))


def unseal_with(key: bytes, blob: bytes, context: Context) -> bytes:
    """Undo `seal_with`.

    Raises:
        TamperError: the bytes were changed, or sealed for another place or with another key.
    """
    version_of(blob)
    head, nonce = blob[: _HEAD.size], blob[_HEAD.size : _HEAD.size + NONCE_BYTES]
    try:
        return AESGCM(key).decrypt(nonce, blob[_HEAD.size + NONCE_BYTES :], head + place(*context))
    except InvalidTag:
        raise TamperError(
            f"The encrypted entry at {'/'.join(context)} does not open: it was changed, moved from another place, or "
            "sealed with another key. Restore it from a backup."
        ) from None


def version_of(blob: bytes) -> int:
    """The key version that sealed `blob`.

    Raises:
        TamperError: these bytes are no sealed entry.
    """
    if len(blob) < _SHORTEST or blob[0] != _FORMAT:
        raise TamperError(f"Expected a sealed entry of at least {_SHORTEST} bytes, but there are {len(blob)} others.")
    return int(_HEAD.unpack_from(blob)[1])
