"""Faults of a whole server, over HTTP: what was acknowledged is there, what was not kept is said (docs/faults.md)."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

import httpx
from clinic_kit import Clinic, make_clinic
from sqlalchemy import event

import store_kit
from heedful.privacy import Keys
from heedful.server.auth.passwords import Cost, Passwords
from heedful.store import Store, audit, engines
from heedful.store.store import utc_now
from server_kit import PASSWORD, csrf
from store_kit import Clock

MESSAGE = "I slept badly again."
SERVER = """
import sys
from datetime import timedelta
from pathlib import Path
from heedful.privacy import Keys
from heedful.server import guard
from heedful.server.app import create_app
from heedful.server.auth.passwords import Cost, Passwords
from heedful.server.config import ServeConfig
from heedful.server.serve import bound, make_server
from heedful.store import Store
from heedful.store.store import utc_now
from heedful.testing.engine import ScriptedEngine

url, folder, ahead, delay, phrase = sys.argv[1:]
store = Store.open(
    url, Keys.open(Path(folder, "keys.json"), phrase), clock=lambda: utc_now() + timedelta(seconds=float(ahead))
)
engine = ScriptedEngine(["What keeps you awake?"], delay=float(delay))
app = create_app(
    ServeConfig(home_folder=Path(folder), port=0), store, engine,
    guard=guard.make("crisis"), passwords=Passwords(Cost(memory_kib=64, passes=1, lanes=1)),
)
with bound("127.0.0.1", 0) as listening:
    print(listening.getsockname()[1], flush=True)
    make_server(app, host="127.0.0.1", port=0).run(sockets=[listening])
"""
"""A server as `heedful serve` puts it together, with an engine that says what is written down."""


@contextmanager
def serving(url: str, folder: Path, *, ahead: float = 0, delay: float = 0) -> Iterator[tuple[httpx.Client, Any]]:
    """A server process, and a client of it; killed in the end, if it was not before."""
    command = [sys.executable, "-c", SERVER, url, str(folder), str(ahead), str(delay), store_kit.PHRASE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, "the server did not start"
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                until(lambda: answers(client))
                yield client, process
        finally:
            process.kill()


def answers(client: httpx.Client) -> bool:
    """Whether the server is up; it knows its port before it listens."""
    try:
        return client.get("/health").status_code == 200
    except httpx.ConnectError:
        return False


def enter(client: httpx.Client) -> dict[str, str]:
    """Sign in, read what is said before first use; the header that a script sends."""
    form = csrf(client.get("/sign-in").text)
    assert client.post("/sign-in", data={"name": "anna", "password": PASSWORD, "csrf": form}).status_code == 303
    page = client.get("/talk").text
    if 'action="/talk/begin"' in page:
        client.post("/talk/begin", data={"csrf": csrf(page)})
        page = client.get("/talk").text
    return {"X-CSRF-Token": csrf(page)}


def until(there: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end, "it did not happen within a minute"
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_server_killed_between_acknowledge_and_reply_loses_nothing_and_sends_nothing_twice(
    kind: str, keys: Keys, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """kill -9 while the model writes; a new process takes the job again when the dead one's lease is over."""
    url = f"sqlite:///{tmp_path}/store.db" if kind == "sqlite" else str(request.getfixturevalue("postgres"))
    store = Store.open(url, keys, clock=lambda: utc_now() + timedelta(seconds=900))
    stored = Passwords(Cost(memory_kib=64, passes=1, lanes=1)).hash(PASSWORD)
    with store.begin() as unit:
        anna = unit.users.add(role="help_seeker", name="anna", by="setup", password_hash=stored).id
        clara = unit.users.add(role="clinician", name="clara", by="setup").id
    message = {"client_id": "m-1", "text": MESSAGE}

    def drafts() -> tuple[Any, ...]:
        with store.read() as unit:
            return unit.drafts.of(unit.threads.of(anna)[0].id)

    def taken() -> bool:
        with store.read() as unit:
            return any(job.state == "running" for job in unit.jobs.of(unit.threads.of(anna)[0].id))

    with serving(url, tmp_path, delay=600) as (client, process):
        answer = client.post("/api/talk/turns", json=message, headers=enter(client))
        assert (answer.status_code, answer.json()) == (201, {"sequence": 1, "again": False})
        until(taken)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        with pytest.raises(httpx.TransportError):
            client.get("/health")
    assert drafts() == ()
    with serving(url, tmp_path, ahead=900) as (client, _):
        headers = enter(client)
        assert [t["text"] for t in client.get("/api/talk/turns").json()["turns"]] == [MESSAGE]
        again = client.post("/api/talk/turns", json=message, headers=headers)  # the browser could not know
        assert again.json() == {"sequence": 1, "again": True}
        until(drafts)
        time.sleep(1.5)  # a second draft would come by now
        (draft,) = drafts()
        with store.begin() as unit:
            unit.drafts.decide(draft.id, "approved", by=clara)
        heard = [(t["who"], t["text"]) for t in client.get("/api/talk/turns").json()["turns"]]
        assert heard == [("you", MESSAGE), ("person", "What keeps you awake?")]
    assert audit.verify(store).state == "ok"
    store.close()


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock)
    yield made
    made.store.close()


def add(client: Any, client_id: str, text: str = MESSAGE) -> Any:
    token = csrf(client.get("/talk").text)
    return client.post("/api/talk/turns", json={"client_id": client_id, "text": text}, headers={"X-CSRF-Token": token})


def test_a_locked_database_is_said_help_stays_and_the_same_message_goes_through_later(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.05)
    client = clinic.begun()
    assert add(client, "m-0", "Hello.").status_code == 201
    with clinic.store.begin() as holder:
        refused = add(client, "m-1")
        assert refused.status_code == 503
        assert MESSAGE not in refused.text
        assert client.get("/resources").status_code == 200
        assert client.get("/talk").status_code == 200, "who only reads waits for nobody"
        holder.counters.add("messages")
    assert add(client, "m-1").json() == {"sequence": 2, "again": False}
    assert clinic.turns() == [("user", "Hello."), ("user", MESSAGE)]


def test_a_full_disk_is_said_and_what_was_acknowledged_stays(clinic: Clinic) -> None:
    client = clinic.begun()
    assert add(client, "m-0", "Hello.").status_code == 201

    def small(connection: Any, record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    event.listen(clinic.store.backend.engine, "connect", small)
    clinic.store.backend.engine.dispose()
    answers = [add(client, f"big-{n}", f"{n} " + "words of a long letter. " * 1500) for n in range(4)]
    kept = [n for n, answer in enumerate(answers) if answer.status_code == 201]
    assert answers[-1].status_code == 503
    assert "words of a long letter" not in answers[-1].text
    assert "try again later" in answers[-1].json()["error"]["message"], "staff reads why in the log"
    event.remove(clinic.store.backend.engine, "connect", small)
    clinic.store.backend.engine.dispose()
    assert [text.split()[0] for _, text in clinic.turns()] == ["Hello.", *map(str, kept)]
    assert add(client, "big-3").status_code == 201, "there is room again, and it is the same id"
    assert audit.verify(clinic.store).state == "ok"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe\x00\x01binary", b'{"client_id": "x"}', b'{"client_id": "x", "text": 7}', b"[]", b"null",
     b'{"client_id": "x", "text": "a", "role": "assistant"}', b'{"client_id": "x", "text": "\\ud800"}'],
    ids=["nothing", "half", "binary", "no text", "number", "list", "null", "more than asked for", "half a character"],
)  # fmt: skip
def test_malformed_and_binary_requests_keep_nothing_and_are_answered(clinic: Clinic, body: bytes) -> None:
    client = clinic.begun()
    assert add(client, "m-0", "Hello.").status_code == 201
    token = csrf(client.get("/talk").text)
    headers = {"X-CSRF-Token": token, "Content-Type": "application/json"}
    answer = client.post("/api/talk/turns", content=body, headers=headers)
    assert 400 <= answer.status_code < 500
    assert "error" in answer.json()
    assert clinic.turns() == [("user", "Hello.")]
