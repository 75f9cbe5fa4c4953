"""Fault drills: killed processes, full disks, locked databases, lost servers, changed keys: what was said stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from sqlalchemy import event, text

from heedful.errors import BusyError, ConfigError, StoreError, TamperError
from heedful.privacy import Keys
from heedful.store import Store, Unit, audit, engines, faults, rotation
from store_kit import PHRASE, SECRET, Cast, cast, together


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from heedful.privacy import Keys
    from heedful.store import Store

    url, keys, phrase, thread, when = sys.argv[1:]
    store = Store.open(url, Keys.open(keys, phrase))
    with store.begin() as unit:
        unit.turns.add(thread=thread, client_id="killed", role="user", text="Is somebody there?")
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
    os.write(1, b"acknowledged")  # nothing between the commit and here
    os.kill(os.getpid(), signal.SIGKILL)
    """
)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_between_commit_and_return(
    store: Store, url: str, keys: Keys, who: Cast, when: str, tmp_path: Path
) -> None:
    """kill -9: acknowledged or not, after the browser submits again the message is there exactly once."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, url, str(keys.path), PHRASE, who.thread, when], capture_output=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert done.stdout == (b"acknowledged" if when == "after" else b"")
    again = Store.open(url, Keys.open(keys.path, PHRASE))
    with again.read() as unit:
        assert len(unit.turns.of(who.thread)) == (3 if when == "after" else 2)
    with again.begin() as unit:  # the browser never got an answer and sends it once more
        unit.turns.add(thread=who.thread, client_id="killed", role="user", text="Is somebody there?")
    with again.read() as unit:
        assert [t.client_id for t in unit.turns.of(who.thread)] == ["a-1", "p-1", "killed"]
    assert audit.verify(again).state == "ok"
    again.close()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_full_disk_keeps_nothing_of_the_change_and_says_so(store: Store, who: Cast) -> None:
    def small(connection: object, record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[attr-defined]
        connection.execute(f"PRAGMA max_page_count = {pages + 8}").fetchall()  # type: ignore[attr-defined]

    event.listen(store.backend.engine, "connect", small)
    store.backend.engine.dispose()

    def too_much(unit: Unit) -> None:
        unit.turns.add(thread=who.thread, client_id="small", role="user", text="first")
        for n in range(50):
            unit.turns.add(thread=who.thread, client_id=f"big{n}", role="user", text=SECRET * 500)

    with pytest.raises(StoreError, match="disk of the database is full") as caught:
        store.run(too_much)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    event.remove(store.backend.engine, "connect", small)
    store.backend.engine.dispose()
    with store.begin() as unit:
        assert len(unit.turns.of(who.thread)) == 2
        unit.turns.add(thread=who.thread, client_id="small", role="user", text="first")
    assert audit.verify(store).state == "ok"


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ("53100", StoreError, "disk of the database is full"),
        ("53200", StoreError, "out of resources"),
        ("57P01", StoreError, "connection to the database was lost"),
        ("40P01", BusyError, "Another writer"),
        ("XX001", TamperError, "damaged"),
        ("P0001", StoreError, "refused this \\(P0001\\)"),
    ],
)
def test_faults_of_the_server_come_out_in_words(
    store: Store, who: Cast, state: str, error: type[Exception], message: str
) -> None:
    raising = f"RAISE EXCEPTION 'row ({SECRET})' USING ERRCODE = '{state}'"
    with store.backend.engine.begin() as connection:
        connection.execute(
            text(f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {raising}; END $$")
        )
        connection.execute(text("CREATE TRIGGER fail BEFORE INSERT ON turns FOR EACH ROW EXECUTE FUNCTION fail()"))
    with pytest.raises(error, match=message) as caught, store.begin() as unit:
        unit.turns.add(thread=who.thread, client_id="x", role="user", text=SECRET)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_server_that_drops_the_connection_is_found_again(store: Store, who: Cast) -> None:
    kill = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def work(unit: Unit) -> None:
        unit.turns.add(thread=who.thread, client_id="x", role="user", text="words")
        with store.backend.engine.connect() as other:
            other.execute(kill)
        unit.turns.of(who.thread)

    with pytest.raises(StoreError, match="lost"):
        store.run(work)
    with store.read() as unit:
        assert len(unit.turns.of(who.thread)) == 2


def test_a_locked_database_is_waited_for_and_then_said(
    store: Store, url: str, keys: Keys, who: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_SECONDS", 1)
    impatient = Store.open(url, keys)
    with store.begin() as holder:
        holder.turns.add(thread=who.thread, client_id="held", role="user", text="words")
        with pytest.raises(BusyError, match="Another writer holds the database"), impatient.begin() as unit:
            unit.turns.add(thread=who.thread, client_id="waits", role="user", text="words")
    with impatient.begin() as unit:
        assert unit.turns.add(thread=who.thread, client_id="waits", role="user", text="words").sequence == 4
    impatient.close()


def test_run_tries_again_until_the_other_writer_is_done(
    store: Store, url: str, keys: Keys, who: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_SECONDS", 1)
    impatient = Store.open(url, keys)
    holds, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with store.begin() as unit:
            unit.turns.add(thread=who.thread, client_id="held", role="user", text="words")
            holds.set()
            let_go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    holds.wait(30)
    threading.Timer(1.5, let_go.set).start()
    turn = impatient.run(
        lambda unit: unit.turns.add(thread=who.thread, client_id="waits", role="user", text="words"), attempts=9
    )
    holder.join()
    assert turn.sequence == 4
    impatient.close()


def test_a_swallowed_error_of_the_database_does_not_keep_half(store: Store, who: Cast) -> None:
    def work(unit: Unit) -> None:
        unit.turns.add(thread=who.thread, client_id="x", role="user", text="words")
        with pytest.raises(StoreError):
            unit.execute(text("SELECT * FROM no_such_table"))

    with pytest.raises(StoreError, match="nothing of it was kept"):
        store.run(work)
    with store.read() as unit:
        assert len(unit.turns.of(who.thread)) == 2


def test_a_file_that_is_no_store_is_left_as_it_is(tmp_path: Path, keys: Keys) -> None:
    pytest.importorskip("sqlcipher3", reason="run: pip install 'heedful[serve]'")
    path = tmp_path / "notes.txt"
    path.write_bytes(b"my notes " * 1000)
    with pytest.raises(TamperError, match="does not open with the keys"):
        Store.open(f"sqlite:///{path}", keys)
    assert path.read_bytes() == b"my notes " * 1000


def test_every_line_of_the_tables_of_faults_is_a_sentence() -> None:
    for _, make, words in (*faults.SQLITE, *faults.POSTGRES):
        assert words.endswith(".")
        assert str(make(words)) == words


# ---------------------------------------------------------------------- keys that change while the service runs


def test_reencryption_moves_everything_and_may_be_stopped(
    store: Store, who: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.begin() as unit:
        for n in range(10):
            unit.turns.add(thread=who.thread, client_id=f"n{n}", role="user", text=f"words {n}")
        before = unit.turns.of(who.thread)
    store.keys.rotate()
    batch, calls = rotation._batch, 0

    def stops(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return batch(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(rotation, "_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        rotation.reencrypt(store, batch=3)
    monkeypatch.undo()
    with store.read() as unit:
        assert set(rotation.versions_in_use(unit)) == {1, 2}
        assert unit.turns.of(who.thread) == before
    with pytest.raises(ConfigError, match="fields are still sealed with content key 1"):
        rotation.retire(store, 1, by=who.admin)
    assert rotation.reencrypt(store, batch=3).version == 2
    assert rotation.reencrypt(store).fields == 0
    with store.read() as unit:
        assert set(rotation.versions_in_use(unit)) == {2}
        assert unit.turns.of(who.thread) == before
    rotation.retire(store, 1, by=who.admin)
    assert store.keys.versions() == (2,)
    with store.read() as unit:
        assert unit.turns.of(who.thread) == before
    assert audit.verify(store).state == "ok"


def test_writers_go_on_while_a_key_is_rotated_moved_and_retired(store: Store, url: str, keys: Keys, who: Cast) -> None:
    """The server is another process with its own `Keys`: nothing that it writes may be sealed with a forgotten key."""
    server = Store.open(url, Keys.open(keys.path, PHRASE))
    stop = threading.Event()
    written = 0

    def send(unit: Unit, *, n: int) -> None:
        unit.turns.add(thread=who.thread, client_id=f"w{n}", role="user", text=f"t{n}")

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            server.run(partial(send, n=written))  # a transaction that used the retired key is undone and tried again
            written += 1

    def care() -> None:
        try:
            for version in (1, 2, 3):
                keys.rotate()
                rotation.reencrypt(store, batch=5)
                rotation.retire(store, version, by=who.admin)
        finally:
            stop.set()

    assert together(write, care) == [None, None]
    server.close()
    again = Store.open(url, Keys.open(keys.path, PHRASE))
    with again.read() as unit:
        assert [t.text for t in unit.turns.of(who.thread, after=2)] == [f"t{n}" for n in range(written)]
        assert again.keys.versions() == (4,)
    again.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_key_is_not_retired_under_a_transaction_that_uses_it(
    store: Store, url: str, keys: Keys, who: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with a row that is written and not yet kept, and once with one that would come after the key is gone."""
    monkeypatch.setattr(engines, "BUSY_SECONDS", 1)
    care = Store.open(url, keys)
    with store.begin() as unit:
        unit.turns.add(thread=who.thread, client_id="early", role="user", text="sealed with the old key")
        keys.rotate()
        with pytest.raises(BusyError, match="Another writer"):
            rotation.retire(care, 1, by=who.admin)

    def late(unit: Unit) -> None:
        rotation.reencrypt(care)
        rotation.retire(care, 1, by=who.admin)
        unit.turns.add(thread=who.thread, client_id="late", role="user", text="words")

    with pytest.raises(BusyError, match="key was changed meanwhile"):
        store.run(late, attempts=1)
    with store.read() as unit:
        assert [t.text for t in unit.turns.of(who.thread, after=2)] == ["sealed with the old key"]
    care.close()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_the_file_gets_a_new_database_key(store: Store, url: str, keys: Keys, who: Cast) -> None:
    assert rotation.rekey(store, by=who.admin) == 2
    keys.retire("database", 1)
    again = Store.open(url, Keys.open(keys.path, PHRASE))
    with again.read() as unit:
        assert len(unit.turns.of(who.thread)) == 2
    again.close()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_crash_between_the_new_database_key_and_its_use_loses_nothing(store: Store, url: str, keys: Keys) -> None:
    who = cast(store)
    keys.rotate("database")  # and here the process dies, before the file was encrypted with it
    store.close()
    again = Store.open(url, Keys.open(keys.path, PHRASE))
    with again.begin() as unit:
        unit.turns.add(thread=who.thread, client_id="x", role="user", text="words")
    again.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_server_has_no_database_key(store: Store, who: Cast) -> None:
    with pytest.raises(ConfigError, match="encrypt the disk of the server"):
        rotation.rekey(store, by=who.admin)


def test_the_process_list_and_the_environment_hold_no_key(store: Store, keys: Keys) -> None:
    hexes = [keys.secret("database").hex(), keys.secret("content").hex()]
    seen = Path(f"/proc/{os.getpid()}/cmdline").read_text("utf-8", "replace") + repr(dict(os.environ))
    seen += repr(store) + repr(store.backend.engine) + str(store.backend.engine.url)
    assert not [word for word in hexes if word in seen]
