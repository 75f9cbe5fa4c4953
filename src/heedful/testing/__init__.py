"""Test helpers: invented conversations, a tiny tokenizer and model that need no network, a model with queued words.

Nothing here comes from a corpus. The library never imports this package (checked).

>>> from heedful.testing import conversation, queue_model
>>> conversation("I slept badly.", "What kept you awake?")
Conversation(id='toy', source='heedful.testing', split=None, 2 turns)
>>> queue_model(["That sounds hard."]).reply(conversation("I slept badly."))
'That sounds hard.'
"""

from heedful.testing.fake import FakeModel, queue_model
from heedful.testing.talks import EMOTION_SET, STRATEGY_SET, conversation, conversations
from heedful.testing.tiny import CHATML, save_tiny, tiny_model, tiny_tokenizer

__all__ = [
    "CHATML",
    "EMOTION_SET",
    "STRATEGY_SET",
    "FakeModel",
    "conversation",
    "conversations",
    "queue_model",
    "save_tiny",
    "tiny_model",
    "tiny_tokenizer",
]
