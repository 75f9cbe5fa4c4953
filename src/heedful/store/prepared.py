"""Statements that are built and compiled once, and then go straight to the driver.

SQLAlchemy builds, keys and wraps a statement at each execution; on this path that costs about forty times what SQLite
needs to find a row by its id (docs/decisions/0074-throughput.md). So what is asked on each request has a fixed shape
here: names of columns, never values. Values are always bound. Everything else goes through `Work.execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from sqlalchemy import Dialect, Integer, Select, Table, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ClauseElement

Convert = Callable[[Any], Any]
LIMIT: Final = "most_"
NEW: Final = "new_"
OLD: Final = "old_"
"""What stands before the name of a column in an INSERT or UPDATE: what is written, and what is met."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A statement in the words of one driver.

    Args:
        text: with the driver's placeholders.
        names: of the values in the order of the placeholders; empty where the driver takes them by name.
        given: values that are part of the statement.
        binders: name of a value -> what makes the driver's value of it.
        readers: of the columns that come back; None = as it is.
    """

    text: str
    names: tuple[str, ...]
    given: Mapping[str, Any]
    binders: Mapping[str, Convert]
    readers: tuple[Convert | None, ...]

    def values(self, given: Mapping[str, Any]) -> Any:
        """Values as the driver takes them."""
        bound = {**self.given, **given}
        for name, make in self.binders.items():
            bound[name] = make(bound[name])
        return tuple(bound[name] for name in self.names) if self.names else bound

    def row(self, found: Sequence[Any]) -> tuple[Any, ...]:
        """A row with Python's values."""
        return tuple(value if read is None else read(value) for read, value in zip(self.readers, found, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One statement, compiled at its first use with each kind of database."""

    statement: ClauseElement
    _compiled: dict[str, Compiled] = field(default_factory=dict)

    def on(self, dialect: Dialect) -> Compiled:
        """It, for a database."""
        found = self._compiled.get(dialect.name)
        if found is None:  # two threads may both make it; either is good
            found = self._compiled[dialect.name] = _compile(self.statement, dialect)
        return found


def _compile(statement: ClauseElement, dialect: Dialect) -> Compiled:
    made: Any = statement.compile(dialect=dialect)
    kinds = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in made.binds.items()}
    columns = statement.selected_columns if isinstance(statement, Select) else ()
    return Compiled(
        text=str(made),
        names=tuple(made.positiontup or ()),
        given=dict(made.params),
        binders={name: make for name, make in kinds.items() if make is not None},
        readers=tuple(column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns),
    )


# ---------------------------------------------------------------------- shapes


@cache
def look_up(
    table: Table,
    *,
    equal: tuple[str, ...] = (),
    null: tuple[str, ...] = (),
    above: str | None = None,
    order: tuple[str, ...] = (),
    limited: bool = False,
) -> Prepared:
    """SELECT all columns of `table`; values are bound by the names of the columns, the limit as `LIMIT`.

    Args:
        equal: columns with a bound value. null: columns without any.
        above: a column that is greater than the value bound by its name.
        order: names of columns; `-name` = from the last to the first.
    """
    made = select(table).where(*_where(table, equal, null))
    if above is not None:
        made = made.where(table.c[above] > _bound(table, above))
    made = made.order_by(*(table.c[n[1:]].desc() if n.startswith("-") else table.c[n] for n in order))
    return Prepared(made.limit(bindparam(LIMIT, type_=Integer())) if limited else made)


@cache
def add(table: Table) -> Prepared:
    """INSERT of all columns, by their names."""
    return Prepared(insert(table).values({c.name: bindparam(NEW + c.name, type_=c.type) for c in table.columns}))


@cache
def add_new(table: Table, key: tuple[str, ...], *, kind: str) -> Prepared:
    """INSERT of all columns, unless a row with this key is there; `kind` names the database."""
    make = postgresql.insert if kind == "postgresql" else sqlite.insert
    values = {c.name: bindparam(NEW + c.name, type_=c.type) for c in table.columns}
    return Prepared(make(table).values(values).on_conflict_do_nothing(index_elements=list(key)))


@cache
def change(table: Table, *, names: tuple[str, ...], equal: tuple[str, ...], null: tuple[str, ...] = ()) -> Prepared:
    """UPDATE of the columns `names` (bound with `NEW` before the name) where others have values (bound with `OLD`)."""
    values = {name: bindparam(NEW + name, type_=table.c[name].type) for name in names}
    return Prepared(update(table).where(*_where(table, equal, null, before=OLD)).values(values))


@cache
def highest(table: Table, column: str, *, equal: tuple[str, ...] = ()) -> Prepared:
    """The highest value of a column."""
    return Prepared(select(func.max(table.c[column])).where(*_where(table, equal, ())))


@cache
def lock(table: Table) -> Prepared:
    """The id of one row, which stays ours until the transaction ends."""
    return Prepared(select(table.c.id).where(table.c.id == _bound(table, "id")).with_for_update())


def _bound(table: Table, name: str, *, before: str = "") -> Any:
    return bindparam(before + name, type_=table.c[name].type)


def _where(table: Table, equal: tuple[str, ...], null: tuple[str, ...], *, before: str = "") -> list[Any]:
    same = [table.c[name] == _bound(table, name, before=before) for name in equal]
    return [*same, *(table.c[name].is_(None) for name in null)]
