"""Users and their logins."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Text, bindparam, delete, select

from heedful.errors import ConfigError, ConflictError, TransitionError
from heedful.store import models
from heedful.store.prepared import Prepared
from heedful.store.records import Session, User
from heedful.store.repositories.base import Repository, new_id
from heedful.store.rows import table_of
from heedful.store.states import ROLES, Role, check_word

CHANGEABLE = frozenset({"role", "name", "password_hash", "totp_secret", "language", "disabled"})

VOUCHING: Final[frozenset[str]] = frozenset({"clinician", "supervisor"})
"""Roles that confirm an account of staff."""
READING: Final[frozenset[str]] = VOUCHING | {"annotator"}
"""Roles that may read conversations, and so have to be confirmed first."""
TAKEN_OVER: Final = frozenset({"role", "password_hash", "totp_secret"})
"""What makes an account somebody else's, when somebody else changes it."""
Way = Literal["colleague", "setup", "machine"]


def plain_name(name: str) -> str:
    """What two spellings of one name share: composed letters, wide letters, case and blanks around it do not count.

    >>> plain_name(" \uff21nna") == plain_name("anna")
    True
    """
    return unicodedata.normalize("NFKC", name).casefold().strip()


class Users(Repository[User]):
    """People. Names are sealed and looked up by a keyed digest."""

    model, record, noun = models.User, User, "user"

    def add(
        self,
        *,
        role: Role,
        name: str,
        by: str,
        password_hash: str | None = None,
        totp_secret: str | None = None,
        language: str = "en",
        adult_from: int | None = None,
    ) -> User:
        """A new user; `by` is who made it (an admin's id, or `setup`).

        Raises:
            ConflictError: the name is taken.
            DataError: no such role.
        """
        check_word(role, ROLES, "A role")
        if self.by_name(name) is not None:
            raise ConflictError("This name is taken; choose another one.")
        now = self.work.now()
        user = User(
            id=new_id(),
            role=role,
            name=name,
            name_digest=self._digest(name),
            password_hash=password_hash,
            totp_secret=totp_secret,
            language=language,
            adult_from=adult_from,
            created_at=now,
            changed_at=now,
        )
        self.work.say(by, "user.added", f"user:{user.id}", role=role)
        return self._add(user)

    def by_name(self, name: str) -> User | None:
        """The user of that name, however its letters are composed and whatever their case."""
        return self._one(name_digest=self._digest(name))

    def all(self, *, role: Role | None = None) -> tuple[User, ...]:
        """Users that were not erased, oldest first."""
        where: list[ColumnElement[bool]] = [self.table.c.erased_at.is_(None)]
        if role is not None:
            check_word(role, ROLES, "A role")
            where.append(self.table.c.role == role)
        return self._all(*where, order=(self.table.c.created_at, self.table.c.id))

    def change(self, id: str, *, by: str, **values: Any) -> User:
        """Change role, name, password_hash, totp_secret, language or disabled.

        Where somebody else gives an account another role, password or phone, it is not confirmed any more.

        Raises:
            ConfigError: another field.
            ConflictError: the new name is taken, or the user was erased.
            NotFoundError: no such user.
        """
        wrong = sorted(set(values) - CHANGEABLE)
        if wrong or not values:
            raise ConfigError(f"Of a user, {', '.join(sorted(CHANGEABLE))} can be changed; got {wrong or 'nothing'}.")
        user = self.get(id)
        if user.erased_at is not None:
            raise ConflictError("This user was erased; nothing can be changed any more.")
        if "role" in values:
            check_word(values["role"], ROLES, "A role")
        if "name" in values:
            other = self.by_name(values["name"])
            if other is not None and other.id != id:
                raise ConflictError("This name is taken; choose another one.")
            values["name_digest"] = self._digest(values["name"])
        values["changed_at"] = self.work.now()
        lost = by != id and user.confirmed_at is not None and bool(TAKEN_OVER & set(values))
        if lost:
            values |= {"confirmed_at": None, "confirmed_by": None}
        self._set(id, **values)
        self.work.say(by, "user.changed", f"user:{id}", fields=sorted(set(values) & CHANGEABLE))
        if lost:
            self.work.say(by, "user.unconfirmed", f"user:{id}", role=user.role)
        return replace(user, **values)

    def confirm(self, id: str, *, by: str, way: Way = "colleague") -> User:
        """Say that an account of staff belongs to whom it says: from now on it may read conversations.

        Args:
            by: a clinician or supervisor who is confirmed; with another `way`, whoever is said to have done it.
            way: `setup` = the first one of all. `machine` = somebody at the machine with the passphrase, who could
                read everything anyway.

        Raises:
            TransitionError: `by` may not confirm anybody, or not this account; or this account reads nothing anyway.
            ConflictError: it is confirmed, closed, or has no password yet.
            NotFoundError: no such user.
        """
        for each in sorted({id, by} if way == "colleague" else {id}):
            self.lock(each)
        user = self.get(id)
        if user.role not in READING:
            raise TransitionError("Only accounts that may read conversations are confirmed.")
        if way == "colleague" and not _vouches(self.get(by), for_=id):
            raise TransitionError("A clinician or supervisor who is confirmed confirms the account of somebody else.")
        if way == "setup" and self._anybody_confirmed():
            raise TransitionError("Only the first account of all is confirmed by the set-up.")
        if user.confirmed_at is not None or user.disabled or user.password_hash is None:
            raise ConflictError("This account is confirmed or closed, or its owner has not chosen a password yet.")
        now = self.work.now()
        self._set(id, confirmed_at=now, confirmed_by=by)
        self.work.say(by, "user.confirmed", f"user:{id}", role=user.role, way=way)
        return replace(user, confirmed_at=now, confirmed_by=by)

    def _anybody_confirmed(self) -> bool:
        # The audit too: an admin who closes or resets everybody must not become the first one again.
        said = table_of(models.AuditEntry)
        column = self.table.c.confirmed_at
        now = self.work.execute(select(column).where(column.is_not(None)).limit(1)).scalar() is not None
        before = select(said.c.seq).where(said.c.action.in_(("user.confirmed", "user.unconfirmed"))).limit(1)
        return now or self.work.execute(before).scalar() is not None

    def lock(self, id: str) -> None:
        """Let nobody else begin something for this person until the transaction ends.

        Raises:
            NotFoundError: no such user.
        """
        self._locked(self.table, id, self.noun)

    def set_age(self, id: str, adult_from: int, *, by: str) -> None:
        """The year from which an account counts as an adult's; 0 = it is one. An open invitation stays good."""
        if self.get(id).erased_at is not None:
            raise ConflictError("This user was erased; nothing can be changed any more.")
        self._set(id, adult_from=adult_from)
        self.work.say(by, "user.age_set", f"user:{id}")

    def _digest(self, name: str) -> str:
        return self.work.keys.digest(plain_name(name).encode("utf-8", "surrogatepass"))


def _vouches(user: User, *, for_: str) -> bool:
    there = user.confirmed_at is not None and not user.disabled and user.erased_at is None
    return there and user.role in VOUCHING and user.id != for_


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An account as the gate needs it; `active`: not disabled or erased; `confirmed`: a colleague vouched for it."""

    id: str
    role: str
    language: str
    active: bool
    confirmed: bool


_SESSIONS, _USERS = table_of(models.Session), table_of(models.User)
_BEHIND: Final = Prepared(
    select(
        _SESSIONS,
        _USERS.c.id,
        _USERS.c.role,
        _USERS.c.language,
        _USERS.c.disabled,
        _USERS.c.erased_at,
        _USERS.c.confirmed_at,
    )
    .join(_USERS, _USERS.c.id == _SESSIONS.c.user_id)
    .where(_SESSIONS.c.token_hash == bindparam("token_hash", type_=Text()))
)


class Sessions(Repository[Session]):
    """Logins. The store never sees a token, only its hash."""

    model, record, noun = models.Session, Session, "session"

    def add(self, *, user: str, token_hash: str, expires_at: datetime) -> Session:
        """A new login without a second factor."""
        now = self.work.now()
        session = Session(
            id=new_id(), user_id=user, token_hash=token_hash, created_at=now, seen_at=now, expires_at=expires_at
        )
        self.work.say(user, "session.opened", f"session:{session.id}")
        return self._add(session)

    def by_token(self, token_hash: str) -> Session | None:
        """The login of a token, valid or not: ask `Session.valid`."""
        return self._one(token_hash=token_hash)

    def behind(self, token_hash: str) -> tuple[Session, Standing] | None:
        """The login of a token, valid or not, and how its account stands: what each request asks first.

        Nothing sealed is opened for it: names and password hashes are not needed to let somebody in.
        """
        rows = self.work.rows(_BEHIND, token_hash=token_hash)
        if not rows:
            return None
        *session, id, role, language, disabled, erased_at, confirmed_at = rows[0]
        standing = Standing(
            id=id,
            role=role,
            language=language,
            active=not disabled and erased_at is None,
            confirmed=confirmed_at is not None,
        )
        return self.codec.read(session, self.work.keys), standing

    def of(self, user: str) -> tuple[Session, ...]:
        """All logins of one user, oldest first."""
        return self._many(user_id=user, order=("created_at",))

    def seen(self, id: str, *, expires_at: datetime | None = None) -> None:
        """It was used now; with `expires_at` it lasts longer."""
        later: dict[str, Any] = {} if expires_at is None else {"expires_at": expires_at}
        self._set(id, seen_at=self.work.now(), **later)

    def second_factor(self, id: str) -> None:
        """The second factor was shown now."""
        session = self.get(id)
        self._set(id, second_factor_at=self.work.now())
        self.work.say(session.user_id, "session.second_factor", f"session:{id}")

    def revoke(self, id: str, *, by: str) -> None:
        """It opens nothing any more."""
        if self._set(id, {"revoked_at": None}, revoked_at=self.work.now()):
            self.work.say(by, "session.revoked", f"session:{id}")

    def revoke_all(self, user: str, *, by: str) -> int:
        """Revoke every login of a user (new password, disabled); how many there were."""
        found = [s for s in self.of(user) if s.revoked_at is None]
        for session in found:
            self.revoke(session.id, by=by)
        return len(found)

    def purge(self) -> int:
        """Delete logins whose time is over; how many."""
        return self.work.changed(delete(self.table).where(self.table.c.expires_at < self.work.now()))
