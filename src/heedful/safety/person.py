"""Whether somebody says in words that they want to reach a person. The button on the page needs no words.

>>> asks_for_person("Please, I want to talk to a real person."), asks_for_person("My boss is a difficult person.")
(True, False)
>>> asks_for_person("Please never connect me to a human.")
False
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

_CLAUSE: Final = re.compile(r"[.?!,;:\n。？！，；]| (?:but|aber|sondern|pero|sino) ")
READ: Final = 2000
"""So many first and last characters of a message are read."""


def asks_for_person(text: str) -> bool:
    """Whether a message asks for a person, in any language that `person.toml` has."""
    plain = _plain(text if len(text) <= 2 * READ else f"{text[:READ]}\n{text[-READ:]}")
    return any(_found(plain, pattern, refusals) for pattern, refusals in _patterns())


def _found(plain: str, pattern: re.Pattern[str], refusals: Sequence[re.Pattern[str]]) -> bool:
    """Whether a pattern is found where no refusal of the same clause reaches into it."""
    at = 0
    while (match := pattern.search(plain, at)) is not None:
        begins = max((end.end() for end in _CLAUSE.finditer(plain, 0, match.start())), default=0)
        over = (no.end() for refusal in refusals for no in refusal.finditer(plain, begins, match.end()))
        if not any(end > match.start() for end in over):
            return True
        at = match.start() + 1
    return False


@cache
def cases() -> Mapping[str, Mapping[str, Any]]:
    """Patterns and cases of each language."""
    found = tomllib.loads(files("heedful.safety").joinpath("person.toml").read_text("utf-8"))
    return {name: about for name, about in found.items() if isinstance(about, dict)}


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], tuple[re.Pattern[str], ...]], ...]:
    found = []
    for about in cases().values():
        refusals = tuple(re.compile(_plain(p)) for p in about["refusals"])
        found += [(re.compile(_plain(p)), refusals) for p in about["patterns"]]
    return tuple(found)


def _plain(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.lower().replace("’", "'"))
    return "".join(c for c in apart if not unicodedata.combining(c))
