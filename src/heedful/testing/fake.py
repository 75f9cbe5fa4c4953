"""A model whose replies are written down beforehand, for tests of everything that talks to a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from heedful.errors import RunError
from heedful.types import Conversation


@dataclass(kw_only=True)
class FakeModel:
    """Gives out `replies` in order and remembers what it was shown.

    Args:
        replies: what is still to be said.
        seen: the contexts so far, in the order of the calls.
    """

    replies: list[str] = field(repr=False)
    seen: list[Conversation] = field(default_factory=list, repr=False)

    def reply(self, context: Conversation) -> str:
        """The next reply, whatever `context` is.

        Raises:
            RunError: all replies have been given out.
        """
        self.seen.append(context)
        if not self.replies:
            raise RunError(f"The queue model was asked {len(self.seen)} times and has no reply left; queue more.")
        return self.replies.pop(0)


def queue_model(replies: Iterable[str]) -> FakeModel:
    """A `FakeModel` that says `replies`, one a call."""
    return FakeModel(replies=list(replies))
