"""Words have a time: what is older than a profile allows is deleted, person by person and row by row.

The rows are those that a deletion on request reaches too (`erase` in `models.py`). What a conversation needs to go on
stays as a fact without words: the number of its newest turn, states, who decided what. The audit stays whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Table, and_, delete, func, or_, select, update

from heedful.store import models
from heedful.store.columns import Base
from heedful.store.rows import sealed_columns, table_of
from heedful.store.store import Store
from heedful.store.unit import Unit

PROGRAM: Final = "retention"
THREADS, TURNS = table_of(models.Thread), table_of(models.Turn)
TIMES: Final = ("changed_at", "edited_at", "created_at", "at")
"""Columns that say how old a row is, the first that a table has and that is filled."""


def expire(store: Store, before: datetime) -> int:
    """Delete words of help-seekers that are older than `before`; how many rows lost theirs.

    Waiting tasks keep their words until they are done, and drafts go with the message that they answer. A conversation
    that is held, or that a person has taken and whose risk is open, keeps its words: somebody may need them tonight.
    """
    n = store.run(lambda unit: _expire(unit, before))
    if n:
        store.backend.scrub()
    return n


def _expire(unit: Unit, before: datetime) -> int:
    old = select(TURNS.c.id).where(TURNS.c.created_at < before)
    newest = select(TURNS.c.thread_id, func.max(TURNS.c.sequence).label("top")).group_by(TURNS.c.thread_id).subquery()
    keep = (
        select(TURNS.c.id)
        .join(newest, and_(TURNS.c.thread_id == newest.c.thread_id, TURNS.c.sequence == newest.c.top))
        .join(THREADS, THREADS.c.id == TURNS.c.thread_id)
        .where(THREADS.c.state != "closed", TURNS.c.created_at < before)
    )
    risky = select(THREADS.c.id).where(
        or_(THREADS.c.state == "risk_held", and_(THREADS.c.state == "human_owned", THREADS.c.risk_level > 0))
    )
    keep = keep.where(THREADS.c.id.not_in(risky))
    n = 0
    for table in _tables():
        where = _older(table, before)
        if table.name == "drafts":
            where = or_(where, table.c.turn_id.in_(old), table.c.sent_turn_id.in_(old))
        if table.name == "turns":
            where = and_(where, table.c.id.not_in(keep))
        if "thread_id" in table.c:
            where = and_(where, or_(table.c.thread_id.is_(None), table.c.thread_id.not_in(risky)))
        n += unit.changed(delete(table).where(where))
    n += _blank(unit, [row.id for row in unit.execute(keep)])
    done = table_of(models.Task)
    n += _clear(unit, done, and_(done.c.done_at.is_not(None), done.c.done_at < before))
    n += _clear(unit, THREADS, and_(THREADS.c.closed_at.is_not(None), THREADS.c.closed_at < before))
    reports = table_of(models.ProblemReport)
    n += _clear(unit, reports, and_(reports.c.closed_at.is_not(None), reports.c.closed_at < before))
    if n:
        unit.audit.add(PROGRAM, "words.expired", "store", rows=n, before=before.isoformat(timespec="seconds"))
        unit.counters.add("rows_expired", n)
    return n


def _tables() -> list[Table]:
    """Tables whose rows go, children before parents. Sessions and jobs have an end of their own.

    Notes and plans of clinicians, and the reasons that they gave (why a risk was lowered), are the record of care; how
    long that is kept is another law's matter.
    """
    found = [m.class_ for m in Base.registry.mappers if m.class_.erase.how == "delete"]
    names = {table_of(m).name for m in found} - {"sessions", "jobs", "case_notes", "notes"}
    return [table for table in reversed(Base.metadata.sorted_tables) if table.name in names]


def _older(table: Table, before: datetime) -> ColumnElement[bool]:
    columns = [table.c[name] for name in TIMES if name in table.c]
    return func.coalesce(*columns) < before if len(columns) > 1 else columns[0] < before


def _blank(unit: Unit, turns: Sequence[str]) -> int:
    """The newest turn of an open conversation stays as a number: what comes after it counts on from there."""
    n = 0
    for id in turns:
        if unit.turns.get(id).text:
            n += unit.turns.blank(id)
    return n


def _clear(unit: Unit, table: Table, where: ColumnElement[bool]) -> int:
    names = sealed_columns(table)
    filled = where & func.coalesce(*(table.c[name] for name in names)).is_not(None)
    return unit.changed(update(table).where(filled).values(dict.fromkeys(names)))
