"""Does the same talk, person or text stand on both sides of a split?

A *leak* makes a test result worthless: a shared conversation, group (video, question), help-seeker (`speaker_id` of a
user's turn) or a near-copy of a whole conversation. An *overlap* is worth knowing and often unavoidable: a reply or a
situation said twice, the same supporter. Findings name ids of conversations, never text and never a person's id.

Near-copies: Jaccard similarity of 5-word shingles >= 0.8, found exactly with prefix filtering (Chaudhuri, Ganti and
Kaushik 2006): two sets that similar share an element among the rarest n - ceil(0.8 n) + 1 of each.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from heedful.errors import LeakError
from heedful.types import Conversation, Role

SHINGLE_WORDS = 5
SIMILARITY = 0.8
TURN_WORDS = 8
"""Equal turns shorter than this are stock replies (thanks, greetings) and are counted apart."""
NEAR_WORDS = 20
"""Texts shorter than this are compared for equality only: one changed word moves their similarity too far."""
EXAMPLES = 5

Kind = Literal[
    "conversation", "group", "speaker", "near-copy", "supporter", "situation", "near-situation", "turn", "stock"
]
Level = Literal["leak", "overlap"]
_WORD = re.compile(r"\w+(?:'\w+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """One kind of thing found on both sides.

    `count` is the number of distinct things (ids, groups, people, texts, pairs of near-copies); `examples` holds up to
    5 pairs of conversation ids.
    """

    kind: Kind
    level: Level
    splits: tuple[str, str]
    count: int
    examples: tuple[tuple[str, str], ...]

    def is_known(self, known: Mapping[str, int]) -> bool:
        """Whether `known` (`kind split/split` -> count) already says so many."""
        return self.count <= known.get(f"{self.kind} {'/'.join(self.splits)}", 0)

    def sentence(self) -> str:
        """The finding as one sentence."""
        what = {
            "conversation": "conversation ids",
            "group": "groups (speaker, video, question)",
            "speaker": "help-seekers (speaker_id of a user's turn)",
            "near-copy": "pairs of near-equal conversations",
            "supporter": "supporters (speaker_id of an assistant's turn)",
            "situation": "equal situation texts",
            "near-situation": "pairs of near-equal situation texts",
            "turn": f"equal turns of {TURN_WORDS} words or more",
            "stock": f"equal replies of fewer than {TURN_WORDS} words",
        }[self.kind]
        some = ", ".join(a if a == b else f"{a} / {b}" for a, b in self.examples[:3])
        return f"{self.level}: {what} in both {self.splits[0]} and {self.splits[1]}: {self.count:,}, such as {some}."


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakReport:
    """All findings over all pairs of splits; `turns` is the number of turns that were compared."""

    findings: tuple[Leak, ...]
    conversations: int
    turns: int

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """The findings that make a result worthless."""
        return tuple(f for f in self.findings if f.level == "leak")

    @property
    def overlaps(self) -> tuple[Leak, ...]:
        """The findings that are worth knowing."""
        return tuple(f for f in self.findings if f.level == "overlap")

    def refuse(self, *, known: Mapping[str, int] | None = None) -> None:
        """Do nothing if there is no leak beyond `known` (see `CorpusInfo.known_leaks`).

        Raises:
            LeakError: there is one; the message names each.
        """
        bad = [f for f in self.leaks if not f.is_known(known or {})]
        if bad:
            raise LeakError(" ".join(f.sentence() for f in bad) + " Divide the data anew before training.")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "conversations": self.conversations,
            "turns": self.turns,
            "findings": [
                {
                    "kind": f.kind,
                    "level": f.level,
                    "splits": list(f.splits),
                    "count": f.count,
                    "examples": [list(pair) for pair in f.examples],
                }
                for f in self.findings
            ],
        }


def words(text: str) -> list[str]:
    """Lower-case words without punctuation: what two texts are compared by."""
    return _WORD.findall(text.casefold())


def grams(tokens: Sequence[str], n: int) -> set[int]:
    """Hashes of all runs of `n` words. 64-bit, so equal hashes of different runs do not happen in practice."""
    return {hash(" ".join(tokens[i : i + n])) for i in range(len(tokens) - n + 1)}


def find_leaks(conversations: Sequence[Conversation]) -> LeakReport:
    """Compare every pair of splits; conversations without a split are left out.

    107,247 turns (EmpatheticDialogues) take about 4 s and 0.3 GB on one core.
    """
    placed = [c for c in conversations if c.split is not None]
    turns = sum(len(c) for c in placed)
    if len({c.split for c in placed}) < 2:
        return LeakReport(findings=(), conversations=len(placed), turns=turns)
    findings = [
        *_shared(placed, lambda c: [c.id], "conversation", "leak"),
        *_shared(placed, lambda c: [c.group] if c.group else [], "group", "leak"),
        *_shared(placed, lambda c: _speakers(c, "user"), "speaker", "leak"),
        *_near(placed, lambda c: " ".join(t.text for t in c.turns), "near-copy", "leak"),
        *_shared(placed, lambda c: _speakers(c, "assistant"), "supporter", "overlap"),
        *_shared(placed, _situation_key, "situation", "overlap"),
        *_near(placed, lambda c: c.situation or "", "near-situation", "overlap"),
        *_shared(placed, _turn_keys, "turn", "overlap"),
        *_shared(placed, _stock_keys, "stock", "overlap"),
    ]
    return LeakReport(findings=tuple(findings), conversations=len(placed), turns=turns)


def _speakers(conversation: Conversation, role: Role) -> set[str]:
    return {turn.speaker_id for turn in conversation.turns if turn.role == role and turn.speaker_id}


def _situation_key(conversation: Conversation) -> list[Hashable]:
    tokens = words(conversation.situation or "")
    return [hash(" ".join(tokens))] if tokens else []


def _turn_keys(conversation: Conversation) -> list[Hashable]:
    tokens = (words(turn.text) for turn in conversation.turns)
    return [hash(" ".join(w)) for w in tokens if len(w) >= TURN_WORDS]


def _stock_keys(conversation: Conversation) -> list[Hashable]:
    tokens = (words(turn.text) for turn in conversation.turns if turn.role == "assistant")
    return [hash(" ".join(w)) for w in tokens if 0 < len(w) < TURN_WORDS]


def _shared(
    conversations: Sequence[Conversation],
    keys: Callable[[Conversation], Iterable[Hashable]],
    kind: Kind,
    level: Level,
) -> Iterator[Leak]:
    """Keys that occur under more than one split."""
    where: dict[Hashable, dict[str, str]] = defaultdict(dict)
    for c in conversations:
        for key in keys(c):
            where[key].setdefault(str(c.split), c.id)
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for places in where.values():
        if len(places) > 1:
            for a, b in _pairs(places):
                pairs[a, b].append((places[a], places[b]))
    yield from _leaks(pairs, kind, level)


def _near(
    conversations: Sequence[Conversation], text: Callable[[Conversation], str], kind: Kind, level: Level
) -> Iterator[Leak]:
    """Pairs from different splits with similar shingle sets; equal situations are left to their own kind."""
    kept: list[tuple[Conversation, int, set[int]]] = []
    for c in conversations:
        tokens = words(text(c))
        whole = hash(" ".join(tokens))
        if len(tokens) >= NEAR_WORDS:
            kept.append((c, whole, grams(tokens, SHINGLE_WORDS)))
        elif len(tokens) >= TURN_WORDS:
            kept.append((c, whole, {whole}))
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for i, j in _similar([(str(c.split), shingles) for c, _, shingles in kept]):
        (a, hash_a, _), (b, hash_b, _) = kept[i], kept[j]
        if kind == "near-situation" and hash_a == hash_b:
            continue  # counted as an equal situation
        if a.id == b.id:
            continue  # counted as a shared conversation
        first, second = sorted((a, b), key=lambda c: _order(str(c.split)))
        pairs[str(first.split), str(second.split)].append((first.id, second.id))
    yield from _leaks(pairs, kind, level)


def _similar(sets: Sequence[tuple[str, set[int]]]) -> Iterator[tuple[int, int]]:
    """Index pairs of sets from different splits with Jaccard similarity >= SIMILARITY; exact."""
    frequency = Counter(g for _, s in sets for g in s)
    index: dict[int, list[int]] = defaultdict(list)
    for i, (split, shingles) in enumerate(sets):
        n = len(shingles)
        prefix = sorted((g for g in shingles), key=lambda g: (frequency[g], g))[: n - math.ceil(SIMILARITY * n) + 1]
        rivals = {j for g in prefix if frequency[g] > 1 for j in index[g]}
        for j in sorted(rivals):
            other_split, other = sets[j]
            if other_split == split or not SIMILARITY * n <= len(other) <= n / SIMILARITY:
                continue
            common = len(shingles & other)
            if common >= SIMILARITY * (n + len(other) - common):
                yield j, i
        for g in prefix:
            if frequency[g] > 1:
                index[g].append(i)


def _leaks(pairs: dict[tuple[str, str], list[tuple[str, str]]], kind: Kind, level: Level) -> Iterator[Leak]:
    for splits in sorted(pairs, key=lambda p: (_order(p[0]), _order(p[1]))):
        found = sorted(set(pairs[splits]))
        yield Leak(kind=kind, level=level, splits=splits, count=len(pairs[splits]), examples=tuple(found[:EXAMPLES]))


def _order(split: str) -> tuple[int, str]:
    known = {"train": 0, "valid": 1, "test": 2}
    return known.get(split, 3), split


def _pairs(splits: Iterable[str]) -> Iterator[tuple[str, str]]:
    names = sorted(splits, key=_order)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            yield a, b


def shared_runs(
    conversations: Iterable[Conversation], others: Iterable[Conversation], *, n: int = 9
) -> list[tuple[str, int, str]]:
    """Turns that share a run of `n` words with any turn of `others`: (conversation id, turn index, other's id).

    Only the hashes of `conversations` are kept in memory; `others` is read once, as a stream.
    """
    own: dict[int, tuple[str, int]] = {}
    for c in conversations:
        for i, turn in enumerate(c.turns):
            for g in grams(words(turn.text), n):
                own.setdefault(g, (c.id, i))
    found: dict[tuple[str, int], str] = {}
    for other in others:
        for turn in other.turns:
            for g in grams(words(turn.text), n):
                if g in own:
                    found.setdefault(own[g], other.id)
    return [(id, i, other_id) for (id, i), other_id in sorted(found.items())]
