"""Notes and plans of a conversation: write, have a draft made, sign, review, share, take along what counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form
from starlette.responses import RedirectResponse, Response

from heedful.errors import ConflictError, NotFoundError, TransitionError, UserError
from heedful.review import exercises, notes, progress
from heedful.review.notes import Kind, Paper
from heedful.server import here
from heedful.server.access import Called, Caller
from heedful.server.clinic import At, Desk
from heedful.server.routes.decide import conflict
from heedful.server.shown import show
from heedful.store.unit import Unit

router = APIRouter(prefix="/inbox/{thread}/notes", include_in_schema=False)
Text = Annotated[str, Form()]
Short = Annotated[str, Form(max_length=40)]
Version = Annotated[int, Form(ge=0, le=2**31)]


@router.get("")
def overview(thread: str, caller: Called, desk: At) -> Response:
    """All of them, with what stands under each."""
    return _page(thread, caller, desk)


def _page(
    thread: str, caller: Caller, desk: Desk, *, status: int = 200, wrong: str = "", text: str = "", kind: str = "note"
) -> Response:
    with desk.clinic.store.read() as unit:
        seeker = _alive(unit, thread)
        found = notes.papers(unit, desk.clinic.policy, thread, gate=desk.clinic.gate)
        plans = notes.sent_plans(unit, thread, exercises.plans()) if desk.on("plan_signature") else ()
        signed = {plan.id: notes.plan_signed(unit, plan) for plan in plans}
        people = {p.note.author for p in found} | {s.by for p in found for s in (p.signed, p.reviewed) if s}
        people |= {s.by for s in signed.values() if s}
        names = {id: (user.name or "") for id in people if (user := unit.users.find(id)) is not None}
        why = notes.may_draft(unit, desk.clinic.policy, thread)
        coming = progress.of_note(unit, thread, notes.NOTE_JOB)
    titles = {id: e.title.get(here.language(), e.title["en"]) for id, e in exercises.known().items()}
    values: dict[str, Any] = {"plans": plans, "signed": signed, "titles": titles, "why": why, "coming": coming}
    values |= {
        "rows": found,
        "names": names,
        "thread": thread,
        "seeker": seeker,
        "policy": desk.clinic.policy,
        "now": desk.now(),
    }
    return show("notes.html.j2", caller, desk, status=status, wrong=wrong, text=text, kind=kind, **values)


def _alive(unit: Unit, thread: str) -> str:
    seeker = unit.users.get(unit.threads.get(thread).help_seeker)
    if seeker.erased_at is not None:
        raise NotFoundError("There is no conversation with this id (any more).")
    return seeker.name or ""


@router.post("")
def write(thread: str, caller: Called, desk: At, text: Text = "", kind: Short = "note", sign: Short = "") -> Response:
    """A new one by hand; signed at once where its author says so."""
    user = caller.user or ""

    def act() -> None:
        made = notes.write(desk.clinic, thread, _kind(kind), text, by=user)
        if sign == "yes":
            notes.sign(desk.clinic, made.id, by=user, version=made.version)

    return _do(thread, caller, desk, act, text=text, kind=kind)


@router.post("/draft")
def draft(thread: str, caller: Called, desk: At, kind: Short = "note") -> Response:
    """Let a model draft one."""

    def act() -> None:
        notes.ask(desk.clinic, thread, _kind(kind), by=caller.user or "")
        desk.wake("notes")

    return _do(thread, caller, desk, act)


@router.post("/{note}/change")
def change(thread: str, note: str, caller: Called, desk: At, version: Version, text: Text = "") -> Response:
    """Other words."""
    user = caller.user or ""
    return _on(
        thread, note, caller, desk, lambda: notes.change(desk.clinic, note, text, by=user, version=version), text=text
    )


@router.post("/{note}/sign")
def sign(thread: str, note: str, caller: Called, desk: At, version: Version, anyway: Short = "") -> Response:
    """Its author signs it."""
    user = caller.user or ""

    def act() -> Any:
        return notes.sign(desk.clinic, note, by=user, version=version, anyway=anyway == "yes")

    return _on(thread, note, caller, desk, act)


@router.post("/{note}/discard")
def discard(thread: str, note: str, caller: Called, desk: At, version: Version, reason: Text = "") -> Response:
    """A model's draft that nobody wants."""
    user = caller.user or ""
    return _on(
        thread, note, caller, desk, lambda: notes.discard(desk.clinic, note, by=user, reason=reason, version=version)
    )


@router.post("/{note}/review")
def review(thread: str, note: str, caller: Called, desk: At, version: Version) -> Response:
    """Somebody else stands by it."""
    user = caller.user or ""
    return _on(thread, note, caller, desk, lambda: notes.review(desk.clinic, note, by=user, version=version))


@router.post("/{note}/share")
def share(thread: str, note: str, caller: Called, desk: At, version: Version) -> Response:
    """The help-seeker is shown the plan."""
    user = caller.user or ""
    return _on(thread, note, caller, desk, lambda: notes.share(desk.clinic, note, by=user, version=version))


@router.post("/plans/{exercise}/sign")
def sign_plan(thread: str, exercise: str, caller: Called, desk: At) -> Response:
    """A professional signs a plan that the help-seeker sent."""
    user, kinds = caller.user or "", exercises.plans()
    return _do(thread, caller, desk, lambda: notes.sign_plan(desk.clinic, thread, exercise, by=user, kinds=kinds))


@router.get("/counted.json")
def counted(thread: str, caller: Called, desk: At) -> Response:
    """What counts, as a file; what is not signed or not reviewed is not in it."""
    with desk.clinic.store.read() as unit:
        _alive(unit, thread)
    found = notes.counted(desk.clinic, thread, by=caller.user or "")
    with desk.clinic.store.read() as unit:
        rows = [_plain(unit, paper) for paper in found]
    headers = {"Content-Disposition": 'attachment; filename="notes.json"'}
    text = json.dumps({"notes": rows}, ensure_ascii=False, indent=2)
    return Response(text.encode("utf-8"), media_type="application/json", headers=headers)


def _plain(unit: Unit, paper: Paper) -> dict[str, Any]:
    def under(signature: Any) -> dict[str, str] | None:
        if signature is None:
            return None
        user = unit.users.find(signature.by)
        return {
            "name": (user.name if user else None) or "",
            "at": signature.at.isoformat(timespec="seconds"),
            "digest": signature.digest,
        }

    note = paper.note
    return {
        "kind": note.kind,
        "text": note.text,
        "model": note.model,
        "signed": under(paper.signed),
        "reviewed": under(paper.reviewed),
    }


def _kind(text: str) -> Kind:
    if text not in ("note", "plan"):
        raise TransitionError("What is written here is a note or a plan.")
    return "plan" if text == "plan" else "note"


def _on(thread: str, note: str, caller: Caller, desk: Desk, act: Callable[[], Any], *, text: str = "") -> Response:
    """Do it to a note of this very conversation."""
    with desk.clinic.store.read() as unit:
        _alive(unit, thread)
        if unit.case_notes.get(note).thread_id != thread:
            raise NotFoundError("There is no such note in this conversation.")
    return _do(thread, caller, desk, act, text=text)


def _do(
    thread: str, caller: Caller, desk: Desk, act: Callable[[], Any], *, text: str = "", kind: str = "note"
) -> Response:
    back = f"/inbox/{thread}/notes"
    try:
        act()
    except ConflictError as err:
        return conflict(caller, desk, err, back=back, text=text)
    except NotFoundError:
        raise
    except UserError as err:
        status = 409 if isinstance(err, TransitionError) else 400
        return _page(thread, caller, desk, status=status, wrong=str(err), text=text, kind=kind)
    return RedirectResponse(back, status_code=303)
