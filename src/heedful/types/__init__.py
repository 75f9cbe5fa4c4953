"""The vocabulary of the whole library: frozen records that every other module reads and returns."""

from heedful.types.conversation import ROLES, Conversation, Role, Turn
from heedful.types.label import Label, Span
from heedful.types.score import Score
from heedful.types.trace import Sink, Trace, text_hash

__all__ = ["ROLES", "Conversation", "Label", "Role", "Score", "Sink", "Span", "Trace", "Turn", "text_hash"]
