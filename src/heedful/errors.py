"""Everything that heedful raises on purpose.

    HeedfulError
    ├── UserError                     a person can mend it; the CLI prints one sentence and exits with 2
    │   ├── ConfigError (ValueError)      unknown key, wrong type, values that contradict each other
    │   ├── DataError (ValueError)        a file that cannot be read as what it claims to be
    │   │   └── LabelError                    a label or label set that the taxonomy does not know
    │   ├── LeakError (ValueError)        the same text or person on both sides of a split
    │   ├── NotFoundError (LookupError)   a name, path, corpus, run or model that is not there
    │   ├── MissingExtraError (ImportError)  a part that has to be installed first
    │   ├── UnlockError (ValueError)      a passphrase or keychain that does not open the keys
    │   ├── ConflictError (RuntimeError)  somebody else changed the same thing first; says who
    │   └── TransitionError (ValueError)  a change of state that the table of transitions does not have
    ├── RunError (RuntimeError)       a run that cannot go on (NaN loss, full disk); exit code 1
    │   ├── TamperError                   stored data that was changed, moved or sealed with another key
    │   ├── StoreError                    the database cannot do it now (full disk, lost connection)
    │   │   └── BusyError                     another writer holds it; the same call may be tried again
    │   └── EngineError                   the generation worker gives no reply (full queue, time limit, crash)
    └── GateError (RuntimeError)      a check that refused; exit code 3

Messages say what was expected, what came and what to do. They never hold the text of a turn: a message may end
in a log or a bug report, and the words of a client must not.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping


class HeedfulError(Exception):
    """Base of the tree. `exit_code` is what the command line returns for it."""

    exit_code = 1
    words: tuple[str, Mapping[str, object]] | None = None
    """Key and values of the text that a page shows in its reader's language; without one it shows the message."""


class UserError(HeedfulError):
    """Something that the person at the keyboard can mend."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used."""


class DataError(UserError, ValueError):
    """A file or record that is not what it claims to be."""


class LabelError(DataError):
    """A label value or label set that the taxonomy does not know."""


class LeakError(UserError, ValueError):
    """A split whose parts share conversations, speakers or text."""


class NotFoundError(UserError, LookupError):
    """A name or path that does not exist."""

    def __str__(self) -> str:
        # LookupError itself prints fine, but KeyError-style quoting must never creep in through a subclass.
        return str(self.args[0]) if self.args else ""


class MissingExtraError(UserError, ImportError):
    """A library that belongs to an extra which is not installed."""


class UnlockError(UserError, ValueError):
    """A passphrase or keychain that does not open the keys."""


class ConflictError(UserError, RuntimeError):
    """Somebody else changed the same thing first.

    Args:
        message: one sentence.
        winner: id of the person or program whose change stands, where it is known.
        state: the state that stands now.
        version: the version number that stands now.
    """

    def __init__(
        self, message: str, *, winner: str | None = None, state: str | None = None, version: int | None = None
    ) -> None:
        super().__init__(message)
        self.winner, self.state, self.version = winner, state, version


class TransitionError(UserError, ValueError):
    """A change of state that the table of legal transitions does not have."""


class RunError(HeedfulError, RuntimeError):
    """A run that cannot go on."""


class TamperError(RunError):
    """Stored data that was changed, moved to another place, or sealed with a key that is not there."""


class StoreError(RunError):
    """The database cannot do what was asked; nothing of the transaction was kept."""


class BusyError(StoreError):
    """Another writer holds the database or the row; the same call may be tried again."""


class EngineError(RunError):
    """The generation worker gives no reply.

    Args:
        message: one sentence.
        code: `full` = too many wait; `down` = no model is loaded; `lost` = the worker died twice over it; `late` = a
            time limit; `cancelled` = nobody wants it any more; `refused` = the model cannot do this, ever; `failed` =
            its library raised.
        retry_after: seconds after which it may work, where that is known.
    """

    def __init__(self, message: str, *, code: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code, self.retry_after = code, retry_after


class GateError(HeedfulError, RuntimeError):
    """A check that refused."""

    exit_code = 3


SHOWN = 20
"""The longest raw text that a message may quote (see `shown`)."""


def shown(value: object) -> str:
    """A raw value as a message may name it: one token of at most 20 characters is quoted, anything else described.

    Columns get swapped: where a role, label or number is expected there may stand a sentence of a client, and
    sentences must not reach logs. Every message that names a value out of a file passes it through here.

    >>> shown("asistant"), shown("I cannot sleep"), shown(["a"]), shown(None), shown(5)
    ("'asistant'", 'a text of 14 characters', 'a list', 'null', '5')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):  # not through its digits: Python refuses to write thousands of them
        return str(value) if abs(value) < 10**SHOWN else "a long number"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        # "Lo": letters of scripts such as Chinese, where twenty characters without a blank can be a whole sentence.
        token = 0 < len(value) <= SHOWN and all(
            c.isprintable() and not c.isspace() and unicodedata.category(c) != "Lo" for c in value
        )
        if token:
            return f"'{value}'"
        return f"a text of {len(value)} character{'' if len(value) == 1 else 's'}" if value else "an empty text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple | set | frozenset) else f"a {type(value).__name__}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known name, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{match[0]}'?" if match else ""


def only_keys(found: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Refuse a table of a file that holds a key which nothing reads: it would be a setting that does nothing.

    Raises:
        ConfigError: one sentence, with the nearest known key.

    >>> only_keys({"name", "hours"}, {"name", "hours"}, where="clinic.toml")
    """
    names = sorted(known)
    if stray := sorted(set(found) - set(names)):
        raise ConfigError(f"{where} has the unknown key '{stray[0]}'.{nearest(stray[0], names)}")


def unknown(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    """The one sentence for a name that no table has."""
    names = sorted(known)
    return NotFoundError(f"Unknown {kind} '{name}'.{nearest(name, names)} Known: {', '.join(names) or 'none'}.")
