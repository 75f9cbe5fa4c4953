"""`support` and `cases`: what a support graph, or a clinic's own vetted cases, hold for what a help-seeker said.

Paper: Deng et al. 2023 (KEMI); the retrieval rule is our reading of it (`heedful.knowledge.triples`). The query is the
help-seeker's turn with the commonsense that an earlier planner put there (`atomic.*`), so what is added to a turn
depends on that turn. Three filters stand in a row: the index holds nothing that the screen stops; each text is screened
again when it is found; and so is the string of all texts together. What is stopped leaves its id and the rule, no text.

Where one of the last turns speaks of risk, nothing is looked up: such a turn is for a person and a crisis path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

from heedful.errors import ConfigError, shown
from heedful.knowledge.commonsense import RELATIONS
from heedful.knowledge.index import METHODS, Index
from heedful.knowledge.readers import Encoder
from heedful.knowledge.triples import answer_kind, triples
from heedful.safety import in_danger, load_screen
from heedful.types import Conversation, Turn

FILTERED, RISK = "filtered", "risk"
"""Name of the source that says what was stopped, and why nothing is looked up after a disclosure."""
_NOTHING_FOUND = ()

Sources = Sequence[Mapping[str, Any]]
Query = tuple[str, str]
"""The words that are looked up, and the conversation that they are from (`source/id`)."""


class _Lookup(Protocol):
    """What the two planners differ in."""

    prefix: ClassVar[str]

    def look_up(self, queries: Sequence[Query]) -> list[Sources]:
        """For each query what is written down, best first."""


@dataclass(frozen=True, kw_only=True)
class SupportPlanner:
    """Writes `support.stressor`, `support.response` or `support.expectation`, and `support.affect`. Options:
    index: name or folder of a support graph (`heedful knowledge build esc-graph`).
    data: folder that the index must have been built from; by default where its data usually lie, if they are there.
    k: how many triples.
    floor: least mean cosine of a triple.
    stressors, answers: how many are looked at: the nearest stressors, and of each the answers with the heaviest edges.
    """

    index: str = "esc-graph"
    data: str | None = None
    k: int = 1
    floor: float = 0.25
    stressors: int = 20
    answers: int = 20
    encoder: Encoder | None = field(default=None, repr=False, compare=False)
    prefix: ClassVar[str] = "support"
    _opened: Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_numbers(self, ("k", "stressors", "answers"))
        object.__setattr__(self, "_opened", _open(self.index, self.data, self.encoder))
        answer_kind(self._opened)
        self._opened.vectors  # noqa: B018  (refuses an index without)

    @cached_property
    def fingerprint(self) -> str:
        """Options, and the index with all that it was built from."""
        return _fingerprint("support/v1", self, self._opened)

    def plan(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """The conversations with what was found on the help-seeker's turns; what stood there before is replaced."""
        return _plan(self, conversations)

    def look_up(self, queries: Sequence[Query]) -> list[Sources]:
        """The triples of each query, each as answer, stressor and affect."""
        found = triples(
            self._opened,
            self._opened.encode([text for text, _ in queries]),
            origins=[origin for _, origin in queries],
            k=self.k,
            floor=self.floor,
            stressors=self.stressors,
            answers=self.answers,
        )
        return [
            [
                source
                for triple in chosen
                for source in _screened(self._opened, [(h.row, h.score) for h in triple.hits], self.prefix)
            ]
            for chosen in found
        ]


@dataclass(frozen=True, kw_only=True)
class CasesPlanner:
    """Writes `case`: the advice of the nearest vetted cases (the case itself where it has none). Options:
    index: name or folder of an index of cases (`heedful knowledge build cases.jsonl`).
    data: file that it must have been built from; by default the one that it was.
    k: how many cases.
    method: `embedding`, `bm25` or `hybrid`.
    floor: least cosine of query and case; with `bm25` there is none.
    """

    index: str
    data: str | None = None
    k: int = 1
    method: str = "embedding"
    floor: float | None = None
    encoder: Encoder | None = field(default=None, repr=False, compare=False)
    prefix: ClassVar[str] = "case"
    _opened: Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_numbers(self, ("k",))
        if self.method not in METHODS:
            raise ConfigError(f"method must be one of {', '.join(METHODS)}, but it is {shown(self.method)}.")
        if self.method == "bm25" and self.floor is not None:
            raise ConfigError("floor is a least cosine, and bm25 has none; leave it out, or take embedding or hybrid.")
        object.__setattr__(self, "_opened", _open(self.index, self.data, self.encoder))
        if "case" not in self._opened.kinds:
            raise ConfigError(f"The index '{self.index}' has no cases but {', '.join(self._opened.kinds)}.")
        if self.method != "bm25":
            self._opened.vectors  # noqa: B018  (refuses an index without)

    @cached_property
    def fingerprint(self) -> str:
        """Options, and the index with all that it was built from."""
        return _fingerprint("cases/v1", self, self._opened)

    def plan(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """The conversations with what was found on the help-seeker's turns; what stood there before is replaced."""
        return _plan(self, conversations)

    def look_up(self, queries: Sequence[Query]) -> list[Sources]:
        """The cases of each query."""
        texts = [text for text, _ in queries]
        found = self._opened.search_all(texts, method=self.method, k=self.k, kinds=("case",))  # type: ignore[arg-type]
        if self.method == "bm25":
            kept = [[(hit.row, hit.score) for hit in hits] for hits in found]
        else:
            floor = 0.25 if self.floor is None else self.floor
            kept = []
            for hits, vector in zip(found, self._opened.encode(texts), strict=True):
                cosines = self._opened.cosines([hit.row for hit in hits], vector).tolist()
                pairs = zip(hits, cosines, strict=True)
                kept.append([(hit.row, cosine) for hit, cosine in pairs if cosine >= floor])
        return [[s for pair in pairs for s in _screened(self._opened, [pair], self.prefix)] for pairs in kept]


# ---------------------------------------------------------------------------------------------- what both share


def _check_numbers(planner: Any, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(planner, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number from 1 up, but it is {shown(value)}.")
    floor = planner.floor
    if floor is not None and (isinstance(floor, bool) or not isinstance(floor, int | float) or not -1 <= floor <= 1):
        raise ConfigError(f"floor is a cosine between -1 and 1, but it is {shown(floor)}.")


def _open(index: str, data: str | None, encoder: Encoder | None) -> Index:
    opened = Index.open(index, encoder=encoder)
    opened.verify(data)
    return opened


def _fingerprint(name: str, planner: Any, index: Index) -> str:
    # Not where the index and its data lie: the same index elsewhere plans the same.
    left_out = {"index", "data", "encoder"}
    options = {f.name: getattr(planner, f.name) for f in fields(planner) if f.init and f.name not in left_out}
    digest = hashlib.sha256(json.dumps([options, load_screen().hash], sort_keys=True).encode()).hexdigest()[:8]
    return f"{name}#{digest}({index.fingerprint})"


def _plan(planner: _Lookup, conversations: Sequence[Conversation]) -> list[Conversation]:
    due: list[list[Query | None]] = []
    for conv in conversations:
        origin = f"{conv.source}/{conv.id}"
        due.append(
            [
                (_words(turn), origin)
                if turn.role == "user" and turn.text.strip() and not in_danger(conv.turns[: i + 1])
                else None
                for i, turn in enumerate(conv.turns)
            ]
        )
    queries = list(dict.fromkeys(query for row in due for query in row if query is not None))
    found = dict(zip(queries, planner.look_up(queries) if queries else (), strict=True))
    risk = ({"name": f"{planner.prefix}.{FILTERED}", "why": RISK},)
    planned = []
    for conv, row in zip(conversations, due, strict=True):
        turns = []
        for turn, query in zip(conv.turns, row, strict=True):
            at_risk = turn.role == "user" and query is None and bool(turn.text.strip())
            added = found[query] if query is not None else (risk if at_risk else _NOTHING_FOUND)
            turns.append(_noted(turn, added, planner.prefix))
        planned.append(replace(conv, turns=tuple(turns)))
    return planned


def _words(turn: Turn) -> str:
    """The turn, and what commonsense found for it, in the order of KEMI's strings."""
    tails = [
        str(source["text"])
        for relation in RELATIONS
        for source in turn.sources
        if source.get("name") == f"atomic.{relation}" and source.get("text")
    ]
    return " ".join((turn.text.strip(), *tails))


def _screened(index: Index, found: Sequence[tuple[int, float]], prefix: str) -> list[Mapping[str, Any]]:
    """Items that are written together. If one is stopped, or their texts in a row are, none is written."""
    items = [index.at(row) for row, _ in found]
    texts = [str(item.extra.get("advice") or item.text) for item in items]
    why = next((item.why for item in items if item.why), None) or load_screen().why(" ".join(texts))
    if why is not None:
        return [{"name": f"{prefix}.{FILTERED}", "id": item.id, "why": why} for item in items]
    return [
        {
            "name": item.kind if item.kind == prefix else f"{prefix}.{item.kind}",
            "text": text,
            "id": item.id,
            "score": round(score, 4),
            "index": index.fingerprint,
            **{key: item.extra[key] for key in ("vetted_by", "date") if key in item.extra},
        }
        for item, text, (_, score) in zip(items, texts, found, strict=True)
    ]


def _noted(turn: Turn, added: Sources, prefix: str) -> Turn:
    # A talk is planned anew before each reply, so its earlier turns come with what was found for them then.
    kept = tuple(s for s in turn.sources if not f"{s.get('name')}.".startswith(f"{prefix}."))
    sources = (*kept, *added)
    return turn if sources == turn.sources else replace(turn, sources=sources)
