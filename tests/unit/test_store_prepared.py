"""Prepared statements: they go past SQLAlchemy's execution, so transactions, values and faults are looked at here."""

from __future__ import annotations

from datetime import timedelta

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from sqlalchemy import select

from heedful.errors import ConflictError, StoreError
from heedful.store import Store, Unit, models, prepared
from heedful.store.rows import table_of
from store_kit import SECRET, Cast, Clock, cast

TURNS, USERS = table_of(models.Turn), table_of(models.User)


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)


def test_a_prepared_look_up_finds_what_sqlalchemy_finds(store: Store, who: Cast) -> None:
    ready = prepared.look_up(TURNS, equal=("thread_id",), above="sequence", order=("-sequence",), limited=True)
    plain = select(TURNS).where(TURNS.c.thread_id == who.thread, TURNS.c.sequence > 0)
    with store.read() as unit:
        found = unit.rows(ready, thread_id=who.thread, sequence=0, most_=5)
        assert [tuple(row) for row in unit.execute(plain.order_by(TURNS.c.sequence.desc()).limit(5))] == found
        assert len(found) == 2
        assert unit.rows(ready, thread_id=who.thread, sequence=1, most_=5) == found[:1]
        assert unit.rows(ready, thread_id="nobody", sequence=0, most_=5) == []


def test_values_are_python_values_on_both_databases(store: Store, who: Cast, clock: Clock) -> None:
    with store.read() as unit:
        row = unit.rows(prepared.look_up(USERS, equal=("id",)), id=who.anna)[0]
        kept = dict(zip((c.name for c in USERS.columns), row, strict=True))
    assert (kept["created_at"], kept["disabled"], kept["erased_at"]) == (clock(), False, None)
    assert isinstance(kept["disabled"], bool)


def test_a_value_is_never_part_of_the_statement(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        for token in ("' OR 1=1 --", "%s", "100%", ":id", "?"):
            assert unit.sessions.by_token(token) is None
            made = unit.sessions.add(user=who.anna, token_hash=token, expires_at=unit.now())
            assert unit.sessions.by_token(token) == made


def test_nothing_stands_for_no_value(store: Store, who: Cast) -> None:
    """`= NULL` would never be true."""
    with store.begin() as unit:
        session = unit.sessions.add(user=who.anna, token_hash="t", expires_at=unit.now())
        unit.sessions.revoke(session.id, by=who.anna)
        first = unit.sessions.by_token("t")
        unit.sessions.revoke(session.id, by=who.clara)
        assert unit.sessions.by_token("t") == first
        assert len([said for said in unit.said if said.action == "session.revoked"]) == 1


def test_a_transaction_holds_prepared_statements_too(store: Store, who: Cast) -> None:
    def broken_off(unit: Unit, client_id: str) -> None:
        unit.turns.add(thread=who.thread, client_id=client_id, role="user", text="first")
        raise RuntimeError

    def inside(unit: Unit) -> None:
        with unit.together():
            broken_off(unit, "inner")

    with pytest.raises(RuntimeError):
        store.run(lambda unit: broken_off(unit, "gone"))
    with store.begin() as unit:
        with pytest.raises(RuntimeError):
            inside(unit)
        unit.turns.add(thread=who.thread, client_id="kept", role="user", text="third")
    with store.read() as unit:
        assert [t.client_id for t in unit.turns.of(who.thread)] == ["a-1", "p-1", "kept"]


def test_a_reader_writes_nothing_whatever_its_connection_did_before(store: Store, who: Cast) -> None:
    for n in range(2):
        with store.begin() as unit:
            unit.turns.add(thread=who.thread, client_id=f"n-{n}", role="user", text="x")
        with pytest.raises(StoreError, match="cannot be written") as caught, store.read() as unit:
            unit.turns.add(thread=who.thread, client_id="reader", role="user", text=SECRET)
        assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__
    with store.read() as unit:
        assert [t.client_id for t in unit.turns.of(who.thread)] == ["a-1", "p-1", "n-0", "n-1"]


def test_a_fault_ends_the_transaction(store: Store, who: Cast) -> None:
    def work(unit: Unit) -> None:
        unit.sessions.add(user=who.anna, token_hash="t", expires_at=unit.now())
        with pytest.raises(ConflictError) as caught:
            unit.sessions.add(user=who.clara, token_hash="t", expires_at=unit.now())
        assert "t" not in str(caught.value).split()

    with pytest.raises(StoreError, match="refused a part"):
        store.run(work)
    with store.read() as unit:
        assert unit.sessions.by_token("t") is None


# ---------------------------------------------------------------------- what is asked on each request


def test_who_is_behind_a_token_follows_every_change_at_once(store: Store, who: Cast) -> None:
    """Nothing is remembered between two requests: a change counts for the next one, in every process."""

    def standing() -> tuple[str, str, bool]:
        with store.read() as unit:
            found = unit.sessions.behind("t")
        assert found is not None
        assert (found[0].user_id, found[1].id) == (who.clara, who.clara)
        return found[1].role, found[1].language, found[1].active

    with store.begin() as unit:
        session = unit.sessions.add(user=who.clara, token_hash="t", expires_at=unit.now() + timedelta(hours=1))
    assert standing() == ("clinician", "en", True)
    store.run(lambda unit: unit.users.change(who.clara, by=who.admin, role="supervisor", language="de"))
    assert standing() == ("supervisor", "de", True)
    store.run(lambda unit: unit.users.change(who.clara, by=who.admin, disabled=True))
    assert standing() == ("supervisor", "de", False)
    store.run(lambda unit: unit.sessions.revoke(session.id, by=who.clara))
    with store.read() as unit:
        found = unit.sessions.behind("t")
        assert found is not None
        assert not found[0].valid(unit.now())
        assert unit.sessions.behind("another") is None


def test_short_looks_at_notices_turns_and_tasks(store: Store, who: Cast, clock: Clock) -> None:
    with store.begin() as unit:
        assert unit.notices.times(who.anna) == {}
        assert unit.turns.last_spoken(who.thread) == "assistant"
        assert unit.turns.newest_by(who.anna) == clock()
        assert unit.turns.newest_by(who.clara) is None
        assert not unit.tasks.waits(who.thread, "person_asked")
    times = []
    for n, moment in enumerate(("start", "timer", "start")):
        clock.forward(hours=1)
        times.append(clock())
        with store.begin() as unit:
            unit.notices.add(moment=moment, wording="", version="1", language="en", user=who.anna)
            unit.turns.add(thread=who.thread, client_id=f"s-{n}", role="system", text="A text.")
    with store.begin() as unit:
        assert unit.notices.times(who.anna) == {"start": times[2], "timer": times[1]}
        assert unit.turns.last_spoken(who.thread) == "assistant", "a text of the program is not what somebody said"
        unit.turns.add(thread=who.thread, client_id="a-9", role="user", text="Hello?", author=who.anna)
        assert unit.turns.last_spoken(who.thread) == "user"
        assert unit.turns.newest_by(who.anna) == clock()
        task = unit.tasks.add(kind="person_asked", due_at=clock(), by=who.anna, thread=who.thread)
        assert unit.tasks.waits(who.thread, "person_asked")
        assert not unit.tasks.waits(who.thread, "takeover")
        unit.tasks.done(task.id, by=who.clara, version=task.version)
        assert not unit.tasks.waits(who.thread, "person_asked")
