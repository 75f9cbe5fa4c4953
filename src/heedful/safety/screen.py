"""The screen: which stored texts may be looked up at all. Rules are data, in `screen.toml` beside this file.

There is no switch that turns it off and no other file to name: whoever keeps knowledge may add rules, never lose one.

>>> load_screen().why("Write down one thing that went well today.") is None
True
>>> load_screen().why("You can reach me at www.example.org.")
'contact'
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from heedful.errors import ConfigError, only_keys
from heedful.safety.rules import Rules, load
from heedful.safety.wording import Pattern, compiled, plain
from heedful.types import Turn

_FILES = ("screen.toml", "risk.toml")
_KEYS = {"name", "title", "shown", "uses", "patterns", "blocks", "passes"}


@dataclass(frozen=True, kw_only=True)
class ScreenRule:
    """One rule of the file; see its head for the fields."""

    name: str
    title: str
    shown: bool = False
    pattern: Pattern = field(repr=False)
    uses: Rules | None = field(default=None, repr=False)
    blocks: tuple[str, ...] = field(default=(), repr=False)
    passes: tuple[str, ...] = field(default=(), repr=False)

    def stops(self, text: str) -> bool:
        """Whether this rule stops a text, which was made plain before."""
        return self.pattern.search(text) is not None or (self.uses is not None and self.uses.discloses(text))


@dataclass(frozen=True, kw_only=True)
class Screen:
    """The rules, in the order in which they are asked.

    Args:
        hash: of the file and of those that it uses, as `screen_hash`.
    """

    version: str
    hash: str
    rules: tuple[ScreenRule, ...] = field(repr=False)

    def why(self, *texts: str, stories: Sequence[str] = ()) -> str | None:
        """Name of the first rule that stops one of the texts, or None where none does.

        Args:
            texts: what can be shown, or written into an input.
            stories: what something was made from; only rules that read stories look at them.
        """
        found = [_verdict(text, False) for text in texts] + [_verdict(text, True) for text in stories]
        first = min((at for at in found if at is not None), default=None)
        return None if first is None else self.rules[first].name


DANGER = frozenset({"suicide", "self-harm", "means", "death-wish"})
"""Rules that speak of danger to life, wherever their words stand."""


def in_danger(said: Sequence[Turn]) -> bool:
    """Whether a help-seeker's last turns speak of risk: by `risk.toml`, by a label, or by a word of the screen.

    Wider than `Rules.disclosed`: it decides whether anything is looked up, and a miss costs more than a lookup.
    """
    rules, screen = load(), load_screen()
    heard = [turn.text for turn in said if turn.role == "user"][-rules.window :]
    return rules.disclosed(said) or any(screen.why(text) in DANGER for text in heard)


@lru_cache(maxsize=1 << 16)
def _verdict(text: str, told: bool) -> int | None:
    """Which rule stops a text first. Kept, since graphs say the same word thousands of times."""
    made = plain(text)
    rules = enumerate(load_screen().rules)
    return next((at for at, rule in rules if not (told and rule.shown) and rule.stops(made)), None)


@cache
def screen_hash() -> str:
    """First 16 hex digits of the SHA-256 of the rules; they are not compiled for it, so an index opens at once."""
    content = b"\n".join(files("heedful.safety").joinpath(name).read_bytes() for name in _FILES)
    return hashlib.sha256(content).hexdigest()[:16]


@cache
def load_screen() -> Screen:
    """The rules of `screen.toml`.

    Raises:
        ConfigError: the file is not of the form that its head describes.
    """
    try:
        found = tomllib.loads(files("heedful.safety").joinpath("screen.toml").read_text("utf-8"))
        rules = tuple(_rule(entry, found["words"]) for entry in found["rules"])
        return Screen(version=found["version"], hash=screen_hash(), rules=rules)
    except ConfigError as err:
        raise ConfigError(f"The rules in screen.toml cannot be used: {err}") from err
    except (tomllib.TOMLDecodeError, re.error, KeyError, TypeError, ValueError) as err:
        raise ConfigError(f"The rules in screen.toml cannot be used: {type(err).__name__} {err}.") from err


def _rule(entry: Mapping[str, Any], words: Mapping[str, str]) -> ScreenRule:
    only_keys(entry, _KEYS, where=f"rule '{entry['name']}'")
    if entry.get("uses", "risk") != "risk":
        raise ValueError(f"rule '{entry['name']}': 'uses' knows risk, not '{entry['uses']}'")
    return ScreenRule(
        name=entry["name"],
        title=entry["title"],
        shown=entry.get("shown", False),
        # Between words, and "_" is no letter: people write _so_.
        pattern=compiled([rf"(?<![^\W_])(?:{'|'.join(entry['patterns'])})(?![^\W_])"], words),
        uses=load() if "uses" in entry else None,
        blocks=tuple(entry["blocks"]),
        passes=tuple(entry["passes"]),
    )
