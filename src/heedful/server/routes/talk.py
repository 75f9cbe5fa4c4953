"""The help-seeker's conversation: a page that works without script, and the API that the script polls."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, RedirectResponse, Response

from heedful.errors import ConflictError, DataError, TransitionError, UserError
from heedful.review import crisis, minors
from heedful.review.clinic import LONGEST, Receipt
from heedful.safety import texts
from heedful.safety.state import State
from heedful.server import disclosure, here
from heedful.server.access import Called, Caller
from heedful.server.clinic import At, Desk
from heedful.server.conditions import fulfilled
from heedful.server.disclosure import Shown
from heedful.server.routes import consents
from heedful.server.shown import show
from heedful.store.records import StoredTurn, Thread
from heedful.store.unit import Unit

router = APIRouter(dependencies=[Depends(fulfilled)])
MOST_TURNS = 200
"""Turns on one page; older ones are in the record."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """A message as the help-seeker sees it: `who` is you, person or program."""

    sequence: int
    who: str
    name: str = field(repr=False)
    text: str = field(repr=False)
    at: str


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the page says beside the messages.

    Args:
        word: of the conversation: open, waiting, held, person, or closed.
        resources: whether the card of crisis lines is open.
        interrupt: whether the card that comes before everything has to be seen.
    """

    word: str
    text: str = field(repr=False)
    resources: bool = False
    interrupt: bool = False
    options: tuple[str, ...] = ()
    title: str = ""
    lead: str = ""


# ---------------------------------------------------------------------- pages


@router.get("/talk", include_in_schema=False, dependencies=[Depends(fulfilled)])
def talk(caller: Called, desk: At) -> Response:
    """The conversation. Before first use: what it is; after a sign of danger: first a card."""
    user, language = caller.user or "", here.language()

    values: dict[str, Any] = {}
    with desk.clinic.store.read() as unit:
        step = consents.before(unit, desk, user)
        if not step:
            thread = current(unit, user)
            found = situation(unit, desk, thread, language=language)
            moments = () if found.interrupt else disclosure.due(unit, desk, user)
            asked = not found.interrupt and consents.recording_asked(unit, desk, user)
            unseen = bool(moments) or (asked and unit.notices.last(user, "recording") is None)
            values = {"thread": thread, "situation": found, "turns": said(unit, desk, thread, after=0)}
    if step == "first-use":
        text, _ = disclosure.text_of(desk, disclosure.FIRST, language)
        return show("first_use.html.j2", caller, desk, text=text, written=desk.switch("notice_before_use") == "written")
    if step == "age":
        return _age(caller, desk)
    if step:
        return consents.page_of(caller, desk, "care", begin=True)
    values["notices"] = _noticed(desk, user, language) if unseen else ()
    values["recording"] = consents.wording(desk, "recording", language)[0] if asked else ""
    if found.interrupt:
        return show("interrupt.html.j2", caller, desk, **values)
    return _page(caller, desk, values)


def _age(caller: Caller, desk: Desk, *, status: int = 200, wrong: str = "") -> Response:
    year = desk.now().year
    return show("age.html.j2", caller, desk, status=status, wrong=wrong, first=year - minors.OLDEST, last=year)


def _page(caller: Caller, desk: Desk, values: dict[str, Any], *, status: int = 200, **more: Any) -> Response:
    last = values["turns"][-1].sequence if values["turns"] else 0
    given = {"wrong": "", "text": "", "client_id": new_id(), **more}
    return show("talk.html.j2", caller, desk, status=status, last=last, longest=LONGEST, **values, **given)


@router.post("/talk/begin", include_in_schema=False)
def begin(caller: Called, desk: At) -> Response:
    """What is said before first use was read."""
    user, language = caller.user or "", here.language()

    def work(unit: Unit) -> None:
        if disclosure.first_use(unit, desk, user):
            disclosure.show(unit, desk, user, (disclosure.FIRST,), language=language)

    desk.clinic.store.run(work)
    return RedirectResponse("/talk", status_code=303)


@router.post("/talk/age", include_in_schema=False)
def age(caller: Called, desk: At, born: Annotated[str, Form(max_length=10)] = "") -> Response:
    """The year of birth; of an adult nothing is kept but that."""
    user = caller.user or ""
    try:
        found = minors.adult_from(int(born) if born.isdecimal() else 0, desk.now())
    except DataError:
        return _age(caller, desk, status=400, wrong=here.t("age.wrong"))

    def work(unit: Unit) -> None:
        # Asked once: a minor who says later to be older asks the team.
        if disclosure.age_asked(unit, desk, user):
            unit.users.set_age(user, found, by=user)

    desk.clinic.store.run(work)
    return RedirectResponse("/talk", status_code=303)


@router.post("/talk/seen", include_in_schema=False)
def seen(caller: Called, desk: At) -> Response:
    """The card was seen; the conversation goes on below it."""
    user, language = caller.user or "", here.language()

    def work(unit: Unit) -> None:
        thread = current(unit, user)
        if thread is None or not interrupt_due(unit, desk, thread):
            return
        found = texts.load(texts.nearest_language(language))
        unit.notices.add(
            moment=disclosure.INTERRUPT,
            wording=" ".join(found.card("interrupt")),
            version=found.version,
            language=language,
            user=user,
            thread=thread.id,
        )

    desk.clinic.store.run(work)
    return RedirectResponse("/talk#write", status_code=303)


@router.post("/talk", include_in_schema=False)
def send(
    caller: Called,
    desk: At,
    text: Annotated[str, Form()] = "",
    client_id: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """A message of the form; what could not be kept stands in the form again."""
    if consents.step(desk, caller.user or ""):
        return RedirectResponse("/talk", status_code=303)
    try:
        receive(desk, caller.user or "", client_id, text)
    except (DataError, ConflictError, TransitionError) as err:
        return _again(caller, desk, text, err)
    return RedirectResponse("/talk#write", status_code=303)


def _again(caller: Caller, desk: Desk, text: str, err: UserError) -> Response:
    user, language = caller.user or "", here.language()
    with desk.clinic.store.read() as unit:
        thread = current(unit, user)
        values: dict[str, Any] = {
            "thread": thread,
            "situation": situation(unit, desk, thread, language=language),
            "notices": (),
            "turns": said(unit, desk, thread, after=0),
            "recording": "",
        }
    status = 409 if isinstance(err, ConflictError | TransitionError) else 400
    return _page(caller, desk, values, status=status, wrong=why_not(text, err), text=text)


@router.post("/talk/person", include_in_schema=False)
def person(caller: Called, desk: At) -> Response:
    """One tap to a person: a task with the response clock, and a text that says what follows."""
    user = caller.user or ""
    desk.clinic.ask_person(desk.clinic.open(user).id, by=user)
    return RedirectResponse("/talk", status_code=303)


# ---------------------------------------------------------------------- API


class NewTurn(BaseModel):
    """A message. The same `client_id` again is the same message."""

    model_config = ConfigDict(extra="forbid")

    client_id: str = Field(min_length=1, max_length=120)
    text: str = Field(max_length=4 * LONGEST, repr=False)


class TurnOut(BaseModel):
    """A message as the help-seeker sees it."""

    sequence: int
    who: str
    name: str = Field(repr=False)
    text: str = Field(repr=False)
    at: str


class News(BaseModel):
    """What is new since message number `after`."""

    turns: list[TurnOut]
    notices: list[str] = Field(repr=False)
    word: str
    text: str = Field(repr=False)
    resources: bool
    interrupt: bool


@router.get("/api/talk/turns", tags=["talk"], response_model=News)
def news(caller: Called, desk: At, after: Annotated[int, Query(ge=0, le=2**31)] = 0) -> Response:
    """New messages, and what has to be said meanwhile."""
    user, language = caller.user or "", here.language()
    with desk.clinic.store.read() as unit:
        # Most polls find nothing due; a write would wait for the disk every time.
        moments = () if consents.before(unit, desk, user) else disclosure.due(unit, desk, user)
        thread = current(unit, user)
        found = situation(unit, desk, thread, language=language)
        turns = said(unit, desk, thread, after=after)
    notices: tuple[Shown, ...] = ()
    if moments and not found.interrupt:
        notices = _noticed(desk, user, language)
    # The commonest request of all: it is written as it is, without a model that is filled and emptied again.
    return JSONResponse(
        {
            "turns": [asdict(turn) for turn in turns],
            "notices": [notice.text for notice in notices],
            "word": found.word,
            "text": found.text,
            "resources": found.resources,
            "interrupt": found.interrupt,
        }
    )


class Kept(BaseModel):
    """A message was kept; `again` = it had been before."""

    sequence: int
    again: bool


@router.post("/api/talk/turns", tags=["talk"], status_code=201, response_model=Kept)
def add(new: NewTurn, caller: Called, desk: At) -> Response:
    """Keep a message. It is acknowledged only when it is safe on the disk."""
    receipt = receive(desk, caller.user or "", new.client_id, new.text)
    return JSONResponse({"sequence": receipt.turn.sequence, "again": receipt.again}, status_code=201)


# ---------------------------------------------------------------------- shared


def receive(desk: Desk, user: str, client_id: str, text: str) -> Receipt:
    """Keep a message of a help-seeker in their open conversation, and answer whether this is AI if they asked.

    Raises:
        DataError, ConflictError, TransitionError: see `Clinic.receive`.
    """
    language = here.language()
    with desk.clinic.store.read() as unit:
        if consents.before(unit, desk, user):
            raise TransitionError("First read and answer what stands before the conversation; /talk shows it.")
        kept = unit.turns.sent(user, client_id)  # sent again after its conversation was closed, it is not a new one
    thread = kept.thread_id if kept is not None else desk.clinic.open(user).id

    def answer(unit: Unit, turn: StoredTurn) -> None:
        disclosure.answer_question(unit, desk, turn, language=language)

    receipt = desk.clinic.receive(thread, by=user, client_id=client_id, text=text, also=answer)
    if receipt.job is not None:
        desk.wake("drafts", "belief")
    return receipt


def _noticed(desk: Desk, user: str, language: str) -> tuple[Shown, ...]:
    """What is due is shown, and that it was; the question about recording is shown by the page itself."""

    def work(unit: Unit) -> tuple[Shown, ...]:
        if consents.recording_asked(unit, desk, user) and unit.notices.last(user, "recording") is None:
            disclosure.show(unit, desk, user, ("recording",), language=language)
        return disclosure.show(unit, desk, user, disclosure.due(unit, desk, user), language=language)

    return desk.clinic.store.run(work)


def current(unit: Unit, user: str) -> Thread | None:
    """The open conversation of a help-seeker, if there is one."""
    found = [thread for thread in unit.threads.of(user) if thread.state != "closed"]
    return found[-1] if found else None


def said(unit: Unit, desk: Desk, thread: Thread | None, *, after: int) -> tuple[Said, ...]:
    """Messages of a conversation as the help-seeker sees them."""
    if thread is None:
        return ()
    turns = unit.turns.of(thread.id, after=after) if after else unit.turns.last(thread.id, MOST_TURNS)
    names = {id: unit.users.find(id) for id in {turn.author for turn in turns if turn.author}}
    out = []
    for turn in turns:
        writer = names.get(turn.author or "")
        who = "you" if turn.role == "user" else "person" if turn.author else "program"
        name = here.t(f"talk.{who}") if writer is None or who == "you" else (writer.name or here.t("talk.person"))
        out.append(
            Said(sequence=turn.sequence, who=who, name=name, text=turn.text, at=desk.house.local(turn.created_at))
        )
    return tuple(out)


def situation(unit: Unit, desk: Desk, thread: Thread | None, *, language: str) -> Situation:
    """What the page says beside the messages."""
    if thread is None:
        return Situation(word="open", text=here.t("talk.status_open"))
    state = crisis.state_of(thread)
    resources = state.resources_open or state.tier != "none"
    found = texts.load(texts.nearest_language(language))
    lines = desk.directory.fill(language)
    interrupt = interrupt_due(unit, desk, thread)
    kind = (
        texts.interrupt_for(state.classes)
        if interrupt
        else "harm-from-others"
        if "harm-from-others" in state.classes
        else "thoughts"
    )
    title, lead = found.card("interrupt" if interrupt else "card")
    word, text = _word(unit, desk, thread, language)
    return Situation(
        word=word,
        text=text,
        resources=resources,
        interrupt=interrupt,
        options=found.options(kind, line=lines.line, emergency=lines.emergency) if resources else (),
        title=title,
        lead=lead,
    )


def _word(unit: Unit, desk: Desk, thread: Thread, language: str) -> tuple[str, str]:
    if thread.state == "risk_held":
        moment = "risk-held" if desk.on_duty else "nobody-on-duty"
        return "held", disclosure.text_of(desk, moment, language)[0]
    if thread.state == "human_owned":
        return _owned(unit, desk, thread, language)
    if unit.tasks.waits(thread.id, crisis.PERSON_ASKED):
        if desk.on_duty:
            return "asked", here.t("talk.status_asked", minutes=desk.house.response_minutes)
        return "asked", disclosure.text_of(desk, "nobody-on-duty", language)[0]
    waiting = unit.turns.last_spoken(thread.id) == "user"
    return ("waiting", here.t("talk.status_waiting")) if waiting else ("open", here.t("talk.status_open"))


def _owned(unit: Unit, desk: Desk, thread: Thread, language: str) -> tuple[str, str]:
    """What is said while a person has the conversation: that they do, and whether they were called."""
    owner, state = unit.users.find(thread.owner) if thread.owner else None, crisis.state_of(thread)
    name = (owner.name if owner else None) or here.t("talk.person")
    if state.person_at is None:
        return "person", here.t("talk.status_person", name=name)
    if not desk.on_duty:
        return "asked", disclosure.text_of(desk, "nobody-on-duty", language)[0]
    values = {"name": name, "at": desk.house.local(state.person_at), "line": desk.directory.fill(language).line}
    if state.person_passed:
        return "asked", here.t("talk.status_passed", **values)
    return "asked", here.t("talk.status_told", minutes=desk.house.response_minutes, **values)


def interrupt_due(unit: Unit, desk: Desk, thread: Thread) -> bool:
    """Whether the card that comes before everything has to be seen: an emergency that is newer than its last seeing."""
    state: State = crisis.state_of(thread)
    if not desk.on("interruption_card") or state.rung != "emergency" or thread.state in ("human_owned", "closed"):
        return False
    card = unit.notices.last(thread.help_seeker, disclosure.INTERRUPT)
    sign: datetime | None = state.last_at
    return card is None or sign is None or card.at < sign


def why_not(text: str, err: UserError) -> str:
    """Why a message could not be kept, in the reader's language. The text is not part of it."""
    if isinstance(err, ConflictError):
        return here.t("talk.wrong_twice")
    if isinstance(err, TransitionError):
        return here.t("talk.wrong_closed")
    words = text.strip()
    if not words:
        return here.t("talk.wrong_empty")
    if len(words) > LONGEST:
        return here.t("talk.wrong_long", most=LONGEST, has=len(words))
    return here.t("talk.wrong_text")


def new_id() -> str:
    """An id for the next message, for browsers without script."""
    return f"form-{uuid.uuid4()}"
