"""Types of columns, the same on SQLite and PostgreSQL, so that a row of one can be written into the other.

A column with the words of a person is `sealed`: encrypted bytes, whatever the database does. That mark is the only
place where it is decided; reading, writing, re-encryption and the tests of the erasure plan all follow it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from sqlalchemy import Dialect, LargeBinary, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from heedful.errors import DataError
from heedful.types import Label, Score, Trace
from heedful.types._frozen import freeze, thaw
from heedful.types._read import check_text
from heedful.types.label import read_label, write_label
from heedful.types.score import read_score, write_score


class Moment(TypeDecorator[datetime]):
    """A time as ISO 8601 text in UTC with microseconds: 32 characters, so that the order of texts is that of times."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Aware times only: a naive one would mean another instant on another machine."""
        return None if value is None else moment_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        """An aware time in UTC."""
        return None if value is None else datetime.fromisoformat(value)


class Json(TypeDecorator[Any]):
    """Facts without content, as canonical JSON text: equal values are equal bytes, which the audit chain needs."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Canonical JSON."""
        return None if value is None else canonical(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Frozen mappings and lists."""
        return None if value is None else _frozen(json.loads(value))


def moment_text(value: datetime) -> str:
    """`2026-11-22T03:14:51.000123+00:00`.

    Raises:
        DataError: the time has no zone.
    """
    if value.tzinfo is None:
        raise DataError("A time needs its zone; use datetime.now(timezone.utc).")
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def canonical(value: Any) -> str:
    """JSON with sorted keys and without blanks."""
    return json.dumps(thaw(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _frozen(value: Any) -> Any:
    return freeze({"value": value})["value"]


# ---------------------------------------------------------------------- sealed columns

Form = Literal["text", "json", "trace", "label", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a Python value becomes the text that is sealed, and back."""

    dump: Callable[[Any], str]
    load: Callable[[str], Any]


def _plain(value: Any) -> str:
    check_text(value, "The text of an entry")
    return str(value)


def _json(value: Any) -> str:
    try:
        text = canonical(value)
    except (TypeError, ValueError) as err:
        raise DataError("This entry must be made of texts, numbers, lists and objects with text keys.") from err
    check_text(text, "The text of an entry")
    return text


SHAPES: Final[dict[str, Shape]] = {
    "text": Shape(dump=_plain, load=str),
    "json": Shape(dump=_json, load=lambda text: _frozen(json.loads(text))),
    "trace": Shape(dump=lambda trace: _json(trace.to_dict()), load=lambda text: Trace.from_dict(json.loads(text))),
    "label": Shape(dump=lambda label: _json(write_label(None, label)), load=lambda text: _label(json.loads(text))),
    "score": Shape(dump=lambda score: _json(write_score(score)), load=lambda text: _score(json.loads(text))),
}
"""Form of a sealed column -> how it is written. One line more for one form more."""


def _label(entry: object) -> Label:
    return read_label(entry, n=0, where="A stored label")[1]


def _score(entry: object) -> Score:
    return read_score(entry, where="A stored score")


def sealed(form: Form = "text") -> Mapped[Any]:
    """A column that holds sealed bytes; `form` says what is inside. Nullable if its annotation says so."""
    return mapped_column(LargeBinary, info={"sealed": form})


# ---------------------------------------------------------------------- base of all tables

How = Literal["delete", "clear", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase:
    """What the deletion of one help-seeker does to a table.

    Args:
        by: the column that leads to the help-seeker: `help_seeker`, `user_id`, `thread_id`, or `id` of users.
        how: `delete` the rows; `clear` their sealed columns and keep the facts; `keep` them (no content in there).
    """

    by: str | None = None
    how: How = "keep"


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text(), datetime: Moment(), dict[str, Any]: Json(), list[Any]: Json()}  # noqa: RUF012
    erase: Erase
