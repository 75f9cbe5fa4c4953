"""`strategy`: ESConv's strategy token before the reply (esconv.md, "On a decoder-only LM").

    utterance <eos> [Question] utterance <eos> utterance <|decide|> [Reflection of feelings] reply <eos>

Paper: Liu et al. 2021, P(s, y | x) = P(s | x) * prod P(y_i | x, s, y_<i). `context_strategies=False` with
`predict=False` is the paper's Vanilla.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from heedful import taxonomy
from heedful.formats.base import Format, opening
from heedful.formats.sample import Reply, Tokenizer
from heedful.types import Conversation, Role, Turn

DECIDE = "<|decide|>"
SET = "esconv_strategy"


def token(strategy: str) -> str:
    """The vocabulary entry of a strategy.

    >>> token("Question")
    '[Question]'
    """
    return f"[{strategy}]"


@dataclass(frozen=True, kw_only=True)
class StrategyFormat(Format):
    """Options:
    predict: write the strategy token as the first token of the target.
    context_strategies: write the strategies of earlier supporter turns where they are labelled.
    """

    name: ClassVar[str] = "strategy"
    predict: bool = True
    context_strategies: bool = True

    @property
    def markers(self) -> tuple[str, ...]:
        names = taxonomy.get(SET).names if self.predict or self.context_strategies else ()
        return (DECIDE, *(token(name) for name in names))

    @property
    def plan_marks(self) -> tuple[str, Mapping[str, str]] | None:
        return (SET, {name: token(name) for name in taxonomy.get(SET).names}) if self.predict else None

    @property
    def reads(self) -> Mapping[str, tuple[Role, str]]:
        return {option: ("assistant", SET) for option in ("predict", "context_strategies") if getattr(self, option)}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "labels": taxonomy.get(SET).hash}

    def targets(self, conv: Conversation) -> list[int]:
        found = conv.targets()
        return [i for i in found if conv.turns[i].label(SET)] if self.predict else found

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        end = tokenizer.eos_token or "\n"
        return opening(tokenizer) + end.join(self._context(t, tokenizer) for t in context.turns[start:]) + DECIDE

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        strategy = turn.label(SET)
        plan = token(strategy) if self.predict and strategy else ""
        return plan, self.words(turn, tokenizer) + (tokenizer.eos_token or "")

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        text = self.before_end(text, tokenizer)
        for name in taxonomy.get(SET).names if self.predict else ():
            if text.startswith(token(name)):
                return Reply(text=text.removeprefix(token(name)).strip(), plan={SET: name})
        return Reply(text=text)

    def _context(self, turn: Turn, tokenizer: Tokenizer) -> str:
        words, strategy = self.words(turn, tokenizer), turn.label(SET)
        known = self.context_strategies and turn.role == "assistant" and strategy
        return f"{token(strategy)}{words}" if known and strategy else words
