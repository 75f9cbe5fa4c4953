"""What all repositories of one transaction share: connection, keys, clock, and what is written last."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Result, Table, Text, bindparam, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import Executable

from heedful.errors import DataError, HeedfulError, TransitionError
from heedful.privacy import Keys
from heedful.store import faults, models, prepared
from heedful.store.prepared import Prepared
from heedful.store.rows import table_of
from heedful.store.states import DECIDERS

_FACT: Final = re.compile(r"[A-Za-z0-9_.:/@+=-]{0,120}")
_LONGEST_ID: Final = 120
RESERVED_IDS: Final = ("crisis:", "stop:", "notice:", "draft:")
"""So begin the client ids of texts that the program writes, and of drafts that were approved."""
_USERS: Final = table_of(models.User)
_STANDING: Final = Prepared(
    select(_USERS.c.role).where(
        _USERS.c.id == bindparam("id", type_=Text()), _USERS.c.disabled.is_(False), _USERS.c.erased_at.is_(None)
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An entry for the audit chain; it gets its place and its hash when the transaction ends."""

    at: datetime
    actor: str
    action: str
    object: str
    facts: dict[str, Any]


class Work:
    """One transaction.

    The audit chain and the counters are written at the end, in one order, so that two transactions never wait for each
    other crosswise.

    Attributes:
        keys: for sealed columns.
        said: audit entries to come.
        counted: counters to come, by name and period.
    """

    def __init__(self, connection: Connection, keys: Keys, clock: Callable[[], datetime]) -> None:
        self.connection, self.keys, self._clock = connection, keys, clock
        self.said: list[Said] = []
        self.counted: Counter[tuple[str, str]] = Counter()
        self.broken = False
        # Prepared statements go to the driver itself, in the transaction that `Backend.start` began.
        self._raw: Any = connection.connection.dbapi_connection
        self._driver: Any = connection.dialect.dbapi
        self.versions = set(keys.versions())

    def now(self) -> datetime:
        """The time of this store's clock, aware."""
        return self._clock()

    def execute(self, statement: Executable, rows: list[dict[str, Any]] | None = None) -> Result[Any]:
        """Run a statement; faults of the database come out in words, without parameters.

        Raises:
            BusyError, StoreError, ConflictError, NotFoundError, TamperError: see `faults`.
        """
        try:
            return self.connection.execute(statement, rows) if rows is not None else self.connection.execute(statement)
        except DBAPIError as err:
            self.broken = True  # PostgreSQL refuses everything further in this transaction
            raise faults.in_words(err) from None

    def rows(self, prepared: Prepared, **values: Any) -> list[tuple[Any, ...]]:
        """All rows of a prepared SELECT. Faults as in `execute`."""
        found = prepared.on(self.connection.dialect)
        cursor = self._run(found.text, found.values(values))
        try:
            return [found.row(row) for row in cursor.fetchall()]
        except self._driver.Error as err:
            raise self._fault(err, cursor) from None
        finally:
            cursor.close()

    def run(self, prepared: Prepared, **values: Any) -> int:
        """Run a prepared INSERT or UPDATE and say how many rows it met. Faults as in `execute`."""
        found = prepared.on(self.connection.dialect)
        cursor = self._run(found.text, found.values(values))
        met = int(cursor.rowcount)
        cursor.close()
        return met

    def _run(self, text: str, values: Any) -> Any:
        cursor = self._raw.cursor()
        try:
            cursor.execute(text, values)
        except self._driver.Error as err:
            raise self._fault(err, cursor) from None
        return cursor

    def _fault(self, err: Exception, cursor: Any) -> HeedfulError:
        self.broken = True
        gone = self.connection.dialect.is_disconnect(err, self._raw, cursor)  # type: ignore[arg-type]
        if gone:
            self.connection.invalidate(err)  # the pool must not lend it to the next one
        return faults.of_driver(err, gone=gone)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Steps that are kept together: whoever catches an error of one of them finds none of them done."""
        said, counted, broken = len(self.said), self.counted.copy(), self.broken
        inner = self.connection.begin_nested()
        try:
            yield
        except BaseException:
            if inner.is_active:
                inner.rollback()
            del self.said[said:]
            self.counted, self.broken = counted, broken
            raise
        inner.commit()

    def insert_new(self, table: Table, row: dict[str, Any], *, key: str | tuple[str, ...]) -> bool:
        """Insert a row unless one with this key is there; whether it was inserted."""
        names = (key,) if isinstance(key, str) else key
        ready = prepared.add_new(table, names, kind=self.connection.dialect.name)
        return self.run(ready, **{prepared.NEW + name: value for name, value in row.items()}) == 1

    def changed(self, statement: Executable) -> int:
        """Run an UPDATE or DELETE and say how many rows it met."""
        found = self.execute(statement)
        return int(getattr(found, "rowcount", 0))

    def say(self, actor: str, action: str, object: str, **facts: Any) -> None:
        """Add an entry to the audit chain when this transaction is kept.

        Args:
            actor: id of the person, or the name of the program.
            action: what was done, `draft.approved`.
            object: what it was done to, `draft:<id>`.
            facts: numbers, true or false, None, lists of these, and short names; never sentences.

        Raises:
            DataError: a fact looks like content.
        """
        for name, value in (("actor", actor), ("action", action), ("object", object), *facts.items()):
            _check_fact(name, value)
        self.said.append(Said(at=self.now(), actor=actor, action=action, object=object, facts=dict(facts)))

    def is_person(self, user: str) -> bool:
        """Whether `user` is a clinician or supervisor who may act."""
        found = self.rows(_STANDING, id=user)
        return bool(found) and found[0][0] in DECIDERS

    def need_person(self, user: str, what: str) -> None:
        """Refuse programs and other roles.

        Raises:
            TransitionError: `user` is no clinician or supervisor of this store.
        """
        if not self.is_person(user):
            raise TransitionError(f"Only a clinician or supervisor can {what}.")


def _check_fact(name: str, value: Any) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _check_fact(name, item)
        return
    if value is None or isinstance(value, bool | int | float):
        return
    if not isinstance(value, str) or not _FACT.fullmatch(value):
        raise DataError(
            f"The audit fact '{name}' must be a number, true or false, or a name of at most 120 letters, digits and "
            ". : / @ + = - _ without blanks: the audit holds no content."
        )


def as_name(name: str) -> str:
    """`name` as the audit takes it: for names out of data files, which must never keep a risk from being written down.

    Accents go, other signs become `_`. What has blanks, is long, or is hardly made of Latin letters may be a sentence:
    of that only a fingerprint is left.

    >>> as_name("de/verhüllt@2"), as_name("I cannot go on")
    ('de/verhullt@2', 'name-6ce750a6')
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    if not plain or any(c.isspace() for c in name) or len(name) > _LONGEST_ID or 2 * len(plain) < len(name):
        return "name-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9_.:/@+=-]", "_", plain)


def new_id() -> str:
    """32 random hex digits."""
    return uuid.uuid4().hex


def check_client_id(value: str) -> str:
    """An id that a browser made, as it may be stored.

    Raises:
        DataError: empty, longer than 120 characters, or with other characters than letters, digits and . : / @ + = - _.
    """
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID or not _FACT.fullmatch(value):
        raise DataError(
            "A client id has 1 to 120 letters, digits or . : / @ + = - _; make one with crypto.randomUUID()."
        )
    return value


def persons_client_id(value: str) -> str:
    """The same, for what a person writes: never an id that belongs to a text of the program or to a draft.

    Such ids can be guessed, and whoever used one first would stand in for the text.

    Raises:
        DataError: see `check_client_id`, or it begins like an id of the program.
    """
    if check_client_id(value).startswith(RESERVED_IDS):
        raise DataError("A client id must not begin like one of the program; make one with crypto.randomUUID().")
    return value


@contextmanager
def in_words() -> Iterator[None]:
    """Faults of the database in words, for calls outside of `Work.execute`."""
    try:
        yield
    except DBAPIError as err:
        raise faults.in_words(err) from None
