"""Who runs this clinic, and when somebody is there: `clinic.toml` in the home folder. Every key may be left out.

    name = "Counselling service Nordstadt"
    responsible = "Dr. A. Example"
    contact = "office@clinic.example, 030 0000000"
    place = "our own computer in the house"
    country = "DE"
    timezone = "Europe/Berlin"
    response_minutes = 15
    closed = ["2026-12-25"]
    [hours]
    mon = ["08:00-12:00", "13:00-18:00"]
    [risk_belief]
    counsel = "A. Example, attorney"
    confirmed = 2026-11-20
    [impact_assessment]
    number = "DPIA-2026-03"
    person = "R. Adeyemi"
    day = 2026-11-01

A paper has a number, or a `file` of the home folder, or both; `until` is its last day. `[approval_number]` is the same
for the approval of an ethics committee.

Without `hours` nobody is taken to be there, and the page of the admin warns about it. `hours = "always"` says that
somebody is there day and night.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

from heedful.errors import ConfigError, nearest, only_keys, shown
from heedful.safety.crisis import TIERS

FILE: Final = "clinic.toml"
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
SAID: Final = ("name", "responsible", "contact", "place")
"""What pages say in words; an empty one is a gap, and pages have a neutral wording for it."""
CLOCK: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00")
Span = tuple[time, time]
"""From and until; `time.max` is the end of a day."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Counsel's word that something may run: who gave it, and when."""

    counsel: str
    confirmed: date


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Something that was checked and signed outside of this program: an impact assessment, an ethics approval.

    Args:
        number, file: which one it is; at least one of them.
        person: who answers for it. day: since when. until: its last day; None = no end.
    """

    number: str = ""
    file: str = ""
    person: str
    day: date
    until: date | None = None

    def good(self, today: date) -> bool:
        """Whether it counts on a day."""
        return self.day <= today and (self.until is None or today <= self.until)


@dataclass(frozen=True, kw_only=True)
class House:
    """The clinic.

    Args:
        name, responsible, contact, place: what disclosures name; empty = not said yet.
        country: whose crisis lines pages show, two letters; empty = not said.
        timezone: of hours, and of all times that pages show.
        hours: day of the week -> times when somebody is on duty, or `always`; None = nobody ever is.
        closed: days without anybody.
        response_minutes: until a person answers a handover. look_minutes: until a person looks where nothing is held.
        draft_minutes: after so long a draft is stale.
        stop_tier, stop_reports: where a protocol has a stop rule (`heedful.review.stopping.StopRule`): the tier at
            which the study's part of a conversation ends, and after how many reports it does; 0 = none count.
        risk_belief: counsel's word that a risk classifier may run, where a profile asks for it.
        impact_assessment, approval_number: papers that a profile may ask for.
    """

    name: str = ""
    responsible: str = ""
    contact: str = ""
    place: str = ""
    country: str = ""
    timezone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    hours: Mapping[str, tuple[Span, ...]] | Literal["always"] | None = None
    closed: frozenset[date] = frozenset()
    response_minutes: int = 15
    look_minutes: int = 60
    draft_minutes: int = 60
    stop_tier: str = "immediate"
    stop_reports: int = 3
    risk_belief: Confirmation | None = None
    impact_assessment: Paper | None = None
    approval_number: Paper | None = None

    def on_duty(self, now: datetime) -> bool:
        """Whether somebody is there."""
        if self.hours is None:
            return False  # nobody said when somebody is there: no help-seeker is promised it
        here = now.astimezone(self.timezone)
        if here.date() in self.closed:
            return False
        if isinstance(self.hours, str):
            return True
        spans = self.hours.get(DAYS[here.weekday()], ())
        return any(start <= here.time().replace(tzinfo=None) < end for start, end in spans)

    def local(self, at: datetime) -> str:
        """A time as pages show it: the same in every language, and it sorts."""
        return at.astimezone(self.timezone).strftime("%Y-%m-%d %H:%M")

    def read_local(self, text: str) -> datetime:
        """Back from a form's `datetime-local`.

        Raises:
            ConfigError: it is no time.
        """
        try:
            found = datetime.fromisoformat(text)
        except ValueError as err:
            raise ConfigError("A time looks like 2026-11-22T09:30.") from err
        return found if found.tzinfo else found.replace(tzinfo=self.timezone)

    @property
    def gaps(self) -> tuple[str, ...]:
        """What nobody has said yet and disclosures need."""
        said = {"responsible": self.responsible, "contact": self.contact, "place": self.place, "hours": self.hours}
        return tuple(name for name, value in said.items() if not value)


def load(folder: Path) -> House:
    """The clinic of a home folder; without a file, one that has said nothing yet.

    Raises:
        ConfigError: an unknown key, or a value that cannot be used.
    """
    path = folder / FILE
    if not path.is_file():
        return House()
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        why = str(err) if isinstance(err, tomllib.TOMLDecodeError) else "it is not UTF-8"
        raise ConfigError(f"{path} is no TOML: {why}; mend the file.") from err
    made = parse(found, where=str(path))
    for paper in (made.impact_assessment, made.approval_number):
        if paper is not None and paper.file and not (folder / paper.file).is_file():
            raise ConfigError(f"{path}: there is no file '{paper.file}' in {folder}; put it there, or give its number.")
    return made


def parse(found: Mapping[str, Any], *, where: str) -> House:
    """A clinic from the content of a file.

    Raises:
        ConfigError: as for `load`.
    """
    only_keys(found, House.__dataclass_fields__, where=where)
    values: dict[str, Any] = dict(found)
    for name in SAID:
        if not isinstance(value := values.get(name, ""), str):
            raise ConfigError(f"{where}: '{name}' is a text in quotes, but it is {shown(value)}.")
        values[name] = value.strip()
    country = values.get("country", "")
    if not isinstance(country, str) or not re.fullmatch(r"([A-Z]{2})?", country):
        raise ConfigError(f"{where}: 'country' is two capital letters, as \"DE\", but it is {shown(country)}.")
    if "timezone" in values:
        values["timezone"] = _zone(values["timezone"], where)
    closed = values.get("closed", [])
    if not isinstance(closed, list):
        raise ConfigError(f"{where}: 'closed' is a list of days, as [\"2026-12-25\"], but it is {shown(closed)}.")
    values["closed"] = frozenset(_day(day, f"{where}: a day of 'closed'") for day in closed)
    if "hours" in values:
        values["hours"] = _hours(values["hours"], where)
    for name in ("impact_assessment", "approval_number"):
        if name in values:
            values[name] = _paper(values[name], f"{where}, [{name}]")
    if "risk_belief" in values:
        values["risk_belief"] = _confirmation(values["risk_belief"], where)
    for name in ("response_minutes", "look_minutes", "draft_minutes"):
        value = values.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{where}: '{name}' is a whole number of minutes, at least 1.")
    if values.get("stop_tier", "immediate") not in TIERS[1:]:
        raise ConfigError(f"{where}: 'stop_tier' is one of {', '.join(TIERS[1:])}.")
    reports = values.get("stop_reports", 0)
    if isinstance(reports, bool) or not isinstance(reports, int) or reports < 0:
        raise ConfigError(f"{where}: 'stop_reports' is a whole number, 0 for none.")
    return House(**values)


def _confirmation(found: Any, where: str) -> Confirmation:
    known = {"counsel": str, "confirmed": date}
    fits = isinstance(found, Mapping) and set(found) == set(known)
    if not fits or not all(type(found[name]) is kind for name, kind in known.items()) or not found["counsel"].strip():
        raise ConfigError(
            f'{where}: [risk_belief] has counsel = "name" and confirmed = 2026-11-20 (without quotes), both.'
        )
    return Confirmation(counsel=found["counsel"].strip(), confirmed=found["confirmed"])


def _paper(found: Any, where: str) -> Paper:
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where}: a paper is a table with number or file, person and day.")
    only_keys(found, Paper.__dataclass_fields__, where=where)
    values: dict[str, Any] = {name: str(found.get(name, "")).strip() for name in ("number", "file", "person")}
    if not values["person"] or not (values["number"] or values["file"]) or "day" not in found:
        raise ConfigError(f"{where}: a paper needs a number or a file, the person who answers for it, and its day.")
    until = _day(found["until"], f"{where}: 'until'") if found.get("until") else None
    return Paper(**values, day=_day(found["day"], f"{where}: 'day'"), until=until)


def _zone(value: Any, where: str) -> ZoneInfo:
    # Asked of the list, not of the file: a folder ("Europe") or a path is no zone either.
    known = available_timezones()
    if isinstance(value, str) and value in known:
        return ZoneInfo(value)
    close = nearest(value, known) if isinstance(value, str) else ""
    raise ConfigError(
        f"{where}: 'timezone' is a name of the tz database, as \"Europe/Berlin\", but it is {shown(value)}.{close}"
    )


def _day(value: Any, what: str) -> date:
    if type(value) is date:
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{what} is a day, as 2026-12-25, but it is {shown(value)}.") from None


def _hours(found: Any, where: str) -> dict[str, tuple[Span, ...]] | Literal["always"]:
    if found == "always":
        return "always"
    if not isinstance(found, Mapping):
        raise ConfigError(
            f'{where}: hours are a table, as [hours] with mon = ["08:00-12:00"], or "always", but they are '
            f"{shown(found)}."
        )
    if stray := sorted(set(found) - set(DAYS)):
        raise ConfigError(f"{where}: hours are for {', '.join(DAYS)}, not for {shown(stray[0])}.")
    return {day: _spans(spans, f"{where}: the hours of '{day}'") for day, spans in found.items()}


def _spans(found: Any, what: str) -> tuple[Span, ...]:
    if not isinstance(found, list):
        raise ConfigError(f'{what} are a list in brackets, as ["08:00-12:00"], but they are {shown(found)}.')
    return tuple(_span(span, what) for span in found)


def _span(found: Any, what: str) -> Span:
    parts = [part.strip() for part in found.split("-")] if isinstance(found, str) else []
    if len(parts) != 2 or not all(CLOCK.fullmatch(part) for part in parts):
        raise ConfigError(
            f'{what} look like "08:00-12:00", two digits each, from 00:00 to 24:00, but one of them is {shown(found)}.'
        )
    start, end = (time.max if part == "24:00" else time.fromisoformat(part) for part in parts)
    if start >= end:
        raise ConfigError(
            f"{what} have the earlier time first, but one of them is {shown(found)}; a night is two entries, "
            "until 24:00 and from 00:00 of the next day."
        )
    return start, end
