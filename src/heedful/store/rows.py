"""Between records and rows: here fields are sealed and opened, and nowhere else.

The context of a sealed field is (table, id of the row, column), so a ciphertext opens only where it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar

from sqlalchemy import Table

from heedful.privacy import Keys
from heedful.store.columns import SHAPES, Base

R = TypeVar("R")


class Codec(Generic[R]):
    """One table and its record. Fields of the record have the names of the columns."""

    def __init__(self, model: type[Base], record: type[R]) -> None:
        self.table = table_of(model)
        self.record = record
        self.sealed = {c.name: SHAPES[c.info["sealed"]] for c in self.table.columns if "sealed" in c.info}
        self.names = tuple(f.name for f in fields(record))  # type: ignore[arg-type]
        columns = [c.name for c in self.table.columns]
        self._places = tuple((name, columns.index(name), self.sealed.get(name)) for name in self.names)
        self._id = columns.index("id") if "id" in columns else -1

    def write(self, row: str, values: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
        """Column values, sealed where the column says so. `row` is the id of the row."""
        return {
            name: self._seal(row, name, value, keys) if name in self.sealed else _plain(value)
            for name, value in values.items()
        }

    def write_record(self, record: R, keys: Keys) -> dict[str, Any]:
        """All columns of one record."""
        values = {name: getattr(record, name) for name in self.names}
        return self.write(str(values.get("id", "")), values, keys)

    def read(self, row: Sequence[Any], keys: Keys) -> R:
        """The record of a row with all columns of the table, in its order.

        Raises:
            TamperError: a sealed field does not open.
        """
        out: dict[str, Any] = {}
        for name, at, shape in self._places:
            value = row[at]
            if value is None:
                out[name] = None
            elif shape is not None:
                opened = keys.unseal(bytes(value), (self.table.name, row[self._id], name))
                out[name] = shape.load(opened.decode("utf-8"))
            else:
                out[name] = tuple(value) if isinstance(value, list) else value
        return self.record(**out)

    def _seal(self, row: str, name: str, value: Any, keys: Keys) -> bytes | None:
        if value is None:
            return None
        return keys.seal(self.sealed[name].dump(value).encode("utf-8"), (self.table.name, row, name))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def table_of(model: type[Base]) -> Table:
    """The table behind a model."""
    table = model.__table__
    assert isinstance(table, Table)
    return table


def sealed_columns(table: Table) -> tuple[str, ...]:
    """Names of the sealed columns."""
    return tuple(c.name for c in table.columns if "sealed" in c.info)
