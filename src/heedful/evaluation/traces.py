"""Trace files: one JSON object a line, appended as replies are written, so that a killed run loses one batch at most.

The first line says what the file holds (model, format, decoding, data). A file with another first line belongs to
another experiment and is never continued.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError, DataError


def private(path: str, flags: int) -> int:
    """An opener for files that may hold words of people: only the owner reads them."""
    return os.open(path, flags, 0o600)


class Records:
    """An append-only file of JSON records with an `id`, under a header."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.header = dict(header)

    def open(self) -> dict[str, dict[str, Any]]:
        """Records that are there already, by id; writes the header if the file is new.

        A last line that was cut by a kill is removed from the file.

        Raises:
            ConfigError: the file holds another experiment.
        """
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append([{"header": self.header}])
            return {}
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        lines = _parsed(whole, self.path)
        found = lines[0].get("header") if lines else None
        if not lines:
            self._append([{"header": self.header}])
        elif found != self.header:
            changed = [k for k in {**self.header, **(found or {})} if (found or {}).get(k) != self.header.get(k)]
            raise ConfigError(
                f"{self.path} holds replies of another experiment (different: {', '.join(sorted(changed))}); choose "
                "another output_dir, or delete that folder to start anew."
            )
        try:
            return {record["id"]: record for record in lines[1:]}
        except LookupError as err:
            raise _no_trace_file(self.path) from err

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records and see them on the disk."""
        self._append(records)

    def _append(self, records: Iterable[Mapping[str, Any]]) -> None:
        with open(self.path, "a", encoding="utf-8", opener=private) as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_records(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and records of a file that `Records` wrote.

    Raises:
        DataError: it is no such file.
    """
    try:
        lines = _parsed(path.read_bytes(), path)
        return lines[0]["header"], lines[1:]
    except (OSError, LookupError) as err:
        raise _no_trace_file(path) from err


def _parsed(content: bytes, path: Path) -> list[dict[str, Any]]:
    # Not splitlines(): it also cuts at characters that JSON strings may hold (U+0085, U+2028).
    try:
        lines = [json.loads(line) for line in content.decode("utf-8").split("\n") if line]
    except ValueError:
        raise _no_trace_file(path) from None  # the error's own object holds the words of the line
    if not all(isinstance(line, dict) for line in lines):
        raise _no_trace_file(path)
    return lines


def _no_trace_file(path: Path) -> DataError:
    return DataError(
        f"{path} is no trace file of heedful, or it is damaged; expected JSON lines under a header. Delete it to have "
        "its replies written again."
    )
