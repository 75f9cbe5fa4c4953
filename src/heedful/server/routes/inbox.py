"""The clinician's inbox and a conversation with its draft: everything that one reads."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from heedful.errors import NotFoundError
from heedful.review import crisis, instruments, progress, watching
from heedful.review import inbox as ranked
from heedful.review.checkins import Struck, struck
from heedful.review.consents import State as Answered
from heedful.review.consents import states
from heedful.review.progress import Progress
from heedful.safety.state import State
from heedful.server import colleagues, drawing, here
from heedful.server import reasons as why
from heedful.server.access import Called, Caller
from heedful.server.clinic import At, Desk
from heedful.server.disclosure import asks_whether_ai
from heedful.server.reasons import Reasons
from heedful.server.shown import show, until
from heedful.server.timeline import joined
from heedful.store.records import Checkin, Decision, Draft, Note, RiskEvent, StoredTurn, Task, Thread
from heedful.store.unit import Unit

router = APIRouter(include_in_schema=False)
TIERS = ("none", "thoughts", "immediate")


@dataclass(frozen=True, kw_only=True)
class FilledIn:
    """A check-in as a clinician sees it: each answer with its question, and whether it asks for a person."""

    id: str
    at: datetime
    instrument: str
    total: int | None = field(repr=False)
    answers: tuple[tuple[int, str, str, bool], ...] = field(repr=False)
    struck: bool


@dataclass(frozen=True, kw_only=True)
class View:
    """A conversation as a clinician sees it."""

    thread: Thread
    state: State
    name: str = field(repr=False)
    owner: str = field(repr=False)
    turns: tuple[StoredTurn, ...] = field(repr=False)
    writers: dict[str, str] = field(repr=False)
    draft: Draft | None = field(repr=False)
    reasons: Reasons | None = field(repr=False)
    waiting: datetime | None
    tasks: tuple[Task, ...] = field(repr=False)
    facts: dict[str, Any] = field(repr=False)
    timeline: tuple[tuple[datetime, str, str, str], ...] = field(repr=False)
    checkins: tuple[FilledIn, ...] = field(repr=False)
    struck: tuple[Struck, ...] = field(repr=False)
    consents: tuple[Answered, ...] = field(repr=False)
    papers: int
    asked: bool
    progress: Progress | None


@router.get("/inbox")
def inbox(caller: Called, desk: At, mine: str = "") -> Response:
    """Open conversations, the most urgent first."""
    monitored = desk.on("staff_monitoring")
    rows = ranked.inbox(desk.clinic.store, owner=caller.user if mine else None)
    now = desk.now()
    return show(
        "inbox.html.j2",
        caller,
        desk,
        rows=rows,
        now=now,
        until=until,
        mine=bool(mine),
        calls=sum(row.calls(caller.user) for row in rows),
        on_duty=desk.on_duty,
        monitored=monitored,
        unconfirmed=colleagues.waiting(desk.clinic.store),
    )


@router.get("/inbox/{thread}")
def conversation(thread: str, caller: Called, desk: At) -> Response:
    """One conversation, with its draft beside the reasons. Where staff monitors, whoever opens it is looking."""
    if desk.on("staff_monitoring"):
        look_at(thread, caller, desk)
    return page_of(thread, caller, desk)


@router.post("/api/inbox/{thread}/watch", tags=["inbox"], status_code=204)
def look_at(thread: str, caller: Called, desk: At) -> None:
    """The page is still open and in front: its script says so every half minute."""
    if desk.on("staff_monitoring"):
        watching.look(desk.clinic.store, thread, by=caller.user or "")


def page_of(thread: str, caller: Caller, desk: Desk, *, status: int = 200, **more: Any) -> Response:
    """The page of a conversation; `more` is what a form said before it was refused.

    Raises:
        NotFoundError: there is no such conversation.
    """
    with desk.clinic.store.read() as unit:
        view = look(unit, desk, thread)
    picture = ""
    if view.reasons and view.reasons.emotion:
        picture = drawing.course(view.reasons.emotion, title=here.t("draft.emotion"), x_label=here.t("draft.turn"))
    given = {"wrong": "", "gate": False, "text": "", "form": "", **more}
    return show(
        "conversation.html.j2",
        caller,
        desk,
        status=status,
        view=view,
        now=desk.now(),
        until=until,
        picture=picture,
        mine=view.thread.owner == caller.user,
        calls=[task for task in view.tasks if task.kind in crisis.PERSONS],
        client_id=f"console-{uuid.uuid4()}",
        lower=[tier for tier in TIERS if TIERS.index(tier) < view.thread.risk_level],
        higher=[tier for tier in TIERS if TIERS.index(tier) > view.thread.risk_level],
        emotion_off=desk.switch("emotion_shown") == "off",
        drafts_off=not desk.clinic.policy.drafts,
        monitored=desk.on("staff_monitoring"),
        bar=drawing.bar,
        **given,
    )


def look(unit: Unit, desk: Desk, id: str) -> View:
    """Everything about one conversation.

    Raises:
        NotFoundError: there is none.
    """
    thread = unit.threads.get(id)
    seeker = unit.users.get(thread.help_seeker)
    if seeker.erased_at is not None:
        raise NotFoundError("There is no conversation with this id (any more).")
    turns = unit.turns.of(id)
    drafts = unit.drafts.of(id)
    draft = next((d for d in reversed(drafts) if d.state == "drafted"), None)
    notes, decisions, risks = unit.notes.of(id), unit.decisions.of(id), unit.risk_events.of(id)
    people = {turn.author for turn in turns} | {n.by for n in notes} | {d.by for d in decisions}
    people |= {r.person for r in risks} | {thread.owner}
    names = {user: _name(unit, user) for user in people if user}
    tasks = unit.tasks.open(thread=id)
    last = next((t for t in reversed(turns) if t.role == "user"), None)
    required = desk.switch("emotion_evidence") == "required"
    return View(
        thread=thread,
        state=crisis.state_of(thread),
        name=seeker.name or "",
        owner=names.get(thread.owner or "", ""),
        turns=turns,
        writers=names,
        draft=draft,
        reasons=why.read(draft.reasons, evidence_required=required) if draft else None,
        waiting=ranked.waiting_since(turns[-50:]),
        tasks=tasks,
        facts=_facts(tasks),
        timeline=_timeline(notes, decisions, risks, names),
        checkins=_checkins(unit, thread.help_seeker),
        struck=struck(unit, thread.help_seeker),
        consents=states(unit, thread.help_seeker, desk.clinic.policy) if desk.ledger else (),
        papers=len(unit.case_notes.of(id)),
        asked=last is not None and thread.state == "human_owned" and asks_whether_ai(last.text),
        progress=None if draft else progress.of_reply(unit, thread),
    )


def _name(unit: Unit, user: str) -> str:
    if user == crisis.PROGRAM:
        return here.t("person.program")
    found = unit.users.find(user)
    return (found.name if found else None) or here.t("person.unknown")


def _facts(tasks: tuple[Task, ...]) -> dict[str, Any]:
    """The short summary that the crisis path wrote for whoever takes over."""
    for task in tasks:
        if task.kind in (crisis.TAKEOVER, crisis.LOOK) and task.text:
            found = json.loads(task.text)
            return found if isinstance(found, dict) else {}
    return {}


def _timeline(
    notes: tuple[Note, ...], decisions: tuple[Decision, ...], risks: tuple[RiskEvent, ...], names: dict[str, str]
) -> tuple[tuple[datetime, str, str, str], ...]:
    """(when, what, who, words) of everything that people and rules did, newest first."""
    alone, reasons = joined(notes, risks)
    found = [(n.at, here.name_of("event", n.kind), names.get(n.by, n.by), n.text) for n in alone]
    found += [(d.at, here.name_of("event", d.action.replace(".", "_")), names.get(d.by, d.by), "") for d in decisions]
    for r in risks:
        level = here.name_of("tier", TIERS[min(r.level, 2)])
        who = names.get(r.person, r.person) if r.person else here.t("person.rules")
        found.append(
            (r.at, f"{here.name_of('event', _noticed(r))}: {level}", who, reasons.get(r.id) or ", ".join(r.rules))
        )
    return tuple(sorted(found, key=lambda entry: entry[0], reverse=True)[:40])


def _noticed(event: RiskEvent) -> str:
    """What was noticed, and where: a sign stands in a message, in a report (rules read it), or in a check-in."""
    if event.action != "said" or event.turn_id is not None:
        return event.action
    return "said_in_report" if event.rules else "said_in_checkin"


def _checkins(unit: Unit, user: str) -> tuple[FilledIn, ...]:
    """The newest check-ins, newest first."""
    found = unit.checkins.of(user)[-6:]
    return tuple(_filled(kept) for kept in reversed(found))


def _filled(kept: Checkin) -> FilledIn:
    known = instruments.known().get(kept.instrument)
    answers: list[tuple[int, str, str, bool]] = []
    if known is not None:  # a clinic may have taken its questionnaire away since
        wording = known.wording(here.language())[1]
        least = {trigger.item: trigger.least for trigger in known.triggers}
        for n, item in enumerate(wording.items, start=1):
            value = kept.answers.get(str(n))
            if value in known.scale:
                strikes = n in least and value >= least[n]
                answers.append((n, item, f"{wording.answers[known.scale.index(value)]} ({value})", strikes))
    return FilledIn(
        id=kept.id,
        at=kept.created_at,
        instrument=kept.instrument,
        total=kept.total,
        answers=tuple(answers),
        struck=any(strikes for *_, strikes in answers),
    )
