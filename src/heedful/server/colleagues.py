"""Accounts of staff that wait until a colleague confirms them. Until then they read nothing (decision 0077).

An admin makes and resets accounts, and so could make one for themselves. That a clinician or supervisor has to say
"this is our colleague" keeps the admin away from conversations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from heedful.errors import ConflictError, TransitionError
from heedful.server.auth.second_factor import Factor
from heedful.server.words import refusal
from heedful.store import Store
from heedful.store.records import User
from heedful.store.repositories.people import READING
from heedful.store.unit import Unit


@dataclass(frozen=True, kw_only=True)
class Colleague:
    """One account of staff that may read conversations, or waits to.

    Args:
        ready: its owner has chosen a password and a second factor, so somebody can be asked whether it was them.
        confirmed_at: None = it waits.
        confirmed_by: name of the colleague; empty for `setup`, `migration` and whoever is not there any more.
    """

    id: str
    name: str = field(repr=False)
    role: str
    ready: bool
    since: datetime
    confirmed_at: datetime | None
    confirmed_by: str = field(repr=False)


def listed(store: Store) -> tuple[Colleague, ...]:
    """All open accounts that may read, those that wait first."""
    with store.read() as unit:
        found = _open(unit)
        names = {user.id: user.name or "" for user in unit.users.all()}
    made = (
        Colleague(
            id=user.id,
            name=user.name or "",
            role=user.role,
            ready=_ready(user),
            since=user.changed_at,
            confirmed_at=user.confirmed_at,
            confirmed_by=names.get(user.confirmed_by or "", ""),
        )
        for user in found
    )
    return tuple(sorted(made, key=lambda one: one.confirmed_at is not None))


def waiting(store: Store) -> int:
    """How many accounts could be confirmed now."""
    with store.read() as unit:
        return sum(user.confirmed_at is None and _ready(user) for user in _open(unit))


def confirm(store: Store, user: str, *, by: str) -> None:
    """This is our colleague.

    Raises:
        ConflictError: see `Users.confirm`; or its owner has no second factor yet.
        TransitionError, NotFoundError: see `Users.confirm`.
    """

    def work(unit: Unit) -> None:
        if not _ready(unit.users.get(user)):
            raise refusal(ConflictError, "refusal.not_ready")
        unit.users.confirm(user, by=by)

    store.run(work)


def refuse(store: Store, user: str, *, by: str) -> None:
    """Nobody knows this one: the account is closed. An admin can open it again, and it waits again.

    Raises:
        TransitionError: it does not wait to be confirmed, or is one's own.
        NotFoundError: there is none.
    """

    def work(unit: Unit) -> None:
        found = unit.users.get(user)
        if found.role not in READING or found.confirmed_at is not None or user == by:
            raise TransitionError("Only an account that waits to be confirmed can be refused.")
        unit.users.change(user, by=by, disabled=True)
        unit.sessions.revoke_all(user, by=by)
        unit.audit.add(by, "user.refused", f"user:{user}", role=found.role)

    store.run(work)


def _open(unit: Unit) -> tuple[User, ...]:
    return tuple(user for user in unit.users.all() if user.role in READING and not user.disabled)


def _ready(user: User) -> bool:
    return user.password_hash is not None and Factor.is_on(user.totp_secret)
