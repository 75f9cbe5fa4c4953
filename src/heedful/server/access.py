"""Who may call what: the table `access.toml`, and who is calling.

The gate looks into the table alone. So a route that somebody forgot to list is closed, and a caller without an account
cannot tell a closed path from one that does not exist.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import Depends, FastAPI, Request
from fastapi.routing import iter_route_contexts
from starlette.routing import compile_path

from heedful.errors import ConfigError, nearest
from heedful.store.repositories.people import READING
from heedful.store.states import ROLES, Role

STAFF: Final[frozenset[str]] = frozenset(ROLES) - {"help_seeker"}
Scope = Literal["generate", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What an API token may be for."""
GRANTS: Final[dict[str, tuple[Scope, ...]]] = {
    "clinician": ("generate",),
    "supervisor": ("generate", "metrics"),
    "annotator": ("generate",),
    "admin": ("generate", "metrics"),
    "help_seeker": (),
}
"""Role -> scopes that its tokens may have."""
Kind = Literal["anonymous", "session", "token"]
Stage = Literal["none", "password", "full"]
Answer = Literal["allowed", "sign_in", "second_factor", "forbidden", "unconfirmed", "method"]
_WHO: Final = ("public", "signing_in", "signed_in")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is calling.

    Args:
        kind: how they showed who they are.
        stage: `password` = the second factor is still missing.
        user, role: of the account.
        session: id of the login or token in the store.
        scopes: of a token.
        csrf: what their forms have to send back.
        address: of the machine they come from.
        confirmed: whether a colleague said that the account belongs to whom it says.
    """

    kind: Kind = "anonymous"
    stage: Stage = "none"
    user: str | None = None
    role: Role | None = None
    session: str | None = None
    scopes: frozenset[str] = frozenset()
    language: str = "en"
    csrf: str = field(default="", repr=False)
    address: str = ""
    confirmed: bool = False

    @property
    def waits(self) -> bool:
        """Whether this account has to be confirmed before it reads anything."""
        return self.role in READING and not self.confirmed


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table; `who` is `public`, `signing_in`, or the roles that may call it.

    `unconfirmed`: staff may call it before a colleague has confirmed the account.
    """

    path: str
    methods: frozenset[str]
    who: Literal["public", "signing_in"] | frozenset[str]
    scope: str | None = None
    body: int | None = None
    unconfirmed: bool = False
    pattern: re.Pattern[str] = field(repr=False)

    def answer(self, caller: Caller) -> Answer:
        """What this row says to `caller`."""
        if self.who == "public":
            return "allowed"
        if caller.kind == "anonymous":
            return "sign_in"
        if caller.kind == "token":
            roles = self.who if isinstance(self.who, frozenset) else frozenset()
            return self._reading(caller) if self.scope in caller.scopes and caller.role in roles else "forbidden"
        if self.who == "signing_in":
            return "allowed"
        if caller.stage != "full":
            return "second_factor"
        return self._reading(caller) if caller.role in self.who else "forbidden"

    def _reading(self, caller: Caller) -> Answer:
        return "unconfirmed" if caller.waits and not self.unconfirmed else "allowed"


class Access:
    """The table, ready to be asked."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)

    def find(self, path: str, method: str, caller: Caller) -> tuple[Answer, Row | None, tuple[str, ...]]:
        """What `caller` gets for a request: the answer, the row it comes from, and the methods that they may use.

        A path that is in no row answers as a closed one does.
        """
        rows = [row for row in self.rows if row.pattern.match(path)]
        here = next((row for row in rows if method in row.methods), None)
        if here is not None:
            return here.answer(caller), here, ()
        mine = sorted({m for row in rows if row.answer(caller) == "allowed" for m in row.methods})
        if mine:
            return "method", None, tuple(mine)
        if caller.kind == "anonymous":
            return "sign_in", None, ()
        return ("second_factor" if caller.stage == "password" else "forbidden"), None, ()


def read(*, more: Iterable[Mapping[str, Any]] = ()) -> Access:
    """The shipped table, with `more` rows behind it (for routers from outside, and tests).

    Raises:
        ConfigError: a row that cannot be used.
    """
    text = resources.files("heedful.server").joinpath("access.toml").read_text("utf-8")
    return Access([_row(entry) for entry in (*tomllib.loads(text)["route"], *more)])


def check_routes(app: FastAPI, access: Access) -> None:
    """Refuse an app whose routes and table do not say the same.

    Raises:
        ConfigError: a route without a row, or a row without a route.
    """
    routes = {(path, method) for path, methods in routes_of(app) for method in methods}
    listed = {(row.path, method) for row in access.rows for method in row.methods}
    for path, method in sorted(routes - listed):
        raise ConfigError(f"{method} {path} stands in no row of access.toml; say there who may call it.")
    for path, method in sorted(listed - routes):
        known = sorted(p for p, _ in routes)
        raise ConfigError(f"access.toml has a row for {method} {path}, which no route answers.{nearest(path, known)}")


def routes_of(app: FastAPI) -> list[tuple[str, tuple[str, ...]]]:
    """All paths of an app with their methods, those of included routers too.

    Raises:
        ConfigError: a mount or a WebSocket: the gate cannot say for them who may call.
    """
    out = []
    for context in iter_route_contexts(app.routes):
        if not context.path or not context.methods:
            raise ConfigError(
                f"'{context.path or type(context.route).__name__}' is a mount or a WebSocket; the server takes routes "
                "with methods only, since for these the table says who may call them."
            )
        out.append((context.path, tuple(sorted(context.methods))))
    return out


async def caller_of(request: Request) -> Caller:
    """Who is calling, as the gate found out. `async`, like all that only hands something on: no thread for it."""
    found: Caller = request.state.caller
    return found


Called = Annotated[Caller, Depends(caller_of)]
"""A parameter of this type is the caller; whether they may call was decided before."""


def _row(entry: Mapping[str, Any]) -> Row:
    path, methods, who, scope = entry["path"], frozenset(entry["methods"]), entry["who"], entry.get("scope")
    if isinstance(who, str) and who not in _WHO:
        raise ConfigError(f"access.toml, {path}: who is {', '.join(_WHO)} or a list of roles, but it is '{who}'.")
    if not isinstance(who, str):
        for role in who:
            if role not in ROLES:
                raise ConfigError(f"access.toml, {path}: there is no role '{role}'.{nearest(role, ROLES)}")
    if scope is not None and (scope not in SCOPES or who == "public"):
        raise ConfigError(f"access.toml, {path}: scope is one of {', '.join(SCOPES)}, on a path that is not public.")
    allowed = frozenset(ROLES) if who == "signed_in" else who if isinstance(who, str) else frozenset(who)
    pattern = compile_path(path)[0]
    early = entry.get("unconfirmed") is True
    return Row(
        path=path,
        methods=methods,
        who=allowed,  # type: ignore[arg-type]
        scope=scope,
        body=entry.get("body"),
        unconfirmed=early,
        pattern=pattern,
    )
