"""Reading ahead: when a reply was sent, the model reads the conversation up to there while the help-seeker reads and
types. The next draft then waits for the new message alone, and not for the words that a clinician had changed.

It is a convenience of this process: nothing is stored, a process that did not see the reply being sent knows nothing of
it, and every reply comes first (`aim="ahead"` of an engine's request). Only a conversation in which the next message
would get a draft is read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from heedful.review.drafting import STEP
from heedful.review.said import conversation
from heedful.store import Store
from heedful.types import Conversation

TRIES: Final = 5
"""So often a conversation is tried while others are being answered."""
MOST: Final = 64
"""Conversations that wait to be read; the oldest is left out."""

ReadsAhead = Callable[[Conversation, str], bool]
"""Reads a conversation (its key is the second); whether it did."""


class Ahead:
    """Conversations in which a reply was sent.

    Args:
        read: lets the engine read one; see `EngineWriter.read_ahead`.
        last: turns that the model is shown at most, as for drafts.
    """

    def __init__(self, store: Store, read: ReadsAhead, *, last: int | None = None) -> None:
        self.store, self.last = store, last
        self._read = read
        self._tries: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def sent(self, thread: str) -> None:
        """A reply was sent in this conversation."""
        with self._lock:
            self._tries[thread] = TRIES
            self._tries.move_to_end(thread)
            while len(self._tries) > MOST:
                self._tries.popitem(last=False)

    def once(self) -> bool:
        """Read one, the newest first; whether another could be read now."""
        with self._lock:
            if not self._tries:
                return False
            thread, left = self._tries.popitem()
        with self.store.read() as unit:
            now = unit.threads.find(thread)
            if now is None or now.state != "ai_assisted" or now.drafts_stopped:
                return True  # a person has it, or nobody: no model reads what it will not answer
            said = conversation(unit, thread, last=self.last, step=STEP, strategies="added")
        if not said.turns or said.turns[-1].role != "assistant":
            return True  # the next message is there already, and its draft reads for itself
        if self._read(said, thread):
            return True
        with self._lock:
            if left > 1:
                self._tries.setdefault(thread, left - 1)
        return False
