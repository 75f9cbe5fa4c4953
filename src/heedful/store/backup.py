"""Backup: one encrypted, authenticated file, written while the service runs; restore: into an empty store of any kind.

    HEEDFUL-BACKUP 1\\n
    4 bytes length | header (JSON: schema, store, key version, time, and a copy of the key file, wrapped as it is)
    then pieces of 1 MiB: 4 bytes length | AES-256-GCM(JSON lines of rows)

Each piece is bound to the header, to its number and to whether it is the last one, so no piece can be changed, moved,
left out or cut off (the STREAM construction of Hoang et al., CRYPTO 2015). Its key is random and sealed with the
`backup` key. Rows are written as they lie in the database, their fields still sealed: the file has two locks as well.

Whoever has the file and the passphrase can read it, on another machine too: the key file is inside (`recover_keys`).
"""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import MetaData, Select, Table, Text, delete, insert, select, type_coerce
from sqlalchemy.types import TypeDecorator

from heedful.errors import ConfigError, DataError, NotFoundError, TamperError
from heedful.privacy._files import locked, sync_folder, write_private
from heedful.privacy.cipher import random_key
from heedful.store import migrations
from heedful.store.audit import Verdict, verify_work
from heedful.store.columns import Base, moment_text
from heedful.store.store import Store
from heedful.store.unit import Unit

MAGIC: Final = b"HEEDFUL-BACKUP 1\n"
PIECE: Final = 1 << 20
_LENGTH: Final = struct.Struct(">I")
_NONCE: Final = struct.Struct(">IQ")
_LARGEST_HEADER: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was written.

    Args:
        rows: rows per table.
        schema: number of the last migration.
        last: hash of the last row of the audit chain; write it down elsewhere.
    """

    path: Path
    rows: dict[str, int]
    schema: str
    last: str


def backup(store: Store, target: str | Path, *, by: str = "program") -> Backup:
    """Write one moment of the whole store to `target`: a file, or a folder that gets one named by the time.

    The file appears whole or not at all, with mode 0600.

    Raises:
        ConfigError: there is a file of that name.
        StoreError: the database does not answer.
    """
    target = Path(target)
    if target.is_dir():
        target = target / f"heedful-{store.clock():%Y-%m-%dT%H-%M-%S}.backup"
    if target.exists():
        raise ConfigError(f"{target} exists already; a backup is never written over another one.")
    scratch = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file, store.read() as unit:
            done = _write(store, unit, file, target)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(target.parent)
    store.run(lambda unit: unit.audit.add(by, "store.backed_up", f"store:{store.id}", rows=sum(done.rows.values())))
    return done


def _write(store: Store, unit: Unit, file: IO[bytes], target: Path) -> Backup:
    key = random_key()
    schema = migrations.current(unit.connection) or ""
    header = {
        "schema": schema,
        "store": store.id,
        "keys": store.keys.id,
        "made": moment_text(store.clock()),
        "key": _text(store.keys.seal(key, ("backup", store.id), purpose="backup")),
        "key_file": _text(store.keys.file_bytes()),
    }
    raw = json.dumps(header, sort_keys=True).encode()
    file.write(MAGIC + _LENGTH.pack(len(raw)) + raw)
    out, rows = _PieceWriter(file, key, raw), dict[str, int]()
    for table in all_tables():
        rows[table.name] = 0
        found = unit.execute(_raw_rows(table).execution_options(yield_per=500))
        for row in found.mappings():
            out.line([table.name, {name: _to_json(value) for name, value in row.items()}])
            rows[table.name] += 1
    out.line(["", rows])
    out.close()
    return Backup(path=target, rows=rows, schema=schema, last=unit.audit.last())


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was restored.

    Args:
        rows: rows per table.
        made: when the backup was made, as ISO 8601.
        verdict: of the audit chain. **If it is `broken`, somebody changed the store before the backup was made.**
    """

    rows: dict[str, int]
    made: str
    verdict: Verdict


def restore(store: Store, source: str | Path, *, by: str = "program") -> Restored:
    """Put a backup into an empty store, of either kind, in one transaction; then verify its audit chain.

    A store whose chain is broken is restored all the same: its data are needed. But a RuntimeWarning says so, the
    result says so, and the chain itself records it.

    Raises:
        NotFoundError: no such file.
        DataError: no backup, or one of another version.
        TamperError: the file was changed or cut off; nothing was restored.
        ConfigError: the store is not empty, or has other keys (`recover_keys`), or heedful is too old.
    """
    with _open(source) as (file, header, raw):
        if header["keys"] != store.keys.id:
            raise ConfigError(
                "This backup belongs to other keys. Write its key file with recover_keys, open that with the "
                "passphrase of then, and restore into a new store with it."
            )
        key = store.keys.unseal(_bytes(header["key"]), ("backup", header["store"]), purpose="backup")
        with store.begin() as unit:
            store.backend.lock_schema(unit.connection)
            _make_room(unit, header["schema"])
            rows = _fill(unit, _PieceReader(file, key, raw).lines())
            migrations.upgrade(unit.connection)
            verdict = verify_work(unit)
            unit.audit.add(
                by,
                "store.restored",
                f"store:{header['store']}",
                made=header["made"],
                chain=verdict.state,
                broken_row=verdict.broken,
            )
    store.id = header["store"]
    if verdict.state == "broken":
        warnings.warn(
            f"The audit chain of the restored store is BROKEN at row {verdict.broken} ({verdict.why}): somebody "
            "changed it before this backup was made. The data were restored; compare with an older backup.",
            RuntimeWarning,
            stacklevel=2,
        )
    return Restored(rows=rows, made=header["made"], verdict=verdict)


def recover_keys(source: str | Path, key_file: str | Path) -> None:
    """Write the key file out of a backup. It opens with the passphrase that it had when the backup was made.

    Raises:
        ConfigError: there is a key file; it is never written over.
        NotFoundError, DataError: no backup.
    """
    key_file = Path(key_file)
    with _open(source) as (_, header, _raw), locked(key_file):
        if key_file.exists():
            raise ConfigError(f"{key_file} exists already; give another path. Keys are never written over.")
        write_private(key_file, _bytes(header["key_file"]))


# ---------------------------------------------------------------------- rows


def all_tables() -> list[Table]:
    """Tables of a backup, parents before children."""
    return Base.metadata.sorted_tables


def _raw_rows(table: Table) -> Select[Any]:
    """Rows as they lie there: no time or JSON is read, no field is opened."""
    columns = [
        type_coerce(column, Text()).label(column.name) if isinstance(column.type, TypeDecorator) else column
        for column in table.columns
    ]
    return select(*columns)


def _make_room(unit: Unit, schema: str) -> None:
    """Tables of the schema of the backup, without any row."""
    if schema not in migrations.known():
        raise ConfigError(f"This backup has schema {schema}, and this heedful knows up to {migrations.newest()}.")
    filled = [
        table.name
        for table in Base.metadata.sorted_tables
        if table.name not in ("meta", "audit_head") and unit.execute(select(table).limit(1)).first() is not None
    ]
    if filled:
        raise ConfigError(f"A backup goes into an empty store only, and this one has rows ({', '.join(filled)}).")
    if schema != migrations.newest():
        migrations.drop(unit.connection)
        migrations.upgrade(unit.connection, schema)
        return
    for name in ("meta", "audit_head"):
        unit.execute(delete(Base.metadata.tables[name]))


def _fill(unit: Unit, lines: Iterator[Any]) -> dict[str, int]:
    tables = MetaData()
    tables.reflect(unit.connection)
    rows: dict[str, int] = {}
    waiting: list[dict[str, Any]] = []
    now = ""
    for name, row in lines:
        if name != now or len(waiting) == 500:
            if waiting:
                unit.execute(insert(tables.tables[now]), waiting)
            waiting, now = [], name
        if name == "":
            if {table: n for table, n in row.items() if n} != rows:
                raise TamperError("The backup does not hold the rows that it counts; take another one.")
            return rows
        waiting.append({column: _from_json(value) for column, value in row.items()})
        rows[name] = rows.get(name, 0) + 1
    raise TamperError("The backup ends too early; take another one.")


def _to_json(value: Any) -> Any:
    return {"b": _text(bytes(value))} if isinstance(value, bytes | memoryview) else value


def _from_json(value: Any) -> Any:
    return _bytes(value["b"]) if isinstance(value, dict) else value


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(data: str) -> bytes:
    return base64.b64decode(data, validate=True)


# ---------------------------------------------------------------------- the file


class _PieceWriter:
    """Lines, cut into sealed pieces. One piece is kept back, because the last one is marked."""

    def __init__(self, file: IO[bytes], key: bytes, header: bytes) -> None:
        self._file, self._cipher, self._header = file, AESGCM(key), header
        self._number, self._kept = 0, io.BytesIO()

    def line(self, value: Any) -> None:
        """Write one line of JSON."""
        self._kept.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
        while self._kept.tell() > PIECE:
            data = self._kept.getvalue()
            self._piece(data[:PIECE], last=False)
            self._kept = io.BytesIO()
            self._kept.write(data[PIECE:])

    def close(self) -> None:
        """Write what is left as the last piece."""
        self._piece(self._kept.getvalue(), last=True)

    def _piece(self, data: bytes, *, last: bool) -> None:
        nonce = _NONCE.pack(int(last), self._number)
        sealed = self._cipher.encrypt(nonce, data, self._header)
        self._file.write(_LENGTH.pack(len(sealed)) + sealed)
        self._number += 1


class _PieceReader:
    """Undo `_PieceWriter`; a line comes out only after its piece was found to be genuine."""

    def __init__(self, file: IO[bytes], key: bytes, header: bytes) -> None:
        self._file, self._cipher, self._header = file, AESGCM(key), header

    def lines(self) -> Iterator[Any]:
        """The lines, in order.

        Raises:
            TamperError: a piece was changed, moved or left out.
        """
        rest = b""
        for piece in self._pieces():
            *whole, rest = (rest + piece).split(b"\n")
            yield from map(json.loads, whole)

    def _pieces(self) -> Iterator[bytes]:
        number, sealed = 0, self._next()
        while sealed is not None:
            following = self._next()
            try:
                yield self._cipher.decrypt(_NONCE.pack(int(following is None), number), sealed, self._header)
            except InvalidTag:
                raise TamperError(
                    f"The backup was changed or cut off at piece {number + 1}; nothing was restored. Take another."
                ) from None
            number, sealed = number + 1, following

    def _next(self) -> bytes | None:
        head = self._file.read(_LENGTH.size)
        if not head:
            return None
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else -1
        data = self._file.read(length) if 0 < length <= PIECE + 16 else b""
        if len(data) != length:
            raise TamperError("The backup is cut off in the middle of a piece; nothing was restored. Take another one.")
        return data


@contextmanager
def _open(source: str | Path) -> Iterator[tuple[IO[bytes], dict[str, Any], bytes]]:
    """The file behind its header, the header, and the bytes of the header."""
    try:
        file = open(source, "rb")  # noqa: SIM115 (closed below; the error is ours only while opening)
    except FileNotFoundError:
        raise NotFoundError(f"There is no backup {source}.") from None
    with file:
        try:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            raw = file.read(min(length, _LARGEST_HEADER))
            header = json.loads(raw)
            if not all(isinstance(header[name], str) for name in _HEADER):
                raise ValueError
        except (ValueError, KeyError, TypeError, struct.error):
            raise DataError(f"{source} is no backup of heedful, or its header is damaged.") from None
        yield file, header, raw


_HEADER = ("schema", "store", "keys", "made", "key", "key_file")
