"""The filter of names: no name that a help-seeker sees carries a protected title. One file of titles a language.

All languages are tried on every name. The name of the responsible professional is exempt: it is a person's own.

>>> found("Anna the therapist"), found("Counselling service Nordstadt")
('therapist', None)
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Final

from heedful.errors import ConfigError
from heedful.review import exercises
from heedful.server.config import ServeConfig
from heedful.server.house import House
from heedful.server.words import refusal

LANGUAGES: Final = ("en", "de", "es")


@dataclass(frozen=True, kw_only=True)
class Titles:
    """The titles of a language; `names` and `others` are the file's own test cases."""

    version: str
    pattern: re.Pattern[str] = field(repr=False)
    names: tuple[str, ...]
    others: tuple[str, ...]


def found(name: str) -> str | None:
    """The first title that a name carries, as it is written without accents, or None."""
    for language in LANGUAGES:
        for text in _readings(name):
            if match := load(language).pattern.search(text):
                return match.group().strip()
    return None


def check(name: str, *, what: str) -> None:
    """Refuse a name with a title.

    Args:
        what: whose name it is, for the sentence.

    Raises:
        ConfigError: it carries one; the sentence names the title and the switch.
    """
    if title := found(name):
        raise refusal(ConfigError, "refusal.title", what=what, title=title)


def check_installation(config: ServeConfig, house: House) -> None:
    """Refuse names of the clinic, its model and its pages with a protected title.

    Raises:
        ConfigError: the first one, with the place where it stands.
    """
    check(house.name, what="clinic.toml: name")
    check(config.model_name or "", what="model_name")
    check(config.model.replace("\\", "/").rstrip("/").rpartition("/")[2], what="model")
    for exercise in exercises.known().values():
        for language, title in exercise.title.items():
            check(title, what=f"{exercise.id} ({language})")


@cache
def load(language: str) -> Titles:
    """The titles of a language."""
    content = tomllib.loads(files("heedful.server.titles").joinpath(f"{language}.toml").read_text("utf-8"))
    joined = "|".join(content["titles"])
    return Titles(
        version=content["version"],
        pattern=re.compile(rf"(?<!\w)(?:{joined})(?!\w)"),
        names=tuple(content["names"]),
        others=tuple(content["others"]),
    )


def _readings(name: str) -> tuple[str, ...]:
    """Ways to read a name: signs as blanks, and signs as nothing ("psycho-therapist", "M.D."); umlauts in both ways."""
    bare = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf").casefold()
    out = []
    for text in (bare, bare.replace("ä", "ae").replace("ö", "oe").replace("ü", "ue")):
        plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        out += [re.sub(r"[\W_]+", " ", plain), re.sub(r"[^\w\s]|_", "", plain)]
    return tuple(dict.fromkeys(out))
