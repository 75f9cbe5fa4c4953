"""Check-ins of a help-seeker: mood, PHQ-9, GAD-7 and whatever the clinic added, with their own course."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import Response

from heedful.errors import DataError
from heedful.review import checkins, instruments
from heedful.review.instruments import Instrument
from heedful.safety import texts
from heedful.server import drawing, here
from heedful.server.access import Called
from heedful.server.clinic import At
from heedful.server.conditions import fulfilled
from heedful.server.routes.consents import CONSENTED
from heedful.server.shown import show
from heedful.store.records import Checkin

router = APIRouter(prefix="/check-ins", include_in_schema=False, dependencies=[Depends(fulfilled), CONSENTED])


async def filled(request: Request) -> FormData:
    """The fields of a form whose names a data file decides."""
    return await request.form()


Filled = Annotated[FormData, Depends(filled)]


@router.get("")
def overview(caller: Called, desk: At) -> Response:
    """All instruments, each with its course."""
    with desk.clinic.store.read() as unit:
        mine = unit.checkins.of(caller.user or "")
    rows = []
    for instrument in instruments.known().values():
        own = [c for c in mine if c.instrument == instrument.id]
        rows.append((instrument, own, _trend(instrument, own)))
    return show("checkins.html.j2", caller, desk, rows=rows)


@router.get("/{instrument}")
def form(instrument: str, caller: Called, desk: At) -> Response:
    """One questionnaire."""
    found = _get(instrument)
    language, wording = found.wording(here.language())
    return show("checkin.html.j2", caller, desk, found=found, wording=wording, spoken=language, wrong="", given={})


@router.post("/{instrument}")
def keep(instrument: str, caller: Called, desk: At, fields: Filled) -> Response:
    """Keep the answers and show what they come to; no sum is called a diagnosis."""
    found, language = _get(instrument), here.language()
    spoken, wording = found.wording(language)
    given = {n: fields.get(f"q{n}") for n in range(1, found.length + 1)}
    try:
        answers = [_number(value) for value in given.values()]
        if not any(answer is not None for answer in answers):
            raise DataError("nothing was answered")
        kept = checkins.keep(desk.clinic, found, answers, by=caller.user or "", language=language)
    except DataError:
        values: dict[str, Any] = {"found": found, "wording": wording, "spoken": spoken, "given": given}
        return show("checkin.html.j2", caller, desk, status=400, wrong=here.t("checkin.wrong"), **values)
    with desk.clinic.store.read() as unit:
        own = list(unit.checkins.of(caller.user or "", instrument=found.id))
    lines = desk.directory.fill(language)
    options = texts.load(texts.nearest_language(language)).options(
        "thoughts", line=lines.line, emergency=lines.emergency
    )
    return show(
        "checkin_done.html.j2",
        caller,
        desk,
        found=found,
        result=kept.result,
        struck=bool(kept.result.triggers),
        options=options,
        trend=_trend(found, own),
        minutes=desk.house.look_minutes,
        on_duty=desk.on_duty,
    )


def _trend(instrument: Instrument, own: list[Checkin]) -> str:
    if len(own) < 2:
        return ""
    title = here.t("checkin.trend", name=instrument.title)
    totals = [(c.created_at, c.total) for c in own]
    return drawing.trend(totals, name=instrument.title, title=title, x_label=here.t("checkin.days"))


def _get(id: str) -> Instrument:
    try:
        return instruments.get(id)
    except DataError as err:
        raise HTTPException(404, "There is no such check-in.") from err


def _number(value: object) -> int | None:
    """An answer of a form; nothing = left out.

    Raises:
        DataError: no number.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isdecimal() or len(value) > 4:
        raise DataError("An answer is one of the numbers of the scale.")
    return int(value)
