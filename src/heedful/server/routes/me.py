"""A help-seeker's own record: memory, consents, download, deletion."""

from __future__ import annotations

import json
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Form
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from heedful.review import notes
from heedful.review.consents import states
from heedful.review.record import own_record
from heedful.safety import texts
from heedful.server import here
from heedful.server.access import Called
from heedful.server.clinic import At, Desk
from heedful.server.gate import cookie_text
from heedful.server.record_pdf import ATTACHED, Labels, to_pdf
from heedful.server.routes.consents import kept
from heedful.server.shown import show
from heedful.server.state import Serving
from heedful.store.columns import canonical
from heedful.store.erasure import at_risk, erase
from heedful.store.records import MemoryItem
from heedful.store.unit import Unit

router = APIRouter(prefix="/me", include_in_schema=False)
LONGEST_MEMORY = 2000
FONTS = "fonts"
"""Folder in the home folder where a clinic puts fonts for scripts that ours do not have."""


@router.get("")
def record(caller: Called, desk: At) -> Response:
    """What is kept, and what one can do about it."""
    return _page(caller, desk)


def _page(caller: Called, desk: Desk, *, status: int = 200, wrong: str = "") -> Response:
    user = caller.user or ""
    with desk.clinic.store.read() as unit:
        memory = [(item, _source(unit, desk, item)) for item in unit.memory.of(user)]
        counts = {
            "turns": sum(len(unit.turns.of(thread.id)) for thread in unit.threads.of(user)),
            "checkins": len(unit.checkins.of(user)),
            "exercises": len(unit.exercises.of(user)),
        }
        plans = [(p, _name(unit, p.note.author)) for p in notes.shared(unit, user)]
        consents = states(unit, user, desk.clinic.policy) if desk.ledger else ()
    values: dict[str, Any] = {"memory": memory, "consents": consents, "counts": counts, "wrong": wrong, "plans": plans}
    values["kept"] = kept(desk, user)
    return show("me.html.j2", caller, desk, status=status, erasure=desk.on("erasure"), **values)


def _name(unit: Unit, user: str) -> str:
    found = unit.users.find(user)
    return (found.name if found else None) or here.t("talk.person")


def _source(unit: Unit, desk: Desk, item: MemoryItem) -> tuple[str, str]:
    """When and with which words it was said."""
    turn = unit.turns.find(item.turn_id) if item.turn_id else None
    return (desk.house.local(turn.created_at), turn.text) if turn else ("", "")


@router.post("/memory/{item}")
def edit_memory(item: str, caller: Called, desk: At, text: Annotated[str, Form()] = "") -> Response:
    """Other words for something that is remembered."""
    user = caller.user or ""
    if not text.strip() or len(text) > LONGEST_MEMORY:
        return _page(caller, desk, status=400, wrong=here.t("me.memory_wrong", most=LONGEST_MEMORY))

    def work(unit: Unit) -> None:
        _own(unit, item, user)
        unit.memory.edit(item, text.strip(), by=user)

    desk.clinic.store.run(work)
    return RedirectResponse("/me#memory", status_code=303)


@router.post("/memory/{item}/remove")
def remove_memory(item: str, caller: Called, desk: At) -> Response:
    """Forget it."""
    user = caller.user or ""

    def work(unit: Unit) -> None:
        _own(unit, item, user)
        unit.memory.remove(item, by=user)

    desk.clinic.store.run(work)
    return RedirectResponse("/me#memory", status_code=303)


def _own(unit: Unit, item: str, user: str) -> None:
    found = unit.memory.find(item)
    if found is None or found.help_seeker != user:
        raise HTTPException(404, "There is nothing of yours with this id.")


@router.get("/record.json")
def download(caller: Called, desk: At) -> Response:
    """The own record, as a file."""
    found = own_record(desk.clinic.store, caller.user or "", kept=kept(desk, caller.user or ""))
    text = json.dumps(found, ensure_ascii=False, indent=2)
    headers = {"Content-Disposition": 'attachment; filename="my-record.json"'}
    return Response(text.encode("utf-8"), media_type="application/json", headers=headers)


@router.get("/record.pdf")
async def download_pdf(caller: Called, desk: At, server: Serving) -> Response:
    """The same to read and to print. It is drawn where long work waits, so that no page waits for it."""

    def drawn() -> bytes:
        found = own_record(desk.clinic.store, caller.user or "", kept=kept(desk, caller.user or ""))
        own = server.config.folder / FONTS
        return to_pdf(found, labels=_labels(), language=here.language(), own=own)

    content = await to_thread.run_sync(drawn, limiter=server.drawing)
    headers = {"Content-Disposition": 'attachment; filename="my-record.pdf"'}
    return Response(content, media_type="application/pdf", headers=headers)


def _labels() -> Labels:
    return Labels(
        title=here.t("record.title"),
        attached=here.t("record.attached", file=ATTACHED),
        missing=here.t("record.missing", file=ATTACHED, example="[U+4F60]"),
        nothing=here.t("record.nothing"),
        page=here.t("record.page"),
        key=lambda key: here.name_of("part", key),
    )


@router.get("/delete")
def ask(caller: Called, desk: At) -> Response:
    """The first question."""
    _may_erase(desk)
    return show("delete.html.j2", caller, desk, step=1, wrong="", **_outside(caller.user or "", desk))


@router.post("/delete")
def ask_again(caller: Called, desk: At) -> Response:
    """The second question."""
    _may_erase(desk)
    return show("delete.html.j2", caller, desk, step=2, wrong="", **_outside(caller.user or "", desk))


@router.post("/delete/now")
def delete(caller: Called, desk: At, server: Serving, sure: Annotated[str, Form(max_length=50)] = "") -> Response:
    """Delete everything. The receipt is on this page and nowhere else that the person can reach."""
    _may_erase(desk)
    user = caller.user or ""
    if sure != "yes":
        values = _outside(user, desk)
        return show("delete.html.j2", caller, desk, status=400, step=2, wrong=here.t("delete.not_sure"), **values)
    receipt = erase(desk.clinic.store, user, by=user)
    text = json.dumps(
        {"receipt": _plain(receipt.receipt), "signature": receipt.signature}, ensure_ascii=False, indent=2
    )
    response = show("deleted.html.j2", caller, desk, receipt=text, rows=receipt.receipt["rows"])
    response.headers.append("Set-Cookie", cookie_text(server.cookie, "", secure=server.secure, seconds=0))
    return response


def _may_erase(desk: Desk) -> None:
    if not desk.on("erasure"):
        raise HTTPException(404, "Deletion is not offered here; ask the clinic.")


def _outside(user: str, desk: Desk) -> dict[str, Any]:
    """What a deletion cannot reach; to somebody at risk, what to do now comes first."""
    with desk.clinic.store.read() as unit:
        risky = at_risk(unit, user) is not None
        return {
            "options": _options(desk) if risky else (),
            "adapters": [adapter.name for adapter in unit.adapters.learned_from(user)],
            "exports": [export.name for export in unit.exports.holding(user)],
        }


def _options(desk: Desk) -> tuple[str, ...]:
    lines = desk.directory.fill(here.language())
    found = texts.load(texts.nearest_language(here.language()))
    return found.options("thoughts", line=lines.line, emergency=lines.emergency)


def _plain(found: Any) -> Any:
    return json.loads(canonical(found))
