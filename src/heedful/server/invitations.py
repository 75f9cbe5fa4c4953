"""Invitations: an account without a password, and a link that lets its owner choose one. Nothing is sent by e-mail.

The link is signed by the store's keys and is good once: it dies with the first password, after `DAYS` days, or when the
account is disabled (docs/decisions/0057-invitations.md).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from heedful.errors import ConfigError, NotFoundError, TransitionError
from heedful.server.auth.accounts import Accounts
from heedful.server.words import refusal
from heedful.store import Store
from heedful.store.records import User
from heedful.store.states import Role
from heedful.store.unit import Unit

DAYS: Final = 7
LONGEST_NAME: Final = 120
MAY_INVITE: Final[dict[str, tuple[Role, ...]]] = {
    "admin": ("clinician", "supervisor", "annotator", "admin"),
    "clinician": ("help_seeker",),
    "supervisor": ("help_seeker",),
}
"""Who may make accounts of which roles: admins have nothing to do with help-seekers, clinicians nothing with staff."""


def invite(
    store: Store,
    *,
    role: str,
    name: str,
    language: str,
    by: str,
    inviter: str | None,
    adult_from: int | None = None,
) -> tuple[User, str]:
    """A new account without a password, and the path of its invitation.

    Args:
        inviter: role of whoever invites.
        adult_from: of a known minor, see `heedful.review.minors`.

    Raises:
        ConfigError: no name. TransitionError: this role may not invite that one. ConflictError: the name is taken.
    """
    if role not in MAY_INVITE.get(inviter or "", ()):
        raise TransitionError(f"A {inviter} cannot make an account of the role '{role}'.")
    plain = name.strip()
    if not plain or len(plain) > LONGEST_NAME:
        raise refusal(ConfigError, "refusal.name", most=LONGEST_NAME)
    made = store.run(
        lambda unit: unit.users.add(role=role, name=plain, by=by, language=language, adult_from=adult_from)
    )
    return made, link(store, made)


def again(store: Store, user: str, *, by: str, inviter: str | None) -> tuple[User, str]:
    """A new invitation for an account: its password and its sessions are gone.

    Raises:
        NotFoundError: no such account. TransitionError: not an account that this role invites.
    """

    def work(unit: Unit) -> User:
        found = unit.users.get(user)
        if found.role not in MAY_INVITE.get(inviter or "", ()):
            raise TransitionError(f"A {inviter} cannot reset an account of the role '{found.role}'.")
        changed = unit.users.change(user, by=by, password_hash=None, disabled=False)
        unit.sessions.revoke_all(user, by=by)
        return changed

    made = store.run(work)
    return made, link(store, made)


def link(store: Store, user: User) -> str:
    """The path of an invitation, good for `DAYS` days and for the account as it is now."""
    until = int((store.clock() + timedelta(days=DAYS)).timestamp())
    return f"/invitation/{user.id}.{until}.{store.keys.sign(_signed(user, until)).replace(':', '-')}"


def opened(store: Store, token: str) -> User:
    """The account that an invitation is for.

    Raises:
        NotFoundError: forged, too old, used, or for an account that is not there any more. It does not say which.
    """
    refused = refusal(NotFoundError, "refusal.invitation")
    user, _, rest = token.partition(".")
    until, _, signature = rest.partition(".")
    if not until.isdecimal() or len(until) > 12:
        raise refused
    with store.read() as unit:
        found, now = unit.users.find(user), unit.now()
    if found is None or found.disabled or found.erased_at is not None or found.password_hash is not None:
        raise refused
    if not store.keys.signed(_signed(found, int(until)), signature.replace("-", ":")) or _past(until, now):
        raise refused
    return found


def accept(store: Store, accounts: Accounts, token: str, password: str) -> User:
    """Set the first password.

    Raises:
        NotFoundError: see `opened`. UnlockError: a password that is guessed first.
    """
    user = opened(store, token)
    accounts.set_password(user.id, new=password, by=user.id)
    return user


def _past(until: str, now: datetime) -> bool:
    return now.timestamp() >= int(until)


def _signed(user: User, until: int) -> bytes:
    # The time of the last change is in it: an older link of the same account dies with a new invitation.
    return f"invitation {user.id} {until} {user.changed_at.timestamp():.3f}".encode()
