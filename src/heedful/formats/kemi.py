"""`kemi`: the dialogue, then what was looked up, then the strategy token and the reply (kemi.md, part D and E).

    utterance <eos> utterance <eos> [xReact] a [xIntent] b [xWant] c [xNeed] d [xEffect] e [resp] f [str] g [aff] h
        <|decide|> [Question] reply <eos>

Paper: Deng et al., *Knowledge-enhanced Mixed-initiative Dialogue System for Emotional Support Conversations*, ACL 2023.
Supporter turns carry no strategy here, unlike in `strategy`. What is written is what planners put on the help-seeker's
last turn (`Turn.sources`): `atomic.*` as commonsense, in the order of the release and with "none" where nothing was
found; `support.*` and `case` as support items, and nothing where nothing was found.

Knowledge stands last and is never cut by `max_length`: older turns go first, as everywhere. It has a budget of its own.
Over it the support item with the lowest score goes (one without a score before all others), then the longest
commonsense text loses its last words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from heedful import taxonomy
from heedful.errors import ConfigError, DataError
from heedful.formats.base import encode, opening
from heedful.formats.sample import Tokenizer
from heedful.formats.strategy import DECIDE, SET, DecidingFormat, token
from heedful.types import Conversation, Role, Turn

Knowledge = Literal["none", "basic", "support", "both"]

COMMONSENSE: Mapping[str, str] = {
    "atomic.xReact": "[xReact]",
    "atomic.xIntent": "[xIntent]",
    "atomic.xWant": "[xWant]",
    "atomic.xNeed": "[xNeed]",
    "atomic.xEffect": "[xEffect]",
}
"""Source -> marker, in the order of the released strings."""
SUPPORT: Mapping[str, str] = {
    "support.response": "[resp]",
    "support.expectation": "[exp]",
    "support.stressor": "[str]",
    "support.affect": "[aff]",
    "case": "[case]",
}
"""The same for support items. `[exp]` takes the place of `[resp]` where a graph has no texts of responses."""
NONE = "none"
"""What stands where a relation has no answer, as in the release."""


@dataclass(frozen=True, kw_only=True)
class KemiFormat(DecidingFormat):
    """Options:
    predict: write the strategy token as the first token of the target.
    knowledge: which sources are written: `basic` commonsense, `support` items, `both` or `none`.
    budget: most tokens of the knowledge, markers included.
    """

    name: ClassVar[str] = "kemi"
    knowledge: Knowledge = "both"
    budget: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget < 16:
            raise ConfigError(f"format.budget of 'kemi': expected at least 16 tokens, but got {self.budget}.")

    @property
    def markers(self) -> tuple[str, ...]:
        strategies = taxonomy.get(SET).names if self.predict else ()
        return (DECIDE, *(token(name) for name in strategies), *self._commonsense.values(), *self._support.values())

    @property
    def looks_up(self) -> bool:
        return self.knowledge != "none"

    @property
    def reads(self) -> Mapping[str, tuple[Role, str]]:
        return {"predict": ("assistant", SET)} if self.predict else {}

    def identity(self) -> dict[str, Any]:
        # All tables that a prompt is written from, so that another order or marker is another fingerprint.
        return {**super().identity(), "marks": [*self._commonsense.items(), *self._support.items()]}

    def check(self, conversations: Sequence[Conversation]) -> None:
        """As of all formats; and a split on which no planner has put what the options ask for.

        Raises:
            DataError: labels or sources are missing everywhere.
        """
        super().check(conversations)
        found = {str(s.get("name")) for conv in conversations for turn in conv.turns for s in turn.sources}
        for wanted, planner in ((self._commonsense, "commonsense"), (self._support, "support")):
            if wanted and conversations and not found & set(wanted):
                raise DataError(
                    f"Format 'kemi' with knowledge: {self.knowledge} writes what was looked up ({', '.join(wanted)}), "
                    f"but not one of {len(conversations):,} conversations has any; add planners: [{planner}], or set "
                    "format.knowledge to what there is (none, basic or support)."
                )

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        end = tokenizer.eos_token or "\n"
        said = "".join(self.words(turn, tokenizer) + end for turn in context.turns[start:])
        return opening(tokenizer) + said + self.string(context, tokenizer) + DECIDE

    def string(self, context: Conversation, tokenizer: Tokenizer) -> str:
        """What was looked up for the reply after `context`, as it stands in the input, within the budget."""
        sources = context.sources()
        facts = {
            mark: next((self._text(s, tokenizer) for s in sources if s.get("name") == name), "") or NONE
            for name, mark in self._commonsense.items()
        }
        items = [
            (mark, self._text(s, tokenizer), _score(s))
            for name, mark in self._support.items()
            for s in sources
            if s.get("name") == name
        ]
        items = [item for item in items if item[1]]

        def size() -> int:
            return len(encode(_joined(facts, items), tokenizer))

        while items and size() > self.budget:
            # The last of equals goes: it stands further from what the order of the release puts first.
            items.pop(min(range(len(items)), key=lambda i: (items[i][2], -i)))
        while facts and size() > self.budget:
            longest = max(facts, key=lambda mark: len(encode(facts[mark], tokenizer)))
            shorter = facts[longest].rpartition(" ")[0]
            if not shorter and facts[longest] == NONE:
                break  # markers alone are longer; nothing is left to take
            facts[longest] = shorter or NONE
        return _joined(facts, items)

    @property
    def _commonsense(self) -> Mapping[str, str]:
        return COMMONSENSE if self.knowledge in ("basic", "both") else {}

    @property
    def _support(self) -> Mapping[str, str]:
        return SUPPORT if self.knowledge in ("support", "both") else {}

    def _text(self, source: Mapping[str, Any], tokenizer: Tokenizer) -> str:
        """The words of a source on one line; stored text can hold a special token as well as a typed one."""
        return " ".join(self.words(Turn(role="system", text=str(source.get("text") or "")), tokenizer).split())


def _score(source: Mapping[str, Any]) -> float:
    score = source.get("score")
    return float(score) if isinstance(score, int | float) else float("-inf")


def _joined(facts: Mapping[str, str], items: Sequence[tuple[str, str, float]]) -> str:
    return " ".join([*(f"{mark} {text}" for mark, text in facts.items()), *(f"{m} {text}" for m, text, _ in items)])
