"""A record of a person as a PDF: whatever stands in the JSON, key by key, and the JSON itself as an attachment.

Everything is drawn in a generic way, so a new part of the record cannot be forgotten here. Words may be of any script.
A character that no font at hand can draw stands as its number in brackets, and the first page says so.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from fontTools.ttLib import TTFont, TTLibError
from fpdf import FPDF
from fpdf.enums import Align, XPos, YPos

from heedful.server import logs

OURS: Final = ("DejaVuSans.ttf", "DroidSansFallback.ttf")
"""Fonts of the folder `fonts`: Latin, Greek, Cyrillic, Hebrew, Arabic and many signs; Chinese, Japanese, Korean."""
ENDINGS: Final = (".ttf", ".otf")
PLAIN: Final = frozenset(("L", "EN", "ES", "ET", "CS", "ON", "WS", "S", "B", "BN", ""))
"""Kinds of characters of a line in which one picture follows the other from left to right."""
PARAGRAPHS: Final = ("text", "wording")
"""Keys whose values stand on lines of their own."""
ATTACHED: Final = "my-record.json"
BODY, SMALL, HEADINGS = 10.0, 8.0, (18.0, 14.0, 11.5)
"""Sizes in points."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What a record is called and explained with, in its reader's language.

    Args:
        key: the name of a part, by its key in the JSON.
        attached: says that the file is attached. missing: says what the numbers in brackets are.
        nothing: stands for an empty part.
    """

    title: str
    attached: str
    missing: str
    nothing: str
    page: str
    key: Callable[[str], str] = field(repr=False)


def to_pdf(record: Mapping[str, Any], *, labels: Labels, language: str, own: Path | None = None) -> bytes:
    """A record as a PDF, with bookmarks, a title and a language for screen readers.

    Args:
        own: folder with more fonts of the clinic; they are asked after ours.
    """
    shelf = _fonts(own)
    sheet = _Sheet(labels=labels, language=language, letters=_Letters(shelf))
    body = list(_lines(record, labels))
    lost = any(sheet.letters.lacks(line.text) for line in body)
    for line in _head(labels, lost=lost):
        sheet.draw(line)
    for line in body:
        sheet.draw(line)
    content = json.dumps(record, ensure_ascii=False, indent=2).encode("utf-8")
    sheet.embed_file(bytes=content, basename=ATTACHED, desc=labels.title, mime_type="application/json")
    return bytes(sheet.output())


# ---------------------------------------------------------------------- what is written


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One paragraph; `level` of a heading from 0, None for anything else."""

    text: str = field(repr=False)
    level: int | None = None
    small: bool = False
    indent: int = 0


def _head(labels: Labels, *, lost: bool) -> Iterator[_Line]:
    yield _Line(text=labels.title, level=0)
    yield _Line(text=labels.attached)
    if lost:
        yield _Line(text=labels.missing)


def _lines(record: Mapping[str, Any], labels: Labels) -> Iterator[_Line]:
    simple = {key: value for key, value in record.items() if not isinstance(value, Mapping | list)}
    yield _Line(text=_joined(simple, labels), small=True)
    for key, value in record.items():
        if key not in simple:
            yield _Line(text=labels.key(key), level=1)
            yield from _part(value, labels, indent=0)


def _part(value: Any, labels: Labels, *, indent: int) -> Iterator[_Line]:
    if isinstance(value, Mapping):
        yield from _entry(value, labels, indent=indent)
    elif isinstance(value, list):
        for n, item in enumerate(value, start=1):
            if isinstance(item, Mapping):
                yield from _entry(item, labels, indent=indent, before=f"{n}. ")
            else:
                yield _Line(text=f"{n}. {_plain(item, labels)}", indent=indent)
        if not value:
            yield _Line(text=labels.nothing, indent=indent)
    else:
        yield _Line(text=_plain(value, labels), indent=indent)


def _entry(found: Mapping[str, Any], labels: Labels, *, indent: int, before: str = "") -> Iterator[_Line]:
    simple = {k: v for k, v in found.items() if not isinstance(v, Mapping | list) and k not in PARAGRAPHS}
    if simple or before:
        yield _Line(text=before + _joined(simple, labels), small=True, indent=indent)
    for key, value in found.items():
        if key in simple:
            continue
        if key in PARAGRAPHS and isinstance(value, str):
            yield _Line(text=value, indent=indent)
            continue
        yield _Line(text=f"{labels.key(key)}:", small=True, indent=indent + 1)
        yield from _part(value, labels, indent=indent + 1)


def _joined(found: Mapping[str, Any], labels: Labels) -> str:
    return " · ".join(f"{labels.key(key)}: {_plain(value, labels)}" for key, value in found.items())


def _plain(value: Any, labels: Labels) -> str:
    return labels.nothing if value is None or value == "" else str(value)


# ---------------------------------------------------------------------- how it is drawn


class _Letters:
    """Which font draws a character, and what stands there where none does."""

    def __init__(self, shelf: Sequence[Path]) -> None:
        self.shelf = shelf
        self.drawn = [characters(path) for path in shelf]
        self._found: dict[str, int | None] = {}

    def lacks(self, text: str) -> bool:
        """Whether a character of a text has to stand as its number."""
        return any(self._lost(char) for char in set(text))

    def font(self, char: str) -> int | None:
        """The first font that has a character."""
        if char not in self._found:
            code = ord(char)
            self._found[char] = next((n for n, known in enumerate(self.drawn) if code in known), None)
        return self._found[char]

    def written(self, text: str) -> str:
        """A text with all that cannot be drawn as numbers."""
        out: list[str] = []
        row: list[str] = []
        for char in text:
            if self._lost(char):
                row.append(f"U+{ord(char):04X}")
                continue
            if _unseen(char) and self.font(char) is None:
                continue
            if row:
                out.append(f"[{' '.join(row)}]")
                row = []
            out.append(char)
        return "".join(out) + (f"[{' '.join(row)}]" if row else "")

    def _lost(self, char: str) -> bool:
        return char != "\n" and not _unseen(char) and self.font(char) is None


def _unseen(char: str) -> bool:
    """Whether a character has no shape of its own: joiners, directions, variants of the one before."""
    return unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


class _Sheet(FPDF):
    """An A4 document that is told one paragraph after the other."""

    def __init__(self, *, labels: Labels, language: str, letters: _Letters) -> None:
        super().__init__(format="A4")
        self.labels, self.letters = labels, letters
        self._loaded: list[int] = []
        self.set_title(labels.title)
        self.set_lang(language)
        self.set_creator("heedful")
        self.set_margin(18)
        self.set_auto_page_break(True, margin=20)
        self._load(0)
        self.add_page()

    def footer(self) -> None:
        """The number of the page."""
        self.set_y(-14)
        self.set_font("f0", size=SMALL)
        self.cell(0, 6, f"{self.labels.page} {self.page_no()}", align=Align.C)

    def draw(self, line: _Line) -> None:
        """One paragraph, on as many pages as it needs."""
        text = self.letters.written("\n".join(line.text.expandtabs(4).splitlines()))
        for n in sorted({n for char in set(text) if (n := self.letters.font(char)) is not None}):
            self._load(n)
        size = SMALL if line.small else BODY if line.level is None else HEADINGS[line.level]
        self.set_font("f0", size=size)
        if line.level is not None:
            self.ln(size / 3)
            self.start_section(text, level=line.level)
        self.set_x(self.l_margin + 6 * line.indent)
        # It joins Arabic letters and orders lines that run from right to left, and takes ten times as long.
        self.set_text_shaping(any(_needs_shaping(char) for char in set(text)))
        align = Align.R if _from_right(text) else Align.L
        self.multi_cell(0, size * 0.5, text or " ", align=align, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1)

    def _load(self, n: int) -> None:
        if n in self._loaded:
            return
        self.add_font(f"f{n}", fname=str(self.letters.shelf[n]))
        self._loaded = sorted([*self._loaded, n])
        self.set_fallback_fonts([f"f{m}" for m in self._loaded if m], exact_match=False)


def _needs_shaping(char: str) -> bool:
    return unicodedata.bidirectional(char) not in PLAIN or unicodedata.category(char).startswith("M")


def _from_right(text: str) -> bool:
    """Whether the first letter that has a direction runs from right to left."""
    found = next((d for char in text if (d := unicodedata.bidirectional(char)) in ("L", "R", "AL")), "L")
    return found != "L"


# ---------------------------------------------------------------------- fonts


def _fonts(own: Path | None) -> tuple[Path, ...]:
    """Our fonts, then those of a clinic that can be read."""
    ours = [Path(str(files("heedful.server").joinpath("fonts", name))) for name in OURS]
    theirs = sorted(p for p in own.iterdir() if p.suffix.lower() in ENDINGS) if own is not None and own.is_dir() else []
    return (*ours, *(path for path in theirs if characters(path)))


def characters(path: Path) -> frozenset[int]:
    """The characters that a font file can draw; none where it cannot be read, since a record is shown all the same."""
    return _characters(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _characters(path: Path, changed: int) -> frozenset[int]:
    try:
        with path.open("rb") as file, TTFont(file, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError, AssertionError, KeyError, ValueError) as err:
        logs.fault(err)
        return frozenset()
