"""How good a provider's answers are, against a real COMET's and against people's, beside what a constant reaches.

Two measures, each with its floor: `against_released` compares with the strings of KEMI's release, word for word;
`against_atomic` asks for the events of ATOMIC's held-out file and looks whether an annotator gave the same tail. "none"
counts as an answer in both. A provider is worth something where it beats the floor, the share of the commonest answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from heedful.errors import ConfigError
from heedful.knowledge.commonsense import NONE, RELATIONS, Commonsense, check_relations
from heedful.knowledge.commonsense_atomic import PARTS, AtomicRetrieval, first_person, read
from heedful.knowledge.commonsense_released import Part, released


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationScore:
    """One relation; shares between 0 and 1.

    Args:
        n: turns or events asked for.
        exact: the answer is (one of) the expected.
        floor: the same of the best constant, and `constant`: which answer that is.
        none: how often nothing was found, and `expected_none`: how often nothing is expected (in ATOMIC: all said so).
        answered: how many have an answer that is not none; `exact_answered`: exact among these, None if there are none.
    """

    relation: str
    n: int
    exact: float
    floor: float
    constant: str
    none: float
    expected_none: float
    answered: int
    exact_answered: float | None

    @property
    def beats_floor(self) -> bool:
        """Whether it is better than saying the same everywhere."""
        return self.exact > self.floor

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**asdict(self), "beats_floor": self.beats_floor}


def against_released(
    provider: Commonsense, part: Part = "test", *, relations: Sequence[str] = RELATIONS, most: int | None = None
) -> list[RelationScore]:
    """Word-for-word agreement with the released COMET strings on a part of ESConv.

    Args:
        most: look at the first so many turns only.
    """
    turns = released(part).turns[:most]
    expected = [{r: frozenset({_plain(said.tails[r])}) for r in RELATIONS} for said in turns]
    return _scores(provider, [said.utterance for said in turns], expected, relations)


def against_atomic(
    provider: Commonsense, *, relations: Sequence[str] = RELATIONS, most: int | None = None
) -> list[RelationScore]:
    """How often the answer to a held-out event of ATOMIC (`dev`) is one that an annotator gave.

    Events that nobody was asked about for a relation are left out there.

    Raises:
        ConfigError: the provider searches the held-out file itself.
    """
    if isinstance(provider, AtomicRetrieval) and "dev" in PARTS[provider.split]:
        raise ConfigError("Held-out events are those of dev, and this provider searches them; score split: tst.")
    events = read("dev").events[:most]
    expected = [{r: frozenset(answer.tail for answer in event.answers[r]) for r in RELATIONS} for event in events]
    return _scores(provider, [first_person(event.text) for event in events], expected, relations)


def _plain(tail: str) -> str:
    return " ".join(tail.lower().split()).rstrip(" .") or NONE


def _scores(
    provider: Commonsense,
    texts: Sequence[str],
    expected: Sequence[dict[str, frozenset[str]]],
    relations: Sequence[str],
) -> list[RelationScore]:
    relations = check_relations(relations)
    found = provider.infer(texts, relations)
    out = []
    for relation in relations:
        pairs = [
            (_plain(answers[relation].text) if relation in answers else NONE, wanted[relation])
            for answers, wanted in zip(found, expected, strict=True)
            if wanted[relation]
        ]
        if not pairs:
            continue  # nobody was asked about it
        constant, count = max(Counter(t for _, w in pairs for t in sorted(w)).items(), key=lambda item: item[1])
        answered = [(said, wanted) for said, wanted in pairs if said != NONE]
        out.append(
            RelationScore(
                relation=relation,
                n=len(pairs),
                exact=_share(pairs, lambda said, wanted: said in wanted) or 0.0,
                floor=count / len(pairs),
                constant=constant,
                none=1.0 - len(answered) / len(pairs),
                expected_none=_share(pairs, lambda said, wanted: wanted == {NONE}) or 0.0,
                answered=len(answered),
                exact_answered=_share(answered, lambda said, wanted: said in wanted),
            )
        )
    return out


_Pair = tuple[str, frozenset[str]]


def _share(pairs: Sequence[_Pair], holds: Callable[[str, frozenset[str]], bool]) -> float | None:
    return sum(holds(said, wanted) for said, wanted in pairs) / len(pairs) if pairs else None
