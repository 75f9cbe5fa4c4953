"""The second factor of staff: time-based codes (RFC 6238), and recovery codes for a lost phone.

All of it lies as one sealed text in the account (`totp_secret`): the secret, the last step that was used, so that a
code works once, and digests of the recovery codes.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from hmac import compare_digest
from io import BytesIO
from typing import Final

import pyotp
import segno

from heedful.errors import TamperError

ISSUER: Final = "heedful"
STEP: Final = 30
CODES: Final = 10
_LETTERS: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""Letters and digits that nobody mixes up on paper."""
Digest = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """What is known of somebody's second factor.

    Args:
        secret: shared with the phone, base32.
        state: `pending` until a first code came back.
        step: number of the last half minute whose code was used.
        recovery: digests of the codes that are left.
    """

    secret: str = field(repr=False)
    state: str = "pending"
    step: int = 0
    recovery: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def new(cls) -> Factor:
        """A fresh secret (160 bit)."""
        return cls(secret=pyotp.random_base32())

    @classmethod
    def read(cls, text: str | None) -> Factor | None:
        """What `write` wrote; None for an account without one.

        Raises:
            TamperError: something else stands there.
        """
        if text is None:
            return None
        try:
            found = json.loads(text)
            return cls(**{**found, "recovery": tuple(found["recovery"])})
        except (ValueError, TypeError, KeyError):
            raise TamperError("The second factor of this account cannot be read; an admin has to reset it.") from None

    @classmethod
    def is_on(cls, text: str | None) -> bool:
        """Whether a factor stands there that was confirmed; one that cannot be read counts as none.

        For pages about other people: one damaged account must not close the inbox or the page where it is reset.
        """
        try:
            found = cls.read(text)
        except TamperError:
            return False
        return found is not None and found.on

    def write(self) -> str:
        """As it is stored (sealed)."""
        return json.dumps(asdict(self))

    @property
    def on(self) -> bool:
        """Whether it was confirmed and has to be shown."""
        return self.state == "on"

    def accept(self, code: str, now: datetime) -> Factor | None:
        """The factor after a good code of the phone, or None for a wrong, late or used one.

        The half minutes before and after count too: clocks of phones differ.
        """
        code = "".join(code.split())
        current, found = int(now.timestamp()) // STEP, None
        for step in (current - 1, current, current + 1):  # all three, whichever fits: the same work each time
            if compare_digest(pyotp.TOTP(self.secret).at(step * STEP).encode(), code.encode()) and step > self.step:
                found = step
        return None if found is None else replace(self, step=found, state="on")

    def spend(self, code: str, digest: Digest) -> Factor | None:
        """The factor without this recovery code, or None if it is none of them."""
        if not self.on:
            return None
        known = digest(_bare(code))
        left = tuple(entry for entry in self.recovery if not compare_digest(entry, known))
        return replace(self, recovery=left) if len(left) < len(self.recovery) else None

    def with_codes(self, digest: Digest) -> tuple[Factor, tuple[str, ...]]:
        """New recovery codes in place of the old ones; they are shown once, and only their digests are kept."""
        codes = tuple("-".join(_part() for _ in range(3)) for _ in range(CODES))
        return replace(self, recovery=tuple(digest(_bare(code)) for code in codes)), codes

    def picture(self, name: str) -> str:
        """A QR code for the phone's app, as SVG."""
        uri = pyotp.TOTP(self.secret).provisioning_uri(name=name, issuer_name=ISSUER)
        out = BytesIO()
        segno.make(uri, error="m").save(out, kind="svg", scale=4, border=4, dark="#000", light="#fff", xmldecl=False)
        return out.getvalue().decode("utf-8")


def _part() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(4))


def _bare(code: str) -> str:
    return "".join(ch for ch in code.casefold() if ch.isalnum())
