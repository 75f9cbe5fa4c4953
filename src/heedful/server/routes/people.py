"""Help-seekers' accounts, for staff: invite, invite again, close the door. And the page that an invitation opens."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from heedful.errors import TransitionError, UnlockError, UserError
from heedful.review.minors import ADULT, UNTIL_SAID, is_minor
from heedful.server import here, invitations, words
from heedful.server.access import Called, Caller
from heedful.server.clinic import At, Desk
from heedful.server.conditions import check_account
from heedful.server.shown import show
from heedful.server.state import Serving
from heedful.store.records import User
from heedful.store.unit import Unit

router = APIRouter(include_in_schema=False)
Short = Annotated[str, Form(max_length=200)]


@router.get("/people")
def people(caller: Called, desk: At) -> Response:
    """All help-seekers."""
    return _page(caller, desk)


def _page(caller: Caller, desk: Desk, *, status: int = 200, wrong: str = "", typed: str = "") -> Response:
    with desk.clinic.store.read() as unit:
        users = unit.users.all(role="help_seeker")
        threads = {user.id: unit.threads.of(user.id) for user in users}
    rows = [(user, next((t for t in reversed(threads[user.id]) if t.state != "closed"), None)) for user in users]
    young = {user.id for user in users if is_minor(user, desk.now())} if _ages(desk) else None
    values: dict[str, Any] = {
        "rows": rows,
        "wrong": wrong,
        "languages": words.LANGUAGES,
        "young": young,
        "typed": typed,
    }
    return show("people.html.j2", caller, desk, status=status, **values)


def _ages(desk: Desk) -> bool:
    """Whether anything depends on age under this profile."""
    return desk.on("notice_minors") or desk.switch("timer_minutes_minors") != 0


@router.post("/people")
def invite(
    request: Request, caller: Called, desk: At, name: Short = "", language: Short = "en", minor: Short = ""
) -> Response:
    """A new account; its link is shown once."""
    try:
        check_account(desk, name)
        made, path = invitations.invite(
            desk.clinic.store,
            role="help_seeker",
            name=name,
            language=words.known(language) or "en",
            by=caller.user or "",
            inviter=caller.role,
            adult_from=UNTIL_SAID if minor == "yes" and _ages(desk) else None,
        )
    except UserError as err:
        return _page(caller, desk, status=400, wrong=here.told(err), typed=name)
    return invited(request, caller, desk, made, path, back="/people")


@router.post("/people/{user}/invite")
def invite_again(request: Request, user: str, caller: Called, desk: At) -> Response:
    """A new link: password and sessions are gone."""
    made, path = invitations.again(desk.clinic.store, user, by=caller.user or "", inviter=caller.role)
    return invited(request, caller, desk, made, path, back="/people")


@router.post("/people/{user}/age")
def age(user: str, caller: Called, desk: At, minor: Short = "") -> Response:
    """Staff knows better: a minor's account, or an adult's."""

    def work(unit: Unit) -> None:
        if not _ages(desk) or unit.users.get(user).role != "help_seeker":
            raise TransitionError("Of this account no age is kept.")
        unit.users.set_age(user, UNTIL_SAID if minor == "yes" else ADULT, by=caller.user or "")

    desk.clinic.store.run(work)
    return RedirectResponse("/people", status_code=303)


@router.post("/people/{user}/disable")
def disable(user: str, caller: Called, desk: At) -> Response:
    """Nobody signs in with this account any more; the record stays."""
    set_disabled(desk, user, caller, disabled=True, roles=("help_seeker",))
    return RedirectResponse("/people", status_code=303)


def set_disabled(desk: Desk, user: str, caller: Caller, *, disabled: bool, roles: tuple[str, ...]) -> None:
    """Close or open an account of one of these roles.

    Raises:
        TransitionError: another role, or one's own account.
    """
    by = caller.user or ""

    def work(unit: Unit) -> None:
        found = unit.users.get(user)
        if found.role not in roles or user == by:
            raise TransitionError("This account is not one that you can close or open.")
        unit.users.change(user, by=by, disabled=disabled)
        if disabled:
            unit.sessions.revoke_all(user, by=by)

    desk.clinic.store.run(work)


def invited(request: Request, caller: Caller, desk: Desk, user: User, path: str, *, back: str) -> Response:
    """The page with the link."""
    address = f"{str(request.base_url).rstrip('/')}{path}"
    return show("invited.html.j2", caller, desk, user=user, address=address, days=invitations.DAYS, back=back)


@router.get("/invitation/{token}")
def open_invitation(token: str, caller: Called, desk: At) -> Response:
    """The page behind a link."""
    user = invitations.opened(desk.clinic.store, token)
    return show("invitation.html.j2", caller, desk, name=user.name, token=token, wrong="")


@router.post("/invitation/{token}")
async def accept(
    token: str, caller: Called, desk: At, server: Serving, password: Annotated[str, Form(max_length=2000)] = ""
) -> Response:
    """The first password, stretched where all passwords are: a flood of them must not keep anybody else waiting."""
    store = desk.clinic.store
    try:
        await to_thread.run_sync(
            lambda: invitations.accept(store, server.accounts, token, password), limiter=server.stretching
        )
    except UnlockError as err:
        user = await to_thread.run_sync(invitations.opened, store, token)
        return show("invitation.html.j2", caller, desk, status=400, name=user.name, token=token, wrong=here.told(err))
    return RedirectResponse("/sign-in?next=/", status_code=303)
