"""Incidents: what the crisis path and its gate did, out of the audit chain. Times, levels, rules, states; no content.

Another kind of incident is one row of `KINDS`, once its entry is in the audit chain. Conversations are numbered anew in
every report, and people are `person` or `program`: who it was can be looked up by those who may, not read here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final

from heedful.store import Store
from heedful.store.records import AuditEntry
from heedful.store.unit import Unit

PAGE: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How an entry of the audit chain is told as an incident.

    Args:
        name: what the report calls it.
        did: key of the fact that says what was done; without one `name` says it.
    """

    name: str
    did: str | None = None


KINDS: Final[Mapping[str, Kind]] = {
    "risk.event": Kind(name="crisis", did="did"),
    "crisis.said": Kind(name="fixed-text", did="what"),
    "task.overdue": Kind(name="clock-ran-out", did="kind"),
    "checkin.struck": Kind(name="check-in"),
    "gate.overruled": Kind(name="gate-overruled"),
    "draft.blocked": Kind(name="draft-blocked"),
    "note.blocked": Kind(name="note-blocked"),
    "thread.risk_held": Kind(name="state"),
    "thread.human_owned": Kind(name="state"),
    "thread.ai_assisted": Kind(name="state"),
    "thread.closed": Kind(name="state"),
    "thread.risk_raised": Kind(name="level-raised"),
    "thread.risk_lowered": Kind(name="level-lowered"),
    "report.added": Kind(name="problem-reported", did="kind"),
    "report.closed": Kind(name="problem-closed"),
    "report.danger": Kind(name="danger-in-a-report", did="tier"),
    "api.crisis": Kind(name="danger-in-the-api", did="rung"),
}
"""Action of the audit chain -> what it is in a report."""


@dataclass(frozen=True, kw_only=True)
class Incident:
    """One thing that happened.

    Args:
        case: number of the conversation in this report; None where it was about none.
        level: of risk: 0 none, 1 thoughts, 2 immediate; None where nothing was said about it.
        did: what was done. rules: rules with their versions, or the model's name.
        before, after: states of the conversation, or levels, where they changed.
        by: `person` or `program`.
    """

    at: str
    kind: str
    case: int | None
    level: int | None
    did: str
    rules: tuple[str, ...]
    before: str
    after: str
    by: str


COLUMNS: Final = tuple(column.name for column in fields(Incident))


def incidents(store: Store, *, since: datetime | None = None, until: datetime | None = None) -> tuple[Incident, ...]:
    """Incidents of a period, in the order in which they happened.

    Args:
        since: first moment. until: the moment behind the last one.
    """
    with store.read() as unit:
        people = {user.id for user in unit.users.all()}
        threads = _Threads(unit)
        cases: dict[str, int] = {}
        out = []
        for entry in _entries(unit):
            if (since and entry.at < since) or (until and entry.at >= until) or entry.action not in KINDS:
                continue
            thread = threads.of(entry.object)
            case = cases.setdefault(thread, len(cases) + 1) if thread else None
            out.append(_told(entry, case=case, by="person" if entry.actor in people else "program"))
    return tuple(out)


def as_rows(found: tuple[Incident, ...]) -> list[dict[str, Any]]:
    """Plain JSON."""
    return [{**asdict(one), "rules": list(one.rules)} for one in found]


def as_csv(found: tuple[Incident, ...]) -> str:
    """A table for spreadsheets, with a first line of names."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in found:
        row = asdict(one) | {"rules": " ".join(one.rules)}
        writer.writerow("" if row[name] is None else row[name] for name in COLUMNS)
    return out.getvalue()


def _told(entry: AuditEntry, *, case: int | None, by: str) -> Incident:
    kind, facts = KINDS[entry.action], entry.facts
    level, before, after = facts.get("level"), facts.get("before", ""), ""
    if kind.name == "state":
        after = entry.action.partition(".")[2]
    elif isinstance(before, int):
        after = str(level)
    rules = [*(facts.get("rules") or ()), *([facts["model"]] if facts.get("model") else ())]
    return Incident(
        at=entry.at.isoformat(timespec="seconds"),
        kind=kind.name,
        case=case,
        level=level if isinstance(level, int) else None,
        did=str(facts.get(kind.did, "")) if kind.did else kind.name,
        rules=tuple(map(str, rules)),
        before=str(before),
        after=after,
        by=by,
    )


def _entries(unit: Unit) -> Iterator[AuditEntry]:
    after = 0
    while page := unit.audit.all(after=after, limit=PAGE):
        yield from page
        after = page[-1].seq


class _Threads:
    """The conversation that an entry is about."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self._known: dict[str, str | None] = {}

    def of(self, object: str) -> str | None:
        """Its id; None where the entry is about none, or its message was erased."""
        what, _, id = object.partition(":")
        if what == "thread":
            return id
        if what != "turn":
            return None
        if id not in self._known:
            turn = self.unit.turns.find(id)
            self._known[id] = turn.thread_id if turn else None
        return self._known[id]
