"""Backups restore, into the other kind of store too, or say why not."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from sqlalchemy import select, text

from heedful.errors import ConfigError, DataError, NotFoundError, TamperError
from heedful.privacy import Keys
from heedful.store import Store, audit, migrations
from heedful.store.backup import PIECE, backup, recover_keys, restore
from heedful.store.columns import Base
from store_kit import PHRASE, SECRET, Cast, Clock, cast, fill, make_keys


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)


@pytest.fixture
def other(request: pytest.FixtureRequest, url: str, tmp_path: Path, keys: Keys, clock: Clock) -> Iterator[Store]:
    """A second, empty store, of the other kind."""
    target = f"sqlite:///{tmp_path}/other.db" if url.startswith("postgresql") else request.getfixturevalue("postgres")
    opened = Store.open(target, keys, clock=clock)
    yield opened
    opened.close()


EMBEDDED = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""For what does not depend on the database: the file of a backup, for instance."""


def rows(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, sorted; ciphertexts as they are."""
    with store.read() as unit:
        return {
            table.name: sorted((tuple(map(_plain, row)) for row in unit.execute(select(table))), key=repr)
            for table in Base.metadata.sorted_tables
        }


def _plain(value: object) -> object:
    return (
        bytes(value)
        if isinstance(value, memoryview)
        else json.dumps(value)
        if isinstance(value, dict | list)
        else value
    )


# ---------------------------------------------------------------------- backup and restore


def test_a_backup_of_one_back_end_restores_into_the_other(
    store: Store, other: Store, who: Cast, tmp_path: Path
) -> None:
    fill(store, who)
    before = rows(store)
    done = backup(store, tmp_path / "b.backup", by=who.admin)
    restored = restore(other, done.path, by=who.admin)
    assert restored.verdict.state == "ok"
    assert restored.verdict.last == done.last
    after = rows(other)
    assert after.keys() == before.keys()
    for name in after.keys() - {"audit", "audit_head"}:
        assert after[name] == before[name], name
    assert set(before["audit"]) < set(after["audit"])  # and above them what backup and restore said
    with other.read() as unit:
        assert unit.turns.of(who.thread)[0].text == f"I slept badly. {SECRET}"
        assert unit.users.by_name("clara").id == who.clara  # type: ignore[union-attr]
        assert [e.action for e in unit.audit.all()][-1] == "store.restored"
    with other.begin() as unit:
        unit.turns.add(thread=who.thread, client_id="after", role="user", text="still here")
    assert other.id == store.id
    assert audit.verify(other).state == "ok"


def test_the_file_is_private_encrypted_and_named_by_the_time(store: Store, who: Cast, tmp_path: Path) -> None:
    fill(store, who)
    (tmp_path / "backups").mkdir()
    done = backup(store, tmp_path / "backups")
    assert done.path.name == "heedful-2026-11-22T09-00-00.backup"
    assert stat.S_IMODE(done.path.stat().st_mode) == 0o600
    data = done.path.read_bytes()
    for word in (SECRET, "pairs.jsonl", "risk_events", who.thread):
        assert word.encode() not in data
    with pytest.raises(ConfigError, match="never written over"):
        backup(store, tmp_path / "backups")
    assert [p.name for p in (tmp_path / "backups").iterdir()] == [done.path.name]


def test_a_backup_is_one_moment_although_others_write(store: Store, other: Store, who: Cast, tmp_path: Path) -> None:
    """Each message comes with one count. In the backup the two agree, whenever it was taken."""
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            with store.begin() as unit:
                unit.turns.add(thread=who.thread, client_id=f"w{n}", role="user", text="x" * 2000)
                unit.counters.add("messages")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = backup(store, tmp_path / "b.backup")
    finally:
        stop.set()
        writer.join()
    restore(other, done.path)
    with other.read() as unit:
        assert len(unit.turns.of(who.thread)) - 2 == unit.counters.all().get(("messages", "2026"), 0)


@EMBEDDED
def test_a_backup_of_many_pieces_is_whole(store: Store, other: Store, who: Cast, tmp_path: Path) -> None:
    with store.begin() as unit:
        for n in range(6):
            unit.turns.add(thread=who.thread, client_id=f"big{n}", role="user", text="x" * (PIECE // 3))
    done = backup(store, tmp_path / "b.backup")
    assert done.path.stat().st_size > 2 * PIECE
    restore(other, done.path)
    with other.read() as unit:
        assert len(unit.turns.last(who.thread, 1)[0].text) == PIECE // 3


@EMBEDDED
@pytest.mark.parametrize("damage", ["flip", "cut", "cut piece", "swap", "header", "not a backup"])
def test_a_damaged_backup_restores_nothing(store: Store, other: Store, who: Cast, tmp_path: Path, damage: str) -> None:
    with store.begin() as unit:
        for n in range(6):
            unit.turns.add(thread=who.thread, client_id=f"big{n}", role="user", text="x" * (PIECE // 3))
    path = backup(store, tmp_path / "b.backup").path
    data = bytearray(path.read_bytes())
    start = 17 + 4 + int.from_bytes(data[17:21], "big")
    piece = 4 + PIECE + 16
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        del data[-5:]
    elif damage == "cut piece":
        del data[start + piece :]
    elif damage == "swap":
        first, second = data[start : start + piece], data[start + piece : start + 2 * piece]
        data[start : start + 2 * piece] = second + first
    elif damage == "header":
        at = data.index(b'"made": "2026') + 9
        data[at : at + 4] = b"2025"
    else:
        data[:7] = b"SOMEFIL"
    path.write_bytes(data)
    with pytest.raises(
        (TamperError, DataError), match=r"changed or cut off|cut off in the middle|no backup of heedful"
    ):
        restore(other, path)
    with other.read() as unit:
        assert unit.users.count() == 0
    assert audit.verify(other).state == "ok"


def test_a_broken_chain_is_restored_said_loudly_and_recorded(
    store: Store, other: Store, who: Cast, tmp_path: Path
) -> None:
    with store.backend.engine.connect() as connection:
        store.backend.start(connection, "write")
        if store.backend.engine.dialect.name == "postgresql":
            connection.execute(text("SET session_replication_role = replica"))
        else:
            connection.execute(text("DROP TRIGGER audit_no_update"))
        connection.execute(text("UPDATE audit SET actor = 'nobody' WHERE seq = 3"))
        connection.commit()
        connection.detach()
    done = backup(store, tmp_path / "b.backup")
    with pytest.warns(RuntimeWarning, match="BROKEN at row 3"):
        restored = restore(other, done.path)
    assert (restored.verdict.state, restored.verdict.broken) == ("broken", 3)
    with other.begin() as unit:
        assert len(unit.turns.of(who.thread)) == 2
        last = unit.audit.all()[-1]
        assert (last.action, last.facts["chain"], last.facts["broken_row"]) == ("store.restored", "broken", 3)
    assert audit.verify(other).broken == 3


def test_a_backup_goes_into_an_empty_store_only(store: Store, who: Cast, tmp_path: Path) -> None:
    done = backup(store, tmp_path / "b.backup")
    with pytest.raises(ConfigError, match="into an empty store only"):
        restore(store, done.path)
    with pytest.raises(NotFoundError, match="no backup"):
        restore(store, tmp_path / "gone.backup")


@EMBEDDED
def test_everything_is_there_again_from_the_backup_and_the_passphrase(store: Store, who: Cast, tmp_path: Path) -> None:
    """The machine is gone, with its key file."""
    done = backup(store, tmp_path / "b.backup")
    new = tmp_path / "new"
    new.mkdir()
    strange = Store.open(f"sqlite:///{new}/strange.db", make_keys(new))
    with pytest.raises(ConfigError, match="belongs to other keys"):
        restore(strange, done.path)
    strange.close()
    recover_keys(done.path, new / "old-keys.json")
    with pytest.raises(ConfigError, match="never written over"):
        recover_keys(done.path, new / "old-keys.json")
    opened = Store.open(f"sqlite:///{new}/store.db", Keys.open(new / "old-keys.json", PHRASE))
    restore(opened, done.path)
    with opened.read() as unit:
        assert unit.turns.of(who.thread)[0].text == f"I slept badly. {SECRET}"
    opened.close()


def test_a_backup_of_an_older_schema_restores_into_todays(
    url: str, other: Store, keys: Keys, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by a heedful that knew four tables fewer: those of then are made, filled, and brought up to date."""
    from heedful.store import backup as module

    store = Store.open(url, keys, clock=clock)
    who = cast(store)
    with store.backend.engine.connect() as connection:  # today's store, as it was two migrations ago
        store.backend.start(connection, "write")
        for name in ("erasures", "adapters", "export_items", "exports"):
            connection.execute(text(f"DROP TABLE {name}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
        connection.commit()
    later = {"erasures", "adapters", "export_items", "exports"}
    old = [table for table in Base.metadata.sorted_tables if table.name not in later]
    with monkeypatch.context() as then:
        then.setattr(module, "all_tables", lambda: old)
        done = backup(store, tmp_path / "old.backup")
    store.close()
    assert done.schema == "0002"
    assert restore(other, done.path).verdict.state == "ok"
    with other.read() as unit:
        assert len(unit.turns.of(who.thread)) == 2
        assert migrations.differences(unit.connection) == []
    with pytest.raises(TamperError), other.begin() as unit:
        unit.execute(text("DELETE FROM audit"))
