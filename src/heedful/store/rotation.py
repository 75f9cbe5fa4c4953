"""Keys of a store that runs: move everything over to the newest key, then forget the older ones.

keys.rotate()            # new rows are sealed with the new key from now on
reencrypt(store)         # older rows follow, in small transactions; stop it and start it again as you like
retire(store, 1)         # the old key is forgotten, once nothing is sealed with it
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Table, func, select, update

from heedful.errors import ConfigError
from heedful.privacy import version_of
from heedful.store.columns import Base
from heedful.store.engines import SqliteBackend
from heedful.store.rows import sealed_columns
from heedful.store.store import Store
from heedful.store.work import Work

BATCH = 200
"""Rows of one transaction: short enough that a message waits for milliseconds only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What `reencrypt` did: fields that were sealed again, and the version that they are sealed with."""

    fields: int
    version: int


def sealed_tables() -> tuple[Table, ...]:
    """Tables with sealed columns."""
    return tuple(table for table in Base.metadata.sorted_tables if sealed_columns(table))


def reencrypt(store: Store, *, batch: int = BATCH) -> Moved:
    """Seal every field with the newest content key, while the service runs.

    Rows that are there already are passed over, so it can be stopped and started again.

    Raises:
        TamperError: a field does not open; what came before it is done.
    """
    newest, fields = store.keys.versions()[-1], 0
    for table in sealed_tables():
        after: str | None = ""
        while after is not None:
            after, moved = store.run(partial(_batch, table=table, newest=newest, after=after, batch=batch))
            fields += moved
    store.run(lambda unit: unit.audit.add("program", "keys.reencrypted", "keys:content", fields=fields, version=newest))
    return Moved(fields=fields, version=newest)


def _batch(work: Work, *, table: Table, newest: int, after: str, batch: int) -> tuple[str | None, int]:
    names = sealed_columns(table)
    columns = [table.c.id, *(table.c[name] for name in names)]
    rows = work.execute(
        select(*columns).where(table.c.id > after).order_by(table.c.id).limit(batch).with_for_update()
    ).all()
    moved = 0
    for row in rows:
        fresh = {
            name: work.keys.seal(work.keys.unseal(bytes(blob), place), place)
            for name in names
            for blob, place in [(getattr(row, name), (table.name, row.id, name))]
            if blob is not None and version_of(bytes(blob)) < newest
        }
        if fresh:
            work.execute(update(table).where(table.c.id == row.id).values(fresh))
            moved += len(fresh)
    return (rows[-1].id if rows else None), moved


def versions_in_use(work: Work) -> dict[int, int]:
    """Content key version -> how many fields are sealed with it."""
    found: dict[int, int] = {}
    for table in sealed_tables():
        for name in sealed_columns(table):
            # Five bytes say the version; the words need not be read.
            head = func.substr(table.c[name], 1, 5)
            counted = select(head.label("head"), func.count().label("n")).where(table.c[name].is_not(None))
            for row in work.execute(counted.group_by(head)):
                version = int.from_bytes(bytes(row.head)[1:5], "big")
                found[version] = found.get(version, 0) + row.n
    return found


def retire(store: Store, version: int, *, by: str) -> None:
    """Forget an old content key for good, if nothing is sealed with it. Backups from before need the key file in them.

    Raises:
        ConfigError: fields are still sealed with it, or it is the newest one.
    """
    with store.begin() as unit:
        for table in sealed_tables():
            store.backend.lock_writers(unit.connection, table.name)
        left = versions_in_use(unit).get(version, 0)
        if left:
            raise ConfigError(
                f"{left} fields are still sealed with content key {version}; run the re-encryption to its end first."
            )
        unit.versions.discard(version)  # this transaction knows that it goes
        unit.audit.add(by, "keys.retired", "keys:content", version=version)
        store.keys.retire("content", version)


def rekey(store: Store, *, by: str) -> int:
    """Encrypt the whole SQLite file with a new database key; the version comes back. Stop the service before.

    Raises:
        ConfigError: this store is on a server; its disks are the server's.
        BusyError: somebody else has the file open.
    """
    if not isinstance(store.backend, SqliteBackend):
        raise ConfigError("Only the embedded store has a database key; on PostgreSQL encrypt the disk of the server.")
    store.keys.rotate("database")
    version = store.backend.rekey()
    store.run(lambda unit: unit.audit.add(by, "keys.database", "keys:database", version=version))
    return version
