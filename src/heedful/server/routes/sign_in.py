"""Pages for signing in and out, the second factor, and one's own account."""

from __future__ import annotations

import base64
from typing import Annotated
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from heedful.errors import UnlockError
from heedful.server import here
from heedful.server.access import STAFF, Called, Caller
from heedful.server.auth.accounts import Login, Refusal
from heedful.server.clinic import At, Desk
from heedful.server.gate import cookie_text, inside
from heedful.server.problems import wait
from heedful.server.shown import show
from heedful.server.state import Server, Serving
from heedful.server.views import page

router = APIRouter(include_in_schema=False)

HOME = "/"
"""Where somebody lands who named no other page; it leads to the first page of the role."""
DEVICE_DAYS = 180
Text = Annotated[str, Form(max_length=2000)]


@router.get("/sign-in")
async def form(caller: Called, next: str = "") -> Response:
    """The form."""
    return page("sign_in.html.j2", csrf=caller.csrf, next=inside(next), said="", name="")


@router.post("/sign-in")
async def sign_in(
    request: Request, caller: Called, server: Serving, name: Text, password: Text, next: Text = ""
) -> Response:
    """Name and password: on to the second factor, or in."""
    device = request.cookies.get(f"{server.cookie}-device", "")
    found = await to_thread.run_sync(
        lambda: server.accounts.sign_in(name, password, address=caller.address, device=device),
        limiter=server.stretching,
    )
    if isinstance(found, Refusal):
        return _refused(
            found, "sign_in.html.j2", caller, wrong=here.t("sign_in.wrong"), next=inside(next), name=name[:120]
        )
    return _let_in(server, found, next=inside(next))


@router.get("/second-factor")
async def factor_form(caller: Called, server: Serving, next: str = "") -> Response:
    """The form for a code, or the way to enrol."""
    if caller.stage == "full":
        return RedirectResponse(inside(next) or HOME, status_code=303)
    if not await to_thread.run_sync(server.accounts.has_factor, caller):
        return RedirectResponse(_with_next("/second-factor/enrol", inside(next)), status_code=303)
    return page("second_factor.html.j2", csrf=caller.csrf, next=inside(next), said="")


@router.post("/second-factor")
async def factor(caller: Called, server: Serving, code: Text, next: Text = "") -> Response:
    """A code of the phone, or a recovery code."""
    found = await to_thread.run_sync(lambda: server.accounts.second_factor(caller, code))
    if isinstance(found, Refusal):
        return _refused(found, "second_factor.html.j2", caller, wrong=here.t("factor.wrong"), next=inside(next))
    return _let_in(server, found, next=inside(next))


@router.get("/second-factor/enrol")
async def enrol_form(caller: Called, server: Serving, next: str = "") -> Response:
    """A secret for the phone, as a picture and as letters."""
    return await _enrol_page(caller, server, said="", next=inside(next), status=200)


@router.post("/second-factor/enrol")
async def enrol(caller: Called, server: Serving, code: Text, next: Text = "") -> Response:
    """The first code of the new phone; the recovery codes are shown, once."""
    found = await to_thread.run_sync(lambda: server.accounts.confirm(caller, code))
    if isinstance(found, Refusal):
        said = _said(found, here.t("factor.wrong"))
        return await _enrol_page(caller, server, said=said, next=inside(next), status=_status(found))
    login, codes = found
    response = page("recovery_codes.html.j2", csrf="", codes=codes, next=inside(next) or HOME)
    _cookies(response, server, login)
    return response


@router.post("/sign-out")
async def sign_out(caller: Called, server: Serving) -> Response:
    """End this session."""
    await to_thread.run_sync(server.accounts.sign_out, caller)
    return _gone(server)


@router.get("/account")
async def account(caller: Called, desk: At) -> Response:
    """One's own account."""
    return _account_page(caller, desk)


def _account_page(caller: Caller, desk: Desk, *, status: int = 200, wrong: str = "") -> Response:
    return show("account.html.j2", caller, desk, status=status, staff=caller.role in STAFF, wrong=wrong)


@router.post("/account/password")
async def password(caller: Called, desk: At, server: Serving, old: Text, new: Text) -> Response:
    """Another password: all other sessions end."""
    user = caller.user or ""
    try:
        login = await to_thread.run_sync(
            lambda: server.accounts.change_password(user, old=old, new=new), limiter=server.stretching
        )
    except UnlockError as err:
        return _account_page(caller, desk, status=400, wrong=here.told(err))
    return _let_in(server, login, next=HOME)


@router.post("/account/sign-out-everywhere")
async def sign_out_everywhere(caller: Called, server: Serving) -> Response:
    """End every session of this account."""
    await to_thread.run_sync(server.accounts.sign_out_everywhere, caller.user or "")
    return _gone(server)


async def _enrol_page(caller: Caller, server: Server, *, said: str, next: str, status: int) -> Response:
    user = caller.user or ""
    found, picture = await to_thread.run_sync(server.accounts.enrol, user)
    data = base64.b64encode(picture.encode("utf-8")).decode("ascii")
    return page(
        "enrol.html.j2",
        status=status,
        csrf=caller.csrf,
        picture=f"data:image/svg+xml;base64,{data}",
        secret=found.secret,
        said=said,
        next=next,
    )


def _let_in(server: Server, login: Login, *, next: str) -> Response:
    place = {"nothing": next or HOME, "second_factor": "/second-factor", "enrolment": "/second-factor/enrol"}[
        login.next
    ]
    response = RedirectResponse(place if login.next == "nothing" else _with_next(place, next), status_code=303)
    _cookies(response, server, login)
    return response


def _cookies(response: Response, server: Server, login: Login) -> None:
    # The browser keeps the session until it is closed; when it really ends, the store decides.
    response.headers.append("Set-Cookie", cookie_text(server.cookie, login.token, secure=server.secure))
    days = DEVICE_DAYS * 24 * 3600
    if login.next == "nothing" and login.device:
        text = cookie_text(f"{server.cookie}-device", login.device, secure=server.secure, seconds=days)
        response.headers.append("Set-Cookie", text)


def _gone(server: Server) -> Response:
    response = RedirectResponse("/sign-in", status_code=303)
    response.headers.append("Set-Cookie", cookie_text(server.cookie, "", secure=server.secure, seconds=0))
    # Pages and pictures of this session leave the browser too.
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


def _refused(found: Refusal, template: str, caller: Caller, *, wrong: str, **values: str) -> Response:
    headers = wait(found.seconds) if found.why == "wait" else {}
    said = _said(found, wrong)
    return page(template, status=_status(found), headers=headers, csrf=caller.csrf, said=said, **values)


def _status(found: Refusal) -> int:
    return 429 if found.why == "wait" else 401


def _said(found: Refusal, wrong: str) -> str:
    if found.why == "wrong":
        return wrong
    seconds = max(1, round(found.seconds))
    return here.t("sign_in.wait_one", n=1) if seconds == 1 else here.t("sign_in.wait", n=seconds)


def _with_next(place: str, next: str) -> str:
    return f"{place}?next={quote(next)}" if next else place
