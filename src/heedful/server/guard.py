"""The guard: who looks at every prompt before the model and at every reply after it.

The server does not start without one. What a real one does (crisis assessment, reply gate) is plugged in: a line in
`GUARDS`, or `module:function` in the configuration; it is called without arguments and returns a `Guard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

from heedful.errors import ConfigError
from heedful.registry import Registry
from heedful.server.engine.base import Message
from heedful.types._frozen import EMPTY

GUARDS: Final = Registry("guard", {"crisis": "heedful.server.crisis_guard:CrisisGuard"})
"""Name -> function without arguments that makes a guard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a guard says.

    Args:
        action: `pass` = go on; `replace` = `text` is said instead of what the model would say, or said; `precede` =
            `text` comes first, then what the model says (of a prompt only).
        text: what is said instead, or first.
        otherwise: what is said after `text` where the model says nothing: it is down, busy, or held back.
        facts: what the caller learns beside it, under `x_heedful`: numbers and short names, no words of a person.
        log: what the audit keeps of it, as it takes facts; empty = no entry.
        after: looks at this conversation's reply in place of the guard's own `after`.
    """

    action: Literal["pass", "replace", "precede"] = "pass"
    text: str = field(default="", repr=False)
    otherwise: str = field(default="", repr=False)
    facts: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    log: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    after: Callable[[str], Verdict] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.action != "pass" and not self.text:
            raise ConfigError("A guard that replaces a reply has to say by what: nobody is left without an answer.")


@runtime_checkable
class Guard(Protocol):
    """Looks at what goes in and what comes out. It is called from several threads and must not block for long."""

    def before(self, messages: Sequence[Message]) -> Verdict:
        """Look at a conversation before the model sees it."""

    def after(self, text: str) -> Verdict:
        """Look at a reply, or at the beginning of one that is still being written, before anybody sees it.

        A stream asks at the end of each sentence, with everything so far.
        """


def make(name: str | None) -> Guard:
    """The guard of the configuration.

    Raises:
        ConfigError: none is named, or what is named is none.
    """
    if name is None:
        raise ConfigError(
            "No guard is configured, so nothing would look at prompts and replies; name one: guard=module:function."
        )
    return checked(GUARDS.get(name)())


def checked(guard: object) -> Guard:
    """`guard`, if it is one.

    Raises:
        ConfigError: it has no `before` and `after`.
    """
    if not isinstance(guard, Guard):
        raise ConfigError(
            f"The server needs a guard with before(messages) and after(text), but got a {type(guard).__name__}."
        )
    return guard
