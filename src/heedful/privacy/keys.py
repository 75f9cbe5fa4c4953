"""Keys: a passphrase or the keychain opens one key, which opens the keys that lock data.

    passphrase ── argon2id ──┐
                             ├─> key-encryption key ──> content   fields of rows, versioned
    keychain of the system ──┘                     ├──> database  the whole SQLite file
                                                   ├──> backup    backup files
                                                   ├──> audit     signatures of the audit head and of receipts
                                                   └──> index     looking up a name without storing it

All of it lies in one file, wrapped (AES-256-GCM); no secret stands there in clear. **Whoever loses the passphrase and
the keychain, or the key file, loses the data**: there is no back door. Keep a copy of the file and of the passphrase
in two places; a backup carries a copy of the file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, get_args

from heedful.errors import ConfigError, DataError, NotFoundError, TamperError, UnlockError
from heedful.privacy import slots
from heedful.privacy._files import locked, read_private, stamp, write_private
from heedful.privacy.cipher import Context, random_key, seal_with, unseal_with, version_of

Purpose = Literal["content", "database", "backup", "audit", "index"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
FIXED: Final = frozenset({"index"})
"""Purposes without rotation: the digests of names are computed with one key, or no name would be found again."""
FORMAT: Final = "heedful-keys/1"


class Keys:
    """An opened key file. `create` and `open` make one; threads may share it.

    Another process may rotate a key meanwhile: the file is looked at before each sealing, and read again if it changed.

    Attributes:
        path: of the key file.
        id: of this set of keys (32 hex digits, no secret). A database remembers it.
    """

    def __init__(self, path: Path, record: dict[str, Any], kek: bytes, *, seen: tuple[int, int, int] | None) -> None:
        self.path, self.id = path, str(record["id"])
        self._lock = threading.RLock()
        self._kek: bytes | None = kek
        self._secrets: dict[tuple[str, int], bytes] = {}
        self._take(record, seen)

    @classmethod
    def create(
        cls,
        path: str | Path,
        passphrase: str,
        *,
        stretch: slots.Stretch | None = None,
        cost: dict[str, int] | None = None,
    ) -> Keys:
        """Write a new key file (mode 0600) and open it.

        Args:
            stretch: how the passphrase becomes a key; None = argon2id where OpenSSL has it, else scrypt.
            cost: instead of `slots.COSTS`; lower only in tests.

        Raises:
            ConfigError: there is a file already; it is never written over.
            UnlockError: the passphrase is too easy.
        """
        path, kek, about = Path(path), random_key(), uuid.uuid4().hex
        path.parent.mkdir(parents=True, exist_ok=True)
        slot = slots.passphrase_slot(kek, passphrase, about=about, stretch=stretch, cost=cost)
        keys = {purpose: [_wrapped(kek, about, purpose, 1)] for purpose in PURPOSES}
        record = {"format": FORMAT, "id": about, "slots": [slot], "keys": keys}
        with locked(path):
            if path.exists():
                raise ConfigError(f"{path} exists already. Open it, or give another path: keys are never written over.")
            write_private(path, _signed(record, kek))
            return cls(path, record, kek, seen=stamp(path))

    @classmethod
    def open(cls, path: str | Path, passphrase: str | None = None) -> Keys:
        """Open a key file with its passphrase, or (None) with the keychain of the operating system.

        Raises:
            NotFoundError: no such file.
            UnlockError: wrong passphrase, or no keychain entry.
            DataError, TamperError: the file is damaged or was changed.
        """
        path = Path(path)
        seen, record = stamp(path), _read(path)
        kind = "keychain" if passphrase is None else "passphrase"
        slot = next((s for s in record["slots"] if s.get("kind") == kind), None)
        if slot is None:
            other = "passphrase" if passphrase is None else "keychain"
            raise UnlockError(f"{path} does not open with a {kind}; use the {other}.")
        if passphrase is None:
            kek = slots.open_keychain(slot, about=record["id"], path=path)
        else:
            kek = slots.open_passphrase(slot, passphrase, about=record["id"], path=path)
        _check(record, kek, path)
        return cls(path, record, kek, seen=seen)

    # ------------------------------------------------------------------ use

    def seal(self, data: bytes, context: Context, *, purpose: Purpose = "content") -> bytes:
        """`data` encrypted with the newest key of `purpose`, bound to `context` (table, row, column)."""
        with self._lock:
            self._refresh()
            version = self._newest(purpose)
            key = self._secrets[purpose, version]
        return seal_with(key, version, data, (purpose, *context))

    def unseal(self, blob: bytes, context: Context, *, purpose: Purpose = "content") -> bytes:
        """Undo `seal`.

        Raises:
            TamperError: changed, moved from another place, or sealed with a key that this file does not have.
        """
        return unseal_with(self.secret(purpose, version_of(blob)), blob, (purpose, *context))

    def sign(self, data: bytes, *, purpose: Purpose = "audit") -> str:
        """HMAC-SHA256 as `<key version>:<hex>`."""
        with self._lock:
            self._refresh()
            version = self._newest(purpose)
        return f"{version}:{self._mac(purpose, version, data)}"

    def signed(self, data: bytes, signature: str, *, purpose: Purpose = "audit") -> bool:
        """Whether `signature` came from `sign(data)` with a key of this file."""
        number, _, digest = signature.partition(":")
        if not number.isdecimal() or int(number) not in self.versions(purpose):
            return False
        return hmac.compare_digest(digest, self._mac(purpose, int(number), data))

    def digest(self, data: bytes) -> str:
        """HMAC-SHA256 in hex under the index key: equal data, equal digest, and no way back without the key."""
        return self._mac("index", 1, data)

    def secret(self, purpose: Purpose, version: int | None = None) -> bytes:
        """The raw key (32 bytes); None = the newest. For the database driver; everybody else seals and signs.

        Raises:
            TamperError: no such version, in the file neither.
        """
        with self._lock:
            wanted = (purpose, self._newest(purpose) if version is None else version)
            if wanted not in self._secrets:
                self._refresh(force=True)
            if wanted not in self._secrets:
                raise TamperError(
                    f"{self.path} has no {purpose} key of version {wanted[1]}. Put back the key file that belongs to "
                    "the data; without it the data cannot be read."
                )
            return self._secrets[wanted]

    def versions(self, purpose: Purpose = "content") -> tuple[int, ...]:
        """Versions that can be read, oldest first; the last one is written with."""
        with self._lock:
            self._refresh()
            return tuple(sorted(v for name, v in self._secrets if name == purpose))

    # ------------------------------------------------------------------ care

    def rotate(self, purpose: Purpose = "content") -> int:
        """A new key for what is written from now on; older ones stay for reading. The new version comes back.

        Raises:
            ConfigError: this purpose has no rotation.
        """
        if purpose in FIXED:
            raise ConfigError(f"The {purpose} key does not rotate: what it computed would not be found again.")

        def change(record: dict[str, Any], kek: bytes) -> None:
            entries = record["keys"][purpose]
            entries.append(_wrapped(kek, self.id, purpose, max(e["version"] for e in entries) + 1))

        self._change(change)
        return self.versions(purpose)[-1]

    def retire(self, purpose: Purpose, version: int) -> None:
        """Forget an old key for good. What is still sealed with it cannot be read by anybody any more.

        `Store.retire` makes sure first that nothing is; use that for the content key.

        Raises:
            ConfigError: it is the newest, or there is no such version.
        """
        if version not in self.versions(purpose) or version == self.versions(purpose)[-1]:
            raise ConfigError(f"Only an older {purpose} key can be retired; there are {self.versions(purpose)}.")

        def change(record: dict[str, Any], kek: bytes) -> None:
            record["keys"][purpose] = [e for e in record["keys"][purpose] if e["version"] != version]

        self._change(change)

    def change_passphrase(
        self, old: str, new: str, *, stretch: slots.Stretch | None = None, cost: dict[str, int] | None = None
    ) -> None:
        """Lock the key-encryption key with another passphrase. No data is touched; the old one still opens old copies.

        Raises:
            UnlockError: `old` is not the passphrase, or `new` is too easy.
        """

        def change(record: dict[str, Any], kek: bytes) -> None:
            now = next(s for s in record["slots"] if s["kind"] == "passphrase")
            slots.open_passphrase(now, old, about=self.id, path=self.path)
            fresh = slots.passphrase_slot(kek, new, about=self.id, stretch=stretch, cost=cost)
            record["slots"] = [fresh if s is now else s for s in record["slots"]]

        self._change(change)

    def add_keychain(self) -> None:
        """Let the keychain of this account open the file too. The passphrase stays.

        Raises:
            UnlockError: this account has no keychain that keeps secrets.
        """

        def change(record: dict[str, Any], kek: bytes) -> None:
            others = [s for s in record["slots"] if s["kind"] != "keychain"]
            record["slots"] = [*others, slots.keychain_slot(kek, about=self.id)]

        self._change(change)

    def remove_keychain(self) -> None:
        """Only the passphrase opens the file from now on."""

        def change(record: dict[str, Any], kek: bytes) -> None:
            record["slots"] = [s for s in record["slots"] if s["kind"] != "keychain"]

        self._change(change)
        slots.forget_keychain(about=self.id)

    def file_bytes(self) -> bytes:
        """The key file as it lies there, all keys wrapped: what a backup carries along."""
        return read_private(self.path)

    def close(self) -> None:
        """Drop the keys. Python cannot promise that no copy stays in memory until the process ends."""
        with self._lock:
            self._kek, self._secrets = None, {}

    # ------------------------------------------------------------------ inside

    def _take(self, record: dict[str, Any], seen: tuple[int, int, int] | None) -> None:
        kek = self._open_kek()
        self._secrets = {
            (purpose, entry["version"]): unseal_with(
                kek, slots.raw(entry["wrapped"]), ("wrap", self.id, purpose, str(entry["version"]))
            )
            for purpose, entries in record["keys"].items()
            for entry in entries
        }
        self._seen = seen

    def _refresh(self, *, force: bool = False) -> None:
        # A key that another process added must be used from the next sealing on, or retiring the old one loses data.
        kek, seen = self._open_kek(), stamp(self.path)
        if force or seen != self._seen:
            record = _read(self.path)
            if record["id"] != self.id:
                raise TamperError(f"{self.path} holds other keys now than those that were opened; put the file back.")
            _check(record, kek, self.path)
            self._take(record, seen)

    def _change(self, change: Callable[[dict[str, Any], bytes], None]) -> None:
        with self._lock, locked(self.path):
            kek, record = self._open_kek(), _read(self.path)
            _check(record, kek, self.path)
            change(record, kek)
            write_private(self.path, _signed(record, kek))
            self._take(record, stamp(self.path))

    def _open_kek(self) -> bytes:
        if self._kek is None:
            raise UnlockError("These keys were closed; open the key file again.")
        return self._kek

    def _newest(self, purpose: str) -> int:
        return max(version for name, version in self._secrets if name == purpose)

    def _mac(self, purpose: Purpose, version: int, data: bytes) -> str:
        return hmac.new(self.secret(purpose, version), data, hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return f"Keys(path={str(self.path)!r}, id={self.id!r}, {'closed' if self._kek is None else 'open'})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Keys are not copied or pickled: they would leave this process. Open the key file there.")


def _wrapped(kek: bytes, about: str, purpose: str, version: int) -> dict[str, Any]:
    wrapped = seal_with(kek, 0, random_key(), ("wrap", about, purpose, str(version)))
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return {"version": version, "made": made, "wrapped": slots.text(wrapped)}


def _seal_of(record: dict[str, Any], kek: bytes) -> str:
    rest = {key: value for key, value in record.items() if key != "mac"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(kek, b"heedful key file" + canonical, hashlib.sha256).hexdigest()


def _signed(record: dict[str, Any], kek: bytes) -> bytes:
    return (json.dumps({**record, "mac": _seal_of(record, kek)}, indent=1) + "\n").encode()


def _check(record: dict[str, Any], kek: bytes, path: Path) -> None:
    if not hmac.compare_digest(str(record["mac"]), _seal_of(record, kek)):
        raise TamperError(f"{path} was changed by something other than heedful; put back a copy of the key file.")


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(read_private(path))
        if record["format"] != FORMAT:
            raise DataError(f"{path}: expected the format {FORMAT}; this file is of another version of heedful.")
        if not (
            isinstance(record["mac"], str) and set(record["keys"]) == set(PURPOSES) and all(record["keys"].values())
        ):
            raise KeyError("keys")
        str(record["id"]), list(record["slots"])
    except FileNotFoundError:
        raise NotFoundError(
            f"There is no key file {path}. Without it the data cannot be read; put back a copy."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        if isinstance(err, DataError):
            raise
        raise DataError(f"{path} is no key file of heedful, or it is damaged; put back a copy.") from None
    return dict(record)
