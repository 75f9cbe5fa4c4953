"""Numbers about a set of conversations: sizes, lengths, labels, and how strategies follow each other.

Quantiles are linear between order statistics (numpy's default). Fifth of a turn: floor(5 i / L) with i the turn's
index and L the number of turns, as in the ESConv paper's figure.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from heedful import taxonomy
from heedful.corpora import pictures
from heedful.corpora.base import Count
from heedful.corpora.leaks import words
from heedful.types import Conversation

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
FIFTHS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Words (split at blanks) per turn."""

    mean: float
    quantiles: Mapping[float, float]
    total: int
    histogram: tuple[tuple[int, int], ...]
    """Lower edge of a bin of 5 words (the last is open: 60 and more), number of turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Result of `stats`. Shares are fractions of 1.

    Args:
        dialogues: number of conversations.
        splits: dialogues per split.
        turns: turns per role.
        turns_per_dialogue: mean number of turns.
        lengths: words per turn, by role.
        labels: label set -> role -> value -> count.
        transitions: strategy set -> value -> value of the next supporter turn -> count; only neighbours that both
            carry a label, other roles in between do not matter.
        fifths: set -> value -> its count in each fifth of the dialogue, over `Conversation.targets()`.
    """

    dialogues: int
    splits: Mapping[str, int]
    turns: Mapping[str, int]
    turns_per_dialogue: float
    lengths: Mapping[str, Lengths]
    labels: Mapping[str, Mapping[str, Mapping[str, int]]]
    transitions: Mapping[str, Mapping[str, Mapping[str, int]]]
    fifths: Mapping[str, Mapping[str, tuple[int, ...]]]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "dialogues": self.dialogues,
            "splits": dict(self.splits),
            "turns": dict(self.turns),
            "turns_per_dialogue": self.turns_per_dialogue,
            "words_per_turn": {
                role: {
                    "mean": n.mean,
                    "total": n.total,
                    "quantiles": {str(q): v for q, v in n.quantiles.items()},
                    "histogram": [list(bar) for bar in n.histogram],
                }
                for role, n in self.lengths.items()
            },
            "labels": {s: {r: dict(v) for r, v in roles.items()} for s, roles in self.labels.items()},
            "transitions": {s: {a: dict(b) for a, b in t.items()} for s, t in self.transitions.items()},
            "fifths": {s: {v: list(n) for v, n in values.items()} for s, values in self.fifths.items()},
        }


def stats(
    conversations: Sequence[Conversation], *, strategies: Sequence[str] = ("esconv_strategy", "mesc_strategy")
) -> Stats:
    """Count.

    Args:
        conversations: at least one; none gives zeros.
        strategies: label sets on supporter turns for which transitions and fifths are counted, if they occur.
    """
    per_role: dict[str, list[int]] = defaultdict(list)
    labels: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for c in conversations:
        for turn in c.turns:
            per_role[turn.role].append(len(turn.text.split()))
            for label in turn.labels:
                labels[label.set][turn.role][label.value] += 1
    total = sum(map(len, per_role.values()))
    used = [name for name in strategies if name in labels]
    return Stats(
        dialogues=len(conversations),
        splits=dict(Counter(c.split or "none" for c in conversations)),
        turns={role: len(n) for role, n in sorted(per_role.items())},
        turns_per_dialogue=total / len(conversations) if conversations else 0.0,
        lengths={role: _lengths(n) for role, n in sorted(per_role.items())},
        labels={
            name: {role: _ordered(name, n) for role, n in sorted(roles.items())}
            for name, roles in sorted(labels.items())
        },
        transitions={name: _transitions(conversations, name) for name in used},
        fifths={name: _fifths(conversations, name) for name in used},
    )


def _order(name: str, values: Iterable[str]) -> list[str]:
    """Canonical order for known sets, else alphabetical."""
    known = taxonomy.get(name).names if name in taxonomy.names() else ()
    return sorted(values, key=lambda v: (known.index(v) if v in known else len(known), v))


def _ordered(name: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {value: counts[value] for value in _order(name, counts)}


def _lengths(n: Sequence[int]) -> Lengths:
    ordered = sorted(n)
    bins = Counter(min(length // 5 * 5, 60) for length in ordered)
    return Lengths(
        mean=sum(ordered) / len(ordered),
        quantiles={q: _quantile(ordered, q) for q in QUANTILES},
        total=sum(ordered),
        histogram=tuple((edge, bins[edge]) for edge in range(0, 65, 5)),
    )


def _quantile(ordered: Sequence[int], q: float) -> float:
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _transitions(conversations: Sequence[Conversation], name: str) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for c in conversations:
        values = [turn.label(name) for turn in c.turns if turn.role == "assistant"]
        for a, b in pairwise(values):
            if a is not None and b is not None:
                table[a][b] += 1
    return {a: _ordered(name, table[a]) for a in _order(name, table)}


def _fifths(conversations: Sequence[Conversation], name: str) -> dict[str, tuple[int, ...]]:
    table: dict[str, list[int]] = defaultdict(lambda: [0] * FIFTHS)
    for c in conversations:
        for i in c.targets():
            value = c.turns[i].label(name)
            if value is not None:
                table[value][FIFTHS * i // len(c)] += 1
    return {value: tuple(table[value]) for value in _order(name, table)}


# ------------------------------------------------------------------------------------------------- reading ease

_VOWELS = re.compile(r"[aeiouy]+")
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How easy the text reads.

    Args:
        words: number of words.
        words_per_turn: mean.
        flesch: Flesch (1948) reading ease, 206.835 - 1.015 words/sentence - 84.6 syllables/word; 60 to 80 is plain
            English. Syllables are groups of vowel letters, a silent final e left out, so the value is an estimate.
        type_token: mean share of distinct words in windows of 100 words (MATTR with step 100): independent of size.
    """

    words: int
    words_per_turn: float
    flesch: float
    type_token: float

    def counts(self) -> tuple[Count, ...]:
        """The numbers as counts; the ratio in per cent."""
        return (
            Count(name="words", found=self.words),
            Count(name="words per turn", found=round(self.words_per_turn)),
            Count(name="Flesch reading ease", found=round(self.flesch)),
            Count(name="distinct words in 100 (%)", found=round(100 * self.type_token)),
        )


def reading(conversations: Iterable[Conversation]) -> Reading:
    """Reading statistics over all turns; zeros for no text."""
    turns = sentences = syllables = 0
    tokens: list[str] = []
    for c in conversations:
        for turn in c.turns:
            found = words(turn.text)
            if not found:
                continue
            turns += 1
            # A turn without a full stop is one sentence; a stop at its end ends the last one.
            sentences += max(1, len(_SENTENCE.findall(turn.text)))
            syllables += sum(map(_syllables, found))
            tokens += found
    if not tokens:
        return Reading(words=0, words_per_turn=0.0, flesch=0.0, type_token=0.0)
    windows = [tokens[i : i + 100] for i in range(0, max(1, len(tokens) - 99), 100)]
    return Reading(
        words=len(tokens),
        words_per_turn=len(tokens) / turns,
        flesch=206.835 - 1.015 * len(tokens) / sentences - 84.6 * syllables / len(tokens),
        type_token=sum(len(set(w)) / len(w) for w in windows) / len(windows),
    )


def _syllables(word: str) -> int:
    groups = len(_VOWELS.findall(word))
    if word.endswith("e") and not word.endswith(("le", "ee")) and groups > 1:
        groups -= 1
    return max(1, groups)


# --------------------------------------------------------------------------------------------------- as a page


def html(found: Stats, *, title: str) -> str:
    """One HTML page with tables and pictures; numbers and label names only, no text of a turn."""
    sections = [("Size", _size_table(found))]
    for role, n in found.lengths.items():
        drawn = [(f"{edge}+" if edge == 60 else f"{edge}–{edge + 4}", float(count)) for edge, count in n.histogram]
        chart = pictures.histogram(drawn, title=f"{role}: turns by number of words", unit="words")
        sections.append((f"Length of {role} turns", chart))
    for name, roles in found.labels.items():
        charts = []
        for role, counts in roles.items():
            total = sum(counts.values())
            shares = {value: round(100 * n / total, 1) for value, n in counts.items()}
            charts.append(pictures.bars(shares, title=f"{role}: share of {total:,} labels", unit=" %"))
        sections.append((f"Labels: {name}", "".join(charts)))
    for name, rows in found.transitions.items():
        values = list(dict.fromkeys([*rows, *(b for row in rows.values() for b in row)]))
        shares_by_row = {
            a: {b: round(100 * row.get(b, 0) / sum(row.values()), 1) for b in values} for a, row in rows.items()
        }
        chart = pictures.heat_map(
            shares_by_row, columns=values, title="Next supporter turn (columns) after each (rows), per cent of the row"
        )
        sections.append((f"What follows what: {name}", chart))
    for name, fifths in found.fifths.items():
        totals = [sum(n[k] for n in fifths.values()) or 1 for k in range(FIFTHS)]
        columns = [f"fifth {k + 1}" for k in range(FIFTHS)]
        by_fifth = {
            value: {columns[k]: round(100 * n[k] / totals[k], 1) for k in range(FIFTHS)} for value, n in fifths.items()
        }
        chart = pictures.heat_map(
            by_fifth, columns=columns, title="Share of each fifth of the dialogue, per cent of the column"
        )
        sections.append((f"When in the dialogue: {name}", chart))
    return pictures.page(title, sections)


def _size_table(found: Stats) -> str:
    rows = [("dialogues", f"{found.dialogues:,}")]
    rows += [(f"dialogues in {split}", f"{n:,}") for split, n in found.splits.items()]
    rows += [(f"{role} turns", f"{n:,}") for role, n in found.turns.items()]
    rows.append(("turns per dialogue", f"{found.turns_per_dialogue:.1f}"))
    for role, lengths in found.lengths.items():
        rows.append((f"words per {role} turn, mean", f"{lengths.mean:.1f}"))
        rows += [(f"words per {role} turn, {q:.0%} quantile", f"{v:g}") for q, v in lengths.quantiles.items()]
    return pictures.table(("", "number"), rows)
