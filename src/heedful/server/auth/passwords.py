"""Passwords: argon2id, a least length, no rules about signs, and the commonest refused.

The rules are those of NIST SP 800-63B-4: length instead of composition, no forced change, a list of what is tried
first.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from dataclasses import dataclass
from importlib import resources
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from heedful.errors import UnlockError
from heedful.server.words import refusal

SHORTEST: Final = 12
LONGEST: Final = 256
"""Characters. Without an upper end a request could make the server stretch megabytes."""
AT_ONCE: Final = 2
"""Passwords stretched at the same time: each takes 64 MiB and a core for a tenth of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one guess costs; argon2id's first recommended setting for a shared machine (RFC 9106: 64 MiB, 3 passes)."""

    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 4


class Passwords:
    """Makes and checks password hashes.

    Args:
        cost: lower only in tests. Hashes of another cost are still opened, and made anew at the next sign-in.
    """

    def __init__(self, cost: Cost | None = None) -> None:
        cost = cost or Cost()
        self._hasher = PasswordHasher(cost.passes, cost.memory_kib, cost.lanes)
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._nobody = self._hasher.hash("nobody has this password")

    def hash(self, password: str, *, name: str = "") -> str:
        """The hash to store.

        Raises:
            UnlockError: too short, too long, or one that is tried first.
        """
        check_password(password, name=name)
        with self._turns:
            return self._hasher.hash(_plain(password))

    def verify(self, password: str, stored: str | None) -> bool:
        """Whether `password` belongs to `stored`. Without one (no such user) it works as long, and says no."""
        try:
            with self._turns:
                self._hasher.verify(stored or self._nobody, _plain(password[:LONGEST]))
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    def outdated(self, stored: str) -> bool:
        """Whether it was made with another cost than today's."""
        return self._hasher.check_needs_rehash(stored)


def check_password(password: str, *, name: str = "") -> None:
    """Refuse what is guessed first.

    Raises:
        UnlockError: with the rule that it breaks; the password is not in the message.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise refusal(UnlockError, "refusal.password_length", least=SHORTEST, most=LONGEST)
    plain = _plain(password).casefold()
    bare = re.sub(r"[\W\d_]+$", "", plain)
    if len(set(plain)) < 5 or bare in _common() or not bare or (len(name) > 3 and bare == _plain(name).casefold()):
        raise refusal(UnlockError, "refusal.password_common")


def _plain(password: str) -> str:
    # One keyboard writes "é" as one character, another as two: both must open the account.
    return unicodedata.normalize("NFKC", password)


@functools.cache
def _common() -> frozenset[str]:
    text = resources.files("heedful.server.auth").joinpath("common_passwords.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))
