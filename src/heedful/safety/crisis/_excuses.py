"""What takes matches of a sentence back: each excuse is looked for once, and only where its words stand."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Final

from heedful.safety.crisis._needs import Need
from heedful.safety.crisis._rules import Excuse

NEAR: Final = 90
"""Characters before a match, and after it, in which an excuse can stand."""
_PARTS: Final = ("before", "after", "cover", "around", "revoked")


@dataclass(frozen=True, kw_only=True, eq=False)
class Marked:
    """An excuse and the bits of its patterns in the index.

    Args:
        some: of all that excuses; the others of one part each.
    """

    name: str
    excuse: Excuse = field(repr=False)
    some: int
    before: int
    after: int
    cover: int
    around: int
    revoked: int


def mark(name: str, excuse: Excuse, needed: MutableSequence[Sequence[frozenset[Need]]]) -> Marked:
    """Enter the patterns of an excuse into a list of numbered patterns."""
    bits = dict.fromkeys(_PARTS, 0)
    for part, patterns in excuse.needs.items():
        for one in patterns:
            bits[part] |= 1 << len(needed)
            needed.append(one)
    some = bits["before"] | bits["after"] | bits["cover"] | bits["around"]
    return Marked(name=name, excuse=excuse, some=some, **bits)


class Excused:
    """The excuses of what is found in one sentence.

    Args:
        text: the sentence.
        bits: the patterns of excuses that can be in it.
    """

    __slots__ = ("_afters", "_befores", "_bits", "_text", "_wholes")

    def __init__(self, text: str, bits: int) -> None:
        self._text, self._bits = text, bits
        self._wholes: dict[Marked, bool | list[tuple[int, int]]] = {}
        self._befores: dict[tuple[Marked, int], bool] = {}
        self._afters: dict[tuple[Marked, int], bool] = {}

    def by(self, excuses: Sequence[Marked], begin: int, end: int) -> str | None:
        """The first excuse that takes back a match at `begin` to `end`, or None."""
        bits = self._bits
        # A window that begins or ends inside of a word has words that the sentence does not have.
        cut = self._splits(begin - NEAR) or self._splits(end + NEAR)
        for one in excuses:
            if (bits & one.some or cut) and self._holds(one, begin, end, cut):
                return one.name
        return None

    def _holds(self, one: Marked, begin: int, end: int, cut: bool) -> bool:
        whole = self._wholes.get(one)
        if whole is None:
            whole = self._wholes[one] = self._whole(one)
        if not isinstance(whole, list):
            return whole
        if self._bits & one.before or (cut and one.before):
            found = self._befores.get((one, begin))
            if found is None:
                found = self._befores[one, begin] = self._stands_before(one, begin)
            if found:
                return True
        if self._bits & one.after or (cut and one.after):
            found = self._afters.get((one, end))
            if found is None:
                found = self._afters[one, end] = self._stands_after(one, end)
            if found:
                return True
        return any(first <= begin < last for first, last in whole)

    def _splits(self, at: int) -> bool:
        return 0 < at < len(self._text) and self._text[at - 1].isalnum() and self._text[at].isalnum()

    def _stands_before(self, one: Marked, begin: int) -> bool:
        before = one.excuse.before
        return before is not None and before.search(self._text[max(0, begin - NEAR) : begin]) is not None

    def _stands_after(self, one: Marked, end: int) -> bool:
        after = one.excuse.after
        return after is not None and after.match(self._text[end : end + NEAR]) is not None

    def _whole(self, one: Marked) -> bool | list[tuple[int, int]]:
        """False: it is revoked. True: it holds for the whole sentence. Else the places that it covers."""
        excuse, bits, text = one.excuse, self._bits, self._text
        if excuse.revoked is not None and bits & one.revoked and excuse.revoked.search(text):
            return False
        if excuse.around is not None and bits & one.around and excuse.around.search(text):
            return True
        if excuse.cover is None or not bits & one.cover:
            return []
        return [found.span() for found in excuse.cover.finditer(text)]
