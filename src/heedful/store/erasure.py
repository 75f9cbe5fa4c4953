"""Deletion of one help-seeker, with a signed receipt.

What each table does is written beside it (`erase` in `models.py`): rows with words are deleted, facts without words
stay under the bare id, and the audit chain stays whole. What a deletion cannot reach is on the receipt too:
models that were trained on exported data, files that were exported, and backups made before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, delete, func, select, update

from heedful.errors import ConflictError, TransitionError
from heedful.store import models
from heedful.store.columns import Base, canonical, moment_text
from heedful.store.records import Receipt, Thread
from heedful.store.rows import sealed_columns, table_of
from heedful.store.store import Store
from heedful.store.unit import Unit
from heedful.store.work import new_id

THREADS, USERS, TASKS = table_of(models.Thread), table_of(models.User), table_of(models.Task)
AT_RISK: Final = "erased_at_risk"
"""Kind of the task that a deletion leaves where somebody was at risk. It has no words and can be closed."""
IMMEDIATE: Final = 2
"""The level of risk at which a deletion does not end things silently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    table: Table
    how: str
    where: ColumnElement[bool]


def erase(store: Store, help_seeker: str, *, by: str) -> Receipt:
    """Delete everything that one help-seeker said, filled in or was told, and sign a receipt.

    Args:
        by: who asked for it or does it: the help-seeker, or staff.

    Raises:
        NotFoundError: no such user.
        TransitionError: this user is staff: what staff decided is part of the record of others.
        ConflictError: it was done before.
    """
    receipt = store.run(lambda unit: _erase(unit, help_seeker, by))
    store.backend.scrub()
    return receipt


def at_risk(unit: Unit, help_seeker: str) -> Thread | None:
    """The open conversation in which this person is held, or at immediate risk."""
    mine = [thread for thread in unit.threads.of(help_seeker) if thread.state != "closed"]
    return next((t for t in mine if t.state == "risk_held" or t.risk_level >= IMMEDIATE), None)


def _leave_task(unit: Unit, help_seeker: str, by: str, thread: Thread | None) -> None:
    """Nobody can take over what is deleted; where somebody was at risk, people are told that much."""
    now = unit.now()
    mine = select(THREADS.c.id).where(THREADS.c.help_seeker == help_seeker)
    ended = TASKS.c.thread_id.in_(mine) & (TASKS.c.kind == "takeover") & TASKS.c.done_at.is_(None)
    done = {"done_at": now, "done_by": by, "changed_by": by, "version": TASKS.c.version + 1}
    unit.execute(update(TASKS).where(ended).values(done))
    if thread is not None:
        unit.tasks.add(kind=AT_RISK, due_at=now, by=by, help_seeker=help_seeker, owner=thread.owner)


def verify_receipt(store: Store, receipt: Receipt) -> bool:
    """Whether the receipt is what this store signed."""
    return store.keys.signed(_signed_bytes(receipt.user_id, receipt.receipt), receipt.signature)


def _erase(unit: Unit, help_seeker: str, by: str) -> Receipt:
    # Whoever writes for this person right now finishes first; whoever comes later finds the person erased.
    unit.execute(select(USERS.c.id).where(USERS.c.id == help_seeker).with_for_update())
    user = unit.users.get(help_seeker)
    if user.role != "help_seeker":
        raise TransitionError("Only help-seekers are erased; disable an account of staff instead.")
    if user.erased_at is not None:
        raise ConflictError("This help-seeker was erased before; the receipt is kept.")
    outside: dict[str, list[dict[str, Any]]] = {
        "adapters": [
            {"id": a.id, "name": a.name, "retired": a.retired_at is not None}
            for a in unit.adapters.learned_from(help_seeker)
        ],
        "exports": [{"id": e.id, "name": e.name} for e in unit.exports.holding(help_seeker)],
    }
    risky = at_risk(unit, help_seeker)
    counts = {step.table.name: _apply(unit, step) for step in _steps(help_seeker)}
    now = unit.now()
    # Nothing is said in these conversations any more, whatever state they were in.
    still_open = (THREADS.c.help_seeker == help_seeker) & (THREADS.c.state != "closed")
    unit.execute(
        update(THREADS)
        .where(still_open)
        .values(
            state="closed", closed_at=now, closed_by=by, changed_at=now, changed_by=by, version=THREADS.c.version + 1
        )
    )
    _leave_task(unit, help_seeker, by, risky)
    unit.execute(
        update(USERS)
        .where(USERS.c.id == help_seeker)
        .values(name_digest=None, disabled=True, erased_at=now, changed_at=now)
    )
    facts: dict[str, Any] = {
        "user": help_seeker,
        "at": moment_text(now),
        "by": by,
        "rows": {name: n for name, n in sorted(counts.items()) if n},
        **outside,
        "left": ["backups made before this time, until they are deleted", "models and files listed here"],
    }
    receipt = Receipt(
        id=new_id(),
        user_id=help_seeker,
        receipt=facts,
        signature=unit.keys.sign(_signed_bytes(help_seeker, facts)),
        at=now,
        by=by,
    )
    unit.erasures.add(receipt)
    rows = sum(counts.values())
    unit.audit.add(by, "user.erased", f"user:{help_seeker}", rows=rows, adapters=len(outside["adapters"]))
    return receipt


def _steps(help_seeker: str) -> list[_Step]:
    """What to do, children before parents."""
    mine = select(THREADS.c.id).where(THREADS.c.help_seeker == help_seeker)
    steps = []
    for mapper in Base.registry.mappers:
        table, plan = table_of(mapper.class_), mapper.class_.erase
        if plan.by is None or plan.how == "keep":
            continue
        column = table.c[plan.by]
        where = column.in_(mine) if plan.by == "thread_id" else column == help_seeker
        steps.append(_Step(table=table, how=plan.how, where=where))
    order = [table.name for table in Base.metadata.sorted_tables]
    return sorted(steps, key=lambda step: order.index(step.table.name), reverse=True)


def _apply(unit: Unit, step: _Step) -> int:
    if step.how == "delete":
        return unit.changed(delete(step.table).where(step.where))
    names = sealed_columns(step.table)
    filled = step.where & func.coalesce(*(step.table.c[name] for name in names)).is_not(None)
    return unit.changed(update(step.table).where(filled).values(dict.fromkeys(names)))


def _signed_bytes(user: str, facts: Mapping[str, Any]) -> bytes:
    return f"erasure {user} {canonical(facts)}".encode()
