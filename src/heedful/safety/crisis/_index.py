"""Which patterns can be where in a message: words are looked up all at once, as numbers.

A word is looked up by its first four letters, which is all that a need can name. The four letters make a number, the
number is a place in a table, and the table says which patterns need such a word: a bit for each pattern, three times,
for the up to three words that a pattern cannot do without. So a message of 50,000 characters costs a handful of passes
in C, however many patterns there are.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Final, NamedTuple

import numpy as np

from heedful.errors import ConfigError
from heedful.safety.crisis._needs import LENGTH, SETS, Need

SHORT: Final = 1000
"""Characters up to which a text is not worth looking at as a whole."""
SIGNS: Final = 0x20000
"""Characters above are looked up as this one, which nobody needs."""
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_TOKEN: Final = re.compile(f"[{_LETTERS}]+")
_BASE: Final = len(_LETTERS) + 1
_KIND: Final = np.zeros(128, np.uint32)
_KIND[[ord(c) for c in _LETTERS]] = range(1, _BASE)

Numbers = np.ndarray[Any, np.dtype[Any]]


def characters(text: str) -> Numbers:
    """The code points of a text, shape [characters]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class Table:
    """Which patterns need which beginnings of words. Patterns are numbered; a set of them is an integer, a bit each."""

    def __init__(self) -> None:
        self.whole: dict[str, int] = {}
        self.begin: dict[int, dict[str, int]] = {}
        self.cjk: dict[str, int] = {}
        self.free = 0
        """Patterns that need nothing of this table."""

    def add(self, needed: Iterable[Need], bit: int) -> None:
        """Enter one set of needs of a pattern.

        Raises:
            ConfigError: a need that is longer than what is looked up.
        """
        for need in needed:
            if need.text.isascii():
                table = self.whole if need.whole else self.begin.setdefault(len(need.text), {})
                fits = len(need.text) < LENGTH if need.whole else len(need.text) <= LENGTH
            else:
                table, fits = self.cjk, len(need.text) == 1 and ord(need.text) < SIGNS
            if not fits:
                raise ConfigError(f"A crisis pattern needs '{need.text}', which is longer than what is looked up.")
            table[need.text] = table.get(need.text, 0) | bit

    def bits(self, token: str) -> int:
        """The patterns that a word calls for."""
        found = self.whole.get(token, 0)
        for length, table in self.begin.items():
            found |= table.get(token[:length], 0)
        return found


class Found(NamedTuple):
    """A piece in which some pattern can be.

    Args:
        number: of the piece.
        bits: the patterns.
        places, rows: where its words begin, and their rows of the index.
    """

    number: int
    bits: int
    places: list[int]
    rows: list[int]


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Words of a message that patterns need or begin with.

    Args:
        at: where they begin, in order, shape [words].
        rows: their row of the index's bits, shape [words].
    """

    at: Numbers
    rows: Numbers


class Index:
    """What `needs` and first words of numbered patterns say, ready for whole messages.

    Args:
        needed: of each pattern its sets of needs, rarest first; none of them where it may be anywhere.
        first: of each pattern what it can begin with; None where that may be anything.
        searched: so many patterns, the first ones, make a piece worth searching. The others are only told along.
    """

    def __init__(
        self, needed: Sequence[Sequence[Iterable[Need]]], first: Sequence[Iterable[Need] | None], *, searched: int
    ) -> None:
        self.count = len(needed)
        self._searched = np.frombuffer(((1 << searched) - 1).to_bytes(-(-self.count // 64) * 8, "little"), "<u8")
        self.tables = tuple(Table() for _ in range(SETS))
        self.starts = Table()
        """Which patterns can begin with a word; `free` may begin anywhere."""
        for n, (sets, begins) in enumerate(zip(needed, first, strict=True)):
            for at, table in enumerate(self.tables):
                if at < len(sets):
                    table.add(sets[at], 1 << n)
                else:
                    table.free |= 1 << n
            if begins is None:
                self.starts.free |= 1 << n
            else:
                self.starts.add(begins, 1 << n)
        self._width = -(-self.count // 64)
        self._filling = threading.Lock()
        self._worth = (1 << searched) - 1
        self._known: dict[tuple[int, ...], int] = {}
        self._rows: dict[str, int] = {}
        self._sets: list[tuple[int, ...]] = []
        self._bits = np.zeros((0, SETS, self._width), "<u8")
        self._telling = np.zeros((0, SETS), bool)
        self.beginning: list[int] = []
        """For each row the patterns that can begin with such a word."""
        self._row((0,) * (SETS + 1))
        self._words = np.full(_BASE**LENGTH, -1, np.int16)
        self._words[0] = 0
        self._signs = np.zeros(SIGNS + 1, np.int16)
        for sign in {char for table in (*self.tables, self.starts) for char in table.cjk}:
            self._signs[ord(sign)] = self._row(tuple(t.cjk.get(sign, 0) for t in (*self.tables, self.starts)))
        self._has_signs = bool(self._signs.any())

    def pieces(self, text: str, spans: Sequence[tuple[int, int]]) -> Iterator[Found]:
        """Pieces of a plain text in which some pattern can be.

        Args:
            spans: where the pieces begin and end; in order, and they may overlap.
        """
        if len(text) < SHORT:
            yield from self._few(text, spans)
            return
        if not spans:
            return
        hits, edges = self.hits(text), np.array(spans)
        places, rows = hits.at.tolist(), hits.rows.tolist()
        for number, bits, low, high in zip(*self.wanted(hits, edges[:, 0], edges[:, 1]), strict=True):
            yield Found(number=number, bits=bits, places=places[low:high], rows=rows[low:high])

    def _few(self, text: str, spans: Sequence[tuple[int, int]]) -> Iterator[Found]:
        """The same for a short text, for which setting up arrays takes longer than looking at each word."""
        met = [(m.start(), self._row_of(m.group()[:LENGTH])) for m in _TOKEN.finditer(text)]
        if self._has_signs and not text.isascii():
            signs = ((at, int(self._signs[min(ord(char), SIGNS)])) for at, char in enumerate(text) if char >= "\x80")
            met = sorted(met + list(signs))
        met = [hit for hit in met if hit[1]]
        for number, (begin, end) in enumerate(spans):
            mine = [(at, row) for at, row in met if begin <= at < end]
            sets = [self._sets[row] for _, row in mine]
            bits = -1
            for n, table in enumerate(self.tables):
                bits &= reduce(or_, (one[n] for one in sets), table.free)
            if bits & self._worth:
                yield Found(number=number, bits=bits, places=[at for at, _ in mine], rows=[row for _, row in mine])

    def _row_of(self, word: str) -> int:
        found = self._rows.get(word)
        if found is None:
            with self._filling:
                found = self._rows[word] = self._row(tuple(t.bits(word) for t in (*self.tables, self.starts)))
        return found

    def hits(self, text: str) -> Hits:
        """The words of a plain text that some pattern needs or begins with."""
        raw = characters(text)
        kinds = np.zeros(len(raw) + LENGTH + 1, np.uint32)
        kinds[1 : len(raw) + 1] = _KIND[np.minimum(raw, 127)]
        begins = np.flatnonzero((kinds[1:] > 0) & (kinds[:-1] == 0))
        codes, inside = np.zeros(len(begins), np.uint32), np.ones(len(begins), bool)
        for n in range(LENGTH):
            letters = kinds[begins + 1 + n] * inside
            codes, inside = codes * _BASE + letters, letters > 0
        rows = self._words[codes]
        if len(new := codes[rows < 0]):
            for code in np.unique(new):
                self._words[code] = self._row_of(_spelled(int(code)))
            rows = self._words[codes]
        at, rows = begins[rows > 0], rows[rows > 0]
        if self._has_signs and not text.isascii():
            signs = self._signs[np.minimum(raw, SIGNS)]
            places = np.flatnonzero(signs)
            at, rows = np.concatenate([at, places]), np.concatenate([rows, signs[places]])
            order = np.argsort(at, kind="stable")
            at, rows = at[order], rows[order]
        return Hits(at=at, rows=rows)

    def wanted(self, hits: Hits, begins: Numbers, ends: Numbers) -> tuple[list[int], list[int], list[int], list[int]]:
        """Pieces in which some pattern can be.

        Args:
            begins, ends: of all pieces, shape [pieces].

        Returns:
            Of each such piece: its number, the patterns as bits, and the first and last (not included) of its hits.
        """
        number = np.arange(len(begins))
        found: Numbers | None = None
        for n, table in enumerate(self.tables):
            free = np.frombuffer(table.free.to_bytes(self._width * 8, "little"), "<u8")
            # Most words say nothing to one table; only the others are looked at.
            telling = self._telling[hits.rows, n]
            at, rows = hits.at[telling], hits.rows[telling]
            low, high = np.searchsorted(at, begins[number]), np.searchsorted(at, ends[number])
            some = high > low
            bits = np.zeros((len(number), self._width), "<u8")
            if some.any():
                bits[some] = _united(self._bits[:, n], rows, low[some], high[some])
            bits |= free
            found = bits if found is None else found & bits
            left = (found & self._searched).any(axis=1)
            number, found = number[left], found[left]
            if not len(number):  # most messages hold nothing that calls for a search
                return [], [], [], []
        assert found is not None
        data, size = found.tobytes(), self._width * 8
        patterns = [int.from_bytes(data[k : k + size], "little") for k in range(0, len(data), size)]
        low, high = np.searchsorted(hits.at, begins[number]), np.searchsorted(hits.at, ends[number])
        return number.tolist(), patterns, low.tolist(), high.tolist()

    def _row(self, found: tuple[int, ...]) -> int:
        """The row of equal bits; a new one where there is none."""
        if found not in self._known:
            self._known[found] = len(self._known)
            data = b"".join(bits.to_bytes(self._width * 8, "little") for bits in found[:SETS])
            self._bits = np.concatenate([self._bits, np.frombuffer(data, "<u8").reshape(1, SETS, self._width)])
            self._telling = np.concatenate([self._telling, np.array([[bits > 0 for bits in found[:SETS]]])])
            self._sets.append(found)
            self.beginning.append(found[SETS])
        return self._known[found]


def _united(bits: Numbers, rows: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """The bits of each run of rows, `low` to `high` (not included), in one. Runs are in order and may overlap.

    Shapes: bits [rows of the table, width], rows [words], low and high [runs] -> [runs, width].
    """
    first, last = int(low[0]), int(high[-1])
    gathered = np.concatenate([bits[rows[first:last]], np.zeros((1, bits.shape[1]), bits.dtype)])
    edges = np.stack([low - first, high - first], axis=1).ravel()
    return np.bitwise_or.reduceat(gathered, edges, axis=0)[::2]


def _spelled(code: int) -> str:
    letters = ""
    for _ in range(LENGTH):
        code, letter = divmod(code, _BASE)
        letters = (_LETTERS[letter - 1] if letter else "") + letters
    return letters
