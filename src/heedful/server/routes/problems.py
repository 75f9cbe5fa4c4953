"""Report a problem: a form for everybody with an account, and the supervisor's page of what was reported."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from heedful.errors import ConflictError, DataError, TransitionError
from heedful.review import problems
from heedful.safety import texts
from heedful.server import here
from heedful.server.access import Called, Caller
from heedful.server.clinic import At, Desk
from heedful.server.routes.decide import conflict
from heedful.server.shown import show
from heedful.store.repositories.papers import REPORT_KINDS

router = APIRouter(include_in_schema=False)


@router.get("/report")
def form(caller: Called, desk: At) -> Response:
    """The form."""
    _offered(desk)
    return _form(caller, desk)


def _form(caller: Caller, desk: Desk, *, status: int = 200, wrong: str = "", text: str = "") -> Response:
    values: dict[str, Any] = {"kinds": REPORT_KINDS, "wrong": wrong, "text": text, "longest": problems.LONGEST}
    return show("report.html.j2", caller, desk, status=status, **values)


@router.post("/report")
def send(
    caller: Called, desk: At, kind: Annotated[str, Form(max_length=40)] = "", text: Annotated[str, Form()] = ""
) -> Response:
    """Keep it. Where it speaks of danger, what to do now comes first."""
    _offered(desk)
    assert caller.role is not None
    try:
        made = problems.report(desk.clinic, user=caller.user or "", role=caller.role, kind=kind, text=text)
    except DataError:
        return _form(caller, desk, status=400, wrong=here.t("report.wrong", most=problems.LONGEST), text=text)
    options: tuple[str, ...] = ()
    if made.danger:
        lines = desk.directory.fill(here.language())
        found = texts.load(texts.nearest_language(here.language()))
        options = found.options("thoughts", line=lines.line, emergency=lines.emergency)
    return show("reported.html.j2", caller, desk, options=options, on_duty=desk.on_duty)


@router.get("/problems")
def overview(caller: Called, desk: At) -> Response:
    """What was reported, with its words; open ones first."""
    return _overview(caller, desk)


def _overview(caller: Caller, desk: Desk, *, status: int = 200, wrong: str = "") -> Response:
    _offered(desk)
    with desk.clinic.store.read() as unit:
        found = sorted(unit.reports.all(), key=lambda r: r.state != "open")
        names = {r.user_id: (user.name or "") for r in found if (user := unit.users.find(r.user_id)) is not None}
    return show("problems.html.j2", caller, desk, status=status, rows=found, names=names, wrong=wrong)


@router.post("/problems/{report}/close")
def close(
    report: str,
    caller: Called,
    desk: At,
    version: Annotated[int, Form(ge=0, le=2**31)],
    outcome: Annotated[str, Form()] = "",
) -> Response:
    """Somebody dealt with it."""
    _offered(desk)
    try:
        problems.close(desk.clinic.store, report, by=caller.user or "", outcome=outcome, version=version)
    except ConflictError as err:
        return conflict(caller, desk, err, back="/problems", text=outcome)
    except TransitionError as err:
        return _overview(caller, desk, status=409, wrong=str(err))
    return RedirectResponse("/problems", status_code=303)


def _offered(desk: Desk) -> None:
    if not desk.on("report_button"):
        raise HTTPException(404, "Reports are not taken here; ask the clinic.")
