"""The audit chain: rows are added and nothing else; whoever changes one, cuts the end off or forks it is found out."""

from __future__ import annotations

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from heedful.errors import DataError, TamperError
from heedful.store import Store, audit
from store_kit import SECRET, Cast, cast, together

TABLES = ("audit", "decisions", "consents", "erasures")


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)


def tamper(store: Store, *statements: str) -> None:
    """What somebody does who has the keys of the database and switches its triggers off."""
    with store.backend.engine.connect() as connection:
        store.backend.start(connection, "write")
        if store.backend.engine.dialect.name == "postgresql":
            connection.execute(text("SET session_replication_role = replica"))
        else:
            for table in TABLES:
                for verb in ("update", "delete", "replace"):
                    connection.exec_driver_sql(f"DROP TRIGGER {table}_no_{verb}")
        for statement in statements:
            connection.execute(text(statement))
        connection.commit()
        connection.detach()  # the switch must not come back with the connection
    store.backend.engine.dispose()


def test_an_empty_chain_and_a_filled_one_hold(store: Store) -> None:
    assert audit.verify(store) == audit.Verdict(state="ok", rows=0, last=audit.GENESIS)
    cast(store)
    verdict = audit.verify(store)
    assert (verdict.state, verdict.rows) == ("ok", 5)
    with store.read() as unit:
        assert verdict.last == unit.audit.all()[-1].hash == unit.audit.last()


def test_each_row_follows_the_one_before(store: Store, who: Cast) -> None:
    with store.read() as unit:
        rows = unit.audit.all()
    assert [row.seq for row in rows] == [1, 2, 3, 4, 5]
    assert [row.previous for row in rows] == [audit.GENESIS, *(row.hash for row in rows[:-1])]
    first = rows[0]
    assert first.hash == audit.link(
        audit.GENESIS, 1, first.at, first.actor, first.action, first.object, dict(first.facts)
    )


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("change", ["UPDATE {} SET {} = {}", "DELETE FROM {}"])
def test_the_database_itself_refuses_to_change_or_delete(store: Store, who: Cast, table: str, change: str) -> None:
    key = "seq" if table == "audit" else "id"
    _fill(store, who)
    with pytest.raises(TamperError, match="can only be added to"), store.begin() as unit:
        unit.execute(text(change.format(table, key, key)))


def test_the_database_refuses_to_replace_or_truncate(store: Store, who: Cast) -> None:
    sqlite = store.backend.engine.dialect.name == "sqlite"
    statement = "INSERT OR REPLACE INTO audit SELECT * FROM audit" if sqlite else "TRUNCATE audit"
    with pytest.raises(TamperError, match="can only be added to"), store.begin() as unit:
        unit.execute(text(statement))


def _fill(store: Store, who: Cast) -> None:
    """At least one row in each of the four tables."""
    from heedful.store.erasure import erase

    with store.begin() as unit:
        unit.decisions.add(thread=who.thread, action="thread.seen", by=who.clara)
        unit.consents.add(
            user=who.anna, purpose="care", action="given", wording="x", version="1", language="en", by=who.anna
        )
    erase(store, who.anna, by=who.admin)


@pytest.mark.parametrize(
    ("statement", "row", "why"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE seq = 3", 3, "it was changed"),
        ("UPDATE audit SET facts = '{}' WHERE seq = 2", 2, "it was changed"),
        ("UPDATE audit SET at = '2020-01-01T00:00:00.000000+00:00' WHERE seq = 1", 1, "it was changed"),
        ("UPDATE audit SET previous = hash WHERE seq = 4", 4, "it does not follow"),
        ("DELETE FROM audit WHERE seq = 2", 2, "row 2 is missing"),
        ("DELETE FROM audit WHERE seq = 1", 1, "row 1 is missing"),
        ("DELETE FROM audit WHERE seq >= 4", 4, "should end at row 5"),
        ("DELETE FROM audit", 1, "should end at row 5"),
        ("DELETE FROM audit_head", 6, "end of the chain is missing"),
        ("UPDATE audit_head SET seq = 4", 5, "not signed by our keys"),
    ],
)
def test_what_was_done_to_the_chain_is_found_at_its_row(
    store: Store, who: Cast, statement: str, row: int, why: str
) -> None:
    tamper(store, statement)
    verdict = audit.verify(store)
    assert (verdict.state, verdict.broken) == ("broken", row)
    assert why in (verdict.why or "")


def test_a_chain_that_was_computed_anew_is_found_by_its_signature(store: Store, who: Cast) -> None:
    """Somebody who can write, and knows how hashes are made, rewrites the last row properly. The key is not theirs."""
    with store.read() as unit:
        last = unit.audit.all()[-1]
    forged = audit.link(last.previous, last.seq, last.at, "nobody", last.action, last.object, dict(last.facts))
    tamper(
        store,
        f"UPDATE audit SET actor = 'nobody', hash = '{forged}' WHERE seq = {last.seq}",
        f"UPDATE audit_head SET hash = '{forged}'",
    )
    verdict = audit.verify(store)
    assert (verdict.state, verdict.why) == ("broken", "the end of the chain is not signed by our keys")


def test_rows_put_behind_the_end_do_not_stop_the_service_and_stay_visible(store: Store, who: Cast) -> None:
    with store.read() as unit:
        last = unit.audit.all()[-1]
    forged = audit.link(last.hash, 6, last.at, "nobody", "x", "y", {})
    tamper(
        store,
        "INSERT INTO audit SELECT 6, at, 'nobody', 'x', 'y', '{}', hash, '" + forged + "' FROM audit WHERE seq = 5",
    )
    assert audit.verify(store).broken == 6
    with store.begin() as unit:
        unit.audit.add("program", "still.works", "test:1")
    verdict = audit.verify(store)
    assert (verdict.state, verdict.broken) == ("broken", 7)


def test_writers_at_once_do_not_fork_the_chain(store: Store, who: Cast) -> None:
    def write() -> None:
        for _ in range(6):
            with store.begin() as unit:
                unit.audit.add("program", "test.first", "test:1")
                unit.turns.of(who.thread)
                unit.audit.add("program", "test.second", "test:1")

    assert together(*[write] * 6) == [None] * 6
    verdict = audit.verify(store)
    assert (verdict.state, verdict.rows) == ("ok", 5 + 72)
    with store.read() as unit:
        names = [entry.action for entry in unit.audit.of("test:1")]
    assert names == ["test.first", "test.second"] * 36  # the entries of one transaction stay together


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(word=st.text(min_size=1).filter(lambda t: not t.isascii() or any(c in " \t\n\"'<,;!?" for c in t)))
def test_no_sentence_gets_into_the_chain(store: Store, word: str) -> None:
    for field in ("actor", "action", "object", "note"):
        entry = {"actor": "a", "action": "b", "object": "c", field: word}
        with pytest.raises(DataError, match=f"'{field}' must be a number") as caught, store.begin() as unit:
            unit.audit.add(**entry)
        assert SECRET not in str(caught.value)


def test_facts_may_be_numbers_names_and_lists_of_them(store: Store) -> None:
    facts = {"level": 3, "share": 0.5, "on": True, "nothing": None, "rules": ["en/plan@2", "en/time@1"]}
    with store.begin() as unit:
        unit.audit.add("rules:en-3", "risk.event", "thread:1", **facts)
    with store.read() as unit:
        assert dict(unit.audit.of("thread:1")[0].facts) == facts
    with pytest.raises(DataError), store.begin() as unit:
        unit.audit.add("a", "b", "c", rules=["fine", "I cannot go on"])


def test_signatures_outlive_a_rotation_of_their_key(store: Store, who: Cast) -> None:
    store.keys.rotate("audit")
    assert audit.verify(store).state == "ok"
    with store.begin() as unit:
        unit.audit.add("program", "x", "y:1")
    assert audit.verify(store).state == "ok"
