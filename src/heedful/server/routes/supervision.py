"""The supervisor's page: caseload, response clocks, what became of drafts. Numbers, no words of anybody."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from heedful.review import overview, watching
from heedful.review.problems import listed
from heedful.server import drawing, here
from heedful.server.access import Called
from heedful.server.clinic import At
from heedful.server.shown import show

router = APIRouter(include_in_schema=False)
DAYS = 28
WEEKS = 12


@router.get("/supervision")
def supervision(caller: Called, desk: At) -> Response:
    """Everything on one page."""
    store = desk.clinic.store
    weeks = overview.weeks(store, n=WEEKS)
    named = {
        here.t(f"decision.{what}"): [(float(n), week.share(what)) for n, week in enumerate(weeks, start=1)]
        for what in overview.DECIDED
    }
    with store.read() as unit:
        held = len(unit.threads.in_state("risk_held"))
        alone = watching.unwatched(unit) if desk.on("staff_monitoring") else None
        names = {t.id: (unit.users.get(t.help_seeker).name or "") for t in alone or ()}
        year = str(unit.now().year)
        counts = {name: n for (name, _), n in unit.counters.all(period=year).items()}
    open_reports = sum(r.state == "open" for r in listed(store)) if desk.on("report_button") else None
    total = {what: sum(week.counts[what] for week in weeks) for what in overview.DECIDED}
    return show(
        "supervision.html.j2",
        caller,
        desk,
        loads=overview.caseload(store, days=DAYS),
        clocks=overview.clocks(store, days=DAYS),
        weeks=weeks,
        total=total,
        n=sum(total.values()),
        decided=overview.DECIDED,
        picture=drawing.lines(named, title=here.t("supervision.shares"), x_label=here.t("supervision.week")),
        held=held,
        alone=alone,
        names=names,
        reports=open_reports,
        counts=counts,
        year=year,
        days=DAYS,
        target=desk.house.response_minutes,
    )
