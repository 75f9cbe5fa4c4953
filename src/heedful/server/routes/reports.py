"""Reports that the profile asks for, for admin and supervisor: no content in any of them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from heedful.review.reports import incidents, yearly
from heedful.server import dossier
from heedful.server.access import Called
from heedful.server.clinic import At, Desk
from heedful.server.shown import show
from heedful.server.state import Server, Serving

router = APIRouter(prefix="/reports", include_in_schema=False)
LATEST = 20


@router.get("")
def reports(caller: Called, desk: At, server: Serving, year: int | None = None) -> Response:
    """Those that the profile asks for; without one, the page says so."""
    asked = _asked(desk)
    chosen = _year(desk, year)
    found = _incidents(desk) if "incidents" in asked else ()
    return show(
        "reports.html.j2",
        caller,
        desk,
        asked=asked,
        year=chosen,
        counts=yearly.yearly(desk.clinic.store, chosen).counts if "yearly-counts" in asked else (),
        smallest=yearly.SMALLEST - 1,
        latest=tuple(reversed(found))[:LATEST],
        n=len(found),
        dossier=_dossier(desk, server) if "dossier" in asked else None,
        plain=dossier.plain,
    )


@router.get("/yearly-counts.json")
def yearly_counts(caller: Called, desk: At, year: int | None = None) -> Response:
    """The counts of a year."""
    _need(desk, "yearly-counts")
    chosen = _year(desk, year)
    return _json(yearly.yearly(desk.clinic.store, chosen).to_dict(), f"yearly-counts-{chosen}.json")


@router.get("/incidents.json")
def incidents_json(caller: Called, desk: At) -> Response:
    """All incidents."""
    _need(desk, "incidents")
    return _json({"incidents": incidents.as_rows(_incidents(desk))}, "incidents.json")


@router.get("/incidents.csv")
def incidents_csv(caller: Called, desk: At) -> Response:
    """The same as a table."""
    _need(desk, "incidents")
    return _file(incidents.as_csv(_incidents(desk)), "incidents.csv", "text/csv; charset=utf-8")


@router.get("/dossier.json")
def dossier_json(caller: Called, desk: At, server: Serving) -> Response:
    """The dossier."""
    _need(desk, "dossier")
    return _json(_dossier(desk, server), "dossier.json")


@router.get("/dossier.md")
def dossier_markdown(caller: Called, desk: At, server: Serving) -> Response:
    """The same to read and print."""
    _need(desk, "dossier")
    return _file(dossier.as_markdown(_dossier(desk, server)), "dossier.md", "text/markdown; charset=utf-8")


def _asked(desk: Desk) -> tuple[str, ...]:
    found = desk.switch("reports")
    return found if isinstance(found, tuple) else ()


def _need(desk: Desk, name: str) -> None:
    if name not in _asked(desk):
        raise HTTPException(404, "The profile does not ask for this report; `heedful report` makes it all the same.")


def _year(desk: Desk, year: int | None) -> int:
    now = desk.now().year
    return year if year is not None and 2000 <= year <= now else now


def _incidents(desk: Desk, since: datetime | None = None) -> tuple[incidents.Incident, ...]:
    return incidents.incidents(desk.clinic.store, since=since)


def _dossier(desk: Desk, server: Server) -> dict[str, Any]:
    return dossier.dossier(desk.clinic.store, server.config, desk.house, desk.profile)


def _json(found: Any, name: str) -> Response:
    return _file(json.dumps(found, ensure_ascii=False, indent=2), name, "application/json")


def _file(text: str, name: str, kind: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text.encode("utf-8"), media_type=kind, headers=headers)
