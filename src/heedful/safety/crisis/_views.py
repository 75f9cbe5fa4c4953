"""How a message is made plain before crisis rules search it, and how a place in the plain text leads back.

People in distress write in capitals, stretch words, put blanks or dots between letters, swap letters for digits, mask
vowels against filters, and leave out accents. The view undoes this once for all rules, in passes that are linear in the
length of the message. It keeps where each character came from, so that a match can be shown to a clinician.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np

from heedful.safety.crisis._index import SHORT, characters

_QUOTES = {**dict.fromkeys("’‘ʼ´`＇", "'"), **dict.fromkeys("“”„«»‹›「」『』", '"')}
# Letters of other scripts that look like Latin ones; the first use of them is to slip past a filter.
_LOOKALIKES = dict(zip("асеорхуіјѕкмтнвԁοαεικνρτυı", "aceopxyijskmthbdoaeiknptui", strict=True))
_LEET = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i"})
_LEET_L = str.maketrans({"0": "o", "1": "l", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "l"})

_DOTS = re.compile(r"\.{2,}")
_BLANKS = re.compile(r"\s{3,}")
_LONG_RUN = re.compile(r"([a-z])\1\1+")
_SPACED = re.compile(r"(?<![a-z0-9'])[a-z](?:[ .\-*/|+~,][a-z](?![a-z0-9'])){2,}")
_ODD_SIGN = re.compile(r"[0-9@$!*#]+")
_EMPHASIS = re.compile(r"[*~#]+")
_WORDY = "abcdefghijklmnopqrstuvwxyz0123456789@$!*#"
_MANY = re.compile(r"[a-z]{8,}")
_CJK_GAP = re.compile(r"(?<=[\u3400-\u9fff])[ \t\u3000.\-*/|~·・]+(?=[\u3400-\u9fff])")
_LONGEST = 40
"""No disguised word is longer; a longer run of letters and digits is a link or noise and stays as it is."""


def _fold(char: str) -> str:
    if char in _QUOTES:
        return _QUOTES[char]
    if char == "_":
        return " "  # people write _so_, and for a pattern "_" would be a letter
    parts = unicodedata.normalize("NFKD", char)
    kept = "".join(c for c in parts if unicodedata.category(c) not in ("Mn", "Me", "Cf"))
    low = "".join(_QUOTES.get(c, c) for c in kept.casefold())
    return "".join(_LOOKALIKES.get(c, c) for c in low)


class _Table(dict[int, str]):
    """What each character becomes, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        found = _fold(chr(code))
        if len(self) < 1 << 17:  # all of the assigned characters people use; never without bound
            self[code] = found
        return found


_TABLE = _Table()

_UNKNOWN, _OTHER = 0xFFFFFFFF, 0xFFFFFFFE
_CODES = np.full(0x20000, _UNKNOWN, "<u4")
"""Code point -> the one that it becomes, where it becomes one; `_OTHER` where it becomes several or none."""
_SPACES = np.array([chr(code).isspace() for code in range(0x3001)])
_LETTER = np.zeros(128, bool)
_LETTER[ord("a") : ord("z") + 1] = True
_BETWEEN = np.zeros(128, bool)
_BETWEEN[[ord(c) for c in " .-*/|+~,"]] = True
_GAPS = np.zeros(0x3100, bool)
_GAPS[[ord(c) for c in " \t\u3000.-*/|~·・"]] = True


def fold(text: str) -> str:
    """`text` in small letters, without accents, hidden characters, full-width forms and curly quotes.

    >>> fold("Ｉ ｗａｎｔ to d\\u200bïe")
    'i want to die'
    """
    if len(text) < SHORT or text.isascii():
        return text.translate(_TABLE)
    return _folded(text)


def _folded(text: str) -> str:
    """The same for long texts, in passes over all characters at once."""
    if not text:  # all of it were signs that become nothing
        return text
    codes = characters(text)
    if int(codes.max()) >= len(_CODES):
        return text.translate(_TABLE)
    new = _CODES[codes]
    for code in np.unique(codes[new == _UNKNOWN]).tolist():
        found = _TABLE[code]
        _CODES[code] = ord(found) if len(found) == 1 else _OTHER
    new = _CODES[codes]
    if not (new == _OTHER).any():
        return new.tobytes().decode("utf-32-le", "surrogatepass")
    others = [chr(code) for code in np.unique(codes[new == _OTHER]).tolist()]
    # What a character becomes stays what it is when it is folded again: then the order does not matter.
    if len(others) > 8 or any(found.translate(_TABLE) != found for found in (_TABLE[ord(c)] for c in others)):
        return text.translate(_TABLE)
    for char in others:
        text = text.replace(char, _TABLE[ord(char)])
    return _folded(text)


@dataclass(frozen=True, kw_only=True)
class Disguises:
    """What a language's rules say people disguise: single words, and phrases that they write as one word."""

    words: frozenset[str]
    phrases: tuple[str, ...]

    @cached_property
    def glued(self) -> tuple[re.Pattern[str] | None, dict[str, str]]:
        """A pattern of the phrases without their blanks, and the phrase that each stands for."""
        table = {phrase.replace(" ", "").replace("'", ""): phrase for phrase in self.phrases}
        if not table:
            return None, table
        longest_first = sorted(table, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))), table

    def known(self, word: str) -> str | None:
        """The word or phrase that a run of letters stands for, or None."""
        if word in self.words:
            return word
        pattern, table = self.glued
        if pattern is None or not any(map(word.__contains__, table)):
            return None
        return pattern.sub(lambda m: f" {table[m.group()]} ", word).strip()


@dataclass(frozen=True, kw_only=True)
class View:
    """A message as the rules read it.

    Args:
        text: the plain text.
        raw: the message.
        edits: where a stretch of the folded text was replaced: (begin and end there, begin and end in `text`).
    """

    text: str = field(repr=False)
    raw: str = field(repr=False)
    edits: tuple[tuple[int, int, int, int], ...] = field(repr=False)

    @cached_property
    def _origins(self) -> np.ndarray[Any, np.dtype[Any]] | None:
        """For each character of the folded text the one of the message it came from; None where they are the same."""
        if self.raw.isascii():
            return None
        others = {ord(char): len(_TABLE[ord(char)]) for char in set(self.raw) if len(_TABLE[ord(char)]) != 1}
        if not others:
            return None
        codes = characters(self.raw)
        sizes = np.ones(len(codes), np.int64)
        for code, size in others.items():
            sizes[codes == code] = size
        return np.repeat(np.arange(len(codes)), sizes)

    @cached_property
    def _begins(self) -> list[int]:
        return [edit[2] for edit in self.edits]

    def origin(self, begin: int, end: int) -> tuple[int, int]:
        """Where in the message the characters `begin` to `end` (not included, and after `begin`) of the view are."""
        first, last = self._folded(begin)[0], self._folded(end - 1)[1] - 1
        if self._origins is None:
            return first, last + 1
        return int(self._origins[first]), int(self._origins[last]) + 1

    def _folded(self, at: int) -> tuple[int, int]:
        k = bisect_right(self._begins, at) - 1
        if k < 0:
            return at, at + 1
        old_begin, old_end, new_begin, new_end = self.edits[k]
        if at < new_end and new_begin < new_end:
            return old_begin, old_end
        return old_end + at - new_end, old_end + at - new_end + 1


def view(text: str, disguises: Disguises) -> View:
    """The view of a message; never fails, whatever the message holds."""
    folded = fold(text)
    edits: list[tuple[int, int, str]] = []
    for found in sorted(_edits(folded, disguises)):
        if not edits or found[0] >= edits[-1][1]:
            edits.append(found)
    parts, places, at, size = [], [], 0, 0
    for begin, end, new in edits:
        parts += [folded[at:begin], new]
        size += begin - at
        places.append((begin, end, size, size + len(new)))
        size += len(new)
        at = end
    return View(text="".join([*parts, folded[at:]]), raw=text, edits=tuple(places))


_Pass = Literal["dots", "blanks", "spaced", "runs", "emphasis", "gaps"]
_PASSES: frozenset[_Pass] = frozenset(get_args(_Pass))


def _worth(text: str) -> frozenset[_Pass]:
    """The passes that could find something: patterns look at each character, this looks at all of them at once."""
    if len(text) < SHORT:
        return _PASSES
    codes = characters(text)
    low = np.minimum(codes, 127)
    letter, between = _LETTER[low], _BETWEEN[low]
    space = _SPACES[np.minimum(codes, 0x2FFF)] | (codes == 0x3000)
    cjk = (codes >= 0x3400) & (codes <= 0x9FFF)
    found: dict[_Pass, bool] = {
        "dots": ".." in text,
        "blanks": bool((space[:-2] & space[1:-1] & space[2:]).any()),
        "spaced": bool((letter[:-4] & between[1:-3] & letter[2:-2] & between[3:-1] & letter[4:]).any()),
        "runs": bool((letter[:-2] & (codes[:-2] == codes[1:-1]) & (codes[:-2] == codes[2:])).any()),
        "emphasis": any(sign in text for sign in "*~#"),
        "gaps": bool((cjk[:-1] & _GAPS[np.minimum(codes[1:], len(_GAPS) - 1)]).any()),
    }
    return frozenset(name for name, worth in found.items() if worth)


def _edits(text: str, disguises: Disguises) -> Iterator[tuple[int, int, str]]:
    worth = _worth(text)
    if "dots" in worth:
        yield from ((m.start(), m.end(), " ") for m in _DOTS.finditer(text) if m.end() < len(text))
    if "blanks" in worth:
        yield from ((m.start(), m.end(), "\n\n" if m.group().count("\n") > 1 else " ") for m in _BLANKS.finditer(text))
    if "spaced" in worth:
        yield from _spaced(text, disguises)
    if "runs" in worth:
        yield from _tokens(text, _LONG_RUN.finditer(text), disguises)
    yield from _tokens(text, _ODD_SIGN.finditer(text), disguises)
    if "emphasis" in worth:
        yield from ((m.start(), m.end(), " ") for m in _EMPHASIS.finditer(text))
    for found in _MANY.finditer(text):
        if (new := _unglued(found.group(), disguises)) is not None:
            yield found.start(), found.end(), new
    if "gaps" in worth:
        yield from ((m.start(), m.end(), "") for m in _CJK_GAP.finditer(text))


def _unglued(word: str, disguises: Disguises) -> str | None:
    if word in disguises.words:
        return None
    new = disguises.known(word)
    return None if new is None or new == word else new


def _spaced(text: str, disguises: Disguises) -> Iterator[tuple[int, int, str]]:
    """Single letters with something between them: `k i l l`, `s.u.i.c.i.d.e`."""
    for found in _SPACED.finditer(text):
        letters = re.sub(r"[^a-z]", "", found.group())
        for begin in range(min(3, len(letters))):  # "i k i l l": the first letters may be words of their own
            if (new := disguises.known(letters[begin:])) is not None:
                # "k.i.l.l. myself": the last dot ends no sentence.
                dotted = found.end() < len(text) and text[found.end()] == found.group()[-2] != " "
                yield found.start(), found.end() + dotted, " ".join([*letters[:begin], new])
                break


def _tokens(text: str, cores: Iterable[re.Match[str]], disguises: Disguises) -> Iterator[tuple[int, int, str]]:
    """Words around a stretched letter or an odd sign, where they are a known word in disguise."""
    done = -1
    for core in cores:
        if core.start() < done:
            continue
        begin, end = core.start(), core.end()
        left, right = text[max(0, begin - _LONGEST) : begin], text[end : end + _LONGEST]
        begin -= len(left) - len(left.rstrip(_WORDY))
        end += len(right) - len(right.lstrip(_WORDY))
        done = end
        while end > begin and text[end - 1] in "!*#@":  # "die!" ends a sentence, "d!e" does not
            end -= 1
        if 2 <= end - begin <= _LONGEST and (new := _undisguised(text[begin:end], disguises)) is not None:
            yield begin, end, new


@lru_cache(maxsize=4096)
def _undisguised(token: str, disguises: Disguises) -> str | None:
    bare = token.strip("!*#@")
    for word in _readings(bare):
        found = disguises.known(word)
        if found is not None and found != token:
            return found
    if "*" in bare or "#" in bare:
        masked = re.compile(re.sub(r"\\[*#]+", ".", re.escape(bare)).translate(_LEET))
        wide = (
            re.compile(re.sub(r"(?:\\[*#])+", ".{1,4}", re.escape(bare)).translate(_LEET)) if len(bare) > 3 else masked
        )
        return min(
            (w for w in disguises.words if len(w) > 2 and (masked.fullmatch(w) or wide.fullmatch(w))), default=None
        )
    # A stretched word that is no known one: one letter each, so that "sooo" is "so".
    return _squeezed(bare, 1) if bare.isalpha() and _LONG_RUN.search(bare) and bare == token else None


def _readings(token: str) -> Sequence[str]:
    plain = [token] if token.isalpha() else [token.translate(_LEET), token.translate(_LEET_L)]
    return [reading for word in plain for reading in (word, _squeezed(word, 2), _squeezed(word, 1))]


def _squeezed(word: str, keep: int) -> str:
    """Runs of three letters or more cut to `keep`; with 1 also runs of two beside them stay as they are."""
    return re.sub(r"(.)\1\1+", lambda m: m.group(1) * keep, word)
