"""Back ends: an encrypted SQLite file inside the process, or a PostgreSQL server.

`sqlite:///store.db` goes through SQLCipher, with the newest `database` key that opens the file. A write is acknowledged
only after it reached the disk (WAL, synchronous=FULL; synchronous_commit=on), and what is deleted is overwritten
(secure_delete).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from heedful.errors import BusyError, ConfigError, MissingExtraError, TamperError, unknown
from heedful.privacy import Keys
from heedful.store.faults import BUSY

BUSY_SECONDS: Final = 10
"""How long a writer waits for another one."""
READERS: Final = 8
Mode = Literal["write", "read"]


class Backend(Protocol):
    """What a database has to offer beyond SQL. To add one: a class here and a line in `BACKENDS`."""

    engine: Engine

    def turn(self, mode: Mode) -> AbstractContextManager[None]:
        """What surrounds a transaction: writers of this process wait for each other, where the database lets one in."""

    def start(self, connection: Connection, mode: Mode) -> None:
        """Begin a transaction: `write` sees the newest rows, `read` one moment of the whole database."""

    def lock_schema(self, connection: Connection) -> None:
        """Keep other processes from migrating or writing until the transaction ends."""

    def lock_writers(self, connection: Connection, table: str) -> None:
        """Wait until nobody writes to `table`, and keep it so until the transaction ends."""

    def scrub(self) -> None:
        """Overwrite what was deleted, as far as the database can."""


class SqliteBackend:
    """One file, encrypted page by page (AES-256, HMAC-SHA512) by SQLCipher."""

    def __init__(self, url: URL, keys: Keys) -> None:
        try:
            from sqlcipher3 import dbapi2
        except ImportError as err:
            raise MissingExtraError("The embedded store needs sqlcipher3; run: pip install 'heedful[serve]'") from err
        if not url.database or url.database == ":memory:":
            raise ConfigError("A store needs a file, for instance sqlite:///store.db; memory would lose everything.")
        self._driver, self.keys, self.path = dbapi2, keys, Path(url.database).absolute()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writing = threading.Lock()
        self.engine = create_engine(
            "sqlite://",
            module=dbapi2,
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=READERS,
            max_overflow=READERS,
            hide_parameters=True,
        )

    @contextlib.contextmanager
    def turn(self, mode: Mode) -> Iterator[None]:
        """Writers queue here. SQLite itself lets them sleep and try again, longer each time, and lets anybody pass.

        Raises:
            BusyError: another one did not let go in time.
        """
        if mode == "read":
            yield
            return
        if not self._writing.acquire(timeout=BUSY_SECONDS):
            raise BusyError(BUSY)
        try:
            yield
        finally:
            self._writing.release()

    def start(self, connection: Connection, mode: Mode) -> None:
        """IMMEDIATE for writers: one at a time, and none fails half-way because another one was faster."""
        if connection.info.get("mode") != mode:
            connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if mode == 'write' else 'ON'}")
            connection.info["mode"] = mode
        connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")

    def lock_schema(self, connection: Connection) -> None:
        """A writing transaction has the whole file already."""

    def lock_writers(self, connection: Connection, table: str) -> None:
        """A writing transaction has the whole file already."""

    def scrub(self) -> None:
        """Deleting overwrote the pages; here that reaches the file, and the journal with their old state is cut off.

        Where a long reader is in the way for two seconds, it happens at the next checkpoint (a few hundred writes on,
        or when the last connection closes).
        """
        with contextlib.closing(self._connect()) as raw:
            for _ in range(10):
                if raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0:
                    return
                time.sleep(0.2)

    def rekey(self) -> int:
        """Encrypt the whole file with the newest `database` key; the version comes back. Nobody else may have it open.

        A crash meanwhile is rolled back by SQLite, and the file still opens with the key before.
        """
        self.engine.dispose()
        newest = self.keys.versions("database")[-1]
        with contextlib.closing(self._connect()) as raw:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            raw.execute(f"PRAGMA rekey = \"x'{self.keys.secret('database', newest).hex()}'\"")
        return newest

    def _connect(self) -> Any:
        if not self.path.exists():
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600))
        for version in reversed(self.keys.versions("database")):
            raw = self._driver.connect(
                str(self.path), timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            _unlock(raw, self.keys.secret("database", version))
            try:
                raw.execute("SELECT count(*) FROM sqlite_master").fetchall()
            except self._driver.DatabaseError as err:
                raw.close()
                if "not a database" not in str(err):
                    raise
                continue
            for pragma in _PRAGMAS:
                raw.execute(f"PRAGMA {pragma}").fetchall()
            return raw
        raise TamperError(
            f"{self.path} does not open with the keys in {self.keys.path}: it belongs to other keys, or it is no store "
            "of heedful. Put back the key file that belongs to it."
        )


def _unlock(raw: Any, key: bytes) -> None:
    # SQLCipher would write to stderr that a page does not open, before we could say it in words.
    raw.execute("PRAGMA cipher_log_level = NONE")
    raw.execute(f"PRAGMA key = \"x'{key.hex()}'\"")  # x'...': a raw key; SQLCipher stretches nothing


_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "secure_delete = ON",
    "recursive_triggers = ON",
    "temp_store = MEMORY",
)


class PostgresBackend:
    """A PostgreSQL server. Fields are sealed; sizes, times and ids are visible to who runs the server."""

    def __init__(self, url: URL, keys: Keys) -> None:
        try:
            import psycopg  # noqa: F401
        except ImportError as err:
            raise MissingExtraError("PostgreSQL needs psycopg; run: pip install 'heedful[serve]'") from err
        self.keys = keys
        self.engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=READERS,
            max_overflow=READERS,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "connect_timeout": BUSY_SECONDS,
                "options": f"-c synchronous_commit=on -c lock_timeout={BUSY_SECONDS}s "
                "-c idle_in_transaction_session_timeout=60s",
            },
        )

    def turn(self, mode: Mode) -> AbstractContextManager[None]:
        """Nothing: its writers meet only at the rows that they share."""
        return contextlib.nullcontext()

    def start(self, connection: Connection, mode: Mode) -> None:
        """The driver begins by itself, and SQLAlchemy knows it; a reader gets one snapshot for all its statements."""
        connection.begin()
        if mode == "read":
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))

    def lock_schema(self, connection: Connection) -> None:
        """An advisory lock; any number, as long as it stays."""
        connection.execute(text("SELECT pg_advisory_xact_lock(5201314159)"))

    def lock_writers(self, connection: Connection, table: str) -> None:
        """SHARE conflicts with every INSERT, UPDATE and DELETE."""
        connection.execute(text(f"LOCK TABLE {table} IN SHARE MODE"))

    def scrub(self) -> None:
        """Dead rows leave the table files; the server's own write-ahead log is kept as the server is set up to."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM"))


BACKENDS: Final[dict[str, type[SqliteBackend] | type[PostgresBackend]]] = {
    "sqlite": SqliteBackend,
    "postgresql": PostgresBackend,
}
"""First part of the address -> back end."""


def connect(url: str, keys: Keys) -> SqliteBackend | PostgresBackend:
    """The back end of an address such as `sqlite:///store.db` or `postgresql://user@host/name`.

    Raises:
        ConfigError: no address, or none of a database that heedful knows.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError("This is no address of a database; write sqlite:///store.db or postgresql://...") from None
    kind = parsed.get_backend_name()
    if kind not in BACKENDS:
        raise unknown("database", kind, BACKENDS)
    return BACKENDS[kind](parsed, keys)
