"""Every text of every page, by key: one TOML file a language. A new language is one more file with the same keys.

>>> load("de").say("nav.talk")
'Gespräch'
>>> accepted("fr-CH, de;q=0.8, en;q=0.9")
'en'
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar

from heedful.errors import ConfigError, HeedfulError, NotFoundError, unknown

LANGUAGES: Final = ("en", "de", "es")
"""The first one stands in where nothing better is known."""
Refused = TypeVar("Refused", bound=HeedfulError)


@dataclass(frozen=True, kw_only=True)
class Words:
    """The texts of a language; `texts` is `page.key` -> text with values in braces."""

    language: str
    texts: Mapping[str, str] = field(repr=False)

    def say(self, key: str, **values: object) -> str:
        """A text, filled in.

        Raises:
            NotFoundError: there is no such key.
            ConfigError: a value is missing; nothing is shown with a hole in it.
        """
        if key not in self.texts:
            raise unknown("text", key, self.texts)
        text = self.texts[key]
        if lacking := placeholders(text) - set(values):
            raise ConfigError(f"The text '{key}' needs a value for '{min(lacking)}'.")
        return text.format_map(values)

    def has(self, key: str) -> bool:
        """Whether there is such a text: for names out of data files that a clinic may extend."""
        return key in self.texts


def refusal(kind: type[Refused], key: str, **values: object) -> Refused:
    """An error whose sentence is a text of the pages: the message is English, a page says it in its reader's language.

    >>> str(refusal(ConfigError, "refusal.name", most=120))
    'A name needs 1 to 120 characters.'
    """
    made = kind(load(LANGUAGES[0]).say(key, **values))
    made.words = key, values
    return made


def placeholders(text: str) -> set[str]:
    """The names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@cache
def load(language: str) -> Words:
    """The texts of a language.

    Raises:
        NotFoundError: there are none.
        ConfigError: the file holds something else than tables of texts.
    """
    if language not in LANGUAGES:
        raise NotFoundError(f"There are no page texts in '{language}'; there are {', '.join(LANGUAGES)}.")
    found = tomllib.loads(files("heedful.server.words").joinpath(f"{language}.toml").read_text("utf-8"))
    return Words(language=language, texts=_flat(found, language))


def _flat(found: Mapping[str, Any], language: str, before: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for key, value in found.items():
        if isinstance(value, Mapping):
            out |= _flat(value, language, f"{before}{key}.")
        elif isinstance(value, str):
            out[before + key] = value
        else:
            raise ConfigError(f"The page text '{before}{key}' in {language}.toml is no text.")
    return out


def known(wanted: str | None) -> str | None:
    """The language of ours that somebody means, or None.

    >>> known("de-AT"), known("fr"), known(None)
    ('de', None, None)
    """
    short = (wanted or "").strip().lower().replace("_", "-").split("-")[0]
    return short if short in LANGUAGES else None


def accepted(header: str) -> str:
    """The best language for an Accept-Language header."""
    wishes: list[tuple[float, int, str]] = []
    for place, part in enumerate(header.split(",")[:20]):
        name, _, rest = part.partition(";")
        found = known(name)
        weight = _weight(rest)
        if found is not None and weight > 0:
            wishes.append((-weight, place, found))
    return min(wishes)[2] if wishes else LANGUAGES[0]


def _weight(text: str) -> float:
    name, _, value = text.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        found = float(value)
    except ValueError:
        return 0.0
    return found if 0 <= found <= 1 else 0.0
