"""The vocabulary of the whole library: frozen records that every other module reads and returns."""

from heedful.types.conversation import (
    ROLES,
    Conversation,
    Label,
    Role,
    Span,
    Turn,
)
from heedful.types.trace import Score, Sink, Trace

__all__ = ["ROLES", "Conversation", "Label", "Role", "Score", "Sink", "Span", "Trace", "Turn"]
