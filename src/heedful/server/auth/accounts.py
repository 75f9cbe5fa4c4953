"""Accounts: signing in and out, second factors, sessions, API tokens. All of it is kept in the store.

A token is 256 random bits; the store has only its keyed digest. A session that gave a password but no second factor
can do nothing but give it, and the token changes when it did. An API token names its scopes, and since the digest is
taken over the whole of it, nobody can write others into it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, TypeVar

from sqlalchemy import select

from heedful.errors import ConfigError, ConflictError, NotFoundError, UnlockError
from heedful.server.access import GRANTS, SCOPES, STAFF, Caller, Scope
from heedful.server.auth.limits import Backoff
from heedful.server.auth.passwords import Passwords
from heedful.server.auth.second_factor import Factor
from heedful.server.config import ServeConfig
from heedful.server.words import refusal
from heedful.store import Store, Unit
from heedful.store.models import User as UserTable
from heedful.store.records import Session, User
from heedful.store.repositories.people import Standing, plain_name
from heedful.store.rows import table_of
from heedful.store.states import Role

HALFWAY: Final = timedelta(minutes=10)
"""How long somebody may take between password and second factor."""
T = TypeVar("T")
MARK: Final = "hfd"
"""API tokens begin with it, so that scanners for leaked secrets can find them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A new session.

    Args:
        token: for the cookie; it exists nowhere else.
        next: what has to be shown now.
        device: for the cookie of this browser: its failures count by themselves from now on.
    """

    token: str = field(repr=False)
    user: User
    next: Literal["nothing", "second_factor", "enrolment"]
    device: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No session. `wrong` does not say what was wrong; `wait` says for how many seconds."""

    why: Literal["wrong", "wait"]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """A token as its owner sees it later on."""

    id: str
    scopes: tuple[str, ...]
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


class Accounts:
    """See the module's page. Every method talks to the database and may stretch a password: call them in a thread.

    Args:
        passwords, backoff: others in tests.
    """

    def __init__(
        self, store: Store, config: ServeConfig, *, passwords: Passwords | None = None, backoff: Backoff | None = None
    ) -> None:
        self.store, self.config = store, config
        self.passwords, self.backoff = passwords or Passwords(), backoff or Backoff()

    # ------------------------------------------------------------------ who is it

    def by_session(self, token: str) -> Caller | None:
        """The caller behind the token of a cookie."""
        found = self._find(f"s:{self._digest('session', token)}")
        if found is None:
            return None
        session, user = found
        if self.store.clock() - session.seen_at >= timedelta(seconds=self.config.session_idle):
            return None
        full = user.role not in STAFF or session.second_factor_at is not None
        return Caller(
            kind="session",
            stage="full" if full else "password",
            user=user.id,
            role=user.role,  # type: ignore[arg-type]
            session=session.id,
            language=user.language,
            confirmed=user.confirmed,
        )

    def by_token(self, token: str) -> Caller | None:
        """The caller behind an API token."""
        mark, _, rest = token.partition("_")
        named, _, _ = rest.partition("_")
        if mark != MARK:
            return None
        found = self._find(f"t:{named}:{self._digest('token', token)}")
        if found is None:
            return None
        session, user = found
        # What its owner may do today counts, not what they could when it was made.
        scopes = frozenset(named.split("+")) & frozenset(GRANTS[user.role])
        return Caller(
            kind="token",
            stage="full",
            user=user.id,
            role=user.role,  # type: ignore[arg-type]
            session=session.id,
            scopes=scopes,
            language=user.language,
            confirmed=user.confirmed,
        )

    # ------------------------------------------------------------------ password

    def sign_in(self, name: str, password: str, *, address: str, device: str = "") -> Login | Refusal:
        """A session for a name and a password; for staff one that still lacks the second factor.

        Unknown name, wrong password and a disabled account get the same answer after the same work.
        """
        with self.store.read() as unit:
            user = unit.users.by_name(name)
        usable = user is not None and not user.disabled and user.erased_at is None
        stored = user.password_hash if user is not None and usable else None
        kind, key = "account", self._digest("backoff", plain_name(name))
        if user is not None and self._knows(device, user):
            kind, key = "device", device
        # A whole clinic may have one address: a browser that signed in before does not wait for what others mistyped.
        kinds = {kind: key} if kind == "device" else {kind: key, "address": address}
        pause = max(self.backoff.pause(which, of) for which, of in kinds.items())
        if pause > 0:
            return Refusal(why="wait", seconds=pause)
        for which, of in kinds.items():
            self.backoff.failed(which, of)
        if not self.passwords.verify(password, stored) or user is None or stored is None:
            self.store.run(lambda unit: unit.audit.add("program", "sign_in.failed", "user:unknown"))
            return Refusal(why="wrong")
        if "address" in kinds:
            self.backoff.undo("address", address)
        self.backoff.worked(kind, key)
        if self.passwords.outdated(stored):
            fresh = self.passwords.hash(password)
            id = user.id
            user = self.store.run(lambda unit: unit.users.change(id, by=id, password_hash=fresh))
        return self._open(user, device=self._device(user))

    def add(self, *, role: Role, name: str, password: str, by: str, language: str = "en") -> User:
        """A new account.

        Raises:
            ConfigError: no name.
            UnlockError: a password that is guessed first.
            ConflictError: the name is taken.
        """
        if not name.strip() or len(name) > 120:
            raise refusal(ConfigError, "refusal.name", most=120)
        stored = self.passwords.hash(password, name=name)
        return self.store.run(
            lambda unit: unit.users.add(role=role, name=name.strip(), by=by, password_hash=stored, language=language)
        )

    def change_password(self, user: str, *, old: str, new: str) -> Login:
        """Another password: every session of the account ends, and this one begins anew.

        Raises:
            UnlockError: `old` is not the password, or `new` is guessed first.
        """
        pause = self.backoff.pause("factor", user)
        with self.store.read() as unit:
            known = unit.users.get(user)
        if pause > 0 or not self.passwords.verify(old, known.password_hash):
            self.backoff.failed("factor", user)
            raise refusal(UnlockError, "refusal.password_old")
        stored = self.passwords.hash(new, name=known.name or "")

        def work(unit: Unit) -> User:
            changed = unit.users.change(user, by=user, password_hash=stored)
            self._end(unit, user, by=user, which="s")
            return changed

        changed = self.store.run(work)
        return self._open(changed, device=self._device(changed), stage="full")

    def set_password(self, user: str, *, new: str, by: str) -> None:
        """An admin gives a new password; every session and token of the account ends.

        Raises:
            UnlockError: it is guessed first.
        """
        with self.store.read() as unit:
            known = unit.users.get(user)
        stored = self.passwords.hash(new, name=known.name or "")

        def work(unit: Unit) -> None:
            unit.users.change(user, by=by, password_hash=stored)
            unit.sessions.revoke_all(user, by=by)

        self.store.run(work)

    # ------------------------------------------------------------------ second factor

    def enrol(self, user: str) -> tuple[Factor, str]:
        """A secret for the phone, and its picture (SVG). One that was confirmed is not shown again.

        Raises:
            ConflictError: there is one already.
        """

        def work(unit: Unit) -> tuple[Factor, str]:
            known = _locked(unit, user)
            factor = Factor.read(known.totp_secret)
            if factor is not None and factor.on:
                raise refusal(ConflictError, "refusal.factor_there")
            factor = factor or Factor.new()
            if known.totp_secret is None:
                unit.users.change(user, by=user, totp_secret=factor.write())
            return factor, known.name or ""

        factor, name = self.store.run(work)
        return factor, factor.picture(name)

    def has_factor(self, caller: Caller) -> bool:
        """Whether a second factor was confirmed for this account."""
        with self.store.read() as unit:
            factor = Factor.read(unit.users.get(_needed(caller)).totp_secret)
        return factor is not None and factor.on

    def confirm(self, caller: Caller, code: str) -> tuple[Login, tuple[str, ...]] | Refusal:
        """The first code of a new phone: from now on it is needed. A new session, and the recovery codes, shown once.

        Raises:
            ConflictError: nothing is waiting to be confirmed.
        """
        user = _needed(caller)

        def work(unit: Unit) -> tuple[User, tuple[str, ...]] | None:
            known = _locked(unit, user)
            factor = Factor.read(known.totp_secret)
            if factor is None or factor.on:
                raise refusal(ConflictError, "refusal.factor_none")
            accepted = factor.accept(code, unit.now())
            if accepted is None:
                return None
            accepted, codes = accepted.with_codes(lambda text: self._digest("recovery", text))
            return unit.users.change(user, by=user, totp_secret=accepted.write()), codes

        done = self._attempt(user, work)
        if isinstance(done, Refusal):
            return done
        changed, codes = done
        return self._renew(caller, changed), codes

    def second_factor(self, caller: Caller, code: str) -> Login | Refusal:
        """A code of the phone, or a recovery code: a full session under a new token; the old one ends."""
        user = _needed(caller)

        def work(unit: Unit) -> User | None:
            known = _locked(unit, user)
            factor = Factor.read(known.totp_secret)
            if factor is None or not factor.on:
                return None
            accepted = factor.accept(code, unit.now())
            if accepted is None:
                accepted = factor.spend(code, lambda text: self._digest("recovery", text))
                if accepted is not None:
                    unit.audit.add(user, "recovery_code.used", f"user:{user}", left=len(accepted.recovery))
            return None if accepted is None else unit.users.change(user, by=user, totp_secret=accepted.write())

        done = self._attempt(user, work)
        return done if isinstance(done, Refusal) else self._renew(caller, done)

    def reset_factor(self, user: str, *, by: str) -> None:
        """Phone and recovery codes are lost: at the next sign-in a new phone is enrolled. Every session ends."""

        def work(unit: Unit) -> None:
            unit.users.change(user, by=by, totp_secret=None)
            unit.sessions.revoke_all(user, by=by)

        self.store.run(work)

    # ------------------------------------------------------------------ sessions and tokens

    def sign_out(self, caller: Caller) -> None:
        """End this session."""
        session, user = caller.session, _needed(caller)
        if session is not None:
            self.store.run(lambda unit: unit.sessions.revoke(session, by=user))

    def sign_out_everywhere(self, user: str) -> int:
        """End every session of an account; API tokens stay. How many there were."""
        return self.store.run(lambda unit: self._end(unit, user, by=user, which="s"))

    def issue(self, user: str, *, scopes: Sequence[Scope], days: float | None = None) -> tuple[ApiToken, str]:
        """A new API token, shown once.

        Raises:
            ConfigError: no scope, or one that the role of the account may not have; or more days than allowed.
        """
        limit = self.config.token_days
        lasts = limit if days is None else days
        if not 0 < lasts <= limit:
            raise ConfigError(f"A token lasts more than 0 and at most {limit:g} days here.")
        wanted = tuple(scope for scope in SCOPES if scope in scopes)
        named = "+".join(wanted)
        token = f"{MARK}_{named}_{secrets.token_urlsafe(32)}"

        def work(unit: Unit) -> Session:
            role = unit.users.get(user).role
            if not wanted or not set(scopes) <= set(GRANTS[role]):
                raise refusal(ConfigError, "refusal.scopes", role=role, scopes=", ".join(GRANTS[role]) or "none")
            stored = f"t:{named}:{self._digest('token', token)}"
            return unit.sessions.add(user=user, token_hash=stored, expires_at=unit.now() + timedelta(days=lasts))

        return _token(self.store.run(work)), token

    def tokens(self, user: str) -> tuple[ApiToken, ...]:
        """The API tokens of an account that still work."""
        with self.store.read() as unit:
            now = unit.now()
            found = [s for s in unit.sessions.of(user) if s.token_hash.startswith("t:") and s.valid(now)]
        return tuple(_token(session) for session in found)

    def revoke(self, user: str, id: str) -> None:
        """End an API token of this account.

        Raises:
            NotFoundError: it has none with this id.
        """

        def work(unit: Unit) -> None:
            found = unit.sessions.find(id)
            if found is None or found.user_id != user or not found.token_hash.startswith("t:"):
                raise NotFoundError("This account has no token with this id.")
            unit.sessions.revoke(id, by=user)

        self.store.run(work)

    # ------------------------------------------------------------------ inside

    def _find(self, token_hash: str) -> tuple[Session, Standing] | None:
        with self.store.read() as unit:
            found, now = unit.sessions.behind(token_hash), unit.now()
        if found is None or not found[0].valid(now) or not found[1].active:
            return None
        session, user = found
        # Each use would be a write that waits for the disk; a tenth of the idle time is exact enough.
        idle = timedelta(seconds=self.config.session_idle)
        if idle / 10 < now - session.seen_at < idle or (token_hash.startswith("t:") and now - session.seen_at >= idle):
            self.store.run(lambda unit: unit.sessions.seen(session.id))
        return session, user

    def _open(self, user: User, *, device: str, stage: Literal["password", "full"] = "password") -> Login:
        token = secrets.token_urlsafe(32)
        staff = user.role in STAFF
        factor = Factor.read(user.totp_secret)
        full = stage == "full" or not staff
        lasts = timedelta(seconds=self.config.session_absolute) if full else HALFWAY

        def work(unit: Unit) -> None:
            stored = f"s:{self._digest('session', token)}"
            session = unit.sessions.add(user=user.id, token_hash=stored, expires_at=unit.now() + lasts)
            if full and staff:
                unit.sessions.second_factor(session.id)

        self.store.run(work)
        rest: Literal["second_factor", "enrolment"] = "second_factor" if factor and factor.on else "enrolment"
        return Login(token=token, user=user, next="nothing" if full else rest, device=device)

    def _renew(self, caller: Caller, user: User) -> Login:
        self.sign_out(caller)
        return self._open(user, device=self._device(user), stage="full")

    def _end(self, unit: Unit, user: str, *, by: str, which: str) -> int:
        found = [s for s in unit.sessions.of(user) if s.token_hash.startswith(f"{which}:") and s.revoked_at is None]
        for session in found:
            unit.sessions.revoke(session.id, by=by)
        return len(found)

    def _attempt(self, user: str, work: Callable[[Unit], T | None]) -> T | Refusal:
        """What `work` finds, counted against guessing; None becomes a refusal."""
        pause = self.backoff.pause("factor", user)
        if pause > 0:
            return Refusal(why="wait", seconds=pause)
        self.backoff.failed("factor", user)
        done = self.store.run(work)
        if done is None:
            return Refusal(why="wrong")
        self.backoff.worked("factor", user)
        return done

    def _digest(self, what: str, text: str) -> str:
        return self.store.keys.digest(f"{what}\0{text}".encode("utf-8", "surrogatepass"))

    def _device(self, user: User) -> str:
        nonce = secrets.token_urlsafe(12)
        return f"{nonce}.{self._device_sign(user, nonce)}"

    def _knows(self, device: str, user: User) -> bool:
        nonce, _, sign = device.partition(".")
        return secrets.compare_digest(sign.encode(), self._device_sign(user, nonce).encode())

    def _device_sign(self, user: User, nonce: str) -> str:
        # With the hash of the password in it: a new password forgets all browsers.
        return self._digest("device", f"{user.id}\0{nonce}\0{user.password_hash}")


def _locked(unit: Unit, user: str) -> User:
    """The account, kept from other writers until the transaction ends: a code must not be spent twice."""
    table = table_of(UserTable)
    unit.execute(select(table.c.id).where(table.c.id == user).with_for_update())
    return unit.users.get(user)


def _needed(caller: Caller) -> str:
    if caller.user is None:
        raise ConfigError("This needs somebody who signed in.")
    return caller.user


def _token(session: Session) -> ApiToken:
    _, named, _ = session.token_hash.split(":")
    return ApiToken(
        id=session.id,
        scopes=tuple(named.split("+")),
        created_at=session.created_at,
        seen_at=session.seen_at,
        expires_at=session.expires_at,
    )
