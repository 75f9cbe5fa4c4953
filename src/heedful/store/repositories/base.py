"""What all repositories share: reading and writing records of one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final, Generic, TypeVar

from sqlalchemy import ColumnElement, Table, Text, bindparam, func, select

from heedful.errors import ConflictError, NotFoundError
from heedful.store import models, prepared
from heedful.store.columns import Base
from heedful.store.prepared import Prepared
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
        return self._one(id=id)

    def count(self) -> int:
        """How many there are."""
        return int(self.work.execute(select(func.count()).select_from(self.table)).scalar_one())

    # ------------------------------------------------------------------ for the repositories

    def _one(self, **equal: Any) -> R | None:
        """The record whose columns have these values, None = none of them; there is at most one that matters."""
        found = self._many(limit=1, **equal)
        return found[0] if found else None

    def _many(
        self,
        *,
        order: tuple[str, ...] = (),
        limit: int | None = None,
        above: tuple[str, Any] | None = None,
        **equal: Any,
    ) -> tuple[R, ...]:
        """Records whose columns have these values: what is asked on each request, prepared once.

        Args:
            order: names of columns; `-name` = from the last to the first.
            above: a column, and what its values are greater than.
        """
        given = {name: value for name, value in equal.items() if value is not None}
        ready = prepared.look_up(
            self.table,
            equal=tuple(given),
            null=tuple(name for name in equal if name not in given),
            above=above[0] if above else None,
            order=order,
            limited=limit is not None,
        )
        if limit is not None:
            given[prepared.LIMIT] = limit
        if above:
            given[above[0]] = above[1]
        return tuple(self.codec.read(row, self.work.keys) for row in self.work.rows(ready, **given))

    def _all(self, *where: ColumnElement[bool], order: Any, limit: int | None = None) -> tuple[R, ...]:
        """Records for any condition."""
        order = order if isinstance(order, tuple) else (order,)
        rows = self.work.execute(select(self.table).where(*where).order_by(*order).limit(limit))
        return tuple(self.codec.read(row, self.work.keys) for row in rows)

    def _add(self, record: R) -> R:
        self._check_alive(record)
        row = self.codec.write_record(record, self.work.keys)
        self.work.run(prepared.add(self.table), **{prepared.NEW + name: value for name, value in row.items()})
        return record

    def _check_alive(self, record: R) -> None:
        """Refuse new words about somebody who was erased; the lock lets an erasure wait for us, and us for it."""
        plan = self.model.erase
        if plan.how == "keep" or plan.by in (None, "id") or getattr(record, plan.by) is None:
            return
        asked = _ERASED_OF_THREAD if plan.by == "thread_id" else _ERASED
        found = self.work.rows(asked, person=getattr(record, plan.by))
        if found and found[0][0] is not None:
            raise ConflictError("This person's data were erased; nothing more is kept about them.")

    def _set(self, id: str, meets: Mapping[str, Any] | None = None, **values: Any) -> int:
        """Write `values` into a row, if its columns have the values of `meets` (None = none); how many rows it met."""
        row, old = self.codec.write(id, values, self.work.keys), {"id": id, **(meets or {})}
        given = {name: value for name, value in old.items() if value is not None}
        ready = prepared.change(
            self.table, names=tuple(row), equal=tuple(given), null=tuple(name for name in old if name not in given)
        )
        new = {prepared.NEW + name: value for name, value in row.items()}
        return self.work.run(ready, **new, **{prepared.OLD + name: value for name, value in given.items()})

    def _next(self, column: str, **equal: Any) -> int:
        newest = self.work.rows(prepared.highest(self.table, column, equal=tuple(equal)), **equal)[0][0]
        return 1 if newest is None else int(newest) + 1

    def _locked(self, table: Table, id: str, noun: str) -> None:
        """Keep other writers away from one row until the transaction ends, so that numbers are given out once."""
        if not self.work.rows(prepared.lock(table), id=id):
            raise NotFoundError(f"There is no {noun} with this id (any more).")


def _erased(person: Any) -> Prepared:
    asked = select(USERS.c.erased_at).where(USERS.c.id == person)
    return Prepared(asked.with_for_update(read=True, of=USERS))


_PERSON: Final = bindparam("person", type_=Text())
_ERASED: Final = _erased(_PERSON)
_ERASED_OF_THREAD: Final = _erased(select(THREADS.c.help_seeker).where(THREADS.c.id == _PERSON).scalar_subquery())


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
        if not self._set(seen.id, {"version": seen.version}, **values):
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
