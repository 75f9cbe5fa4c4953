"""Commonsense about what a help-seeker said: what they felt, meant, want, needed before, and what happens to them then.

One interface for all providers: `infer(utterances, relations)` gives for each utterance what was found for each
relation of ATOMIC (Sap et al., AAAI 2019). A relation without an answer is absent, which inputs write as "none".

| provider | where an answer comes from |
|---|---|
| `atomic-retrieval` | the nearest event of ATOMIC, by MiniLM (kemi.md, E; glhg.md, provider a) |
| `atomic-head` | a language model tuned on ATOMIC, given as a run (provider b) |
| `precomputed` | the strings of a real COMET that KEMI's authors released, for ESConv valid and test only |
| `none` | nothing: the ablation |

Strings of different providers never stand in one run: train, valid and test are made by one of them.

>>> make("none").infer(["I lost my keys."], ["xReact"])
[{}]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from heedful.errors import ConfigError, nearest
from heedful.registry import Registry
from heedful.types import Conversation

_HERE = "heedful.knowledge"
RELATIONS = ("xReact", "xIntent", "xWant", "xNeed", "xEffect")
"""In the order of KEMI's strings: feels, because they wanted, wants next, needed before, happens to them."""
NONE = "none"

PROVIDERS = Registry(
    "commonsense provider",
    {
        "atomic-retrieval": f"{_HERE}.commonsense_atomic:AtomicRetrieval",
        "atomic-head": f"{_HERE}.commonsense_head:AtomicHead",
        "precomputed": f"{_HERE}.commonsense_released:Precomputed",
        "none": f"{_HERE}.commonsense:Nothing",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One answer.

    Args:
        text: the tail, such as "to be alone".
        event: the event of ATOMIC that it was written for, where there is one.
        id: where it stands: `tst/123` is data row 123 (from 0) of `v4_atomic_tst.csv`.
        score: how sure: the cosine of event and utterance, or the mean probability of a generated token.
    """

    text: str = field(repr=False)
    event: str | None = field(default=None, repr=False)
    id: str | None = None
    score: float | None = None

    def source(self, relation: str) -> dict[str, Any]:
        """The answer as an entry of `Turn.sources`; what is not known is left out."""
        known = {"event": self.event, "id": self.id, "score": self.score}
        return {
            "name": f"atomic.{relation}",
            "text": self.text,
            **{key: value for key, value in known.items() if value is not None},
        }


Inferred: TypeAlias = dict[str, Found]
"""Relation -> answer, for one utterance."""


class Commonsense(Protocol):
    """Answers for utterances, each from its own words alone."""

    @property
    def fingerprint(self) -> str:
        """Name, options and hashes of what it reads: equal fingerprints mean equal answers."""

    def check(self, conversations: Sequence[Conversation]) -> None:
        """Refuse conversations that it has no answers for.

        Raises:
            DataError: it knows other conversations only.
        """

    def infer(self, utterances: Sequence[str], relations: Sequence[str]) -> list[Inferred]:
        """For each utterance, in order, the relations that have an answer."""


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """No answers: the row that every provider is compared with."""

    fingerprint: str = "none"

    def check(self, conversations: Sequence[Conversation]) -> None:
        """It refuses nothing."""

    def infer(self, utterances: Sequence[str], relations: Sequence[str]) -> list[Inferred]:
        """An empty mapping for each."""
        check_relations(relations)
        return [{} for _ in utterances]


def make(name: str, **options: Any) -> Commonsense:
    """A provider by name, with its options (see the classes).

    Raises:
        NotFoundError: no such provider.
        ConfigError: an option that it does not have, or a value that it does not take.
    """
    try:
        made: Commonsense = PROVIDERS.get(name)(**options)
    except TypeError as err:
        raise ConfigError(f"The commonsense provider '{name}' cannot be made from these options: {err}.") from err
    return made


def check_relations(relations: Sequence[str]) -> tuple[str, ...]:
    """The relations in KEMI's order, each once.

    Raises:
        ConfigError: an unknown one, or none at all.
    """
    for relation in relations:
        if relation not in RELATIONS:
            raise ConfigError(
                f"Unknown relation '{relation}'.{nearest(str(relation), RELATIONS)} Known: {', '.join(RELATIONS)}."
            )
    if not relations:
        raise ConfigError(f"relations must name at least one of {', '.join(RELATIONS)}; for none take provider: none.")
    return tuple(relation for relation in RELATIONS if relation in relations)


def none_shares(conversations: Sequence[Conversation], relations: Sequence[str] = RELATIONS) -> Mapping[str, float]:
    """Relation -> share of the help-seekers' turns for which nothing was found: to be said beside every result.

    Args:
        conversations: planned ones.
    """
    turns = [turn for conv in conversations for turn in conv.turns if turn.role == "user"]
    found = Counter(name for turn in turns for name in {s.get("name") for s in turn.sources})
    return {r: 1.0 - found[f"atomic.{r}"] / len(turns) if turns else 1.0 for r in check_relations(relations)}
