"""Faults of the two databases as errors of heedful: one sentence, never the values of a statement.

sqlcipher3 gives its errors no code, so they are told apart by SQLite's own messages, which have not changed for years;
PostgreSQL's by SQLSTATE. One line more for one fault more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import DBAPIError

from heedful.errors import BusyError, ConflictError, HeedfulError, NotFoundError, StoreError, TamperError

BUSY = "Another writer holds the database; nothing was changed. Try again."
_FULL = "The disk of the database is full; nothing of this change was kept. Free some space, then try again."
_GONE = "The connection to the database was lost; look whether it runs, then try again."
_DAMAGED = "The database file is damaged; restore the last backup."
_NOT_OURS = "This file does not open with these keys: it belongs to other keys, or it is no store of heedful."
_APPEND = "This table can only be added to: the audit chain, decisions, consents and receipts are never changed."
_THERE = "Somebody else wrote the same entry first; read it again."
_MISSING = "The entry refers to something that is not there (any more)."
_READ_ONLY = "The database cannot be written here; look at the rights of the file or of the account."

Make = Callable[[str], HeedfulError]

SQLITE: Final[tuple[tuple[str, Make, str], ...]] = (
    ("append-only", TamperError, _APPEND),
    ("is locked", BusyError, BUSY),
    ("is busy", BusyError, BUSY),
    ("is full", StoreError, _FULL),
    ("disk i/o error", StoreError, "The disk of the database does not answer; look at the disk, then try again."),
    ("not a database", TamperError, _NOT_OURS),
    ("malformed", TamperError, _DAMAGED),
    ("readonly", StoreError, _READ_ONLY),
    (
        "unable to open",
        StoreError,
        "The database file cannot be opened; look whether its folder is there and writable.",
    ),
    ("unique constraint", ConflictError, _THERE),
    ("foreign key", NotFoundError, _MISSING),
)
"""Part of SQLite's message (small letters) -> our error and sentence; the first that fits."""

POSTGRES: Final[tuple[tuple[str, Make, str], ...]] = (
    ("HD001", TamperError, _APPEND),
    ("40001", BusyError, BUSY),
    ("40P01", BusyError, BUSY),
    ("55P03", BusyError, BUSY),
    ("57014", BusyError, BUSY),
    ("23505", ConflictError, _THERE),
    ("23503", NotFoundError, _MISSING),
    ("53100", StoreError, _FULL),
    ("53", StoreError, "The database server is out of resources; nothing of this change was kept. Try again later."),
    ("57P", StoreError, _GONE),
    ("08", StoreError, _GONE),
    ("28", StoreError, "The database server refuses this account; look at the user and password in the address."),
    ("3D", StoreError, "The database server has no database of this name; create it first."),
    ("25006", StoreError, _READ_ONLY),
    ("42501", StoreError, _READ_ONLY),
    ("XX", TamperError, _DAMAGED),
)
"""Start of the SQLSTATE -> our error and sentence; the first that fits."""


def in_words(err: DBAPIError) -> HeedfulError:
    """Our error for one of SQLAlchemy."""
    return of_driver(err.orig, gone=err.connection_invalidated)


def of_driver(err: BaseException | None, *, gone: bool) -> HeedfulError:
    """Our error for one of the driver. The driver's own message may name values of rows, so it is not passed on.

    Args:
        gone: whether the connection was lost.
    """
    state = getattr(err, "sqlstate", None)
    if state is not None:
        return next((make(words) for start, make, words in POSTGRES if state.startswith(start)), _other(state))
    said = str(err).lower()
    for part, make, words in SQLITE:
        if part in said:
            return make(words)
    if gone or "connect" in said:
        return StoreError(_GONE)
    return _other(type(err).__name__)


def _other(what: str) -> StoreError:
    return StoreError(f"The database refused this ({what}); nothing of the change was kept.")
