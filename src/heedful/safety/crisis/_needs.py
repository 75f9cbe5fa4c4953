"""What a pattern cannot do without: a cheap test that comes before the search.

A message is cut into words once, each word is looked up, and a pattern is searched only in sentences that hold the
words it needs. The needs are read off the parsed pattern, so nobody who writes a rule can forget one. What cannot be
shown to be needed is not used, so the test never costs a match (`tests/unit/test_crisis_rules.py` compares both ways).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heedful.errors import ConfigError

_DEAR = 1500
"""A set that costs more stands in nearly every message and helps nobody."""
_parser: Any = importlib.import_module("re._parser")
"""Python's own parser of patterns. It has no public name; its tree has not changed since Python 2."""

LENGTH = 4
"""How many first letters of a word are looked up."""
SETS = 3
"""How many sets are looked at for one pattern."""
_TOO_MANY = 120
# Words in nearly every message: needing only these would mean to search everything.
_COMMON_WORDS = """\
a i it is in on to of and the my me no not so do don dont am im be by he she we you they that this for with have
    has had  was were are but at as if or can cant all just what there them him her his out up an want feel like get
    got go take goin  gonn wann will won wont woul coul shou when how why way ways now know time here more any anym
    abou bein been from make  made tell told said says keep life live day days see some good best long much last
    work done hope over next week read  thin thou real alwa neve ever your thei then than afte befo look cann didn
    does very stil back come came let lets even  ich ist es zu und die der das mein mich mir nicht nich kann hab
    habe er sie wir du ein auf mit fur den dem wenn dass  will auch noch nur mehr wie was lebe  yo que de la el en
    se lo un una por con para ya y su le te los las si estoy esta quie como todo nada mas vida"""
_COMMON = frozenset(_COMMON_WORDS.split())
_COMMON_CJK = frozenset("我你他她它的了是不想在有都会要这那没人一个说去就也很到说我们好过")


@dataclass(frozen=True, order=True)
class Need:
    """A beginning of a word; `whole` where the word ends there."""

    text: str
    whole: bool


def needs(pattern: str, *, spaceless: bool = False) -> tuple[frozenset[Need], ...]:
    """Up to `SETS` sets of beginnings of words: every text that `pattern` finds holds one of each set. Rarest first.

    Args:
        spaceless: the language has no blanks between words: single characters that may stand anywhere.

    Raises:
        ConfigError: the pattern holds no fixed word, so it would have to be searched in everything, or it repeats
            something without bound.
    """
    tree = _parser.parse(pattern)
    _check_bounded(tree, pattern)
    found = _Finder(spaceless=spaceless).required(list(tree))
    if not found:
        raise ConfigError(
            f"A crisis pattern that begins with {pattern[:20]!r} holds no fixed word; write out one that never lacks."
        )
    return tuple(frozenset(one) for one in found[:SETS])


def begins(pattern: str, *, spaceless: bool = False) -> frozenset[Need] | None:
    """Beginnings of words, one of which every text that `pattern` finds begins with; None where nothing is known.

    Args:
        spaceless: as for `needs`.
    """
    finder = _Finder(spaceless=spaceless)
    found = {Need(text, whole) for text, whole in finder._prefixes(list(_parser.parse(pattern)), finder.length)}
    # Where words have no blanks between them, letters of ours may stand anywhere in a run of letters.
    usable = all(need.text and need.text.isascii() is not spaceless for need in found)
    return frozenset(found) if found and usable else None


def _check_bounded(tree: Any, pattern: str) -> None:
    """Refuse repeats without bound around more than one character: they are what makes a search run away."""
    for op, value in _walk(tree):
        if str(op) in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, body = value
            if most == _parser.MAXREPEAT and (len(body) != 1 or str(body[0][0]) not in ("IN", "LITERAL", "CATEGORY")):
                raise ConfigError(
                    f"A crisis pattern that begins with {pattern[:20]!r} repeats a group without bound; write {{0,4}}."
                )


def _walk(tree: Any) -> Any:
    for op, value in tree:
        yield op, value
        for item in value if isinstance(value, tuple | list) else ():
            if isinstance(item, _parser.SubPattern):
                yield from _walk(item)
            elif isinstance(item, list):
                for branch in item:
                    if isinstance(branch, _parser.SubPattern):
                        yield from _walk(branch)


class _Finder:
    def __init__(self, *, spaceless: bool) -> None:
        self.spaceless = spaceless
        self.length = 1 if spaceless else LENGTH

    def required(self, atoms: Sequence[Any]) -> list[set[Need]]:
        """Sets of which each match holds one member, at most one set for each place, cheapest first."""
        options: list[set[Need]] = []
        begins = True  # a pattern is searched from the beginning of a word
        atoms = _flat(atoms)
        for at, atom in enumerate(atoms):
            here: list[set[Need]] = []
            if begins or self.spaceless:
                here.append({Need(text, whole) for text, whole in self._prefixes(atoms[at:], self.length)})
                here += self._inside(atom)
            usable = [o for o in here if o and all(n.text for n in o) and len(o) <= _TOO_MANY and self.cost(o) < _DEAR]
            options += sorted(usable, key=self.cost)[:1]
            begins = self._ends_word(atom, begins)
        return sorted(options, key=self.cost)

    def _inside(self, atom: Any) -> list[set[Need]]:
        """What alternatives, or something that is repeated, cannot do without."""
        op, value = str(atom[0]), atom[1]
        if op in ("MAX_REPEAT", "MIN_REPEAT") and value[0] > 0:
            return self.required(list(value[2]))
        if op != "BRANCH":
            return []
        found = [self.required(list(branch)) for branch in value[1]]
        return [set().union(*[one[0] for one in found])] if all(found) else []

    def cost(self, found: set[Need]) -> float:
        """How often a sentence would hold one of these, roughly."""
        return sum(self._weight(need) for need in found)

    def _weight(self, need: Need) -> float:
        if self.spaceless:
            return 40 if need.text in _COMMON_CJK else 1
        if need.text in _COMMON:
            return 60
        return 1 if need.whole else {1: 3000, 2: 300, 3: 6}.get(len(need.text), 1)

    def _prefixes(self, atoms: Sequence[Any], left: int) -> set[tuple[str, bool]]:
        """First letters of what a sequence can begin with; ('', False) where that may be anything."""
        if left == 0:
            return {("", False)}
        if not atoms:
            return {("", False)}  # what follows the end is not known
        (op, value), rest = (str(atoms[0][0]), atoms[0][1]), atoms[1:]
        if op in ("ASSERT", "ASSERT_NOT"):
            return self._prefixes(rest, left)
        if op == "AT":
            # After a letter a boundary ends the word; before the first one it says nothing.
            closes = str(value) in ("AT_BOUNDARY", "AT_END", "AT_END_STRING") and left < self.length
            return {("", True)} if closes else self._prefixes(rest, left)
        if op == "LITERAL":
            char = chr(value)
            return self._prefixed(char, rest, left) if _is_letter(char) else {("", True)}
        if op == "IN":
            return self._of_class(value, rest, left)
        if op == "SUBPATTERN":
            return self._prefixes([*value[3], *rest], left)
        if op == "BRANCH":
            return self._joined([self._prefixes([*branch, *rest], left) for branch in value[1]])
        if op in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, body = value
            once = self._prefixes([*body, *(rest if most == 1 else [])], left)
            return once if least else self._joined([once, self._prefixes(rest, left)])
        return {("", False)}

    def _prefixed(self, char: str, rest: Sequence[Any], left: int) -> set[tuple[str, bool]]:
        return {(char + text, whole) for text, whole in self._prefixes(rest, left - 1)}

    def _of_class(self, value: Any, rest: Sequence[Any], left: int) -> set[tuple[str, bool]]:
        found: set[tuple[str, bool]] = set()
        for op, item in value:
            if str(op) == "LITERAL" and _is_letter(chr(item)):
                found |= self._prefixed(chr(item), rest, left)
            elif str(op) == "LITERAL" or (
                str(op) == "CATEGORY" and str(item) in ("CATEGORY_SPACE", "CATEGORY_NOT_WORD")
            ):
                found.add(("", True))
            else:
                return {("", False)}
        return found

    def _joined(self, sets: Sequence[set[tuple[str, bool]]]) -> set[tuple[str, bool]]:
        found = set().union(*sets)
        return found if len(found) <= _TOO_MANY else {("", False)}

    def _ends_word(self, atom: Any, before: bool) -> bool:
        """Whether whatever follows the atom begins a word."""
        op, value = str(atom[0]), atom[1]
        if op in ("ASSERT", "ASSERT_NOT", "AT"):
            return before
        if op == "LITERAL":
            return not _is_letter(chr(value))
        if op == "IN":
            kinds = {(str(o), str(i)) for o, i in value}
            return all(
                (o == "LITERAL" and not _is_letter(chr(int(i)))) or (o == "CATEGORY" and i == "CATEGORY_SPACE")
                for o, i in kinds
            )
        if op in ("MAX_REPEAT", "MIN_REPEAT"):
            least, _, body = value
            ends = self._sequence_ends(list(body), before)
            return ends if least else ends and before
        if op == "SUBPATTERN":
            return self._sequence_ends(list(value[3]), before)
        if op == "BRANCH":
            return all(self._sequence_ends(list(branch), before) for branch in value[1])
        return False

    def _sequence_ends(self, atoms: Sequence[Any], before: bool) -> bool:
        for atom in atoms:
            before = self._ends_word(atom, before)
        return before


def _flat(atoms: Sequence[Any]) -> list[Any]:
    """A sequence with the contents of plain groups in their place."""
    found: list[Any] = []
    for atom in atoms:
        found += _flat(list(atom[1][3])) if str(atom[0]) == "SUBPATTERN" else [atom]
    return found


def _is_letter(char: str) -> bool:
    return char.isalnum()
