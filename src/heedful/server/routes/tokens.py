"""`/api/session` and `/api/tokens`: who one is, and keys for scripts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from anyio import to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from heedful.server.access import GRANTS, Called, Scope
from heedful.server.auth.accounts import ApiToken
from heedful.server.state import Serving

router = APIRouter(prefix="/api", tags=["account"])


class Who(BaseModel):
    """Who is calling."""

    user: str
    role: str
    language: str
    may_grant: list[str]
    csrf: str = Field(repr=False)


class NewToken(BaseModel):
    """A token to be made. `days` None = as long as the server allows."""

    model_config = ConfigDict(extra="forbid")

    scopes: list[Scope] = Field(min_length=1, max_length=8)
    days: float | None = Field(None, gt=0, le=366)


class Token(BaseModel):
    """A token without its secret."""

    id: str
    scopes: list[str]
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


class MadeToken(Token):
    """A token with its secret, which is shown now and never again."""

    token: str = Field(repr=False)


class Gone(BaseModel):
    """What was ended."""

    id: str
    deleted: bool = True


@router.get("/session")
async def session(caller: Called) -> Who:
    """Who is calling, and the token that requests with a cookie send back as `X-CSRF-Token`."""
    role = caller.role or ""
    return Who(
        user=caller.user or "", role=role, language=caller.language, may_grant=list(GRANTS[role]), csrf=caller.csrf
    )


@router.get("/tokens")
async def tokens(caller: Called, server: Serving) -> list[Token]:
    """The tokens of this account that still work."""
    found = await to_thread.run_sync(server.accounts.tokens, caller.user or "")
    return [Token(**_fields(entry)) for entry in found]


@router.post("/tokens", status_code=201)
async def issue(caller: Called, server: Serving, wanted: NewToken) -> MadeToken:
    """Make a token. What it may do is what its owner may do, within its scopes."""
    user = caller.user or ""
    made, token = await to_thread.run_sync(lambda: server.accounts.issue(user, scopes=wanted.scopes, days=wanted.days))
    return MadeToken(**_fields(made), token=token)


@router.delete("/tokens/{token_id}")
async def revoke(caller: Called, server: Serving, token_id: str) -> Gone:
    """End a token."""
    user = caller.user or ""
    await to_thread.run_sync(lambda: server.accounts.revoke(user, token_id))
    return Gone(id=token_id)


def _fields(token: ApiToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "scopes": list(token.scopes),
        "created_at": token.created_at,
        "seen_at": token.seen_at,
        "expires_at": token.expires_at,
    }
