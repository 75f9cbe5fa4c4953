"""Everything that heedful raises on purpose.

    HeedfulError
    ├── UserError                     a person can mend it; the CLI prints one sentence and exits with 2
    │   ├── ConfigError (ValueError)      unknown key, wrong type, values that contradict each other
    │   ├── DataError (ValueError)        a file that cannot be read as what it claims to be
    │   │   └── LabelError                    a label or label set that the taxonomy does not know
    │   ├── LeakError (ValueError)        the same text or person on both sides of a split
    │   ├── NotFoundError (LookupError)   a name, path, corpus, run or model that is not there
    │   └── MissingExtraError (ImportError)  a part that has to be installed first
    └── RunError (RuntimeError)       a run that cannot go on (NaN loss, full disk); exit code 1
    └── GateError (RuntimeError)      a check that refused; exit code 3

Messages say what was expected, what came and what to do. They never hold the text of a turn: a message may end
in a log or a bug report, and the words of a client must not.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeedfulError(Exception):
    """Base of the tree. `exit_code` is what the command line returns for it."""

    exit_code = 1


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


class RunError(HeedfulError, RuntimeError):
    """A run that cannot go on."""


class GateError(HeedfulError, RuntimeError):
    """A check that refused."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known name, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{match[0]}'?" if match else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    """The one sentence for a name that no table has."""
    names = sorted(known)
    return NotFoundError(f"Unknown {kind} '{name}'.{nearest(name, names)} Known: {', '.join(names) or 'none'}.")
