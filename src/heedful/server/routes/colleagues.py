"""`/colleagues`: staff whose accounts wait until somebody of the team confirms them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from heedful.errors import ConflictError
from heedful.server import colleagues, here
from heedful.server.access import Called, Caller
from heedful.server.clinic import At, Desk
from heedful.server.shown import show

router = APIRouter(prefix="/colleagues", include_in_schema=False)


@router.get("")
def all_of_them(caller: Called, desk: At) -> Response:
    """Who waits, and who confirmed whom."""
    return _page(caller, desk)


@router.post("/{user}/confirm")
def confirm(user: str, caller: Called, desk: At) -> Response:
    """This is our colleague: the account may read from now on."""
    try:
        colleagues.confirm(desk.clinic.store, user, by=caller.user or "")
    except ConflictError as err:
        return _page(caller, desk, status=409, wrong=here.told(err))
    return RedirectResponse("/colleagues", status_code=303)


@router.post("/{user}/refuse")
def refuse(user: str, caller: Called, desk: At) -> Response:
    """Nobody knows this one: the account is closed."""
    colleagues.refuse(desk.clinic.store, user, by=caller.user or "")
    return RedirectResponse("/colleagues", status_code=303)


def _page(caller: Caller, desk: Desk, *, status: int = 200, wrong: str = "") -> Response:
    rows = colleagues.listed(desk.clinic.store)
    return show("colleagues.html.j2", caller, desk, status=status, rows=rows, wrong=wrong)
