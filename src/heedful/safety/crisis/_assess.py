"""From a message to an assessment: which crisis rules find something, what takes it back, and what it amounts to.

The work is bounded. A message is made plain in a few linear passes; only sentences that hold words that some rule
needs are searched, in pieces of at most 300 characters; and at most `BUDGET` different pieces are searched. A message
with more of them is not cleared: it says `overflow`, and a person looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import and_
from typing import Literal

from heedful.errors import ConfigError, shown
from heedful.safety.crisis._needs import SETS, Need
from heedful.safety.crisis._rules import (
    BEHAVIOURS,
    CLASSES,
    LANGUAGES,
    QUIET,
    TIERS,
    Behaviour,
    Excuse,
    Rule,
    RuleSet,
    Tier,
    load,
)
from heedful.safety.crisis._views import Disguises, View, view
from heedful.types import Conversation, Turn

PIECE, OVERLAP, BUDGET = 300, 120, 400
"""Characters of the longest piece, characters that two of one sentence share, different pieces that are searched."""

KEPT = 20
"""So many places of one rule in one turn are kept."""

_END = re.compile(r"[!?。！？；]+[\"')\]]*|\.(?=[\s\"')\]])[\"')\]]*|\n\s*\n")
_TOKEN = re.compile(r"[a-z0-9]+")
_CJK = re.compile(r"[\u3400-\u9fff]")
_GUESSED = 2000
"""By so many first characters the language is guessed."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """One rule that found something. The words themselves are not kept; `start` and `end` say where they stand.

    Args:
        turn: index of the turn among those given.
        start, end: characters of that turn's text, the end not included.
        excuse: what takes it back (`negated`, `past`, ...), or None where it counts.
    """

    rule: str
    cls: str
    language: str
    version: str
    turn: int
    start: int
    end: int
    ideation: int
    behaviour: Behaviour
    tier: Tier
    excuse: str | None = None


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What rules say about a message or several turns. It describes words; it does not rate a person's risk.

    Args:
        tier: none, thoughts, or immediate.
        level: highest rung of the C-SSRS ladder of ideation that was said, 0 to 5.
        behaviour: the gravest thing said to have been done recently.
        classes: what was found, in the order of `CLASSES`.
        matches: what counts, in order of appearance; of one rule at most `KEPT` places in a turn.
        noted: what was found and taken back by an excuse.
        denied: somebody says that there are no such thoughts. It lowers nothing.
        history_only: a resolved past is spoken of, and nothing else.
        joking: what was found stands beside a sign of a joke. It lowers nothing.
        language: the language that the words seem to be in.
        overflow: there was more than the budget allows to read; a person has to.
        versions: language -> version and hash of its rules, for the log.
    """

    tier: Tier
    level: int
    behaviour: Behaviour
    classes: tuple[str, ...]
    matches: tuple[Match, ...]
    noted: tuple[Match, ...]
    denied: bool
    history_only: bool
    joking: bool
    language: str
    overflow: bool
    versions: Mapping[str, str] = field(repr=False)

    @property
    def refused(self) -> bool:
        """Whether a question was answered by not wanting to be asked."""
        return "refusal" in self.classes

    @property
    def affirmed(self) -> bool:
        """Whether a plain question was answered with yes."""
        return any(match.rule == "answers-yes" for match in self.matches)

    @property
    def rules(self) -> tuple[str, ...]:
        """`language/rule` of what counts, each once, in order of appearance."""
        return tuple(dict.fromkeys(f"{match.language}/{match.rule}" for match in self.matches))


Said = str | Turn | Conversation | Sequence[Turn]


def assess(
    said: Said, *, languages: Sequence[str] | None = None, search: Literal["indexed", "full"] = "indexed"
) -> Assessment:
    """What the crisis rules find in a message, or in the help-seeker's turns of a conversation.

    A supporter's turn is read only to know what a short "yes" or "no" answers.

    Args:
        languages: whose rules are tried; None tries all, since people mix.
        search: `full` searches every rule in every piece. It finds the same and exists to prove that.

    Raises:
        NotFoundError: there are no rules for a language.
        ConfigError: no language, or an unknown way to search.

    >>> found = assess("I don't want to wake up tomorrow.")
    >>> found.tier, found.level, found.classes
    ('thoughts', 1, ('passive',))
    >>> assess("That joke killed me, I am dead tired.").tier
    'none'
    """
    if search not in ("indexed", "full"):
        raise ConfigError(f"'search' must be indexed or full, not {shown(search)}.")
    if languages is not None and not languages:
        raise ConfigError("Crisis rules need at least one language; leave 'languages' out to try all.")
    readers = _readers(tuple(LANGUAGES if languages is None else languages))
    turns = _turns(said)
    read = _Reading(readers=readers, full=search == "full")
    for at, turn in enumerate(turns):
        if turn.role == "user":
            before = turns[at - 1].text if at and turns[at - 1].role == "assistant" else None
            read.message(turn.text, at, asked=before)
    return read.result()


def _turns(said: Said) -> Sequence[Turn]:
    if isinstance(said, str):
        return (Turn(role="user", text=said),)
    if isinstance(said, Turn):
        return (said,)
    return said.turns if isinstance(said, Conversation) else said


class _Table:
    """Which patterns need which beginnings of words. Patterns are numbered; a set of them is an integer, a bit each."""

    def __init__(self) -> None:
        self.whole: dict[str, int] = {}
        self.begin: dict[int, dict[str, int]] = {}
        self.cjk: dict[str, int] = {}
        self.free = 0
        """Patterns that need nothing of this table."""

    def add(self, needed: Iterable[Need], bit: int) -> None:
        """Enter one set of needs of a pattern."""
        for need in needed:
            if need.text.isascii():
                table = self.whole if need.whole else self.begin.setdefault(len(need.text), {})
            else:
                table = self.cjk
            table[need.text] = table.get(need.text, 0) | bit

    def bits(self, token: str) -> int:
        """The patterns that a word calls for."""
        found = self.whole.get(token, 0)
        for length, table in self.begin.items():
            found |= table.get(token[:length], 0)
        return found


@dataclass(frozen=True, kw_only=True)
class _Readers:
    """The rules of some languages, made ready: patterns with their rules, tables of what they need, rarest first."""

    sets: tuple[RuleSet, ...]
    units: tuple[tuple[re.Pattern[str], Rule, Mapping[str, Excuse]], ...]
    tables: tuple[_Table, ...]
    cjk: re.Pattern[str] | None
    disguises: Disguises


@cache
def _readers(languages: tuple[str, ...]) -> _Readers:
    sets = tuple(load(language) for language in dict.fromkeys(languages))
    tables = tuple(_Table() for _ in range(SETS))
    units: list[tuple[re.Pattern[str], Rule, Mapping[str, Excuse]]] = []
    for found in sets:
        for rule in found.rules:
            for pattern, needed in rule.patterns:
                bit = 1 << len(units)
                units.append((pattern, rule, found.excuses))
                for at, table in enumerate(tables):
                    if at < len(needed):
                        table.add(needed[at], bit)
                    else:
                        table.free |= bit
    signs = {char: None for table in tables for char in table.cjk}
    return _Readers(
        sets=sets,
        units=tuple(units),
        tables=tables,
        cjk=re.compile(f"[{''.join(map(re.escape, signs))}]") if signs else None,
        disguises=Disguises(
            words=frozenset().union(*(found.disguises.words for found in sets)),
            phrases=tuple(phrase for found in sets for phrase in found.disguises.phrases),
        ),
    )


@dataclass(kw_only=True)
class _Reading:
    """What was found so far."""

    readers: _Readers
    full: bool
    matches: list[Match] = field(default_factory=list)
    noted: list[Match] = field(default_factory=list)
    counts: dict[tuple[int, str, str, str | None], set[tuple[int, int]]] = field(default_factory=dict)
    joking: bool = False
    overflow: bool = False
    tongue: str = "en"

    def message(self, text: str, turn: int, *, asked: str | None) -> None:
        plain = view(text, self.readers.disguises)
        self.tongue = _language(plain.text[:_GUESSED], self.readers.sets) or self.tongue
        seen: dict[str, list[tuple[Rule, int, int, str | None]]] = {}
        before = len(self.matches)
        for begin, piece, bits in self._pieces(plain.text):
            if piece not in seen:
                if len(seen) >= BUDGET and not self.full:
                    self.overflow = True
                    continue
                seen[piece] = list(self._search(piece, bits))
            for rule, start, end, excuse in seen[piece]:
                self._add(rule, plain, turn, begin + start, begin + end, excuse)
        if asked is not None:
            self._answer(plain, turn, asked)
        if len(self.matches) > before:
            self.joking |= any(found.joking.search(plain.text[: _GUESSED * 5]) for found in self.readers.sets)

    def _pieces(self, text: str) -> Iterator[tuple[int, str, int]]:
        """Pieces in which some pattern can be: where they begin, their text, and the patterns as bits."""
        spans = list(_spans(text))
        if self.full:
            everything = (1 << len(self.readers.units)) - 1
            yield from ((start, text[start:end], everything) for start, end in spans)
            return
        tables = self.readers.tables
        met = [[table.free] * len(spans) for table in tables]
        at = 0
        for begin, bits in self._hits(text):
            while spans[at][1] <= begin:
                at += 1
            k = at
            while k < len(spans) and spans[k][0] <= begin:  # pieces of one sentence overlap
                for row, found in zip(met, bits, strict=True):
                    row[k] |= found
                k += 1
        for (start, end), *rows in zip(spans, *met, strict=True):
            wanted = reduce(and_, rows)
            if wanted:
                yield start, text[start:end], wanted

    def _hits(self, text: str) -> list[tuple[int, tuple[int, ...]]]:
        """Where words that patterns need begin, in order, with the patterns that each table names."""
        tables = self.readers.tables
        known: dict[str, tuple[int, ...] | None] = {}
        hits = []
        for found in _TOKEN.finditer(text):
            token = found.group()
            if token not in known:
                bits = tuple(table.bits(token) for table in tables)
                known[token] = bits if any(bits) else None
            if (calls := known[token]) is not None:
                hits.append((found.start(), calls))
        if self.readers.cjk is not None and (signs := self._signs(text)):
            hits = sorted(hits + signs)
        return hits

    def _signs(self, text: str) -> list[tuple[int, tuple[int, ...]]]:
        """The same for signs that are words by themselves: Chinese characters, and pictures."""
        tables, cjk = self.readers.tables, self.readers.cjk
        assert cjk is not None
        return [(m.start(), tuple(table.cjk.get(m.group(), 0) for table in tables)) for m in cjk.finditer(text)]

    def _search(self, piece: str, bits: int) -> Iterator[tuple[Rule, int, int, str | None]]:
        while bits:
            low = bits & -bits
            bits ^= low
            pattern, rule, excuses = self.readers.units[low.bit_length() - 1]
            for found in pattern.finditer(piece):
                if found.end() > found.start():
                    begin, end = found.start(), found.end()
                    yield rule, begin, end, next((n for n in rule.unless if excuses[n].holds(piece, begin, end)), None)

    def _add(self, rule: Rule, plain: View, turn: int, begin: int, end: int, excuse: str | None) -> None:
        start, stop = plain.origin(begin, end)
        match = Match(
            rule=rule.name,
            cls=rule.cls,
            language=rule.language,
            version=rule.version,
            turn=turn,
            start=start,
            end=stop,
            ideation=rule.ideation,
            behaviour=rule.behaviour,
            tier=rule.tier,
            excuse=excuse,
        )
        # Two pieces of one sentence can hold the same place; and somebody who writes a line a thousand times said it.
        already = self.counts.setdefault((turn, rule.language, rule.name, excuse), set())
        if len(already) < KEPT and (start, stop) not in already:
            already.add((start, stop))
            (self.matches if excuse is None else self.noted).append(match)

    def _answer(self, plain: View, turn: int, asked: str) -> None:
        """An answer to a plain question: "yes" discloses, "no" denies, and some do not want to be asked."""
        question = view(asked, self.readers.disguises).text
        for found in self.readers.sets:
            answers = found.answers
            kinds = [("refused", answers.refused)]
            if answers.safety.search(_last_question(question)):
                kinds.append(("unsafe", answers.no))
            elif answers.question.search(question):
                kinds += [("yes", answers.yes), ("no", answers.no)]
            else:
                continue
            first = next(((name, m) for name, p in kinds if (m := p.search(plain.text[:PIECE]))), None)
            # "No one would miss me" begins like a denial and is none.
            loud = any(match.turn == turn and match.cls not in QUIET for match in self.matches)
            if first is not None and not (first[0] == "no" and loud):
                start, end = plain.origin(first[1].start(), first[1].end())
                self.matches.append(_answered(first[0], found, turn, start, end))

    def result(self) -> Assessment:
        counted = sorted(self.matches, key=lambda m: (m.turn, m.start, m.end))
        noted = sorted(self.noted, key=lambda m: (m.turn, m.start, m.end))
        denied = any(m.cls == "denial" for m in counted) or any(m.excuse == "negated" for m in noted)
        past = any(m.cls == "past" for m in counted) or any(m.excuse == "past" for m in noted)
        loud = [m for m in counted if m.cls not in QUIET]
        found = {m.cls for m in counted}
        found |= {"denial"} if denied else set()
        found |= {"past"} if past else set()
        found |= {"joking"} if self.joking and loud else set()
        tier: Tier = max((m.tier for m in loud), key=TIERS.index, default="none")
        return Assessment(
            tier=tier,
            level=max((m.ideation for m in loud), default=0),
            behaviour=max((m.behaviour for m in loud), key=BEHAVIOURS.index, default="none"),
            classes=tuple(name for name in CLASSES if name in found),
            matches=tuple(counted),
            noted=tuple(noted),
            denied=denied,
            history_only=past and not loud,
            joking=self.joking and bool(loud),
            language=self.tongue,
            overflow=self.overflow,
            versions={s.language: f"{s.version}/{s.hash}" for s in self.readers.sets},
        )


def _last_question(text: str) -> str:
    """The sentence that ends with the last question mark; an answer is about that one."""
    return text[: text.rfind("?") + 1 or len(text)].rstrip("?").replace("!", "?").replace(". ", "?").split("?")[-1]


_ANSWERS: Mapping[str, tuple[str, int, Tier]] = {
    "yes": ("active", 2, "thoughts"),
    "unsafe": ("unsafe", 0, "immediate"),
    "no": ("denial", 0, "none"),
    "refused": ("refusal", 0, "none"),
}
"""What an answer counts as: class, rung of ideation, tier."""


def _answered(name: str, rules: RuleSet, turn: int, start: int, end: int) -> Match:
    cls, ideation, tier = _ANSWERS[name]
    return Match(
        rule=f"answers-{name}",
        cls=cls,
        language=rules.language,
        version=rules.version,
        turn=turn,
        start=start,
        end=end,
        ideation=ideation,
        behaviour="none",
        tier=tier,
    )


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Sentences of a text; long ones in overlapping pieces."""
    start = 0
    ends = [found.end() for found in _END.finditer(text)]
    for end in [*ends, len(text)]:
        while end - start > PIECE:
            # Cut between words, so that no word's beginning is taken for a whole one; without a blank, anywhere.
            cut = text.rfind(" ", start + PIECE // 2, start + PIECE)
            yield start, cut if cut > 0 else start + PIECE
            start = max(
                start + 1, text.rfind(" ", start, start + PIECE - OVERLAP) if cut > 0 else start + PIECE - OVERLAP
            )
        if end > start:
            yield start, end
        start = end


def _language(text: str, sets: Sequence[RuleSet]) -> str | None:
    """The language whose small words stand in a text most often; None where none does."""
    tokens = _TOKEN.findall(text)
    cjk = len(_CJK.findall(text))
    counts = {
        found.language: cjk if found.spaceless else sum(token in found.function_words for token in tokens)
        for found in sets
    }
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None
