"""`heedful store`, `heedful audit`, `heedful export preferences`: what a clinic types, on a real store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from review_kit import Service, service

from heedful.cli import store as verbs
from heedful.privacy import Keys
from heedful.settings import check
from heedful.store import Store
from store_kit import CHEAP, PHRASE, Clock

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A clinic in the home folder, with its passphrase in a file."""
    home, secret = tmp_path / "home", tmp_path / "passphrase"
    home.mkdir()
    secret.write_text(PHRASE)
    secret.chmod(0o600)
    monkeypatch.setenv("HEEDFUL_HOME", str(home))
    monkeypatch.setenv("HEEDFUL_PASSPHRASE_FILE", str(secret))
    from heedful.server.config import ServeConfig

    config = check(ServeConfig, {}, where="test")
    keys = Keys.create(config.keys_path, PHRASE, cost=CHEAP)
    made = service(tmp_path, store=Store.open(config.database_url, keys, clock=(clock := Clock())), clock=clock)
    made.say("I'm Anna and I slept badly.")
    made.writer.reply = "Calm down."
    made.drafter.once()
    made.clinic.edit(made.drafts()[0].id, "That sounds tiring, Anna.", by=made.clara)
    yield made
    made.store.close()


def test_the_audit_is_verified_and_its_last_hash_printed(at: Service, call: Call) -> None:
    code, out, _ = call("audit", "verify")
    assert code == 0
    with at.store.read() as unit:
        assert unit.audit.last() in out
    _, out, _ = call("audit", "verify", "--json")
    assert json.loads(out)["state"] == "ok"


def test_a_broken_chain_is_exit_code_3(at: Service, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.store import audit

    monkeypatch.setattr(
        audit,
        "verify",
        lambda store: audit.Verdict(state="broken", rows=4, last="0" * 64, broken=5, why="it was changed"),
    )
    code, _, err = call("audit", "verify")
    assert code == 3
    assert "row 5" in err


def test_an_account_is_confirmed_where_no_colleague_is_left(at: Service, call: Call) -> None:
    with at.store.begin() as unit:
        user = unit.users.add(role="clinician", name="Dana", by="root", password_hash="$argon2id$x").id
    code, _, err = call("store", "confirm", "Nobody")
    assert code != 0
    assert "no account of this name" in err
    code, out, _ = call("store", "confirm", " dana", "--by", "operator")
    assert (code, out.strip()) == (0, "confirmed: clinician")
    with at.store.read() as unit:
        found = unit.users.get(user)
        said = [(e.actor, e.action, e.facts["way"]) for e in unit.audit.of(f"user:{user}") if "confirmed" in e.action]
    assert found.confirmed_by == "operator"
    assert said == [("operator", "user.confirmed", "machine")]
    assert call("store", "confirm", "Anna")[0] != 0  # a help-seeker reads nothing of others, confirmed or not


def test_a_backup_is_restored_on_another_machine(
    at: Service, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call("store", "backup", tmp_path / "one.backup")
    assert code == 0
    assert "rows, audit" in out
    code, _, err = call("store", "backup", tmp_path / "one.backup")
    assert code == 2
    assert "exists already" in err
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("HEEDFUL_HOME", str(other))
    code, _, err = call("store", "restore", tmp_path / "one.backup")
    assert code == 2
    assert "no keys" in err
    assert call("store", "keys", tmp_path / "one.backup")[0] == 0
    code, out, _ = call("store", "restore", tmp_path / "one.backup")
    assert code == 0
    assert "restored" in out
    assert call("audit", "verify")[0] == 0
    code, _, err = call("store", "restore", tmp_path / "one.backup")
    assert code == 2, "a store that is not empty is not written over"


def test_keys_are_rotated_and_an_interrupted_rotation_is_finished(
    at: Service, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call("store", "rotate")
    assert code == 0
    assert "content key 2" in out

    from heedful.store import rotation

    whole = rotation.reencrypt

    def killed(store: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(rotation, "reencrypt", killed)
    with pytest.raises(KeyboardInterrupt):
        verbs.rotate_command.callback(None, "operator")  # type: ignore[misc]
    monkeypatch.setattr(rotation, "reencrypt", whole)
    code, out, _ = call("store", "rotate")
    assert code == 0
    assert "content key 3" in out, "it goes on with the key that was made"
    assert next(text for _, text in at.turns()) == "I'm Anna and I slept badly."


def test_preferences_leave_with_consent_only(at: Service, call: Call, tmp_path: Path) -> None:
    code, _, err = call("export", "preferences", tmp_path / "p.jsonl", "--by", at.clara, "--plain")
    assert code == 2
    assert "nothing to export" in err
    with at.store.begin() as unit:
        unit.consents.add(
            user=at.anna, purpose="training", action="given", wording="?", version="1", language="en", by=at.anna
        )
    code, _, err = call("export", "preferences", tmp_path / "p.jsonl", "--by", at.clara, "--plain")
    assert code == 2, "the default profile asks for a consent to recording as well"
    assert "training and recording" in err
    nevada = ("--profile", "us-nv", "--by", at.clara, "--plain")
    code, out, _ = call("export", "preferences", tmp_path / "p.jsonl", *nevada)
    assert code == 0
    assert "1 lines of 1 people" in out
    assert "Anna" not in (tmp_path / "p.jsonl").read_text()


def test_the_database_file_is_not_sqlite_in_clear(at: Service, tmp_path: Path) -> None:
    (file,) = (tmp_path / "home").glob("**/store.db")
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(file).execute("select * from sqlite_master").fetchall()
