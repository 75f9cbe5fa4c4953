"""The schema, from the first one on: a store of any age opens, and its rows are still there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from sqlalchemy import inspect, text

from heedful.errors import ConfigError
from heedful.privacy import Keys
from heedful.store import Store, audit, migrations
from heedful.store.columns import Base
from heedful.store.engines import connect
from heedful.store.erasure import _steps
from heedful.store.models import APPEND_ONLY
from heedful.store.rows import sealed_columns
from store_kit import make_keys, together

AT = "2026-01-02T03:04:05.000006+00:00"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of a database without any table."""
    if request.param == "postgresql":
        yield request.getfixturevalue("empty_postgres")
    else:
        pytest.importorskip("sqlcipher3", reason="run: pip install 'heedful[serve]'")
        yield f"sqlite:///{tmp_path}/store.db"


def test_migrations_make_the_tables_of_the_models(url: str, keys: Keys) -> None:
    store = Store.open(url, keys)
    with store.read() as unit:
        assert migrations.differences(unit.connection) == []
        assert migrations.current(unit.connection) == migrations.newest()
    store.close()


def test_a_difference_would_be_noticed(url: str, keys: Keys) -> None:
    """The test above can fail: a column more in the database is seen, and so is a table less."""
    store = Store.open(url, keys)
    with store.backend.engine.connect() as connection:
        connection.execute(text("ALTER TABLE users ADD COLUMN surplus TEXT"))
        connection.execute(text("DROP TABLE counters"))
        assert sorted(str(d[0]) for d in migrations.differences(connection)) == ["add_table", "remove_column"]  # type: ignore[index]
    store.close()


def test_numbers_have_no_gap() -> None:
    assert migrations.known() == tuple(f"{n:04d}" for n in range(1, len(migrations.known()) + 1))


@pytest.mark.parametrize("start", ["0001", "0002", "0003", "0004"])
def test_an_older_store_opens_with_its_rows(url: str, keys: Keys, start: str) -> None:
    backend = connect(url, keys)
    name = keys.seal(b"Anna", ("users", "u1", "name"))
    words = keys.seal("Grüße".encode(), ("turns", "t1", "text"))
    with backend.engine.connect() as connection:
        backend.start(connection, "write")
        migrations.upgrade(connection, start)
        connection.execute(
            text(
                "INSERT INTO users (id, role, name, name_digest, language, disabled, created_at, changed_at)"
                f" VALUES ('u1', 'help_seeker', :name, 'd', 'de', false, '{AT}', '{AT}')"
            ),
            {"name": name},
        )
        connection.execute(
            text(
                "INSERT INTO threads (id, help_seeker, state, profile, risk_level, risk_highest, version, opened_at,"
                " opened_by, changed_at, changed_by)"
                f" VALUES ('h1', 'u1', 'ai_assisted', 'strict', 2, 3, 7, '{AT}', 'u1', '{AT}', 'u1')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO turns (id, thread_id, sequence, client_id, role, text, author, created_at)"
                f" VALUES ('t1', 'h1', 1, 'c1', 'user', :words, 'u1', '{AT}')"
            ),
            {"words": words},
        )
        connection.commit()
    backend.engine.dispose()
    store = Store.open(url, keys)
    with store.begin() as unit:
        assert unit.users.get("u1").name == "Anna"
        assert unit.threads.get("h1").version == 7
        assert [t.text for t in unit.turns.of("h1")] == ["Grüße"]
        unit.turns.add(thread="h1", client_id="c2", role="user", text="more")
        assert migrations.differences(unit.connection) == []
    assert audit.verify(store).state == "ok"
    store.close()


def test_who_could_sign_in_before_accounts_were_confirmed_goes_on(url: str, keys: Keys) -> None:
    backend = connect(url, keys)
    rows = [  # id, role, password, disabled, goes on
        ("c1", "clinician", "p", False, True),
        ("s1", "supervisor", "p", False, True),
        ("a1", "annotator", "p", False, True),
        ("c2", "clinician", None, False, False),  # its invitation was never opened
        ("c3", "clinician", "p", True, False),  # closed: an admin who opens it needs a colleague
        ("r1", "admin", "p", False, False),
        ("h1", "help_seeker", "p", False, False),
    ]
    with backend.engine.connect() as connection:
        backend.start(connection, "write")
        migrations.upgrade(connection, "0004")
        for id, role, password, disabled, _ in rows:
            sealed = password and keys.seal(password.encode(), ("users", id, "password_hash"))
            values = {"id": id, "role": role, "password": sealed, "disabled": disabled}
            connection.execute(
                text(
                    "INSERT INTO users (id, role, password_hash, language, disabled, created_at, changed_at)"
                    f" VALUES (:id, :role, :password, 'de', :disabled, '{AT}', '{AT}')"
                ),
                values,
            )
        connection.commit()
    backend.engine.dispose()
    store = Store.open(url, keys)
    with store.read() as unit:
        for id, *_, goes_on in rows:
            found = unit.users.get(id)
            assert (found.confirmed_at is not None) is goes_on, id
            assert found.confirmed_by == ("migration" if goes_on else None)
    store.close()


def test_a_store_of_a_newer_heedful_is_left_alone(url: str, keys: Keys) -> None:
    Store.open(url, keys).close()
    backend = connect(url, keys)
    with backend.engine.connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.commit()
    backend.engine.dispose()
    with pytest.raises(ConfigError, match="schema 9999, and this heedful knows only up to"):
        Store.open(url, keys)


def test_servers_that_start_at_once_migrate_once(url: str, keys: Keys) -> None:
    stores: list[Store] = []
    assert together(*[lambda: stores.append(Store.open(url, keys))] * 4) == [None] * 4
    assert len({store.id for store in stores}) == 1
    for store in stores:
        store.close()


def test_a_migration_that_stops_half_way_leaves_the_old_schema(
    url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heedful.store.migrations import append_only

    def stop(table: str, *, key: str) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(append_only, "forbid_changes", stop)
    with pytest.raises(RuntimeError, match="power cut"):
        Store.open(url, keys)
    monkeypatch.undo()
    backend = connect(url, keys)
    assert inspect(backend.engine).get_table_names() == []
    backend.engine.dispose()
    Store.open(url, keys).close()


def test_every_table_with_words_is_in_the_plan_of_deletion() -> None:
    """A new table with a sealed column must say what a deletion does to it, or words would stay behind."""
    reached = {step.table.name for step in _steps("u1")}
    assert {table.name for table in Base.metadata.sorted_tables if sealed_columns(table)} <= reached
    assert not reached & set(APPEND_ONLY)


def test_tables_that_only_grow_hold_no_sealed_words() -> None:
    """They cannot be erased, so nothing may be in them that somebody has a right to have erased."""
    assert [t for t in APPEND_ONLY if sealed_columns(Base.metadata.tables[t])] == []
