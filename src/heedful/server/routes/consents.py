"""What a help-seeker agreed to: one page for each purpose, with its wording, yes, no, and what a no cannot undo."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from heedful.review import consents
from heedful.safety import texts
from heedful.server import disclosure, here
from heedful.server.access import Called, Caller
from heedful.server.clinic import At, Desk
from heedful.server.shown import show
from heedful.store.states import Purpose
from heedful.store.unit import Unit

router = APIRouter(prefix="/consents", include_in_schema=False)
WORDING = "1.2"
"""Version of the wordings of consents in `words/`; raise it with every change of one of them."""
OFFICIAL = {"recording": "recording", "training": "training-consent"}
"""Purposes whose wording is a disclosure of the profile."""


@router.get("")
def overview(caller: Called, desk: At) -> Response:
    """All purposes and how they stand."""
    _offered(desk)
    with desk.clinic.store.read() as unit:
        rows = consents.states(unit, caller.user or "", desk.clinic.policy)
    return show("consents.html.j2", caller, desk, rows=rows, kept=kept(desk, caller.user or ""))


@router.get("/{purpose}")
def one(purpose: str, caller: Called, desk: At) -> Response:
    """One purpose on a page of its own."""
    _offered(desk)
    return page_of(caller, desk, _purpose(purpose, caller, desk))


@router.post("/{purpose}")
def answer(purpose: str, caller: Called, desk: At, answer: Annotated[str, Form(max_length=20)] = "") -> Response:
    """Yes or no; the wording that was on the page is kept with it."""
    _offered(desk)
    found = _purpose(purpose, caller, desk)
    if answer not in ("given", "withdrawn"):
        raise HTTPException(404, "There is no such answer.")
    text, version = wording(desk, found, here.language())
    consents.answer(
        desk.clinic,
        caller.user or "",
        found,
        "given" if answer == "given" else "withdrawn",
        wording=text,
        version=version,
        language=here.language(),
    )
    # Whoever was asked on the way to the conversation goes on there.
    asked = found in desk.clinic.policy.consents
    return RedirectResponse("/talk" if asked and answer == "given" else f"/consents/{found}", status_code=303)


def page_of(caller: Caller, desk: Desk, purpose: Purpose, *, begin: bool = False) -> Response:
    """The page of one purpose; `begin`: a conversation waits for the answer, and crisis lines come first."""
    user, language = caller.user or "", here.language()
    with desk.clinic.store.read() as unit:
        state = next(s for s in consents.states(unit, user, desk.clinic.policy) if s.purpose == purpose)
    text, version = wording(desk, purpose, language)
    options: tuple[str, ...] = ()
    if begin:
        lines = desk.directory.fill(language)
        found = texts.load(texts.nearest_language(language))
        options = found.options("thoughts", line=lines.line, emergency=lines.emergency)
    values: dict[str, Any] = {"state": state, "text": text, "version": version, "begin": begin, "options": options}
    return show("consent.html.j2", caller, desk, **values)


def wording(desk: Desk, purpose: Purpose, language: str) -> tuple[str, str]:
    """What somebody agrees to, and its version; with it what taking it back cannot undo."""
    stays = here.name_of("stays", purpose) if purpose in consents.asked(desk.clinic.policy) else here.t("agreed.idle")
    if purpose in OFFICIAL:
        text, version = disclosure.text_of(desk, OFFICIAL[purpose], language)
        return f"{text} {stays}", f"profiles-{version}+pages-{WORDING}"
    key = "sensitive" if purpose == "care" and desk.on("sensitive_data_consent") else purpose
    return f"{here.t(f'consent.{key}_text')} {stays}", f"pages-{WORDING}"


def kept(desk: Desk, user: str) -> str:
    """Why the messages of somebody are kept, what they can refuse, and what follows."""
    if not desk.ledger:
        return here.t("me.consents_off")
    with desk.clinic.store.read() as unit:
        return here.name_of("kept", consents.basis(unit, user, desk.clinic.policy))


def awaited(unit: Unit, desk: Desk, user: str) -> bool:
    """Whether no conversation can begin yet, because health data need a yes first. An open one goes on."""
    if "care" not in desk.clinic.policy.consents or unit.consents.current(user)["care"]:
        return False
    return all(thread.state == "closed" for thread in unit.threads.of(user))


def before(unit: Unit, desk: Desk, user: str) -> str:
    """What has to be read or answered before a help-seeker writes anything: a step by name, or nothing."""
    if disclosure.first_use(unit, desk, user):
        return "first-use"
    if disclosure.age_asked(unit, desk, user):
        return "age"
    return "consent" if awaited(unit, desk, user) else ""


def step(desk: Desk, user: str) -> str:
    """`before`, in a read of its own."""
    with desk.clinic.store.read() as unit:
        return before(unit, desk, user)


def recording_asked(unit: Unit, desk: Desk, user: str) -> bool:
    """Whether the question about recording has to be put: once, until it has an answer."""
    if "recording" not in desk.clinic.policy.consents:
        return False
    return all(entry.purpose != "recording" for entry in unit.consents.of(user))


def _purpose(name: str, caller: Caller, desk: Desk) -> Purpose:
    with desk.clinic.store.read() as unit:
        rows = consents.states(unit, caller.user or "", desk.clinic.policy)
        found = next((s.purpose for s in rows if s.purpose == name), None)
    if found is None:
        raise HTTPException(404, "There is no such purpose.")
    return found


def _offered(desk: Desk) -> None:
    if not desk.ledger:
        raise HTTPException(404, "Consents are not kept here; ask the clinic.")


def _first(caller: Called, desk: At) -> None:
    if caller.role == "help_seeker" and step(desk, caller.user or ""):
        raise HTTPException(303, "First what is said and asked before the first use.", headers={"Location": "/talk"})


CONSENTED = Depends(_first)
"""A router with this dependency keeps health data; what comes before the first use, and the consent, come first."""
