"""Recognisers: each says where one kind of thing stands that could tell who somebody is. Ours are data and small rules.

A new one is a class with `find(text)` and a line in `RECOGNISERS`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import ClassVar, Protocol

from heedful.errors import MissingExtraError
from heedful.registry import Registry

RECOGNISERS = Registry(
    "recogniser",
    {
        "contact": "heedful.privacy.deidentify.recognisers:Contact",
        "numbers": "heedful.privacy.deidentify.recognisers:Numbers",
        "dates": "heedful.privacy.deidentify.recognisers:Dates",
        "places": "heedful.privacy.deidentify.recognisers:Places",
        "people": "heedful.privacy.deidentify.recognisers:People",
        "capitals": "heedful.privacy.deidentify.recognisers:Capitals",
        "presidio": "heedful.privacy.deidentify.presidio:Presidio",
    },
)
"""Name -> class without arguments."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Characters `start` to `end` (not included) are of a kind: name, place, phone, mail, link, account, id, date."""

    kind: str
    start: int
    end: int
    by: str


class Recogniser(Protocol):
    """Something that finds."""

    def find(self, text: str) -> Iterator[Finding]: ...


@cache
def recogniser(name: str, *, optional: bool) -> Recogniser | None:
    """The recogniser of that name; None where it is optional and its library is not installed.

    Raises:
        NotFoundError: no such recogniser.
        MissingExtraError: it was asked for by name and is not installed.
    """
    try:
        made: Recogniser = RECOGNISERS.get(name)()
    except MissingExtraError:
        if optional:
            return None
        raise
    return made


class _Patterns:
    """Regular expressions, each with the kind of what it finds; the group `it` is the finding, if there is one."""

    name: ClassVar[str]
    table: ClassVar[tuple[tuple[str, re.Pattern[str]], ...]]

    def find(self, text: str) -> Iterator[Finding]:
        """All matches that `accept` takes."""
        for kind, pattern in self.table:
            for match in pattern.finditer(text):
                group = "it" if "it" in pattern.groupindex else 0
                if match.group(group) and self.accept(kind, match.group(group)):
                    start, end = match.span(group)
                    yield Finding(kind=kind, start=start, end=end, by=self.name)

    def accept(self, kind: str, words: str) -> bool:
        """Whether a match counts."""
        return True


def _re(pattern: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    return re.compile(pattern, flags)


class Contact(_Patterns):
    """Addresses on the net and telephone numbers."""

    name = "contact"
    table = (
        ("mail", _re(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}")),
        ("link", _re(r"\b(?:https?://|www\.)[^\s<>\"']{2,300}[^\s<>\"'.,;:!?)]")),
        ("link", _re(r"(?<![\w@.])@[a-z_][\w.]{2,30}\b")),
        ("link", _re(r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}\b")),
        # At least seven digits, with the separators that people write; no plain year or amount has so many.
        ("phone", _re(r"(?<![\w.,])(?:\+|00)?\(?\d{1,4}\)?(?:[ /.()-]{0,2}\d){6,12}(?![\w])(?![.,]\d)")),
    )

    def accept(self, kind: str, words: str) -> bool:
        """No dates and no amounts among the telephone numbers."""
        return kind != "phone" or not _DATE.fullmatch(words.strip())


_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/. ]{1,2}\d{1,2}[-/. ]{1,2}\d{4}")


_PAPERS = "passport|licen[cs]e|insurance|policy|member|patient|case|nhs|ssn|ausweis|versicherten|dni|nie|pasaporte"


class Numbers(_Patterns):
    """Accounts and numbers of papers. Cards and IBANs count only if their check digits are right."""

    name = "numbers"
    table = (
        ("account", _re(r"\b[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?\b")),
        ("account", _re(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")),
        ("id", _re(r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)")),
        ("id", _re(rf"\b(?:{_PAPERS})[ -]?(?:number|no\.?|nr\.?|nummer|n[úu]mero|id)?(?: is| ist| es|:)? ?#?"
                   r"(?P<it>(?=\w*\d)[a-z0-9][a-z0-9-]{4,17})\b")),
        ("id", _re(r"\b\d{8}[A-HJ-NP-TV-Z]\b", 0)),
    )  # fmt: skip

    def accept(self, kind: str, words: str) -> bool:
        """Check digits."""
        bare = re.sub(r"[ -]", "", words).upper()
        if kind != "account":
            return True
        return _luhn(bare) if bare.isdigit() else _iban(bare)


def _luhn(digits: str) -> bool:
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + at % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _iban(bare: str) -> bool:
    moved = bare[4:] + bare[:4]
    return 15 <= len(bare) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


_MONTHS = (
    "jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|m[äa]rz|apr(?:il)?|may|mai|jun[ei]?|jul[yi]?|aug(?:ust)?|sept?(?:ember)?"
    "|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre"
    "|octubre|noviembre|diciembre"
)  # fmt: skip


class Dates(_Patterns):
    """Dates of day, month and year, and dates of birth. A month or a year alone tells nobody's name."""

    name = "dates"
    table = (
        ("date", _re(r"\b\d{4}-\d{1,2}-\d{1,2}\b|\b\d{1,2}[./-] ?\d{1,2}[./-] ?(?:19|20)?\d{2}\b")),
        ("date", _re(rf"\b\d{{1,2}}(?:st|nd|rd|th|\.)?(?: of| de)? (?:{_MONTHS})\.?(?: de|,)? (?:19|20)\d{{2}}\b")),
        ("date", _re(rf"\b(?:{_MONTHS})\.? \d{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)\d{{2}}\b")),
        ("date", _re(rf"\b(?:born|birthday|geboren|geburtstag|nac[íi]|cumplea[ñn]os)\W+(?:\w+\W+){{0,3}}?"
                     rf"(?P<it>\d{{1,2}}(?:st|nd|rd|th|\.)?(?: of| de)? (?:{_MONTHS})|(?:{_MONTHS})\.? \d{{1,2}})\b")),
    )  # fmt: skip


_CAP = r"[A-ZÀ-ÖØ-Þ][\w'’-]+"
_WORDS = rf"{_CAP}(?: (?:of |de |la |del |der |von )?{_CAP}){{0,3}}"


_STREET = (
    "[Ss]t(?:reet)?|[Rr](?:oa)?d|[Aa]ve(?:nue)?|[Ll]ane|[Dd]rive|[Cc]ourt|[Cc]lose|[Ss]quare|[Tt]errace|"
    "[Bb](?:ou)?le?va?r?d|[Ww]ay"
)
_STRASSE = "stra(?:ß|ss)e|str\\.|weg|gasse|platz|allee|ufer|damm"
_CALLE = "[Cc]alle|[Aa]venida|[Aa]vda\\.?|[Pp]laza|[Pp]aseo|[Cc]/"
_HOUSE = (
    "University|College|School|Hospital|Clinic|Academy|Church|Ltd|Inc|GmbH|AG|Gymnasium|Grundschule|Klinik|"
    "Krankenhaus|Universit[äa]t"
)
_HOUSE_OF = "University|Universidad|Universit[äa]t|Colegio|Instituto|Hospital|Klinik|Bank"


class Places(_Patterns):
    """Streets, postcodes, and named schools, employers, hospitals."""

    name = "places"
    table = tuple(
        ("place", _re(pattern, 0))
        for pattern in (
            rf"\b\d{{1,5}}[a-zA-Z]? {_CAP}(?: {_CAP}){{0,2}} (?:{_STREET})\b\.?",
            rf"\b[A-ZÄÖÜ][\wäöüß-]*(?:{_STRASSE}) ?\d{{1,4}} ?[a-z]?\b",
            rf"\b(?:{_CALLE}) ?(?:de |del |la )*{_CAP}(?: (?:de |del |la )*{_CAP})*,? \d{{1,4}}\b",
            r"\b[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}\b",
            rf"\b\d{{5}} {_CAP}(?: (?:am|an der|bei) {_CAP})?\b|\b{_CAP},? [A-Z]{{2}} \d{{5}}(?:-\d{{4}})?\b",
            rf"\b{_WORDS} (?:{_HOUSE})\b|\b(?:{_HOUSE_OF}) (?:of|de|del|la)? ?{_WORDS}\b",
            rf"\b(?:I live|we live|living|I moved|moved|I am|I'm|come) (?:in|to|from|near) (?P<it>{_WORDS})",
            rf"\b(?:wohne|lebe|komme|ziehe|gezogen) (?:in|aus|nach|bei) (?P<it>{_WORDS})",
            rf"\b(?:[Vv]ivo|[Vv]engo|[Ss]oy|mud[ée]) (?:en|de|a) (?P<it>{_WORDS})",
        )
    )

    def accept(self, kind: str, words: str) -> bool:
        """No months and weekdays."""
        return not _no_name(words)


_KIN = (
    "sister|brother|husband|wife|boyfriend|girlfriend|partner|friend|best friend|son|daughter|mother|father|mom|mum|"
    "dad|aunt|"
    "uncle|cousin|boss|manager|teacher|therapist|counsell?or|doctor|neighbou?r|roommate|flatmate|colleague|ex|nephew|niece|"
    "grandmother|grandfather|grandma|grandpa|dog|cat"
)
_KIN_DE = (
    "schwester|bruder|mann|frau|freund|freundin|partner|partnerin|sohn|tochter|mutter|vater|tante|onkel|cousine?|chef|chefin|"
    "lehrer|lehrerin|therapeutin|therapeut|nachbarin|nachbar|kollegin|kollege|oma|opa|hund|katze"
)
_KIN_ES = (
    "hermana|hermano|marido|esposo|esposa|mujer|novio|novia|pareja|amigo|amiga|hijo|hija|madre|padre|mam[áa]|pap[áa]|t[íi]a|t[íi]o|"
    "prim[oa]|jef[ea]|profesora?|terapeuta|vecin[oa]|compañer[oa]|abuel[oa]|perr[oa]|gat[oa]"
)
_NAME = rf"{_CAP}(?: (?:(?:von|van|de|der|del|la|da) )*{_CAP}){{0,2}}"


_INTRO = (
    r"\b(?:my|his|her|their) (?:(?:first|last|full|real|middle) )?name(?: is|'s)|\bcall me|\bi am called|\bi go by|"
    r"\bname's|\bmein name ist|\bich hei(?:ß|ss)e|\bnenn mich|\bnennen sie mich|\bme llamo|\bmi nombre es|"
    r"\bse llama|\bis called|\bnamed|\bhei(?:ß|ss)t"
)
_I_AM = "I'm|I am|Ich bin|[Ss]oy|This is|Hier ist"
_INTRO_SELF = "my name is|ich hei(?:ß|ss)e|mein name ist|me llamo|mi nombre es"
_TITLE = "mr|mrs|ms|miss|mx|dr|prof|professor|doctor|nurse|sir|herrn?|frau|sra?|señora?|don|doña|dra"
_HELLO = "Dear|Hi|Hello|Hey|Liebe[r]?|Hallo|Hola|Querid[oa]|Estimad[oa]"
_BYE = "[Rr]egards|[Ss]incerely|[Cc]heers|[Ll]ove|Gr(?:ü|ue)ße|Gru(?:ß|ss)|[Ss]aludos"


class People(_Patterns):
    """Names: after an introduction, a title or a relative; and given names of the list, with the names behind them."""

    name = "people"
    table = (
        ("name", _re(rf"(?i:{_INTRO}) (?P<it>{_NAME})", 0)),
        # Who writes in small letters only is found after the plainest introductions.
        ("name", _re(rf"\b(?:{_INTRO_SELF}) (?P<it>[^\W\d_]{{2,20}})\b")),
        (
            "name",
            _re(rf"\b(?:{_I_AM}) (?P<it>{_NAME})(?=[.,!;]|$| (?:and|und|y)\b)", 0),
        ),
        ("name", _re(rf"\b(?i:{_TITLE})\.? (?P<it>{_NAME})", 0)),
        ("name", _re(rf"(?i:\b(?:{_KIN}|{_KIN_DE}|{_KIN_ES}),?) (?P<it>{_NAME})", 0)),
        ("name", _re(rf"(?m:^)(?:{_HELLO}) (?P<it>{_NAME})", 0)),
        ("name", _re(rf"(?:{_BYE}),?\s+(?P<it>{_NAME})\s*$", 0)),
    )
    given: ClassVar[re.Pattern[str]] = re.compile(
        rf"\b(?P<first>{_CAP})(?: (?:(?:von|van|de|der|del|la|da) )*{_CAP}){{0,2}}"
    )

    def find(self, text: str) -> Iterator[Finding]:
        """Patterns first, then given names wherever they stand with a capital letter."""
        yield from super().find(text)
        for match in re.finditer(rf"\b{_CAP}", text):
            if _listed(match.group()):
                whole = self.given.match(text, match.start())
                end = whole.end() if whole else match.end()
                yield Finding(
                    kind="name", start=match.start(), end=_without_possessive(text, match.start(), end), by=self.name
                )

    def accept(self, kind: str, words: str) -> bool:
        """No "I'm Sorry" and no "my sister Monday"."""
        return not _no_name(words)


def _without_possessive(text: str, start: int, end: int) -> int:
    return end - 2 if text[start:end].endswith(("'s", "’s")) else end


@cache
def given_names() -> frozenset[str]:
    """The list of given names, in small letters, without accents."""
    return _words("names.txt")


def _no_name(words: str) -> bool:
    return words.split()[0].lower() in _words("not_names.txt")


@cache
def _words(name: str) -> frozenset[str]:
    lines = files("heedful.privacy.deidentify").joinpath(name).read_text("utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def _listed(word: str) -> bool:
    bare = word.removesuffix("'s").removesuffix("’s")
    # Both ways to write a name without its dots: Jürgen is juergen in the list, José is jose.
    umlauts = bare.lower().translate({0xE4: "ae", 0xF6: "oe", 0xFC: "ue"})
    accents = "".join(c for c in unicodedata.normalize("NFKD", bare.lower()) if not unicodedata.combining(c))
    return not {bare.lower(), umlauts, accents}.isdisjoint(given_names())


_GERMAN = re.compile(r"\b(?:und|ich|nicht|der|die|das|ist|mein|meine|wir|ein|eine|mit|zu)\b")
_INNER = re.compile(rf"(?<=[a-zà-öø-ÿ,;:] )(?P<it>{_CAP})")


class Capitals:
    """Words with a capital inside a sentence, in languages that keep capitals for names (not German).

    It takes titles of films and names of illnesses for people too. For an export, a word too many costs less than a
    name too few.
    """

    def find(self, text: str) -> Iterator[Finding]:
        """All of them, unless the text is German or in capitals throughout."""
        if _GERMAN.search(text) or sum(c.isupper() for c in text) > sum(c.islower() for c in text):
            return
        for match in _INNER.finditer(text):
            word = match.group("it")
            if not _no_name(word) and not word.isupper():
                start, end = match.span("it")
                yield Finding(kind="name", start=start, end=_without_possessive(text, start, end), by="capitals")


class NameList:
    """What is known here, wherever it stands, in any case. Parts of a full name count, from three letters."""

    def __init__(self, names: Sequence[str]) -> None:
        parts = {part for name in names for part in (name.strip(), *name.split()) if len(part) > 2}
        longest = sorted(parts, key=lambda part: (-len(part), part))
        self.pattern = _re(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)") if longest else None

    def find(self, text: str) -> Iterator[Finding]:
        """All places."""
        for match in self.pattern.finditer(text) if self.pattern else ():
            yield Finding(kind="name", start=match.start(), end=match.end(), by="list")
