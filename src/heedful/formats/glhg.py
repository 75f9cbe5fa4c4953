"""`glhg`: the input of the global-to-local graph (glhg.md; Peng et al. 2022), on the host's plain format.

    utterance <eos> utterance <eos> utterance <|decide|> reply <eos>

The words are those of `strategy` with both of its options off (the paper's Vanilla). Beside them each reply has a
guide, which a model with a graph reads (`heedful.models.graph`): a text about the cause of the talk, a text about the
seeker's intention, the tokens that the intention is linked to, and the problem type that the monitor learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from heedful.errors import ConfigError, DataError
from heedful.formats.base import Format, encode, opening
from heedful.formats.sample import Guide, Reply, Tokenizer
from heedful.formats.strategy import StrategyFormat
from heedful.types import Conversation, Role, Turn

HOST = StrategyFormat(predict=False, context_strategies=False)
NONE = "none"
"""The text behind a node for which there is nothing to read."""
FIRST = 3
"""Utterances of the seeker that stand for the situation where nobody wrote one."""


@dataclass(frozen=True, kw_only=True)
class GLHGFormat(Format):
    """Options:
    cause: what the global node reads: the first three utterances of the seeker (`history`), or what the seeker wrote
        before the talk (`situation`; an oracle, and `history` where a talk has none).
    relation: name of the sources that the local node reads; planners write them.
    max_cause, max_intention: most tokens of the two texts.
    """

    name: ClassVar[str] = "glhg"
    cause: Literal["history", "situation"] = "history"
    relation: str = "atomic.xIntent"
    max_cause: int = 96
    max_intention: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.max_cause, self.max_intention) < 1:
            raise ConfigError(
                "format.max_cause and format.max_intention of 'glhg': expected at least 1 token each, but got "
                f"{self.max_cause} and {self.max_intention}."
            )

    @property
    def markers(self) -> tuple[str, ...]:
        return HOST.markers

    @property
    def looks_up(self) -> bool:
        return True

    @property
    def reads(self) -> Mapping[str, tuple[Role, str]]:
        return HOST.reads

    def check(self, conversations: Sequence[Conversation]) -> None:
        super().check(conversations)
        if self.cause == "situation" and conversations and not any(_situation(conv) for conv in conversations):
            raise DataError(
                f"Format 'glhg' with cause 'situation' needs a situation, but not one of {len(conversations):,} "
                "conversations has any; set format.cause: history."
            )

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        return HOST.prompt(context, tokenizer, start=start)

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        return HOST.target(turn, tokenizer)

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        return HOST.parse(text, tokenizer)

    def guide(self, context: Conversation, tokenizer: Tokenizer, *, start: int, prompt: tuple[int, ...]) -> Guide:
        """See `Guide`; the local node is linked to the seeker's last utterance, whoever spoke after it.

        Raises:
            ConfigError: a tokenizer without an end token, which texts are opened and divided with.
        """
        end = tokenizer.eos_token
        if not end:
            raise ConfigError(
                "Format 'glhg' needs a tokenizer with an end token; take a model whose tokenizer has one."
            )
        said = [i for i, turn in enumerate(context.turns) if turn.role == "user"]
        intention = next((str(s["text"]) for s in context.sources(self.relation) if s.get("text")), "") if said else ""
        return Guide(
            context=len(prompt) - 1,
            cause=self._text(self._cause(context, said, tokenizer, end), tokenizer, end)[: self.max_cause + 1],
            intention=self._text(self._written(intention, tokenizer), tokenizer, end)[: self.max_intention + 1],
            local=self._span(said, tokenizer, end, start=start, prompt=prompt),
            problem=context.problem_type,
        )

    def _cause(self, context: Conversation, said: Sequence[int], tokenizer: Tokenizer, end: str) -> str:
        situation = _situation(context) if self.cause == "situation" else ""
        if situation:
            return self._written(situation, tokenizer)
        return end.join(self.words(context.turns[i], tokenizer) for i in said[:FIRST])

    def _written(self, text: str, tokenizer: Tokenizer) -> str:
        return self.words(Turn(role="user", text=text), tokenizer)

    def _text(self, words: str, tokenizer: Tokenizer, end: str) -> tuple[int, ...]:
        # A first token that says nothing: a model's state there is much the same whatever follows, and a maximum over
        # states that takes it in would be too.
        return encode(end + (words or NONE), tokenizer)

    def _span(
        self, said: Sequence[int], tokenizer: Tokenizer, end: str, *, start: int, prompt: tuple[int, ...]
    ) -> tuple[int, int]:
        """The last utterance of the seeker among the tokens of the prompt; end tokens divide utterances, and no words
        hold one."""
        if not said or said[-1] < start:
            return 0, 0
        begin, mark = len(encode(opening(tokenizer), tokenizer)), encode(end, tokenizer)[0]
        ends = [at for at in range(begin, len(prompt) - 1) if prompt[at] == mark]
        ends = [begin - 1, *ends, len(prompt) - 1]
        return ends[said[-1] - start] + 1, ends[said[-1] - start + 1]


def _situation(conv: Conversation) -> str:
    return (conv.situation or "").strip()
