"""Tasks of staff, and what help-seekers fill in: check-ins, exercises, memory; and the clinic's own crisis lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, delete, select

from heedful.errors import ConflictError
from heedful.store import models
from heedful.store.prepared import Prepared
from heedful.store.records import Checkin, Exercise, MemoryItem, ResourceOverride, Task
from heedful.store.repositories.base import Repository, Versioned, new_id
from heedful.store.repositories.threads import Threads
from heedful.store.rows import table_of

_T = table_of(models.Task).c
_WAITING = Prepared(
    select(_T.id)
    .where(_T.thread_id == bindparam("thread", type_=Text()), _T.kind == bindparam("kind", type_=Text()))
    .where(_T.done_at.is_(None))
    .limit(1)
)


class Tasks(Versioned[Task]):
    """Follow-ups and takeovers, each with a time and, once somebody took it, an owner."""

    model, record, noun = models.Task, Task, "task"

    def add(
        self,
        *,
        kind: str,
        due_at: datetime,
        by: str,
        thread: str | None = None,
        help_seeker: str | None = None,
        owner: str | None = None,
        text: str | None = None,
    ) -> Task:
        """A new task; `kind` is `takeover`, `follow_up` or another short name. `due_at` is its response clock.

        Without `help_seeker` it is about the help-seeker of the conversation.
        """
        if thread is not None and help_seeker is None:
            help_seeker = Threads(self.work).get(thread).help_seeker
        task = Task(
            id=new_id(),
            kind=kind,
            thread_id=thread,
            help_seeker=help_seeker,
            owner=owner,
            text=text,
            created_at=self.work.now(),
            created_by=by,
            due_at=due_at,
            changed_by=by,
        )
        self.work.say(by, "task.added", f"task:{task.id}", kind=kind, thread=thread, due=due_at.isoformat())
        return self._add(task)

    def open(self, *, owner: str | None = None, thread: str | None = None) -> tuple[Task, ...]:
        """Tasks that are not done, the most urgent first."""
        which: dict[str, Any] = {
            name: value for name, value in (("owner", owner), ("thread_id", thread)) if value is not None
        }
        return self._many(done_at=None, order=("due_at", "id"), **which)

    def waits(self, thread: str, kind: str) -> bool:
        """Whether a task of this kind is open in a conversation."""
        return bool(self.work.rows(_WAITING, thread=thread, kind=kind))

    def take(self, id: str, *, by: str, version: int) -> Task:
        """The task belongs to `by` now.

        Raises:
            ConflictError: somebody else took or changed it since `version`.
            TransitionError: `by` is no clinician or supervisor.
        """
        self.work.need_person(by, "take a task")
        taken: Task = self._change(self._open(id), version, by=by, owner=by)
        self.work.say(by, "task.taken", f"task:{id}")
        return taken

    def move(self, id: str, due_at: datetime, *, by: str, version: int) -> Task:
        """Another time, set by a person.

        Raises:
            ConflictError: changed since `version`.
            TransitionError: `by` is no clinician or supervisor.
        """
        self.work.need_person(by, "set the time of a task")
        moved: Task = self._change(self._open(id), version, by=by, due_at=due_at)
        self.work.say(by, "task.moved", f"task:{id}", due=due_at.isoformat())
        return moved

    def done(self, id: str, *, by: str, version: int, outcome: str | None = None) -> Task:
        """It is done, by a person.

        Raises:
            ConflictError: changed since `version`, or done already.
            TransitionError: `by` is no clinician or supervisor.
        """
        self.work.need_person(by, "close a task")
        now = self.work.now()
        seen = self._open(id)
        closed: Task = self._change(seen, version, by=by, done_at=now, done_by=by, outcome=outcome)
        late = max(0, round((now - seen.due_at).total_seconds()))
        self.work.say(by, "task.done", f"task:{id}", kind=seen.kind, seconds_late=late)
        return closed

    def _open(self, id: str) -> Task:
        task = self.get(id)
        if task.done_at is not None:
            raise ConflictError(f"This task was done already (by {task.done_by}).", winner=task.done_by)
        return task


class Checkins(Repository[Checkin]):
    """Answered questionnaires; answers and total are sealed."""

    model, record, noun = models.Checkin, Checkin, "check-in"

    def add(
        self, *, help_seeker: str, instrument: str, answers: Mapping[str, Any], total: int | None = None
    ) -> Checkin:
        """Keep the answers."""
        return self._add(
            Checkin(
                id=new_id(),
                help_seeker=help_seeker,
                instrument=instrument,
                answers=dict(answers),
                total=total,
                created_at=self.work.now(),
            )
        )

    def of(self, help_seeker: str, *, instrument: str | None = None) -> tuple[Checkin, ...]:
        """Of one help-seeker, oldest first."""
        where: list[ColumnElement[bool]] = [self.table.c.help_seeker == help_seeker]
        if instrument is not None:
            where.append(self.table.c.instrument == instrument)
        return self._all(*where, order=(self.table.c.created_at, self.table.c.id))


class Exercises(Repository[Exercise]):
    """Structured exercises that somebody fills in."""

    model, record, noun = models.Exercise, Exercise, "exercise"

    def add(self, *, help_seeker: str, kind: str, answers: Mapping[str, Any]) -> Exercise:
        """Keep an exercise."""
        now = self.work.now()
        return self._add(
            Exercise(
                id=new_id(),
                help_seeker=help_seeker,
                kind=kind,
                answers=dict(answers),
                created_at=now,
                changed_at=now,
            )
        )

    def change(self, id: str, answers: Mapping[str, Any]) -> Exercise:
        """Other answers."""
        values: dict[str, Any] = {"answers": dict(answers), "changed_at": self.work.now()}
        seen = self.get(id)
        self._set(id, **values)
        return replace(seen, **values)

    def of(self, help_seeker: str) -> tuple[Exercise, ...]:
        """Of one help-seeker, oldest first."""
        return self._all(self.table.c.help_seeker == help_seeker, order=(self.table.c.created_at, self.table.c.id))


class Memory(Repository[MemoryItem]):
    """What is remembered of a help-seeker: each item with its source, editable, removable."""

    model, record, noun = models.MemoryItem, MemoryItem, "memory item"

    def add(self, *, help_seeker: str, text: str, turn: str | None = None) -> MemoryItem:
        """Remember something; `turn` is where it was said."""
        return self._add(
            MemoryItem(id=new_id(), help_seeker=help_seeker, text=text, turn_id=turn, created_at=self.work.now())
        )

    def edit(self, id: str, text: str, *, by: str) -> MemoryItem:
        """Other words for it."""
        values: dict[str, Any] = {"text": text, "edited_at": self.work.now(), "edited_by": by}
        seen = self.get(id)
        self._set(id, **values)
        self.work.say(by, "memory.edited", f"memory:{id}")
        return replace(seen, **values)

    def remove(self, id: str, *, by: str) -> None:
        """Forget it.

        Raises:
            NotFoundError: it is not there.
        """
        self.get(id)
        self.work.execute(delete(self.table).where(self.table.c.id == id))
        self.work.say(by, "memory.removed", f"memory:{id}")

    def of(self, help_seeker: str) -> tuple[MemoryItem, ...]:
        """Of one help-seeker, oldest first."""
        return self._all(self.table.c.help_seeker == help_seeker, order=(self.table.c.created_at, self.table.c.id))


class Resources(Repository[ResourceOverride]):
    """Crisis lines that the clinic added, changed or took off its list."""

    model, record, noun = models.ResourceOverride, ResourceOverride, "crisis line"

    def put(
        self,
        *,
        id: str,
        country: str,
        language: str,
        entry: Mapping[str, Any],
        by: str,
        removed: bool = False,
        checked_on: str | None = None,
    ) -> ResourceOverride:
        """Set the clinic's own version of the line `id` (the id of the shipped table, or a new one)."""
        row = ResourceOverride(
            id=id,
            country=country,
            language=language,
            entry=dict(entry),
            removed=removed,
            checked_on=checked_on,
            changed_at=self.work.now(),
            changed_by=by,
        )
        self.work.say(by, "resource.changed", f"resource:{id}", removed=removed, checked=checked_on)
        self.work.execute(delete(self.table).where(self.table.c.id == id))
        return self._add(row)

    def all(self) -> tuple[ResourceOverride, ...]:
        """All of them, by country and id."""
        return self._all(order=(self.table.c.country, self.table.c.id))
