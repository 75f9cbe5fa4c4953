"""`/setup`: the first admin and the first clinician. From this machine only, once, with the code from the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Form, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from heedful.errors import ConfigError, ConflictError, UserError
from heedful.server import here
from heedful.server.access import Called, Caller
from heedful.server.auth.passwords import check_password
from heedful.server.clinic import At
from heedful.server.conditions import check_account
from heedful.server.gate import from_here
from heedful.server.problems import wait
from heedful.server.state import Server, Serving
from heedful.server.views import page
from heedful.server.words import refusal
from heedful.store import Unit

router = APIRouter(include_in_schema=False)
Text = Annotated[str, Form(max_length=2000)]


@router.get("/setup")
async def form(request: Request, caller: Called, server: Serving) -> Response:
    """The form, while there is no admin."""
    await _open(request, server)
    return page("setup.html.j2", csrf=caller.csrf, said="", names={})


@router.post("/setup")
async def setup(
    request: Request,
    caller: Called,
    desk: At,
    server: Serving,
    code: Text,
    admin_name: Text,
    admin_password: Text,
    clinician_name: Text,
    clinician_password: Text,
) -> Response:
    """Make both accounts, together or not at all."""
    await _open(request, server)
    backoff, names = server.accounts.backoff, {"admin": admin_name, "clinician": clinician_name}
    pause = backoff.pause("setup", "setup")
    if pause > 0:
        return _again(caller, here.t("setup.wait"), names, status=429, headers=wait(pause))
    backoff.failed("setup", "setup")
    if not server.setup.fits(code):
        return _again(caller, here.t("setup.wrong_code"), names, status=403)
    backoff.worked("setup", "setup")
    people = (("admin", admin_name, admin_password), ("clinician", clinician_name, clinician_password))
    try:
        for name in (admin_name, clinician_name):
            check_account(desk, name)
        await to_thread.run_sync(lambda: _make(server, people), limiter=server.stretching)
    except UserError as err:
        return _again(caller, here.told(err), names, status=400)
    server.setup.spend()
    return RedirectResponse("/sign-in", status_code=303)


def has_admin(server: Server) -> bool:
    """Whether somebody did this before."""
    with server.store.read() as unit:
        return bool(unit.users.all(role="admin"))


async def _open(request: Request, server: Server) -> None:
    # One answer for all reasons: from outside nobody learns whether the server was set up.
    if not from_here(request.scope) or server.setup.used or await to_thread.run_sync(has_admin, server):
        raise HTTPException(404, "There is nothing here.")


def _make(server: Server, people: tuple[tuple[str, str, str], ...]) -> None:
    names = [name.strip().casefold() for _, name, _ in people]
    if not all(names) or any(len(name) > 120 for name in names):
        raise refusal(ConfigError, "refusal.name", most=120)
    if names[0] == names[1]:
        raise refusal(ConfigError, "refusal.two_names")
    for _, name, password in people:
        check_password(password, name=name)
    hashes = [server.accounts.passwords.hash(password, name=name) for _, name, password in people]

    def work(unit: Unit) -> None:
        unit.alone()  # another server process on the same database has a code of its own, and may be here as well
        if unit.users.all(role="admin"):
            raise refusal(ConflictError, "refusal.admin_there")
        for (role, name, _), stored in zip(people, hashes, strict=True):
            made = unit.users.add(role=role, name=name.strip(), by="setup", password_hash=stored)  # type: ignore[arg-type]
            if role == "clinician":  # nobody is there who could confirm the first one
                unit.users.confirm(made.id, by="setup", way="setup")

    server.store.run(work)


def _again(
    caller: Caller, said: str, names: Mapping[str, str], *, status: int, headers: dict[str, str] | None = None
) -> Response:
    # The names as they were typed; never the code, and never a password.
    return page("setup.html.j2", status=status, headers=headers, csrf=caller.csrf, said=said, names=names)
