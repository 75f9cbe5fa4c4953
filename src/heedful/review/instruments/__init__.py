"""Questionnaires as data: what is asked, how answers add up, which answer goes to a person at once.

A file in this folder is known; a clinic adds its own in `$HEEDFUL_HOME/instruments`. A sum describes two weeks of one
person. It is no diagnosis, and pages never call it one.

>>> found = get("phq9").score([1, 1, 2, 1, 0, 0, 1, 0, 1])
>>> found.total, found.band, found.triggers
(7, 'mild', ('item-9',))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from heedful.errors import ConfigError, DataError
from heedful.review._data import Shelf, keys, texts

FOLDER = "instruments"


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """An answer that a person looks at, whatever the sum is.

    Args:
        item: from 1.
        least: the smallest answer that counts.
        tier: of the crisis path.
    """

    id: str
    item: int
    least: int
    tier: str


@dataclass(frozen=True, kw_only=True)
class Wording:
    """An instrument in one language; `answers` stand beside the values of the scale."""

    stem: str
    answers: tuple[str, ...]
    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What answers come to.

    Args:
        total: their sum; None where an item was left out, since a part is no sum.
        band: None without a total, or where the instrument has no bands.
        triggers: ids, in the order of the file; they do not wait for the other answers.
    """

    total: int | None
    band: str | None
    triggers: tuple[str, ...]
    tiers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """A questionnaire.

    Args:
        scale: what each answer counts, ascending.
        bands: (least sum, id), ascending.
    """

    id: str
    version: str
    title: str
    scale: tuple[int, ...]
    bands: tuple[tuple[int, str], ...]
    triggers: tuple[Trigger, ...]
    wordings: Mapping[str, Wording] = field(repr=False)

    @property
    def length(self) -> int:
        """How many items there are."""
        return len(next(iter(self.wordings.values())).items)

    @property
    def highest(self) -> int:
        """The highest sum."""
        return self.length * self.scale[-1]

    def wording(self, language: str) -> tuple[str, Wording]:
        """The words in a language, or in English where there are none, with the language that they are in."""
        found = language if language in self.wordings else next(iter(self.wordings))
        return found, self.wordings[found]

    def score(self, answers: Sequence[int | None]) -> Result:
        """Add up answers; None = left out.

        Raises:
            DataError: another number of answers, or one that is not on the scale.
        """
        if len(answers) != self.length:
            raise DataError(f"{self.title} has {self.length} items, but {len(answers)} answers came.")
        if any(a is not None and (isinstance(a, bool) or a not in self.scale) for a in answers):
            raise DataError(f"An answer to {self.title} is one of {', '.join(map(str, self.scale))}.")
        given = [a for a in answers if a is not None]
        total = sum(given) if len(given) == len(answers) else None
        band = None
        if total is not None and self.bands:
            band = next(id for least, id in reversed(self.bands) if total >= least)
        struck = [t for t in self.triggers if (a := answers[t.item - 1]) is not None and a >= t.least]
        return Result(total=total, band=band, triggers=tuple(t.id for t in struck), tiers=tuple(t.tier for t in struck))


def known() -> dict[str, Instrument]:
    """All instruments, those of the clinic over ours, by id.

    Raises:
        ConfigError: a file that is not of the form of those in this folder; it is named.
    """
    return _SHELF.known()


def get(id: str) -> Instrument:
    """The instrument of that id.

    Raises:
        DataError: there is none.
    """
    return _SHELF.get(id)


def parse(found: Mapping[str, Any], *, where: str) -> Instrument:
    """An instrument from the content of a file.

    Raises:
        ConfigError: a key is missing or unknown, or values do not fit each other.
    """
    keys(found, {"id", "version", "title", "bands", "triggers", "scale", "text"}, where=where)
    scale = tuple(found["scale"])
    if len(scale) < 2 or any(not isinstance(n, int) for n in scale) or list(scale) != sorted(set(scale)):
        raise ConfigError(f"{where}: 'scale' must be at least two whole numbers, ascending.")
    wordings = {
        language: Wording(stem=about["stem"], answers=tuple(about["answers"]), items=tuple(about["items"]))
        for language, about in texts(found["text"], {"stem", "answers", "items"}, where=where).items()
    }
    sizes = {(len(w.answers), len(w.items)) for w in wordings.values()}
    if len(sizes) != 1 or next(iter(sizes))[0] != len(scale):
        raise ConfigError(f"{where}: every language needs the same items, and one answer for each value of the scale.")
    length = next(iter(sizes))[1]
    bands = tuple((band["from"], band["id"]) for band in found["bands"])
    if bands and (bands[0][0] != length * scale[0] or [b[0] for b in bands] != sorted({b[0] for b in bands})):
        raise ConfigError(f"{where}: 'bands' must ascend and begin with the lowest sum, {length * scale[0]}.")
    triggers = tuple(Trigger(id=t["id"], item=t["item"], least=t["from"], tier=t["tier"]) for t in found["triggers"])
    if any(not 1 <= t.item <= length for t in triggers):
        raise ConfigError(f"{where}: a trigger names an item from 1 to {length}.")
    return Instrument(
        id=found["id"],
        version=found["version"],
        title=found["title"],
        scale=scale,
        bands=bands,
        triggers=triggers,
        wordings=wordings,
    )


_SHELF: Final = Shelf(FOLDER, parse, kind="instrument")
