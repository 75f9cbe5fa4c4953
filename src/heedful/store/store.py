"""Store: the one place where conversations, decisions and ledgers are kept.

with store.begin() as unit:      # one transaction: all of it is kept, or nothing
    unit.turns.add(...)
with store.read() as unit:       # one moment of the whole database, and no writing
    unit.turns.of(thread)
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import insert, select

from heedful.errors import BusyError, ConfigError
from heedful.privacy import Keys
from heedful.store import audit, migrations
from heedful.store.engines import Mode, PostgresBackend, SqliteBackend, connect
from heedful.store.models import AuditHead, Meta
from heedful.store.rows import table_of
from heedful.store.unit import Unit
from heedful.store.work import Work, in_words

T = TypeVar("T")
META, HEAD = table_of(Meta), table_of(AuditHead)


def utc_now() -> datetime:
    """The time of the machine, aware."""
    return datetime.now(UTC)


class Store:
    """An open store; `open` makes one. Threads and several processes may share the database.

    Attributes:
        keys: what its fields are sealed with.
        backend: the database behind it.
        id: of this store (32 hex digits); a backup carries it.
    """

    def __init__(
        self, backend: SqliteBackend | PostgresBackend, keys: Keys, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.backend, self.keys, self.clock = backend, keys, clock
        self.id = ""

    @classmethod
    def open(cls, url: str, keys: Keys, *, clock: Callable[[], datetime] = utc_now) -> Store:
        """Open a store, make it where there is none, and bring an older schema up to date.

        Args:
            url: `sqlite:///store.db` or `postgresql://user:password@host/name`.
            keys: an opened key file. A store belongs to one key file.
            clock: gives the time, aware; for tests.

        Raises:
            ConfigError: no such kind of database, or a schema of a newer heedful.
            TamperError: the store belongs to other keys.
            BusyError, StoreError: the database does not answer.
        """
        store = cls(connect(url, keys), keys, clock)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    @contextmanager
    def begin(self) -> Iterator[Unit]:
        """A transaction. It is kept when the block ends, and undone when the block raises.

        Raises:
            BusyError: another writer did not let go in time; nothing was kept, try again (`run` does).
            StoreError: full disk, lost connection. Only a connection that is lost during the very last step leaves it
                open whether the change was kept: send it again, equal client ids make it the same turn.
        """
        with self._transaction("write") as unit:
            yield unit
            unit.finish()

    @contextmanager
    def read(self) -> Iterator[Unit]:
        """One moment of the whole database; what others write meanwhile is not seen, and writing is refused."""
        with self._transaction("read") as unit:
            yield unit

    def run(self, work: Callable[[Unit], T], *, attempts: int = 5) -> T:
        """`work` in a transaction, again where another writer was in the way.

        Raises:
            BusyError: still in the way after all attempts.
        """
        for attempt in range(1, attempts + 1):
            try:
                with self.begin() as unit:
                    found = work(unit)
            except BusyError:
                if attempt == attempts:
                    raise
                time.sleep(random.uniform(0.01, 0.05) * attempt)  # apart, or the two would meet again
            else:
                return found
        raise ConfigError(f"A transaction needs at least one attempt, but {attempts} were allowed.")

    def close(self) -> None:
        """Let go of all connections. The keys stay open: who opened them closes them."""
        self.backend.engine.dispose()

    def __repr__(self) -> str:
        # hide_password: the address of a server may carry one.
        return f"Store({self.backend.engine.dialect.name}, id={self.id!r})"

    # ------------------------------------------------------------------ inside

    @contextmanager
    def _transaction(self, mode: Mode) -> Iterator[Unit]:
        with self.backend.turn(mode), in_words(), self.backend.engine.connect() as connection:
            self.backend.start(connection, mode)
            unit = Unit(connection, self.keys, self.clock)
            unit.mode = mode
            yield unit
            if mode == "write":
                connection.commit()

    def _prepare(self) -> None:
        with in_words(), self.backend.engine.connect() as connection:
            self.backend.start(connection, "write")
            self.backend.lock_schema(connection)
            migrations.upgrade(connection)
            work = Work(connection, self.keys, self.clock)
            known = {row.name: row.value for row in work.execute(select(META))}
            self.id = known.get("store_id") or self._found(work)
            if known and known.get("keys_id") != self.keys.id:
                raise ConfigError(
                    f"This store belongs to other keys than those in {self.keys.path}. Open the key file that was made "
                    "with it; a backup carries a copy."
                )
            connection.commit()

    def _found(self, work: Work) -> str:
        store_id = uuid.uuid4().hex
        rows: list[dict[str, Any]] = [
            {"name": "store_id", "value": store_id},
            {"name": "keys_id", "value": self.keys.id},
        ]
        work.execute(insert(META), rows)
        work.execute(insert(HEAD), [{"id": 1, **audit.head_values(work, 0, audit.GENESIS)}])
        return store_id
