"""What a clinician does in a conversation: decide a draft, take over, write, hand back, hold, risk, follow-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form
from starlette.responses import RedirectResponse, Response

from heedful.errors import ConflictError, NotFoundError, TransitionError, UserError
from heedful.review import crisis, progress
from heedful.server import here
from heedful.server.access import Called, Caller
from heedful.server.clinic import At, Desk
from heedful.server.routes.inbox import page_of
from heedful.server.shown import show

router = APIRouter(prefix="/inbox/{thread}", include_in_schema=False)
Text = Annotated[str, Form()]
SENDING = ("edit",)
"""Forms that send words to the help-seeker where the model drafts; `write` is of conversations that a person has."""
Short = Annotated[str, Form(max_length=200)]


@router.post("/drafts/{draft}/approve")
def approve(thread: str, draft: str, caller: Called, desk: At) -> Response:
    """Send a draft as it is."""
    user = caller.user or ""
    _of(desk, thread, draft)
    return done(thread, caller, desk, lambda: desk.clinic.approve(draft, by=user, **_facts(desk, draft)), form="edit")


@router.post("/drafts/{draft}/edit")
def edit(thread: str, draft: str, caller: Called, desk: At, text: Text = "", anyway: Short = "") -> Response:
    """Send other words instead."""
    user = caller.user or ""
    _of(desk, thread, draft)

    def act() -> Any:
        return desk.clinic.edit(draft, text, by=user, anyway=anyway == "yes", **_facts(desk, draft))

    return done(thread, caller, desk, act, form="edit", text=text)


@router.post("/drafts/{draft}/reject")
def reject(thread: str, draft: str, caller: Called, desk: At, reason: Text = "") -> Response:
    """Send nothing."""
    user = caller.user or ""
    _of(desk, thread, draft)

    def act() -> Any:
        return desk.clinic.reject(draft, by=user, reason=reason, **_facts(desk, draft))

    return done(thread, caller, desk, act, form="reject", text=reason)


@router.post("/draft")
def draft_again(thread: str, caller: Called, desk: At) -> Response:
    """The model tries once more."""

    def act() -> None:
        progress.again(desk.clinic, thread, by=caller.user or "")
        desk.wake("drafts")

    return done(thread, caller, desk, act)


@router.post("/take")
def take(thread: str, caller: Called, desk: At) -> Response:
    """Take the conversation over; whoever asked for a person has one now."""
    user = caller.user or ""
    return done(thread, caller, desk, lambda: desk.clinic.take_over(thread, by=user))


@router.post("/write")
def write(
    thread: str, caller: Called, desk: At, text: Text = "", client_id: Short = "", anyway: Short = ""
) -> Response:
    """A message of its owner."""
    user = caller.user or ""

    def act() -> Any:
        return desk.clinic.write(thread, text, by=user, client_id=client_id, anyway=anyway == "yes")

    return done(thread, caller, desk, act, form="write", text=text)


@router.post("/give-back")
def give_back(thread: str, caller: Called, desk: At, reason: Text = "") -> Response:
    """Back to drafts with approval."""
    user = caller.user or ""
    return done(thread, caller, desk, lambda: desk.clinic.give_back(thread, by=user, reason=reason), form="give-back")


@router.post("/hold")
def hold(thread: str, caller: Called, desk: At, reason: Text = "") -> Response:
    """Leave it to whoever is on duty."""
    user = caller.user or ""
    return done(thread, caller, desk, lambda: desk.clinic.hold(thread, by=user, reason=reason), form="hold")


@router.post("/close")
def close(thread: str, caller: Called, desk: At, reason: Text = "") -> Response:
    """Close it, with a name and a reason."""
    user = caller.user or ""
    return done(thread, caller, desk, lambda: desk.clinic.close(thread, by=user, reason=reason), form="close")


@router.post("/risk/raise")
def raise_risk(thread: str, caller: Called, desk: At, tier: Short = "", reason: Text = "") -> Response:
    """A person sees more than rules do."""
    user, to = caller.user or "", _tier(tier)
    return done(thread, caller, desk, lambda: desk.clinic.raise_risk(thread, to, by=user, reason=reason), form="risk")


@router.post("/risk/lower")
def lower_risk(thread: str, caller: Called, desk: At, tier: Short = "", reason: Text = "") -> Response:
    """A person lowers the level."""
    user, to = caller.user or "", _tier(tier)
    return done(thread, caller, desk, lambda: desk.clinic.lower_risk(thread, to, by=user, reason=reason), form="risk")


@router.post("/risk/confirm")
def confirm_risk(thread: str, caller: Called, desk: At) -> Response:
    """A person has spoken with the help-seeker and confirms the level."""
    user = caller.user or ""
    return done(thread, caller, desk, lambda: desk.clinic.confirm_risk(thread, by=user), form="risk")


@router.post("/follow-up")
def follow_up(thread: str, caller: Called, desk: At, at: Short = "") -> Response:
    """Set the time of a follow-up."""
    user = caller.user or ""

    def act() -> Any:
        return desk.clinic.follow_up(thread, desk.house.read_local(at), by=user)

    return done(thread, caller, desk, act, form="follow-up")


@router.post("/followed-up")
def followed_up(thread: str, caller: Called, desk: At, outcome: Text = "") -> Response:
    """The follow-up was done."""
    user = caller.user or ""

    def act() -> Any:
        if not outcome.strip():
            raise TransitionError("To note a follow-up, say how it went.")
        return desk.clinic.followed_up(thread, by=user, outcome=outcome.strip())

    return done(thread, caller, desk, act, form="follow-up")


# ---------------------------------------------------------------------- inside


def done(
    thread: str, caller: Caller, desk: Desk, act: Callable[[], Any], *, form: str = "", text: str = ""
) -> Response:
    """Do it and show the conversation. A conflict gets a page that says who was first; a refusal keeps the words."""
    try:
        act()
    except ConflictError as err:
        return conflict(caller, desk, err, back=f"/inbox/{thread}", text=text)
    except UserError as err:
        status = 409 if isinstance(err, TransitionError) else 400
        gate = isinstance(err, TransitionError) and "send them all the same" in str(err)
        return page_of(thread, caller, desk, status=status, wrong=str(err), gate=gate, form=form, text=text)
    if form in SENDING:
        desk.sent(thread)
    return RedirectResponse(f"/inbox/{thread}", status_code=303)


def conflict(caller: Caller, desk: Desk, err: ConflictError, *, back: str, text: str = "") -> Response:
    """Somebody else was first: who, and what stands now. What was typed stays to be copied."""
    with desk.clinic.store.read() as unit:
        found = unit.users.find(err.winner) if err.winner else None
    if found is not None:
        winner = found.name or here.t("person.unknown")
    else:
        winner = here.t("person.program") if err.winner == crisis.PROGRAM else ""
    return show(
        "conflict.html.j2",
        caller,
        desk,
        status=409,
        message=str(err),
        winner=winner,
        state=err.state,
        back=back,
        text=text,
    )


def _of(desk: Desk, thread: str, draft: str) -> None:
    """A draft is decided where its conversation is read, nowhere else."""
    with desk.clinic.store.read() as unit:
        if unit.drafts.get(draft).thread_id != thread:
            raise NotFoundError("There is no draft with this id in this conversation.")


def _facts(desk: Desk, draft: str) -> dict[str, int]:
    """How long the draft had waited, for the supervisor's page."""
    with desk.clinic.store.read() as unit:
        found = unit.drafts.find(draft)
    return {} if found is None else {"seconds": max(0, round((desk.now() - found.created_at).total_seconds()))}


def _tier(text: str) -> Any:
    if text not in ("none", "thoughts", "immediate"):
        raise TransitionError("A level is one of none, thoughts, immediate.")
    return text
