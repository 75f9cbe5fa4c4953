"""Frames between server and worker: four bytes of length (big-endian), then one JSON object in UTF-8. No pickle."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from heedful.errors import DataError

LARGEST: Final = 64 * 1024 * 1024
"""Bytes of a frame; a conversation of 50,000 characters has a quarter of a megabyte at most."""
_HEAD: Final = struct.Struct(">I")


def pack(record: Mapping[str, Any]) -> bytes:
    """One frame.

    Raises:
        DataError: larger than `LARGEST`.
    """
    # ASCII only: a lone surrogate, which UTF-8 does not have, comes out as it went in.
    data = json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    if len(data) > LARGEST:
        raise DataError(f"A request to the model has {len(data):,} bytes; at most {LARGEST:,} are passed on.")
    return _HEAD.pack(len(data)) + data


class Unpacker:
    """Bytes as they come -> records."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The records that are complete now.

        Raises:
            DataError: something that is no frame; the other side is not ours or is broken.
        """
        self._data += data
        while len(self._data) >= _HEAD.size:
            (size,) = _HEAD.unpack_from(self._data)
            if size > LARGEST:
                raise DataError("The worker's connection carries something that is no frame.")
            if len(self._data) < _HEAD.size + size:
                return
            body = bytes(self._data[_HEAD.size : _HEAD.size + size])
            del self._data[: _HEAD.size + size]
            try:
                record = json.loads(body)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise DataError("The worker's connection carries a frame that is no JSON object.")
            yield record


class Channel:
    """One end of a socket pair, for threads: several may send, one reads."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._sending = threading.Lock()
        self._unpacker = Unpacker()

    def send(self, record: Mapping[str, Any]) -> None:
        """Send a record whole.

        Raises:
            OSError: the other side is gone, or does not read (a time-out of the socket).
        """
        data = pack(record)
        with self._sending:
            self.socket.sendall(data)

    def received(self) -> list[dict[str, Any]] | None:
        """What arrived; waits for the first bytes, None = the other side is gone."""
        data = self.socket.recv(65536)
        return list(self._unpacker.feed(data)) if data else None

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
