"""Keys: what opens them, what they lock, and what happens when a file, a place or a passphrase is not the right one."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import needs

pytest.importorskip("cryptography", reason="run: pip install 'heedful[serve]'")

from heedful.errors import ConfigError, DataError, NotFoundError, TamperError, UnlockError
from heedful.privacy import PURPOSES, Keys, version_of
from heedful.privacy import slots as slots_module

PHRASE, OTHER = "correct horse battery staple", "four quite unrelated words"
CHEAP = {"memory_kib": 64, "iterations": 1, "lanes": 1}
PLACE = ("turns", "7", "text")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.create(tmp_path / "keys.json", PHRASE, cost=CHEAP)


def test_what_is_sealed_opens_again_with_the_passphrase(keys: Keys) -> None:
    sealed = keys.seal(b"I slept badly.", PLACE)
    assert b"slept" not in sealed
    assert Keys.open(keys.path, PHRASE).unseal(sealed, PLACE) == b"I slept badly."


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    data=st.binary(max_size=300),
    place=st.tuples(st.text(), st.text(), st.text()),
    other=st.tuples(st.text(), st.text()),
)
def test_any_bytes_come_back_and_only_in_their_place(
    keys: Keys, data: bytes, place: tuple[str, ...], other: tuple[str, ...]
) -> None:
    place = tuple(part.encode("utf-8", "ignore").decode() for part in place)
    other = tuple(part.encode("utf-8", "ignore").decode() for part in other)
    sealed = keys.seal(data, place)
    assert keys.unseal(sealed, place) == data
    with pytest.raises(TamperError):
        keys.unseal(sealed, other)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(min_value=0, max_value=46), bit=st.integers(min_value=0, max_value=7))
def test_any_flipped_bit_is_noticed(keys: Keys, at: int, bit: int) -> None:
    sealed = bytearray(keys.seal(b"I slept badly.", PLACE))
    sealed[at] ^= 1 << bit
    with pytest.raises(TamperError):
        keys.unseal(bytes(sealed), PLACE)


def test_a_ciphertext_does_not_move_to_another_row_or_purpose(keys: Keys) -> None:
    sealed = keys.seal(b"words", ("turns", "7", "text"))
    for place in (("turns", "8", "text"), ("drafts", "7", "text"), ("turns", "7", "note"), ("turns", "7t", "ext")):
        with pytest.raises(TamperError, match=r"does not open: it was changed, moved"):
            keys.unseal(sealed, place)
    with pytest.raises(TamperError):
        keys.unseal(sealed, ("turns", "7", "text"), purpose="backup")


def test_bytes_that_were_never_sealed_are_named_as_such(keys: Keys) -> None:
    with pytest.raises(TamperError, match="Expected a sealed entry"):
        keys.unseal(b"I slept badly.", PLACE)


def test_equal_texts_do_not_look_equal(keys: Keys) -> None:
    assert keys.seal(b"same", PLACE) != keys.seal(b"same", PLACE)


def test_a_wrong_passphrase_is_one_clear_sentence(keys: Keys) -> None:
    with pytest.raises(UnlockError) as caught:
        Keys.open(keys.path, OTHER)
    assert str(caught.value) == (
        f"This passphrase does not open {keys.path}. Try again; without the passphrase nobody can read the data."
    )
    assert OTHER not in str(caught.value)


@pytest.mark.parametrize("easy", ["", "short", "aaaaaaaaaaaaaaaaaaaa", "ababababababab"])
def test_an_easy_passphrase_is_refused(tmp_path: Path, easy: str) -> None:
    with pytest.raises(UnlockError, match="at least 12 characters"):
        Keys.create(tmp_path / "keys.json", easy, cost=CHEAP)
    assert not (tmp_path / "keys.json").exists()


def test_two_ways_of_typing_an_accent_are_one_passphrase(tmp_path: Path) -> None:
    Keys.create(tmp_path / "keys.json", "caf\u00e9 caf\u00e9 corner table", cost=CHEAP)
    assert Keys.open(tmp_path / "keys.json", "cafe\u0301 cafe\u0301 corner table").versions() == (1,)


def test_the_file_is_private_holds_no_secret_and_is_never_written_over(keys: Keys) -> None:
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    text = keys.path.read_text("utf-8")
    for purpose in PURPOSES:
        secret = keys.secret(purpose)
        assert secret.hex() not in text
        assert slots_module.text(secret) not in text
    with pytest.raises(ConfigError, match="never written over"):
        Keys.create(keys.path, PHRASE, cost=CHEAP)
    assert sorted(p.name for p in keys.path.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def test_scrypt_opens_too_and_the_cost_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = Keys.create(path, PHRASE, stretch="scrypt", cost={"n": 2**10, "r": 8, "p": 1})
    slot = json.loads(path.read_text("utf-8"))["slots"][0]
    assert (slot["stretch"], slot["cost"]["n"]) == ("scrypt", 1024)
    assert Keys.open(path, PHRASE).digest(b"x") == made.digest(b"x")


def test_the_real_cost_is_that_of_the_rfc(tmp_path: Path) -> None:
    Keys.create(tmp_path / "keys.json", PHRASE)
    cost = json.loads((tmp_path / "keys.json").read_text("utf-8"))["slots"][0]["cost"]
    assert cost == {"memory_kib": 65536, "iterations": 3, "lanes": 4}


def test_changing_the_passphrase_touches_no_key(keys: Keys) -> None:
    sealed = keys.seal(b"words", PLACE)
    before = json.loads(keys.path.read_text("utf-8"))["keys"]
    keys.change_passphrase(PHRASE, OTHER, cost=CHEAP)
    assert json.loads(keys.path.read_text("utf-8"))["keys"] == before
    assert Keys.open(keys.path, OTHER).unseal(sealed, PLACE) == b"words"
    assert keys.unseal(sealed, PLACE) == b"words"
    with pytest.raises(UnlockError):
        Keys.open(keys.path, PHRASE)


def test_the_passphrase_changes_only_for_who_knows_it(keys: Keys) -> None:
    with pytest.raises(UnlockError):
        keys.change_passphrase(OTHER, "another long passphrase", cost=CHEAP)
    with pytest.raises(UnlockError, match="at least 12"):
        keys.change_passphrase(PHRASE, "short", cost=CHEAP)
    assert Keys.open(keys.path, PHRASE).versions() == (1,)


def test_rotation_writes_with_the_new_key_and_reads_with_the_old(keys: Keys) -> None:
    old = keys.seal(b"before", PLACE)
    assert keys.rotate() == 2
    new = keys.seal(b"after", PLACE)
    assert (version_of(old), version_of(new)) == (1, 2)
    again = Keys.open(keys.path, PHRASE)
    assert (again.unseal(old, PLACE), again.unseal(new, PLACE)) == (b"before", b"after")


def test_a_second_process_uses_a_rotated_key_at_once(keys: Keys) -> None:
    """The command line rotates while the server runs: the server must not go on sealing with the old key."""
    server = Keys.open(keys.path, PHRASE)
    keys.rotate()
    assert version_of(server.seal(b"words", PLACE)) == 2
    later = keys.seal(b"more", PLACE)
    assert server.unseal(later, PLACE) == b"more"


def test_a_retired_key_opens_nothing_any_more(keys: Keys) -> None:
    old = keys.seal(b"before", PLACE)
    server = Keys.open(keys.path, PHRASE)
    keys.rotate()
    keys.retire("content", 1)
    with pytest.raises(TamperError, match="no content key of version 1"):
        keys.unseal(old, PLACE)
    assert server.versions() == (2,)
    assert keys.rotate() == 3


@pytest.mark.parametrize("version", [1, 2, 0])
def test_the_key_in_use_cannot_be_retired(keys: Keys, version: int) -> None:
    with pytest.raises(ConfigError, match="Only an older content key"):
        keys.retire("content", version)


def test_the_index_key_stays(keys: Keys) -> None:
    with pytest.raises(ConfigError, match="does not rotate"):
        keys.rotate("index")


def test_threads_may_rotate_and_seal_at_once(keys: Keys) -> None:
    sealed: list[bytes] = []

    def work() -> None:
        for _ in range(5):
            keys.rotate()
            sealed.append(keys.seal(b"words", PLACE))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys.versions() == tuple(range(1, 22))
    assert {Keys.open(keys.path, PHRASE).unseal(blob, PLACE) for blob in sealed} == {b"words"}


def test_two_processes_never_lose_a_rotation(keys: Keys) -> None:
    code = (
        "import sys; from heedful.privacy import Keys; k = Keys.open(sys.argv[1], sys.argv[2])\n"
        "for _ in range(10): k.rotate()"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(keys.path), PHRASE]) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert keys.versions() == tuple(range(1, 22))


def test_signatures_name_their_key_and_survive_rotation(keys: Keys) -> None:
    signature = keys.sign(b"receipt")
    keys.rotate("audit")
    assert keys.signed(b"receipt", signature)
    assert keys.sign(b"receipt").startswith("2:")
    assert not keys.signed(b"another receipt", signature)
    assert not keys.signed(b"receipt", "9:00")
    assert not keys.signed(b"receipt", "rubbish")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": "heedful-keys/1"}', '{"format": "else"}'])
def test_a_damaged_file_says_so(keys: Keys, damage: str) -> None:
    keys.path.write_text(damage, "utf-8")
    with pytest.raises(DataError, match=r"put back a copy|another version"):
        Keys.open(keys.path, PHRASE)


def test_a_missing_file_says_what_is_lost(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Without it the data cannot be read"):
        Keys.open(tmp_path / "keys.json", PHRASE)


def test_an_entry_taken_out_of_the_file_is_noticed(keys: Keys) -> None:
    keys.rotate()
    record = json.loads(keys.path.read_text("utf-8"))
    record["keys"]["content"] = record["keys"]["content"][:1]
    keys.path.write_text(json.dumps(record), "utf-8")
    with pytest.raises(TamperError, match="changed by something other"):
        Keys.open(keys.path, PHRASE)


def test_secrets_do_not_leak_into_words(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hidden = {keys.secret(purpose).hex() for purpose in PURPOSES} | {PHRASE}
    said = [repr(keys), str(keys), f"{keys}", caplog.text]
    assert not [word for word in hidden for text in said if word in text]
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied or pickled"):
            copied(keys)


def test_closed_keys_open_nothing(keys: Keys) -> None:
    sealed = keys.seal(b"words", PLACE)
    keys.close()
    assert repr(keys).endswith("closed)")
    with pytest.raises(UnlockError, match="closed"):
        keys.unseal(sealed, PLACE)


@pytest.fixture
def keychain(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], str]:
    """A keychain in memory, with the interface and the priority of a real one."""
    try:
        import keyring.backend
    except ImportError:
        needs(False, "run: pip install 'heedful[serve]'")
    kept: dict[tuple[str, str], str] = {}

    class Memory(keyring.backend.KeyringBackend):
        priority = 5

        def get_password(self, service: str, username: str) -> str | None:
            return kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            kept[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            del kept[service, username]

    monkeypatch.setattr(keyring, "get_keyring", Memory)
    return kept


def test_the_keychain_opens_beside_the_passphrase(keys: Keys, keychain: dict[tuple[str, str], str]) -> None:
    with pytest.raises(UnlockError, match="does not open with a keychain; use the passphrase"):
        Keys.open(keys.path)
    keys.add_keychain()
    sealed = keys.seal(b"words", PLACE)
    assert list(keychain) == [("heedful", keys.id)]
    assert Keys.open(keys.path).unseal(sealed, PLACE) == b"words"
    assert Keys.open(keys.path, PHRASE).unseal(sealed, PLACE) == b"words"


def test_a_lost_or_changed_keychain_entry_is_said(keys: Keys, keychain: dict[tuple[str, str], str]) -> None:
    keys.add_keychain()
    keychain["heedful", keys.id] = slots_module.text(bytes(32))
    with pytest.raises(UnlockError, match="keychain's entry does not open"):
        Keys.open(keys.path)
    keychain.clear()
    with pytest.raises(UnlockError, match="has no entry"):
        Keys.open(keys.path)


def test_removing_the_keychain_removes_its_secret(keys: Keys, keychain: dict[tuple[str, str], str]) -> None:
    keys.add_keychain()
    keys.remove_keychain()
    assert keychain == {}
    with pytest.raises(UnlockError, match="use the passphrase"):
        Keys.open(keys.path)


def test_no_keychain_is_no_place_for_a_secret(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without a desktop session has a back end that only raises: it is refused before anything is written."""
    keyring = pytest.importorskip("keyring", reason="run: pip install 'heedful[serve]'")
    from keyring.backends import fail

    monkeypatch.setattr(keyring, "get_keyring", fail.Keyring)
    before = keys.path.read_bytes()
    with pytest.raises(UnlockError, match="no keychain that keeps secrets"):
        keys.add_keychain()
    assert keys.path.read_bytes() == before
