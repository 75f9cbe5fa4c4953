"""Tasks of staff with their clocks: take, set another time, done."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form
from starlette.responses import RedirectResponse, Response

from heedful.errors import ConflictError, TransitionError, UserError
from heedful.review import crisis, problems
from heedful.review.clinic import open_tasks
from heedful.server.access import Called, Caller
from heedful.server.clinic import At, Desk
from heedful.server.routes.decide import conflict
from heedful.server.shown import show, until
from heedful.store.records import Task

TOLD = ("tier", "level", "behaviour", "classes", "denials", "minutes_since_first_sign")
"""Facts of a summary that stand in the list of tasks; the conversation has all of them."""
router = APIRouter(prefix="/tasks", include_in_schema=False)
Version = Annotated[int, Form(ge=0, le=2**31)]
Text = Annotated[str, Form()]


@router.get("")
def tasks(caller: Called, desk: At) -> Response:
    """What people have to do, the most urgent first."""
    return _page(caller, desk)


def _page(caller: Caller, desk: Desk, *, status: int = 200, wrong: str = "") -> Response:
    found = open_tasks(desk.clinic.store)
    with desk.clinic.store.read() as unit:
        ids = {id for task in found for id in (task.help_seeker, task.owner) if id}
        names = {id: (user.name or "") for id in ids if (user := unit.users.find(id)) is not None}
    values: dict[str, Any] = {
        "rows": found,
        "names": names,
        "wrong": wrong,
        "closed_elsewhere": (crisis.TAKEOVER, problems.TASK),
        "summaries": {task.id: summary(task) for task in found},
    }
    return show("tasks.html.j2", caller, desk, status=status, now=desk.now(), until=until, **values)


def summary(task: Task) -> dict[str, str | int | bool]:
    """What whoever takes over is told first: facts of the crisis path, never words of the conversation.

    Empty for tasks that are about something else, or whose text a person wrote.
    """
    if task.kind not in (crisis.TAKEOVER, crisis.LOOK) or not task.text:
        return {}
    try:
        found = json.loads(task.text)
    except ValueError:
        return {}
    return {name: found[name] for name in TOLD if name in found} if isinstance(found, dict) else {}


@router.post("/{task}/take")
def take(task: str, caller: Called, desk: At, version: Version) -> Response:
    """It is mine."""
    user = caller.user or ""
    return _do(caller, desk, lambda: desk.clinic.store.run(lambda u: u.tasks.take(task, by=user, version=version)))


@router.post("/{task}/move")
def move(
    task: str, caller: Called, desk: At, version: Version, at: Annotated[str, Form(max_length=40)] = ""
) -> Response:
    """Another time. The clock of a handover is not one that can be moved."""
    user = caller.user or ""

    def act() -> Any:
        due = desk.house.read_local(at)
        if _get(desk, task).kind == crisis.TAKEOVER:
            raise TransitionError("The clock of a handover is not moved; take the conversation over.")
        return desk.clinic.store.run(lambda u: u.tasks.move(task, due, by=user, version=version))

    return _do(caller, desk, act)


def _over(desk: Desk, task: Task) -> bool:
    """Whether there is no conversation left that somebody could take over."""
    with desk.clinic.store.read() as unit:
        thread = unit.threads.find(task.thread_id) if task.thread_id else None
    return thread is None or thread.state == "closed"


@router.post("/{task}/done")
def done(task: str, caller: Called, desk: At, version: Version, outcome: Text = "") -> Response:
    """It is done; how it went stays with it. A handover is done by taking the conversation over."""
    user, words = caller.user or "", outcome.strip()

    def act() -> Any:
        found = _get(desk, task)
        if found.kind == crisis.TAKEOVER and not _over(desk, found):
            raise TransitionError("A handover is done by taking the conversation over.")
        if found.kind == problems.TASK:
            raise TransitionError("A report is closed by a supervisor, on the page of reports.")
        if not words:
            raise TransitionError("To close a task, say how it went.")
        if found.kind == crisis.FOLLOW_UP and found.thread_id is not None:
            return desk.clinic.followed_up(found.thread_id, by=user, outcome=words)
        if found.kind in (crisis.LOOK, *crisis.PERSONS):
            return desk.clinic.looked(task, by=user, version=version, outcome=words)
        return desk.clinic.store.run(lambda u: u.tasks.done(task, by=user, version=version, outcome=words))

    return _do(caller, desk, act)


def _get(desk: Desk, task: str) -> Task:
    with desk.clinic.store.read() as unit:
        return unit.tasks.get(task)


def _do(caller: Caller, desk: Desk, act: Callable[[], Any]) -> Response:
    try:
        act()
    except ConflictError as err:
        return conflict(caller, desk, err, back="/tasks")
    except UserError as err:
        status = 409 if isinstance(err, TransitionError) else 400
        return _page(caller, desk, status=status, wrong=str(err))
    return RedirectResponse("/tasks", status_code=303)
