"""JSON Lines, plain or gzip: read as a stream with the exact place of every error, written whole or not at all."""

from __future__ import annotations

import gzip
import io
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from heedful.errors import DataError, NotFoundError, shown

_BOM = b"\xef\xbb\xbf"


def is_jsonl(name: str | Path) -> bool:
    """Whether the name ends in `.jsonl` or `.jsonl.gz`."""
    return str(name).endswith((".jsonl", ".jsonl.gz"))


def read_objects(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object, one at a time; blank lines are skipped, a byte order mark is allowed.

    Raises:
        NotFoundError: no such file.
        DataError: `FILE, line N, column M: ...` for malformed JSON, `line N, byte B` for text that is not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no file '{path}'.")
    for number, line in enumerate(_raw_lines(path), start=1):
        content = line.removeprefix(_BOM) if number == 1 else line
        if content.strip():
            yield number, _parse(content, f"{path}, line {number}")


def _raw_lines(path: Path) -> Iterator[bytes]:
    # Bytes, not text: only "\n" ends a line there, and a wrong byte can be named.
    with path.open("rb") as raw:
        stream: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        try:
            yield from stream
        except (gzip.BadGzipFile, EOFError, zlib.error) as err:
            raise DataError(f"{path}: expected a complete gzip file, but it is damaged. Copy it again.") from err


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        # Without its end, so that an error at the end of the line is not counted as column 1 of the next.
        text = line.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as err:
        raise DataError(f"{where}, byte {err.start + 1}: not UTF-8. Save the file as UTF-8.") from err
    try:
        value = json.loads(text, parse_constant=lambda name: _no_constant(name, where))
    except json.JSONDecodeError as err:
        raise DataError(
            f"{where}, column {err.colno}: not valid JSON ({err.msg}). Each line must hold one JSON object."
        ) from err
    except DataError:  # from _no_constant; it is a ValueError too
        raise
    except ValueError as err:
        raise DataError(f"{where}: a number has too many digits to be read.") from err
    except RecursionError as err:
        raise DataError(f"{where}: the JSON is nested too deeply. Each line must hold one flat record.") from err
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number or boolean")
        raise DataError(f"{where}, column 1: expected one JSON object, but it is {kind}.")
    return value


def _no_constant(name: str, where: str) -> NoReturn:
    raise DataError(f"{where}: '{name}' is not allowed in JSON; write null for a missing number.")


def write_objects(path: str | Path, objects: Iterable[Mapping[str, Any]]) -> int:
    """Write one object a line, packed if the name ends in `.gz`; returns the number of lines.

    A reader sees the old file or the whole new one, never a part: the lines go to a file beside it that takes its
    place at the end. The same objects give the same bytes (no time stamp in the gzip header).

    Raises:
        NotFoundError: the folder does not exist.
        DataError: an object that JSON cannot hold.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise NotFoundError(f"The folder '{path.parent}' does not exist. Create it first.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                    count = _write_lines(packed, objects)
            else:
                count = _write_lines(raw, objects)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_lines(stream: gzip.GzipFile | io.BufferedWriter, objects: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for item in objects:
        try:
            line = json.dumps(dict(item), ensure_ascii=False, allow_nan=False).encode("utf-8")
        except (TypeError, ValueError) as err:
            # The text of the error may quote the object, so it stays out of the message.
            raise DataError(
                f"Record {count + 1} (id {shown(item.get('id'))}) cannot be written as JSON: it holds a value that "
                "is no text, number, list or object, or a broken character."
            ) from err
        stream.write(line + b"\n")
        count += 1
    return count
