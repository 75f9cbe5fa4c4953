"""`commonsense`: what the help-seeker may feel, mean, want, need and get from what happened, on each of their turns.

Paper: Deng et al. 2023 (KEMI), where COMET fills these five relations; GLHG reads xIntent alone. Each turn is read by
itself, so what is added to a turn depends on that turn. Where one of the last turns speaks of risk (`heedful.safety`),
nothing is looked up: such a turn is for a person and a crisis path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from heedful.errors import ConfigError, shown
from heedful.knowledge.commonsense import PROVIDERS, RELATIONS, Commonsense, Inferred, check_relations, make
from heedful.safety import in_danger
from heedful.types import Conversation, Turn

PREFIX = "atomic."
_OPTIONS: Mapping[str, tuple[str, ...]] = {"atomic-retrieval": ("split", "floor"), "atomic-head": ("run",)}
"""Provider -> options that it takes; others take none of these three."""


@dataclass(frozen=True, kw_only=True)
class CommonsensePlanner:
    """Writes sources `atomic.<relation>`. A relation without an answer has none. Options:
    provider: `atomic-retrieval`, `atomic-head`, `precomputed` or `none` (see `heedful.knowledge.commonsense`).
    relations: which ones, of xReact, xIntent, xWant, xNeed, xEffect.
    split: of ATOMIC, for atomic-retrieval: `tst` (if nothing is said), `dev` or `both`.
    floor: least cosine, for atomic-retrieval; 0.5 if nothing is said.
    run: folder of the tuned model, for atomic-head.
    """

    provider: str = "atomic-retrieval"
    relations: Sequence[str] = RELATIONS
    split: str | None = None
    floor: float | None = None
    run: str | None = None
    _answers: Commonsense = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.relations, str) or not isinstance(self.relations, Sequence):
            raise ConfigError(
                f"relations must be a list, such as [xReact, xIntent], but it is {shown(self.relations)}."
            )
        object.__setattr__(self, "relations", check_relations(self.relations))
        taken = _OPTIONS.get(self.provider, ())
        if self.provider in PROVIDERS.names() and (stray := [name for name in self._given if name not in taken]):
            raise ConfigError(
                f"The commonsense provider '{self.provider}' takes {' and '.join(taken) or 'no options'}, but "
                f"{', '.join(stray)} was given; leave it out."
            )
        if self.provider == "atomic-head" and self.run is None:
            raise ConfigError("The commonsense provider 'atomic-head' needs run: the folder of the tuned model.")
        # Made now, so that a wrong option is refused before any data is read.
        object.__setattr__(self, "_answers", make(self.provider, **self._given))

    @property
    def _given(self) -> dict[str, Any]:
        options = {"split": self.split, "floor": self.floor, "run": self.run}
        return {name: value for name, value in options.items() if value is not None}

    @cached_property
    def fingerprint(self) -> str:
        """Provider and relations, with hashes of files, weights and rules."""
        return f"commonsense({self._answers.fingerprint}; {','.join(self.relations)})"

    def plan(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """The conversations with what was found on the help-seeker's turns; what stood there before is replaced.

        Raises:
            DataError: the provider does not know these conversations.
        """
        self._answers.check(conversations)
        due = [_safe(conv) for conv in conversations]
        texts = list(
            dict.fromkeys(
                turn.text
                for conv, safe in zip(conversations, due, strict=True)
                for turn, ok in zip(conv.turns, safe, strict=True)
                if ok
            )
        )
        found = dict(zip(texts, self._answers.infer(texts, self.relations), strict=True))
        return [
            replace(conv, turns=tuple(_noted(t, found[t.text] if ok else {}) for t, ok in zip(conv, safe, strict=True)))
            for conv, safe in zip(conversations, due, strict=True)
        ]


def _safe(conv: Conversation) -> list[bool]:
    """For each turn whether something is looked up for it: the help-seeker's, with no word of risk lately."""
    return [turn.role == "user" and not in_danger(conv.turns[: i + 1]) for i, turn in enumerate(conv.turns)]


def _noted(turn: Turn, found: Inferred) -> Turn:
    # A talk is planned anew before each reply, so its earlier turns come with what was found for them then.
    others = tuple(source for source in turn.sources if not str(source.get("name")).startswith(PREFIX))
    added: list[Mapping[str, Any]] = [answer.source(relation) for relation, answer in found.items()]
    sources = (*others, *added)
    return turn if sources == turn.sources else replace(turn, sources=sources)
