"""Several server processes on one database: what they must not do twice."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import server_kit

server_kit.require()

import store_kit
from heedful.privacy import Keys
from heedful.review.clinic import Clinic, Policy
from heedful.review.crisis import Lines
from heedful.server.clinic import make_desk
from heedful.store import Store
from heedful.store.records import Thread
from heedful.store.repositories.threads import Threads
from store_kit import Clock

FIRST_START = """
import sys, time
from types import SimpleNamespace
from heedful.errors import ConflictError
from heedful.privacy import Keys
from heedful.server.auth.passwords import Cost, Passwords
from heedful.server.routes import setup
from heedful.store import Store
from heedful.store.repositories.people import Users

url, keys, who = sys.argv[1:]
passwords = Passwords(Cost(memory_kib=64, passes=1, lanes=1))
store = Store.open(url, Keys.open(keys, {passphrase!r}))
server = SimpleNamespace(store=store, accounts=SimpleNamespace(passwords=passwords))
look = Users.all

def slowly(self, **given):
    found = look(self, **given)
    time.sleep(1.0)  # the other process looks meanwhile
    return found

Users.all = slowly
password = "three quiet green boats"
people = (("admin", f"admin-{{who}}", password), ("clinician", f"clara-{{who}}", password))
print("ready", flush=True)
sys.stdin.readline()
try:
    setup._make(server, people)
    print("made")
except ConflictError:
    print("refused")
"""
"""What a process does with the form of /setup; between looking and making it takes its time."""


def test_two_first_starts_at_once_make_one_admin(postgres: str, keys: Keys, tmp_path: Path) -> None:
    """Each process prints a code of its own, so two people can fill in the form at the same moment."""
    Store.open(postgres, keys).close()
    code = FIRST_START.format(passphrase=store_kit.PHRASE)
    command = [sys.executable, "-c", code, postgres, str(keys.path)]
    processes = [
        subprocess.Popen([*command, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for who in "ab"
    ]
    assert all(p.stdout is not None and p.stdout.readline() == "ready\n" for p in processes)
    said: list[str] = ["", ""]

    def go(n: int) -> None:
        said[n] = processes[n].communicate("go\n", timeout=60)[0].strip()

    threads = [threading.Thread(target=go, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["made", "refused"]
    store = Store.open(postgres, keys)
    with store.read() as unit:
        assert len(unit.users.all(role="admin")) == 1
        assert len(unit.users.all()) == 2, "nothing of the second form was kept"
    store.close()


def test_a_clock_that_runs_out_is_counted_once_by_several_processes(
    postgres: str, keys: Keys, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process has a thread for the clocks. What is over is told, and counted for the yearly report, once."""
    stores = [store_kit.open_store(postgres, keys, clock) for _ in range(4)]
    lines = Lines(line="988", emergency="911")
    clinics = [Clinic(store, policy=Policy(lines=lambda language: lines)) for store in stores]
    with stores[0].begin() as unit:
        anna = unit.users.add(role="help_seeker", name="berta", by="setup")
    thread = clinics[0].open(anna.id).id
    clinics[0].receive(thread, by=anna.id, client_id="m-1", text="I am going to kill myself tonight.")
    with stores[0].read() as unit:
        events = len(unit.risk_events.of(thread))
    clock.forward(minutes=16)
    look = Threads.get

    def slowly(self: Threads, id: str) -> Thread:
        found = look(self, id)
        time.sleep(0.2)  # between looking and doing, the others look
        return found

    monkeypatch.setattr(Threads, "get", slowly)
    assert store_kit.together(*[clinic.tick for clinic in clinics]) == [None] * 4
    with stores[0].read() as unit:
        assert unit.counters.all()["takeovers_overdue", "2026"] == 1
        assert len(unit.risk_events.of(thread)) == events + 1
    for store in stores:
        store.close()


def test_workers_of_two_processes_have_different_names(tmp_path: Path) -> None:
    """In two containers both have process number 1; a job belongs to one of them."""
    names = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        site = server_kit.make_site(tmp_path / folder, people=False)
        desk = make_desk(site.app.state.server)
        takers = [w for w in desk.workers[1:] if w.name != "ahead"]  # that one takes no jobs
        names += [cell.cell_contents.name for w in takers for cell in w.work.__closure__]
        site.store.close()
    assert len(names) == len(set(names)) == 6


@pytest.mark.parametrize("kind", ["known", "new"])
def test_a_house_with_one_address_is_not_locked_out_by_a_few_who_mistype(kind: str, tmp_path: Path) -> None:
    from heedful.server.auth.accounts import Login, Refusal
    from heedful.server.auth.limits import RULES

    site = server_kit.make_site(tmp_path)
    device = site.accounts.sign_in("anna", server_kit.PASSWORD, address="house").device if kind == "known" else ""
    for n in range(RULES["address"].free + 5):
        site.accounts.sign_in(f"nobody-{n}", "another long password", address="house")
    found = site.accounts.sign_in("anna", server_kit.PASSWORD, address="house", device=device)
    assert isinstance(found, Login if kind == "known" else Refusal)
    site.store.close()
