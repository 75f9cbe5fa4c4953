"""What the crisis path says to a help-seeker: one file a language beside this one, each with a version.

>>> texts = load("en")
>>> texts.question("safe-now")
'Thank you for telling me. Are you safe right now, and is anybody with you?'
>>> texts.options("interrupt", line="988", emergency="911")[0]
'First: call 911 or 988 now.'
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal

from heedful.errors import ConfigError, unknown
from heedful.safety.events import QUESTIONS, Question

LANGUAGES = ("en", "es", "de", "zh")
MOST_OPTIONS = 3
"""More than three options at once help nobody in distress."""
SAYINGS = ("held", "nobody-on-duty", "after-denial", "owner-told", "next-told", "follow-up")

OWN_LIFE = frozenset(
    ("passive", "active", "method", "intent", "plan", "attempt", "self-injury", "veiled", "coded", "method-question")
)
"""Classes of crisis rules that speak of danger to the own life."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of a language. Values in braces are filled in; a missing one is an error, never an empty place.

    Args:
        version: goes into the log beside the id of what was shown.
    """

    language: str
    version: str
    questions: Mapping[str, str] = field(repr=False)
    sayings: Mapping[str, str] = field(repr=False)
    cards: Mapping[str, tuple[str, str]] = field(repr=False)
    choices: Mapping[str, tuple[str, ...]] = field(repr=False)

    def question(self, id: Question) -> str:
        """The words of a question."""
        return self.questions[id]

    def say(self, id: str, **values: object) -> str:
        """A text, filled in.

        Raises:
            NotFoundError: there is no such text.
            ConfigError: a value is missing.
        """
        if id not in self.sayings:
            raise unknown("crisis text", id, self.sayings)
        return _filled(self.sayings[id], values)

    def card(self, id: Literal["card", "interrupt"]) -> tuple[str, str]:
        """Title and lead of the resource card, or of the card that cannot be scrolled past."""
        return self.cards[id]

    def options(self, id: str, **values: object) -> tuple[str, ...]:
        """At most three options, the first named as first: `thoughts`, `harm-from-others`, or one of `interrupt_for`.

        Raises:
            NotFoundError: there are no such options.
            ConfigError: a value is missing.
        """
        if id not in self.choices:
            raise unknown("set of options", id, self.choices)
        return tuple(_filled(text, values) for text in self.choices[id])


def interrupt_for(classes: Iterable[str]) -> str:
    """Which options interrupt, after what the rules found: danger to the own life comes first, then who is in danger.

    >>> interrupt_for(["harm-from-others", "unsafe"]), interrupt_for(["harm-from-others", "plan"])
    ('interrupt-harm-from-others', 'interrupt')
    """
    found = set(classes)
    if not found & OWN_LIFE:
        for other in ("harm-from-others", "harm-to-others"):
            if other in found:
                return f"interrupt-{other}"
    return "interrupt"


def _filled(text: str, values: Mapping[str, object]) -> str:
    if lacking := placeholders(text) - set(values):
        raise ConfigError(f"A crisis text needs a value for '{min(lacking)}'; nothing is shown with a hole in it.")
    return text.format_map(values)


def placeholders(text: str) -> set[str]:
    """The names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def nearest_language(wanted: str) -> str:
    """The language whose texts are shown: the wanted one where there are some, English otherwise.

    >>> nearest_language("de-AT"), nearest_language("fr")
    ('de', 'en')
    """
    short = wanted.lower().replace("_", "-").split("-")[0]
    return short if short in LANGUAGES else "en"


@cache
def load(language: str) -> Texts:
    """The texts of a language.

    Raises:
        NotFoundError: there are none.
        ConfigError: the file lacks a text, has one too many, or more than three options.
    """
    if language not in LANGUAGES:
        raise unknown("language of crisis texts", language, LANGUAGES)
    return parse(
        files("heedful.safety.texts").joinpath(f"{language}.toml").read_text("utf-8"), where=f"{language}.toml"
    )


def parse(text: str, *, where: str) -> Texts:
    """Texts from TOML.

    Raises:
        ConfigError: as for `load`.
    """
    try:
        found = tomllib.loads(text)
        texts = Texts(
            language=found["language"],
            version=found["version"],
            questions=found["questions"],
            sayings={**found["say"], "follow-up": found["follow-up"]["ask"]},
            cards={id: (found[id]["title"], found[id]["lead"]) for id in ("card", "interrupt")},
            choices={
                **{id: tuple(options) for id, options in found["card"]["options"].items()},
                "interrupt": tuple(found["interrupt"]["options"]),
                **{f"interrupt-{id}": tuple(found["interrupt"][id]) for id in ("harm-from-others", "harm-to-others")},
            },
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as err:
        raise ConfigError(f"The crisis texts in {where} cannot be used: {type(err).__name__} {err}.") from err
    if set(texts.questions) != set(QUESTIONS) or set(texts.sayings) != set(SAYINGS):
        raise ConfigError(
            f"The crisis texts in {where} must hold {', '.join((*QUESTIONS, *SAYINGS))}, and nothing else."
        )
    if any(not 1 <= len(options) <= MOST_OPTIONS for options in texts.choices.values()):
        raise ConfigError(f"The crisis texts in {where} must give one to {MOST_OPTIONS} options at once.")
    return texts
