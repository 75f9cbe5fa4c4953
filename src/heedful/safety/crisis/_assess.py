"""From a message to an assessment: which crisis rules find something, what takes it back, and what it amounts to.

The work is bounded. A message is made plain in a few linear passes; only sentences that hold words that some rule
needs are searched, in pieces of at most 300 characters; and at most `BUDGET` different pieces are searched. A message
with more of them is not cleared: it says `overflow`, and a person looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from heedful.errors import ConfigError, shown
from heedful.safety.crisis._excuses import Excused, Marked, mark
from heedful.safety.crisis._index import Index
from heedful.safety.crisis._needs import Need
from heedful.safety.crisis._rules import (
    BEHAVIOURS,
    CLASSES,
    LANGUAGES,
    QUIET,
    TIERS,
    Behaviour,
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
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
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
        heard_language: whether the words gave evidence of it; a "no" or an emoji does not.
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
    heard_language: bool = True

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


@dataclass(frozen=True, kw_only=True)
class _Readers:
    """The rules of some languages, made ready: patterns with their rules, and what each of them needs."""

    sets: tuple[RuleSet, ...]
    units: tuple[tuple[re.Pattern[str], Rule], ...]
    excuses: Mapping[tuple[str, str], tuple[Marked, ...]]
    """(language, rule) -> its excuses, in order."""
    index: Index
    disguises: Disguises

    @property
    def searched(self) -> int:
        """The bits of rules; those above belong to excuses."""
        return (1 << len(self.units)) - 1


@cache
def _readers(languages: tuple[str, ...]) -> _Readers:
    sets = tuple(load(language) for language in dict.fromkeys(languages))
    found = [(one, rule) for s in sets for rule in s.rules for one in rule.patterns]
    needed: list[Sequence[frozenset[Need]]] = [one[1] for one, _ in found]
    first: list[frozenset[Need] | None] = [one[2] for one, _ in found]
    marked = {(s.language, name): mark(name, excuse, needed) for s in sets for name, excuse in s.excuses.items()}
    first += [None] * (len(needed) - len(first))
    return _Readers(
        sets=sets,
        units=tuple((one[0], rule) for one, rule in found),
        excuses={
            (s.language, rule.name): tuple(marked[s.language, name] for name in rule.unless)
            for s in sets
            for rule in s.rules
        },
        index=Index(needed, first, searched=len(found)),
        disguises=Disguises(
            words=frozenset().union(*(found.disguises.words for found in sets)),
            phrases=tuple(phrase for found in sets for phrase in found.disguises.phrases),
        ),
    )


class _Piece:
    """A piece of a sentence that is searched.

    Args:
        begin: where in the plain text it begins.
        bits: the patterns that can be in it.
        words: where its words begin, and the rows of the index for them; None = patterns can begin anywhere.
    """

    __slots__ = ("begin", "bits", "text", "words")

    def __init__(
        self, *, begin: int, text: str, bits: int, words: tuple[Sequence[int], Sequence[int]] | None = None
    ) -> None:
        self.begin, self.text, self.bits, self.words = begin, text, bits, words

    def starts(self, index: Index) -> dict[int, list[int]]:
        """Where each of its patterns can begin, other than those that may anywhere: pattern as a bit -> places."""
        found: dict[int, list[int]] = {}
        mine = self.bits & ~index.starts.free
        for at, row in zip(*(self.words or ((), ())), strict=True):
            bits = index.beginning[row] & mine
            while bits:
                low = bits & -bits
                bits ^= low
                found.setdefault(low, []).append(at - self.begin)
        return found


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
    heard: bool = False

    def message(self, text: str, turn: int, *, asked: str | None) -> None:
        plain = view(text, self.readers.disguises)
        counts = _small_words(plain.text[:_GUESSED], self.readers.sets)
        tongue, sure = _language(counts)
        self.tongue, self.heard = tongue or self.tongue, self.heard or sure
        seen: dict[str, list[tuple[Rule, int, int, str | None]]] = {}
        before = len(self.matches)
        for piece in self._pieces(plain.text):
            if piece.text not in seen:
                if len(seen) >= BUDGET and not self.full:
                    self.overflow = True
                    continue
                seen[piece.text] = list(self._search(piece))
            for rule, start, end, excuse in seen[piece.text]:
                self._add(rule, plain, turn, piece.begin + start, piece.begin + end, excuse)
        ruled = {match.language for match in self.matches[before:]}
        if len(ruled) == 1 and (not sure or counts[tongue or ""] - counts[next(iter(ruled))] <= 1):
            # Short words are shared ("me", "a"): where they are nearly even, rules that found something know better.
            self.tongue, self.heard = ruled.pop(), True
        if asked is not None:
            self._answer(plain, turn, asked)
        if len(self.matches) > before:
            self.joking |= any(found.joking.search(plain.text[: _GUESSED * 5]) for found in self.readers.sets)

    def _pieces(self, text: str) -> Iterator[_Piece]:
        """Pieces in which some pattern can be."""
        spans = list(_spans(text))
        if self.full:
            everything = self.readers.searched
            for start, end in spans:
                yield _Piece(begin=start, text=text[start:end], bits=everything)
            return
        for number, bits, places, rows in self.readers.index.pieces(text, spans):
            begin, end = spans[number]
            # One that begins or ends inside of a word has words that the text does not have.
            whole = not (_splits(text, begin) or _splits(text, end))
            yield _Piece(begin=begin, text=text[begin:end], bits=bits, words=(places, rows) if whole else None)

    def _search(self, piece: _Piece) -> Iterator[tuple[Rule, int, int, str | None]]:
        free = -1 if piece.words is None else self.readers.index.starts.free
        bits = piece.bits & self.readers.searched
        starts, excused = (
            piece.starts(self.readers.index),
            Excused(piece.text, -1 if piece.words is None else piece.bits),
        )
        while bits:
            low = bits & -bits
            bits ^= low
            pattern, rule = self.readers.units[low.bit_length() - 1]
            if low & free:
                places = [m.span() for m in pattern.finditer(piece.text) if m.end() > m.start()]
            else:
                places = _found(pattern, piece.text, starts.get(low, ()))
            for begin, end in places:
                yield rule, begin, end, excused.by(self.readers.excuses[rule.language, rule.name], begin, end)

    def _add(self, rule: Rule, plain: View, turn: int, begin: int, end: int, excuse: str | None) -> None:
        # Two pieces of one sentence can hold the same place; and somebody who writes a line a thousand times said it.
        already = self.counts.setdefault((turn, rule.language, rule.name, excuse), set())
        if len(already) >= KEPT or (place := plain.origin(begin, end)) in already:
            return
        already.add(place)
        match = Match(
            rule=rule.name,
            cls=rule.cls,
            language=rule.language,
            version=rule.version,
            turn=turn,
            start=place[0],
            end=place[1],
            ideation=rule.ideation,
            behaviour=rule.behaviour,
            tier=rule.tier,
            excuse=excuse,
        )
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
            heard_language=self.heard,
            overflow=self.overflow,
            versions={s.language: f"{s.version}/{s.hash}" for s in self.readers.sets},
        )


def _found(pattern: re.Pattern[str], text: str, starts: Sequence[int]) -> list[tuple[int, int]]:
    """What `finditer` finds, where it can begin at `starts` only."""
    places: list[tuple[int, int]] = []
    for at in starts:
        if (not places or at >= places[-1][1]) and (found := pattern.match(text, at)):
            places.append(found.span())
    return places


def _splits(text: str, at: int) -> bool:
    """Whether a word goes on over a place."""
    return 0 < at < len(text) and text[at] in _LETTERS and text[at - 1] in _LETTERS


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


def _small_words(text: str, sets: Sequence[RuleSet]) -> dict[str, int]:
    """How many small words of each language stand in a text."""
    tokens = _TOKEN.findall(text)
    cjk = len(_CJK.findall(text))
    return {
        found.language: cjk if found.spaceless else sum(token in found.function_words for token in tokens)
        for found in sets
    }


def _language(counts: Mapping[str, int]) -> tuple[str | None, bool]:
    """The language whose small words stand in a text most often, None where none does; and whether that is sure."""
    best = max(counts, key=lambda name: counts[name])
    second = max((n for name, n in counts.items() if name != best), default=0)
    return best if counts[best] else None, counts[best] >= 2 and counts[best] > second
