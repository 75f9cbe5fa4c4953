"""Pages with everything that all of them need: language, navigation for the role, the token of forms."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.responses import HTMLResponse

from heedful.server import here
from heedful.server.access import Caller
from heedful.server.clinic import Desk
from heedful.server.views import page

NAVIGATION: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "help_seeker": (
        ("/talk", "nav.talk"),
        ("/check-ins", "nav.checkins"),
        ("/exercises", "nav.exercises"),
        ("/me", "nav.me"),
    ),
    "clinician": (
        ("/inbox", "nav.inbox"),
        ("/tasks", "nav.tasks"),
        ("/people", "nav.people"),
        ("/colleagues", "nav.colleagues"),
    ),
    "supervisor": (
        ("/supervision", "nav.supervision"),
        ("/inbox", "nav.inbox"),
        ("/tasks", "nav.tasks"),
        ("/people", "nav.people"),
        ("/colleagues", "nav.colleagues"),
        ("/reports", "nav.reports"),
    ),
    "annotator": (),
    "admin": (("/admin", "nav.admin"), ("/reports", "nav.reports")),
}
"""Role -> places of its pages; the first one is where it starts."""


def show(
    template: str,
    caller: Caller,
    desk: Desk,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """A page of the clinic."""
    common = {
        "caller": caller,
        "csrf": caller.csrf,
        "house": desk.house,
        "navigation": () if caller.waits else NAVIGATION.get(caller.role or "", ()),
        "local": desk.house.local,
        "span": span,
    }
    return page(template, status=status, headers=headers, language=here.language(), **common, **values)


def home(role: str | None) -> str:
    """Where somebody of this role starts.

    >>> home("clinician"), home("annotator")
    ('/inbox', '/account')
    """
    places = NAVIGATION.get(role or "", ())
    return places[0][0] if places else "/account"


def span(time: timedelta) -> str:
    """A span of time, roughly, in the reader's language."""
    minutes = int(abs(time).total_seconds() // 60)
    if minutes < 1:
        return here.t("span.now")
    if minutes < 60:
        return here.t("span.minutes", n=minutes)
    if minutes < 48 * 60:
        return here.t("span.hours", n=minutes // 60, m=minutes % 60)
    return here.t("span.days", n=minutes // (24 * 60))


def until(at: datetime, now: datetime) -> str:
    """How long until a clock runs out, or since it did."""
    return here.t("span.late" if at <= now else "span.left", span=span(at - now))
