"""The admin's pages: accounts of staff, crisis lines, models, profile, audit. Never a word of a conversation."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from heedful.errors import ConfigError, UserError
from heedful.profiles import SWITCHES, Conditions
from heedful.review.problems import listed
from heedful.safety.resources import Line
from heedful.server import checks, directory, here, invitations, words
from heedful.server.access import Called, Caller
from heedful.server.auth.second_factor import Factor
from heedful.server.clinic import At, Desk
from heedful.server.conditions import check_account, papers, titled
from heedful.server.routes.people import invited, set_disabled
from heedful.server.shown import show
from heedful.server.state import Server, Serving
from heedful.store import audit
from heedful.store.repositories.people import READING
from heedful.store.unit import Unit

router = APIRouter(prefix="/admin", include_in_schema=False)
Short = Annotated[str, Form(max_length=300)]
READERS = ("emotion", "strategy", "knowledge")
STAFF = invitations.MAY_INVITE["admin"]


@router.get("")
def admin(caller: Called, desk: At, server: Serving) -> Response:
    """Everything on one page."""
    return _page(caller, desk, server)


def _page(caller: Caller, desk: Desk, server: Server, *, status: int = 200, **more: Any) -> Response:
    with desk.clinic.store.read() as unit:
        users = [user for user in unit.users.all() if user.role in STAFF]
        seekers = len(unit.users.all(role="help_seeker"))
        last, rows = unit.audit.last(), unit.audit.all(after=0, limit=1)
        counted = unit.counters.all()
        factors = {user.id: Factor.is_on(user.totp_secret) for user in users}
    today = desk.now().date()
    table, profile = desk.directory.table(), checks.applied(desk.clinic.store, desk.profile)
    values: dict[str, Any] = {
        "users": users,
        "factors": factors,
        "seekers": seekers,
        "lines": [(line, line.days_old(today), line.old(today)) for line in desk.directory.own()],
        "country": desk.directory.country,
        "others": sum(line.country != desk.directory.country for line in table.lines),
        "engine": server.engine.state(),
        "warnings": profile.warnings(today),
        "sources": profile.sources,
        "papers": papers(desk),
        "titled": titled(desk),
        "switches": [(name, _value(desk.profile.switches[name]), s.meaning) for name, s in SWITCHES.items()],
        "lacks": desk.profile.missing_for_client_replies(
            Conditions(responsible=desk.house.responsible, takeover_staffed=desk.on_duty)
        ),
        "workers": desk.workers,
        "reports": listed(desk.clinic.store)[-20:] if desk.on("report_button") else (),
        "second": desk.second,
        **{name: counted.get((name, str(today.year)), 0) for name in ("beliefs_raised", "beliefs_failed")},
        "readers": [(name, Path(value).name) for name in READERS if (value := getattr(server.config, name))],
        "last": last,
        "any_audit": bool(rows),
        "today": today,
        "verdict": None,
        "wrong": "",
        "typed": "",
        "check": {},
        "roles": STAFF,
        "reading": READING,
        "languages": words.LANGUAGES,
        "config": server.config,
        **more,
    }
    return show("admin.html.j2", caller, desk, status=status, **values)


def _value(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


# ---------------------------------------------------------------------- accounts


@router.post("/users")
def add(
    request: Request,
    caller: Called,
    desk: At,
    server: Serving,
    name: Short = "",
    role: Short = "",
    language: Short = "en",
) -> Response:
    """A new account of staff; its link is shown once."""
    try:
        check_account(desk, name)
        made, path = invitations.invite(
            desk.clinic.store,
            role=role,
            name=name,
            language=words.known(language) or "en",
            by=caller.user or "",
            inviter=caller.role,
        )
    except UserError as err:
        return _page(caller, desk, server, status=400, wrong=here.told(err), typed=name)
    return invited(request, caller, desk, made, path, back="/admin")


@router.post("/users/{user}/disable")
def disable(user: str, caller: Called, desk: At) -> Response:
    """Nobody signs in with this account any more."""
    set_disabled(desk, user, caller, disabled=True, roles=STAFF)
    return RedirectResponse("/admin#users", status_code=303)


@router.post("/users/{user}/enable")
def enable(user: str, caller: Called, desk: At) -> Response:
    """It works again."""
    set_disabled(desk, user, caller, disabled=False, roles=STAFF)
    return RedirectResponse("/admin#users", status_code=303)


@router.post("/users/{user}/reset")
def reset(request: Request, user: str, caller: Called, desk: At) -> Response:
    """A new invitation: the password and all sessions are gone."""
    made, path = invitations.again(desk.clinic.store, user, by=caller.user or "", inviter=caller.role)
    return invited(request, caller, desk, made, path, back="/admin")


@router.post("/users/{user}/reset-factor")
def reset_factor(user: str, caller: Called, desk: At, server: Serving) -> Response:
    """The phone is lost: a new one is enrolled at the next sign-in."""
    with desk.clinic.store.read() as unit:
        found = unit.users.get(user)
    if found.role not in STAFF:
        raise HTTPException(404, "There is no such account of staff.")
    server.accounts.reset_factor(user, by=caller.user or "")
    return RedirectResponse("/admin#users", status_code=303)


# ---------------------------------------------------------------------- crisis lines


@router.get("/resources/{line}")
def edit_line(line: str, caller: Called, desk: At) -> Response:
    """One crisis line, to be changed."""
    return _line_page(caller, desk, _line(desk, line), wrong="")


def _line_page(caller: Caller, desk: Desk, found: Line, *, wrong: str, status: int = 200) -> Response:
    today = desk.now().date()
    return show("line.html.j2", caller, desk, status=status, line=found, today=today, wrong=wrong, old=found.old(today))


@router.post("/resources/{line}")
def save_line(
    line: str,
    caller: Called,
    desk: At,
    name: Short = "",
    number: Short = "",
    text: Short = "",
    web: Short = "",
    hours: Short = "",
    source: Short = "",
    checked: Short = "",
) -> Response:
    """The clinic's own version of a line. What would leave half of a pair, or nothing to reach, is refused."""
    before = _line(desk, line)
    entry: dict[str, Any] = {
        "languages": list(before.languages),
        "name": name.strip(),
        "hours": hours.strip(),
        "audience": before.audience,
        "source": source.strip(),
        **{key: value.strip() for key, value in (("number", number), ("text", text), ("web", web)) if value.strip()},
        **({"pair": before.pair} if before.pair else {}),
    }
    by = caller.user or ""
    try:
        day = _day(checked, desk.now().date())
        if not entry["name"]:
            raise ConfigError("A crisis line needs a name.")

        def work(unit: Unit) -> None:
            unit.resources.put(
                id=line, country=before.country, language=before.languages[0], entry=entry, by=by, checked_on=day
            )
            directory.read(unit)  # a table that cannot be read undoes the change

        desk.clinic.store.run(work)
    except ConfigError as err:
        return _line_page(caller, desk, before, status=400, wrong=str(err))
    desk.directory.forget()
    return RedirectResponse("/admin#resources", status_code=303)


def _line(desk: Desk, id: str) -> Line:
    desk.directory.forget()
    found = next((line for line in desk.directory.table().lines if line.id == id), None)
    if found is None:
        raise HTTPException(404, "There is no crisis line with this id.")
    return found


def _day(text: str, today: date) -> str | None:
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError as err:
        raise ConfigError("The day of the check looks like 2026-11-22.") from err
    if day > today:
        raise ConfigError("The day of the check lies in the future.")
    return day.isoformat()


# ---------------------------------------------------------------------- profile


@router.post("/profile/check")
def check_profile(
    caller: Called, desk: At, server: Serving, profile: Short = "", checker: Short = "", checked: Short = ""
) -> Response:
    """Somebody compared a profile with the text of its law."""
    store = desk.clinic.store
    try:
        checks.enter(store, desk.profile, profile, checker=checker, checked=checked, by=caller.user or "")
    except UserError as err:
        typed = {"profile": profile, "checker": checker, "checked": checked}
        return _page(caller, desk, server, status=400, wrong=here.told(err), check=typed)
    return RedirectResponse("/admin#profile", status_code=303)


# ---------------------------------------------------------------------- audit


@router.post("/audit/verify")
def verify(caller: Called, desk: At, server: Serving) -> Response:
    """Read the whole chain. That somebody did is part of the chain itself."""
    by = caller.user or ""
    verdict = audit.verify(desk.clinic.store)
    desk.clinic.store.run(
        lambda unit: unit.audit.add(by, "audit.verified", "store:audit", state=verdict.state, rows=verdict.rows)
    )
    return _page(caller, desk, server, verdict=verdict)
