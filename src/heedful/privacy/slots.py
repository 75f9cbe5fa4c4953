"""What opens the key-encryption key: a passphrase, or the keychain of the operating system.

Each way is a slot of the key file and holds its own wrapped copy of the key-encryption key. A passphrase is stretched
with argon2id (RFC 9106, second recommended option: 64 MiB, 3 passes, 4 lanes), or with scrypt (RFC 7914, N = 2**17)
where the installed OpenSSL has no argon2id. To add a way of stretching is one function and one line in `STRETCHES`.
"""

from __future__ import annotations

import base64
import os
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from heedful.errors import DataError, MissingExtraError, TamperError, UnlockError
from heedful.privacy.cipher import KEY_BYTES, random_key, seal_with, unseal_with

Stretch = Literal["argon2id", "scrypt"]
Slot = dict[str, Any]

SHORTEST_PASSPHRASE: Final = 12
"""Characters. Four words of a word list are longer; the stretching makes each guess cost about a fifth of a second."""
SERVICE: Final = "heedful"
_MOST_KIB: Final = 4 * 1024 * 1024  # a damaged file must not ask for all memory of the machine


def _argon2id(secret: bytes, salt: bytes, cost: Mapping[str, int]) -> bytes:
    return Argon2id(
        salt=salt,
        length=KEY_BYTES,
        iterations=cost["iterations"],
        lanes=cost["lanes"],
        memory_cost=min(cost["memory_kib"], _MOST_KIB),
    ).derive(secret)


def _scrypt(secret: bytes, salt: bytes, cost: Mapping[str, int]) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, n=cost["n"], r=cost["r"], p=cost["p"]).derive(secret)


STRETCHES: dict[str, Callable[[bytes, bytes, Mapping[str, int]], bytes]] = {"argon2id": _argon2id, "scrypt": _scrypt}
COSTS: dict[str, dict[str, int]] = {
    "argon2id": {"memory_kib": 64 * 1024, "iterations": 3, "lanes": 4},
    "scrypt": {"n": 2**17, "r": 8, "p": 1},
}
"""What one guess costs. Written into each slot, so that a later heedful can raise it and still open older files."""


def best_stretch() -> Stretch:
    """argon2id where OpenSSL has it, else scrypt."""
    try:
        _argon2id(b"probe", bytes(16), {"memory_kib": 32, "iterations": 1, "lanes": 1})
    except UnsupportedAlgorithm:
        return "scrypt"
    return "argon2id"


def check_passphrase(passphrase: str) -> None:
    """Refuse what is guessed first.

    Raises:
        UnlockError: shorter than 12 characters, or one character repeated.
    """
    if len(passphrase) < SHORTEST_PASSPHRASE or len(set(passphrase)) < 4:
        raise UnlockError(
            f"A passphrase needs at least {SHORTEST_PASSPHRASE} characters and must not be a repetition; "
            "four or five unrelated words are a good one."
        )


def passphrase_slot(kek: bytes, passphrase: str, *, about: str, stretch: Stretch | None, cost: Slot | None) -> Slot:
    """A slot that `passphrase` opens; `about` is the id of the key file, bound into the wrapping."""
    check_passphrase(passphrase)
    name = stretch or best_stretch()
    salt, chosen = os.urandom(16), {**COSTS[name], **(cost or {})}
    wrapped = seal_with(STRETCHES[name](_plain(passphrase), salt, chosen), 0, kek, ("slot", about, "passphrase"))
    return {"kind": "passphrase", "stretch": name, "salt": text(salt), "cost": chosen, "wrapped": text(wrapped)}


def open_passphrase(slot: Slot, passphrase: str, *, about: str, path: object) -> bytes:
    """The key-encryption key behind a passphrase slot.

    Raises:
        UnlockError: the passphrase is another one.
        DataError: the slot cannot be read.
    """
    try:
        salt, wrapped, stretch = raw(slot["salt"]), raw(slot["wrapped"]), STRETCHES[slot["stretch"]]
        secret = stretch(_plain(passphrase), salt, slot["cost"])
    except (KeyError, TypeError, ValueError, UnsupportedAlgorithm) as err:
        raise DataError(f"{path}: the passphrase entry cannot be read; put back a copy of the key file.") from err
    try:
        return unseal_with(secret, wrapped, ("slot", about, "passphrase"))
    except TamperError:
        raise UnlockError(
            f"This passphrase does not open {path}. Try again; without the passphrase nobody can read the data."
        ) from None


def keychain_slot(kek: bytes, *, about: str) -> Slot:
    """A slot whose secret lies in the keychain of the operating system, under the service `heedful`.

    Raises:
        UnlockError: there is no keychain that keeps secrets.
    """
    secret = random_key()
    _keychain().set_password(SERVICE, about, text(secret))
    return {"kind": "keychain", "wrapped": text(seal_with(secret, 0, kek, ("slot", about, "keychain")))}


def open_keychain(slot: Slot, *, about: str, path: object) -> bytes:
    """The key-encryption key behind a keychain slot.

    Raises:
        UnlockError: no keychain, or another secret in it.
    """
    found = _keychain().get_password(SERVICE, about)
    if found is None:
        raise UnlockError(f"The keychain of this account has no entry for {path}; open it with the passphrase.")
    try:
        return unseal_with(raw(found), raw(slot["wrapped"]), ("slot", about, "keychain"))
    except (TamperError, KeyError, ValueError):
        raise UnlockError(f"The keychain's entry does not open {path}; open it with the passphrase.") from None


def forget_keychain(*, about: str) -> None:
    """Remove the secret from the keychain; nothing happens where it is not there."""
    chain = _keychain()
    if chain.get_password(SERVICE, about) is not None:
        chain.delete_password(SERVICE, about)


def text(data: bytes) -> str:
    """Bytes as they stand in JSON."""
    return base64.b64encode(data).decode("ascii")


def raw(data: str) -> bytes:
    """Undo `text`."""
    return base64.b64decode(data, validate=True)


def _plain(passphrase: str) -> bytes:
    # One keyboard writes "é" as one character, another as two: both must open the file.
    return unicodedata.normalize("NFKC", passphrase).encode("utf-8")


def _keychain() -> Any:
    """The keyring back end of this account, if it is a real one.

    Raises:
        MissingExtraError: keyring is not installed.
        UnlockError: nothing behind it that keeps a secret (a server without a desktop session, for instance).
    """
    try:
        import keyring
    except ImportError as err:
        raise MissingExtraError("The keychain needs keyring; run: pip install 'heedful[serve]'") from err
    chain = keyring.get_keyring()
    # keyring's own scale: below 1 are the null, failing and plain-text back ends.
    if chain.priority < 1:
        raise UnlockError("This account has no keychain that keeps secrets; use a passphrase.")
    return chain
