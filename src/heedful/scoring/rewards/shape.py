"""Rewards of form: length and questions. They look at the reply alone."""

from __future__ import annotations

from typing import Literal

from heedful.errors import ConfigError
from heedful.safety.wording import empty
from heedful.scoring.rewards.base import Task, reward
from heedful.scoring.text import tokenise
from heedful.types import Trace

_MARKS = ("?", "？", "؟")
_CLOSING = " \t\r\n\"'”’»)]*_"


@reward(higher_is_better=False)
def length(trace: Trace, task: Task, *, min_tokens: int = 3) -> float:
    """1 where a reply has fewer than `min_tokens` tokens or was cut at the limit, else 0.

    p_len of context-emotion RL: degenerate length. Tokens are those of `copy` (words and punctuation marks), so the
    value does not depend on a model's tokenizer; "I see." has three. An empty reply has 1.
    """
    short = empty(trace.reply) or len(tokenise(trace.reply, "published")) < min_tokens
    return float(short or trace.finish == "length")


@reward()
def length_between(
    trace: Trace, task: Task, *, low: int = 8, high: int = 20, unit: Literal["words", "tokens"] = "words"
) -> float:
    """1 where a reply has `low` to `high` words; n / low below, high / n above; 0 for an empty reply.

    It rises towards the range from both sides, so it shows within minutes whether a loop learns at all.

    Args:
        unit: `words`, split at blanks, or `tokens` of the model (`Trace.tokens` less the end token).

    Raises:
        ConfigError: not 1 <= low <= high.
    """
    if not 1 <= low <= high:
        raise ConfigError(f"length_between needs 1 <= low <= high, but low is {low} and high is {high}.")
    if empty(trace.reply):
        return 0.0
    n = len(trace.reply.split()) if unit == "words" else trace.tokens - (trace.finish == "stop")
    return max(n, 0) / low if n < low else min(high / n, 1.0)


@reward()
def question(trace: Trace, task: Task, *, where: Literal["anywhere", "end"] = "anywhere") -> float:
    """1 where a reply contains a question mark (`where: end` = ends with one), else 0."""
    if where == "end":
        return float(trace.reply.rstrip(_CLOSING).endswith(_MARKS))
    return float(any(mark in trace.reply for mark in _MARKS))
