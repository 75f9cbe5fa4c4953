"""Whether somebody says in words that they want to reach a person. The button on the page needs no words.

>>> asks_for_person("Please, I want to talk to a real person."), asks_for_person("My boss is a difficult person.")
(True, False)
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

READ: Final = 2000
"""So many first and last characters of a message are read."""


def asks_for_person(text: str) -> bool:
    """Whether a message asks for a person, in any language that `person.toml` has."""
    plain = _plain(text if len(text) <= 2 * READ else f"{text[:READ]}\n{text[-READ:]}")
    return any(pattern.search(plain) for pattern in _patterns())


@cache
def cases() -> Mapping[str, Mapping[str, Any]]:
    """Patterns and cases of each language."""
    found = tomllib.loads(files("heedful.safety").joinpath("person.toml").read_text("utf-8"))
    return {name: about for name, about in found.items() if isinstance(about, dict)}


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(_plain(p)) for about in cases().values() for p in about["patterns"])


def _plain(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.lower().replace("’", "'"))
    return "".join(c for c in apart if not unicodedata.combining(c))
