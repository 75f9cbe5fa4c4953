"""`joined`: ESConv's released input for an encoder-decoder such as BlenderBot (esconv.md, steps 2 and 3).

    encoder   utterance <eos> [Question] utterance <eos> utterance      the last max_length tokens
    decoder   [Reflection of feelings] reply <eos>

Paper: Liu et al. 2021; the code of its re-implementation (`codes_zcj`). No speaker tokens; each earlier supporter turn
begins with its strategy. `context_strategies=False` with `predict=False` is the paper's Vanilla.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from heedful.formats.base import encode, opening
from heedful.formats.sample import Overlong, Reply, Sample, Tokenizer
from heedful.formats.strategy import StrategyFormat
from heedful.types import Conversation

_PROBE, _SPACED = "it's.", "it ' s ."
_OPEN_PIECE = "@@"
"""How BlenderBot's tokenizer marks a piece of a word that goes on."""


@dataclass(frozen=True, kw_only=True)
class JoinedFormat(StrategyFormat):
    """Options:
    predict: write the strategy token as the first token of the target.
    context_strategies: write the strategies of earlier supporter turns where they are labelled.

    The strategies are the only tokens that it adds, so they are the last eight of the vocabulary. `max_length` counts
    the encoder's tokens, whatever the reply has: older ones are cut by the token, so nothing is ever too long.
    """

    name: ClassVar[str] = "joined"
    for_encoder: ClassVar[bool] = True

    @property
    def markers(self) -> tuple[str, ...]:
        return super().markers[1:]  # nothing marks the place of the decision: the decoder begins with it

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        end = tokenizer.eos_token or "\n"
        return opening(tokenizer) + end.join(self._context(t, tokenizer) for t in context.turns[start:])

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        found = super().parse(text, tokenizer)
        return replace(found, text=unspaced(found.text)) if _spaces(tokenizer) else found

    def samples(
        self,
        conv: Conversation,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        keep: float = 0.5,
        overlong: Overlong = "error",
    ) -> list[Sample]:
        """One sample per target turn, its input cut to the last `max_length` tokens.

        `keep` and `overlong` are for formats that cut by the turn.
        """
        conv, out = self.prepare(conv), []
        pieces = [encode(self._context(turn, tokenizer), tokenizer) for turn in conv]
        for index in self.targets(conv):
            turn = self.target_turn(conv, index)
            plan_text, reply = self.target(turn, tokenizer)
            plan = encode(plan_text, tokenizer) if plan_text else ()
            prompt, start = self._cut(pieces[:index], tokenizer, max_length)
            out.append(
                Sample(
                    id=f"{conv.id}/{index}", conversation_id=conv.id, turn=index, prompt=prompt,
                    target=plan + encode(reply, tokenizer), plan=len(plan), start=start, text=turn.text,
                )
            )  # fmt: skip
        return out

    def due(
        self, context: Conversation, tokenizer: Tokenizer, *, name: str, max_length: int, new_tokens: int
    ) -> Sample:
        """The reply that follows `context`; the decoder has room of its own for `new_tokens`."""
        context = self.prepare(context)
        pieces = [encode(self._context(turn, tokenizer), tokenizer) for turn in context]
        prompt, start = self._cut(pieces, tokenizer, max_length)
        return Sample(
            id=name, conversation_id=context.id, turn=len(context), prompt=prompt, target=(0,), start=start
        )  # fmt: skip

    def _cut(self, pieces: Sequence[tuple[int, ...]], tokenizer: Tokenizer, length: int) -> tuple[tuple[int, ...], int]:
        """The last `length` tokens of the joined turns, and the first turn that is still among them."""
        between = encode(tokenizer.eos_token or "\n", tokenizer)
        ids = list(encode(opening(tokenizer), tokenizer)) if opening(tokenizer) else []
        ends = []
        for at, piece in enumerate(pieces):
            ids += [*(between if at else ()), *piece]
            ends.append(len(ids))
        gone = max(0, len(ids) - length)
        left = (at for at, end in enumerate(ends) if end > gone)
        start = next(left, max(len(pieces) - 1, 0)) if gone else 0
        return tuple(ids[gone:]), start


def unspaced(text: str) -> str:
    """Words as people write them, where a tokenizer has put blanks around every mark.

    >>> unspaced("i don ' t know , is it late ?")
    "i don't know, is it late?"
    """
    text = text.removesuffix(_OPEN_PIECE)  # a reply that was cut, or is still being written
    text = re.sub(r"(?<=\w) ' (?=(?:s|t|m|d|re|ve|ll|em|am)\b)", "'", text)
    return re.sub(r" (?=[.,!?)])", "", text)


def _spaces(tokenizer: Tokenizer) -> bool:
    return tokenizer.decode(encode(_PROBE, tokenizer), skip_special_tokens=False) == _SPACED
