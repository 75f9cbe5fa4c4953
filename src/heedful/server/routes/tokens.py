"""`/api/session` and `/api/tokens`: who one is, and keys for scripts; `/account/tokens` is the page for them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, get_args

from anyio import to_thread
from fastapi import APIRouter, Form
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import RedirectResponse, Response

from heedful.errors import ConfigError
from heedful.server import here
from heedful.server.access import GRANTS, Called, Caller, Scope
from heedful.server.auth.accounts import ApiToken
from heedful.server.clinic import At, Desk
from heedful.server.shown import show
from heedful.server.state import Server, Serving

api = APIRouter(prefix="/api", tags=["account"])
pages = APIRouter(prefix="/account/tokens", include_in_schema=False)


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


@api.get("/session")
async def session(caller: Called) -> Who:
    """Who is calling, and the token that requests with a cookie send back as `X-CSRF-Token`."""
    role = caller.role or ""
    return Who(
        user=caller.user or "", role=role, language=caller.language, may_grant=list(GRANTS[role]), csrf=caller.csrf
    )


@api.get("/tokens")
async def tokens(caller: Called, server: Serving) -> list[Token]:
    """The tokens of this account that still work."""
    found = await to_thread.run_sync(server.accounts.tokens, caller.user or "")
    return [Token(**_fields(entry)) for entry in found]


@api.post("/tokens", status_code=201)
async def issue(caller: Called, server: Serving, wanted: NewToken) -> MadeToken:
    """Make a token. What it may do is what its owner may do, within its scopes."""
    user = caller.user or ""
    made, token = await to_thread.run_sync(lambda: server.accounts.issue(user, scopes=wanted.scopes, days=wanted.days))
    return MadeToken(**_fields(made), token=token)


@api.delete("/tokens/{token_id}")
async def revoke(caller: Called, server: Serving, token_id: str) -> Gone:
    """End a token."""
    user = caller.user or ""
    await to_thread.run_sync(lambda: server.accounts.revoke(user, token_id))
    return Gone(id=token_id)


@pages.get("")
async def tokens_page(caller: Called, desk: At, server: Serving) -> Response:
    """One's tokens, and a form for another."""
    return await _page(caller, desk, server)


@pages.post("")
async def make_token(
    caller: Called, desk: At, server: Serving, scope: Annotated[list[str] | None, Form(max_length=8)] = None
) -> Response:
    """Make a token; the page shows it, once."""
    wanted = [known for known in get_args(Scope) if known in (scope or ())]
    try:
        _, token = await to_thread.run_sync(lambda: server.accounts.issue(caller.user or "", scopes=wanted))
    except ConfigError as err:
        return await _page(caller, desk, server, wrong=here.told(err), status=400)
    return await _page(caller, desk, server, token=token)


@pages.post("/{token_id}/end")
async def end_token(caller: Called, server: Serving, token_id: str) -> Response:
    """End a token."""
    await to_thread.run_sync(lambda: server.accounts.revoke(caller.user or "", token_id))
    return RedirectResponse("/account/tokens", status_code=303)


router = APIRouter()
router.include_router(api)
router.include_router(pages)


async def _page(
    caller: Caller, desk: Desk, server: Server, *, token: str = "", wrong: str = "", status: int = 200
) -> Response:
    found = await to_thread.run_sync(server.accounts.tokens, caller.user or "")
    scopes = GRANTS[caller.role or ""]
    return show("tokens.html.j2", caller, desk, status=status, tokens=found, scopes=scopes, token=token, wrong=wrong)


def _fields(token: ApiToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "scopes": list(token.scopes),
        "created_at": token.created_at,
        "seen_at": token.seen_at,
        "expires_at": token.expires_at,
    }
