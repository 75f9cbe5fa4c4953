"""De-identification: names, numbers and places of people replaced before anything leaves the house.

    text -> recognisers -> findings (where, what kind) -> [NAME_1], [PHONE_1], ...

The recognisers are patterns and lists of ours, what the clinic knows of its own people, and Presidio where it is
installed. They miss things: a person reads what is exported. How many they miss is measured on seeded names
(`heedful.privacy.deidentify.seeded`, docs/privacy.md), never promised.

>>> made = deidentify("I'm Katrin, call me on +49 170 5550147. Katrin Sommer, that is.")
>>> made.text
"I'm [NAME_1], call me on [PHONE_1]. [NAME_1], that is."
>>> [found.kind for found in made.findings]
['name', 'phone', 'name']
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from heedful.errors import ConfigError
from heedful.privacy.deidentify.recognisers import RECOGNISERS, Finding, NameList, recogniser

__all__ = ["RECOGNISERS", "Deidentified", "Finding", "NameList", "Pseudonyms", "deidentify", "find"]


@dataclass(frozen=True, kw_only=True)
class Deidentified:
    """A text without what was found; `findings` stand where they stood in the old text."""

    text: str = field(repr=False)
    findings: tuple[Finding, ...]


class Pseudonyms:
    """The same person is the same number, through one conversation or one export.

    Numbers are given in order of appearance, so they say nothing outside; the table is never written anywhere.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._parts: dict[str, str] = {}

    def of(self, kind: str, words: str) -> str:
        """The stand-in, for instance `[NAME_2]`."""
        plain = _plain(words)
        if (kind, plain) in self._known:
            return self._known[kind, plain]
        # "Katrin" and "Katrin Sommer" are most often one person; a stand-in too few is better than a name too many.
        parts = plain.split() if kind == "name" else []
        same = next((self._parts[part] for part in parts if part in self._parts), None)
        made = same or f"[{kind.upper()}_{len({v for (k, _), v in self._known.items() if k == kind}) + 1}]"
        self._known[kind, plain] = made
        self._parts.update(dict.fromkeys(parts, made))
        return made


def find(text: str, *, names: Sequence[str] = (), recognisers: Iterable[str] | None = None) -> tuple[Finding, ...]:
    """What could tell who somebody is, in order, without overlaps (the longer finding wins, then the earlier).

    Args:
        names: people and places that are known here: the help-seeker's own name, staff, the clinic's list.
        recognisers: names of `RECOGNISERS`; None = all of ours, and Presidio where it is installed.

    Raises:
        NotFoundError: no such recogniser.
        MissingExtraError: `presidio` was named and is not installed.
    """
    if isinstance(names, str):
        raise ConfigError("'names' is a list of names; a single text would be read as its letters.")
    found: list[Finding] = []
    for name in RECOGNISERS.names() if recognisers is None else recognisers:
        made = recogniser(name, optional=recognisers is None)
        if made is not None:
            found += made.find(text)
    found += NameList(names).find(text)
    kept: list[Finding] = []
    for finding in sorted(found, key=lambda f: (f.start - f.end, f.start, f.kind)):
        if all(finding.end <= other.start or finding.start >= other.end for other in kept):
            kept.append(finding)
    return tuple(sorted(kept, key=lambda f: f.start))


def deidentify(
    text: str,
    *,
    names: Sequence[str] = (),
    pseudonyms: Pseudonyms | None = None,
    recognisers: Iterable[str] | None = None,
) -> Deidentified:
    """`text` with stand-ins for what `find` finds.

    Args:
        pseudonyms: give the same one for all turns of a talk, so that a person keeps one number.
    """
    findings = find(text, names=names, recognisers=recognisers)
    numbers = pseudonyms or Pseudonyms()
    pieces: list[str] = []
    at = 0
    for finding in findings:
        pieces += [text[at : finding.start], numbers.of(finding.kind, text[finding.start : finding.end])]
        at = finding.end
    return Deidentified(text="".join([*pieces, text[at:]]), findings=findings)


def _plain(words: str) -> str:
    bare = unicodedata.normalize("NFKD", words.casefold())
    return " ".join("".join(c for c in bare if not unicodedata.combining(c)).removesuffix("'s").split())
