"""What all repositories share: reading and writing records of one table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import ColumnElement, Table, func, insert, select, update

from heedful.errors import ConflictError, NotFoundError
from heedful.store import models
from heedful.store.columns import Base
from heedful.store.rows import Codec, table_of
from heedful.store.work import Work, new_id

R = TypeVar("R")
USERS, THREADS = table_of(models.User), table_of(models.Thread)


class Repository(Generic[R]):
    """Records of one table.

    Attributes:
        model, record: the table, and what is returned.
        noun: how messages call one of them.
    """

    model: ClassVar[type[Base]]
    record: ClassVar[type[Any]]
    noun: ClassVar[str]

    def __init__(self, work: Work) -> None:
        self.work = work
        self.codec: Codec[R] = _codec(self.model, self.record)
        self.table: Table = table_of(self.model)

    def get(self, id: str) -> R:
        """The record with that id.

        Raises:
            NotFoundError: there is none.
            TamperError: a sealed field does not open.
        """
        found = self.find(id)
        if found is None:
            raise NotFoundError(f"There is no {self.noun} with this id (any more).")
        return found

    def find(self, id: str) -> R | None:
        """The record with that id, or None."""
        return self._first(self.table.c.id == id)

    def count(self) -> int:
        """How many there are."""
        return int(self.work.execute(select(func.count()).select_from(self.table)).scalar_one())

    # ------------------------------------------------------------------ for the repositories

    def _first(self, *where: ColumnElement[bool]) -> R | None:
        row = self.work.execute(select(self.table).where(*where).limit(1)).mappings().one_or_none()
        return None if row is None else self.codec.read(row, self.work.keys)  # type: ignore[arg-type]

    def _all(self, *where: ColumnElement[bool], order: Any, limit: int | None = None) -> tuple[R, ...]:
        order = order if isinstance(order, tuple) else (order,)
        rows = self.work.execute(select(self.table).where(*where).order_by(*order).limit(limit)).mappings()
        return tuple(self.codec.read(row, self.work.keys) for row in rows)  # type: ignore[arg-type]

    def _add(self, record: R) -> R:
        self._check_alive(record)
        self.work.execute(insert(self.table), [self.codec.write_record(record, self.work.keys)])
        return record

    def _check_alive(self, record: R) -> None:
        """Refuse new words about somebody who was erased; the lock lets an erasure wait for us, and us for it."""
        plan = self.model.erase
        if plan.how == "keep" or plan.by in (None, "id") or getattr(record, plan.by) is None:
            return
        person: Any = getattr(record, plan.by)
        if plan.by == "thread_id":
            person = select(THREADS.c.help_seeker).where(THREADS.c.id == person).scalar_subquery()
        erased = select(USERS.c.erased_at).where(USERS.c.id == person).with_for_update(read=True, of=USERS)
        if self.work.execute(erased).scalar() is not None:
            raise ConflictError("This person's data were erased; nothing more is kept about them.")

    def _set(self, id: str, *where: ColumnElement[bool], **values: Any) -> int:
        row = self.codec.write(id, values, self.work.keys)
        return self.work.changed(update(self.table).where(self.table.c.id == id, *where).values(row))

    def _next(self, column: str, *where: ColumnElement[bool]) -> int:
        newest = self.work.execute(select(func.max(self.table.c[column])).where(*where)).scalar()
        return 1 if newest is None else int(newest) + 1

    def _locked(self, table: Table, id: str, noun: str) -> None:
        """Keep other writers away from one row until the transaction ends, so that numbers are given out once."""
        found = self.work.execute(select(table.c.id).where(table.c.id == id).with_for_update()).scalar()
        if found is None:
            raise NotFoundError(f"There is no {noun} with this id (any more).")


_CODECS: dict[type[Base], Codec[Any]] = {}


def _codec(model: type[Base], record: type[Any]) -> Codec[Any]:
    # A transaction makes all repositories; what they know of their tables does not change.
    if model not in _CODECS:
        _CODECS[model] = Codec(model, record)
    return _CODECS[model]


class Versioned(Repository[R]):
    """Records that several people may change: whoever saw an older version is refused and told who was faster."""

    def _change(self, seen: Any, version: int | None, *, by: str, **values: Any) -> Any:
        """`seen` with `values`, its version one higher.

        Raises:
            ConflictError: `version`, or the version of `seen`, is no longer the one that stands.
        """
        if version is not None and version != seen.version:
            raise self._lost(seen)
        values |= {"version": seen.version + 1, "changed_by": by}
        if not self._set(seen.id, self.table.c.version == seen.version, **values):
            raise self._lost(self.get(seen.id))
        return replace(seen, **values)

    def _lost(self, now: Any) -> ConflictError:
        state = getattr(now, "state", None)
        stands = f"; it is '{state}' now" if state else ""
        return ConflictError(
            f"Somebody else changed this {self.noun} first (by {now.changed_by}){stands}. Read it again, then decide.",
            winner=now.changed_by,
            state=state,
            version=now.version,
        )


__all__ = ["Repository", "Versioned", "new_id"]
