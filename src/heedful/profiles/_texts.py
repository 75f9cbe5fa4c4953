"""Disclosures: what people are told about the software, at which moment. One file a language in `texts/`.

Our own words. Where a law fixes words, the operator pastes the official text in a file of its own.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from heedful.errors import ConfigError, unknown

LANGUAGES = ("en", "es", "de")
MOMENTS: Mapping[str, frozenset[str]] = {
    "before-first-use": frozenset({"responsible", "contact", "place", "days"}),
    "start": frozenset({"line"}),
    "timer": frozenset({"line"}),
    "return": frozenset({"line"}),
    "when-asked": frozenset(),
    "co-pilot": frozenset(),
    "risk-held": frozenset({"minutes", "line", "emergency"}),
    "nobody-on-duty": frozenset({"line", "emergency"}),
    "minors": frozenset({"line"}),
    "recording": frozenset(),
    "training-consent": frozenset({"contact"}),
    "closing-down": frozenset({"day", "contact", "line"}),
}
"""Every moment, with the values that its text needs."""


@dataclass(frozen=True, kw_only=True)
class Disclosures:
    """The texts of a language. `version` is logged beside the moment whenever one is shown."""

    language: str
    version: str
    texts: Mapping[str, str] = field(repr=False)

    def text(self, moment: str, **values: object) -> str:
        """The text of a moment, filled in.

        Raises:
            NotFoundError: no such moment.
            ConfigError: a value is missing; nothing is shown with a hole in it.
        """
        if moment not in MOMENTS:
            raise unknown("moment of disclosure", moment, MOMENTS)
        if lacking := MOMENTS[moment] - set(values):
            raise ConfigError(f"The disclosure '{moment}' needs a value for '{min(lacking)}'.")
        return self.texts[moment].format_map(values)


@cache
def load_texts(language: str) -> Disclosures:
    """The disclosures of a language.

    Raises:
        NotFoundError: there are none.
        ConfigError: a moment lacks, is one too many, or uses other values than it may.
    """
    if language not in LANGUAGES:
        raise unknown("language of disclosures", language, LANGUAGES)
    return parse_texts(files("heedful.profiles.texts").joinpath(f"{language}.toml").read_text("utf-8"), where=language)


def parse_texts(text: str, *, where: str) -> Disclosures:
    """Disclosures from TOML.

    Raises:
        ConfigError: as for `load_texts`.
    """
    try:
        found = tomllib.loads(text)
        made = Disclosures(language=found["language"], version=found["version"], texts=found["texts"])
    except (tomllib.TOMLDecodeError, KeyError) as err:
        raise ConfigError(f"The disclosures '{where}' cannot be used: {type(err).__name__} {err}.") from err
    if set(made.texts) != set(MOMENTS):
        raise ConfigError(f"The disclosures '{where}' must hold {', '.join(MOMENTS)}, and nothing else.")
    for moment, words in made.texts.items():
        used = {name for _, name, _, _ in string.Formatter().parse(words) if name}
        if used != MOMENTS[moment]:
            raise ConfigError(
                f"The disclosure '{moment}' ('{where}') must use {', '.join(sorted(MOMENTS[moment])) or 'no value'}."
            )
    return made
