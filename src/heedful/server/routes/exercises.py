"""Structured exercises of a help-seeker. What they write is theirs; it reaches the clinic only if they send it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Depends
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from heedful.errors import DataError
from heedful.review import exercises, notes
from heedful.review.exercises import Exercise
from heedful.server import here
from heedful.server.access import Called
from heedful.server.clinic import At, Desk
from heedful.server.conditions import fulfilled
from heedful.server.routes.checkins import Filled
from heedful.server.routes.consents import CONSENTED
from heedful.server.routes.talk import receive
from heedful.server.shown import show
from heedful.store.records import Exercise as Filled_in
from heedful.store.unit import Unit

router = APIRouter(prefix="/exercises", include_in_schema=False, dependencies=[Depends(fulfilled), CONSENTED])


@router.get("")
def overview(caller: Called, desk: At) -> Response:
    """All exercises, and those that were filled in."""
    with desk.clinic.store.read() as unit:
        own = unit.exercises.of(caller.user or "")
    known = exercises.known()
    ranked = sorted(known.values(), key=lambda e: not e.crisis)
    titles = {id: _words(e.title) for id, e in known.items()}
    return show("exercises.html.j2", caller, desk, known=ranked, own=own, titles=titles, words=_words)


@router.get("/{kind}")
def blank(kind: str, caller: Called, desk: At) -> Response:
    """An exercise to fill in."""
    return _form(caller, desk, _get(kind), {}, id="")


@router.get("/{kind}/{id}")
def again(kind: str, id: str, caller: Called, desk: At) -> Response:
    """One that was filled in."""
    kept = _own(desk, caller.user or "", kind, id)
    return _form(caller, desk, _get(kind), dict(kept.answers), id=id)


@router.post("/{kind}")
def add(kind: str, caller: Called, desk: At, fields: Filled) -> Response:
    """Keep a new one."""
    return _keep(caller, desk, _get(kind), fields, id="")


@router.post("/{kind}/{id}")
def change(kind: str, id: str, caller: Called, desk: At, fields: Filled) -> Response:
    """Keep other answers."""
    _own(desk, caller.user or "", kind, id)
    return _keep(caller, desk, _get(kind), fields, id=id)


@router.post("/{kind}/{id}/send")
def send(kind: str, id: str, caller: Called, desk: At) -> Response:
    """Send it as a message of one's own; the same answers are sent once."""
    user, exercise = caller.user or "", _get(kind)
    kept = _own(desk, user, kind, id)
    text = as_text(exercise, dict(kept.answers), here.language())
    receipt = receive(desk, user, notes.sent_id(kept), text)
    if exercise.plan:
        due = desk.now() + timedelta(minutes=desk.house.look_minutes)
        thread = receipt.thread.id
        desk.clinic.store.run(lambda unit: notes.plan_sent(unit, desk.clinic.policy, kept, thread, due=due))
    return RedirectResponse("/talk#write", status_code=303)


def as_text(exercise: Exercise, answers: dict[str, Any], language: str) -> str:
    """An exercise as a message."""
    parts = [_words(exercise.title)]
    for step in exercise.steps:
        if step.id in answers:
            value = answers[step.id]
            shown = "\n".join(f"- {item}" for item in value) if isinstance(value, list) else str(value)
            parts.append(f"{_words(step.text).title}\n{shown}")
    return "\n\n".join(parts)


def _form(
    caller: Called, desk: Desk, found: Exercise, answers: dict[str, Any], *, id: str, status: int = 200, wrong: str = ""
) -> Response:
    values: dict[str, Any] = {"found": found, "answers": answers, "id": id, "words": _words, "wrong": wrong}
    values["signed"] = _signed(desk, id) if id and found.plan and desk.on("plan_signature") else None
    return show("exercise.html.j2", caller, desk, status=status, **values)


def _signed(desk: Desk, id: str) -> tuple[str, str]:
    """Who signed a plan as it stands, and when; empty = nobody."""
    with desk.clinic.store.read() as unit:
        found = notes.plan_signed(unit, unit.exercises.get(id))
        user = unit.users.find(found.by) if found else None
    if found is None:
        return "", ""
    return (user.name if user else None) or here.t("talk.person"), desk.house.local(found.at)


def _keep(caller: Called, desk: Desk, found: Exercise, fields: FormData, *, id: str) -> Response:
    user = caller.user or ""
    answers = _answers(found, fields)
    try:
        kept = found.check(answers)
    except DataError:
        return _form(caller, desk, found, answers, id=id, status=400, wrong=here.t("exercise.wrong"))
    if not kept:
        return _form(caller, desk, found, answers, id=id, status=400, wrong=here.t("exercise.empty"))

    def work(unit: Unit) -> Filled_in:
        if id:
            return unit.exercises.change(id, kept)
        return unit.exercises.add(help_seeker=user, kind=found.id, answers=kept)

    made = desk.clinic.store.run(work)
    return RedirectResponse(f"/exercises/{found.id}/{made.id}?kept=1", status_code=303)


def _answers(found: Exercise, fields: FormData) -> dict[str, Any]:
    """The fields of a form as answers; what is no number stays text, and the exercise refuses it."""
    out: dict[str, Any] = {}
    for step in found.steps:
        value = fields.get(f"s_{step.id}")
        if step.kind == "read" or not isinstance(value, str) or not value.strip():
            continue
        if step.kind == "list":
            out[step.id] = [line for line in value.splitlines() if line.strip()]
        elif step.kind == "scale":
            out[step.id] = int(value) if value.isdecimal() and len(value) <= 4 else value
        else:
            out[step.id] = value
    return out


def _own(desk: Desk, user: str, kind: str, id: str) -> Filled_in:
    with desk.clinic.store.read() as unit:
        kept = unit.exercises.find(id)
    if kept is None or kept.help_seeker != user or kept.kind != kind:
        raise HTTPException(404, "There is no such exercise of yours.")
    return kept


def _get(kind: str) -> Exercise:
    try:
        return exercises.get(kind)
    except DataError as err:
        raise HTTPException(404, "There is no such exercise.") from err


def _words(found: Any) -> Any:
    """The words of the reader's language, or English."""
    return found.get(here.language(), found["en"])
