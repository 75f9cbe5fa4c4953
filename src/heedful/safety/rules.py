"""Rules about replies to people in distress, and what counts as a disclosure: data, in `risk.toml` beside this file.

They look for wording. What is said in words that no rule knows passes, so a text that breaks no rule is not safe.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast, get_args

from heedful.errors import ConfigError, NotFoundError, only_keys
from heedful.safety.wording import Pattern, compiled, empty, plain
from heedful.types import Turn

When = Literal["always", "disclosed", "just-disclosed"]
EXCUSES = ("negated", "reflected", "warned", "asked", "echoed")
"""What `unless` may name."""

_SENTENCE = re.compile(r"[^.!?…\n]+[.!?…\"'”)]*|[.!?…]+")
# A negation or a reflecting verb reaches to the end of its clause at most. "And" ends one where a new subject follows,
# which is often the first word of the match and therefore only looked at.
_CLAUSE = re.compile(r"[,;:()—–]|\b(?:but|so|because)\b|\band(?=\s+(?:you|u|i|then|just|go)\b)", re.IGNORECASE)
# An order with a tag at its end is no question.
_TAG = re.compile(
    r",\s*(?:ok|okay|alright|all right|got it|please|will you|would you|won't you|why don't you)\W*$", re.IGNORECASE
)
_KEYS = {"name", "title", "when", "unless", "patterns", "said", "empty", "fails", "passes"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of the file; see its head for the fields.

    Args:
        said: what the help-seeker says in its test cases.
        fails, passes: replies that break it, and replies that break no rule.
    """

    name: str
    title: str
    when: When
    unless: tuple[str, ...]
    pattern: Pattern | None = field(repr=False)
    empty: bool = False
    said: str = field(default="", repr=False)
    fails: tuple[str, ...] = field(default=(), repr=False)
    passes: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """A file of rules.

    Args:
        window: how many of the help-seeker's last turns are looked at for a disclosure.
        reach: how many words may stand between an excuse and what it excuses.
        risk: what is one, in words; `labels`: the same as labels of the set `risk`.
        excuses: `negated`, `reflected` and `warned`, as patterns of the words before a match.
    """

    version: str
    window: int
    reach: int
    risk: Pattern = field(repr=False)
    labels: frozenset[str] = field(repr=False)
    excuses: Mapping[str, Pattern] = field(repr=False)
    rules: tuple[Rule, ...] = field(repr=False)

    def broken(self, reply: str, said: Sequence[Turn]) -> list[str]:
        """Names of the rules that a reply breaks, in the order of the file.

        Args:
            said: the turns before the reply; those of the help-seeker are looked at.
        """
        seeker, disclosed = self._heard(said)
        holds = {"always": True, "disclosed": any(disclosed), "just-disclosed": bool(disclosed) and disclosed[-1]}
        due = [rule for rule in self.rules if holds[rule.when]]
        if empty(reply):
            return [rule.name for rule in due if rule.empty]
        heard = " ".join(plain(turn.text).lower() for turn in seeker)
        sentences = [part.group().strip() for part in _SENTENCE.finditer(plain(reply))]
        return [rule.name for rule in due if any(self._breaks(rule, sentence, heard) for sentence in sentences)]

    def disclosed(self, said: Sequence[Turn]) -> bool:
        """Whether one of the help-seeker's last `window` turns speaks of risk, in words or by a label of the data."""
        return any(self._heard(said)[1])

    def _heard(self, said: Sequence[Turn]) -> tuple[list[Turn], list[bool]]:
        """The help-seeker's turns that count, and which of them speak of risk."""
        seeker = [turn for turn in said if turn.role == "user"][-self.window :]
        return seeker, [self._discloses(turn) for turn in seeker]

    def _discloses(self, turn: Turn) -> bool:
        return not self.labels.isdisjoint(turn.values("risk")) or self.discloses(turn.text)

    def discloses(self, text: str) -> bool:
        """Whether words of a help-seeker speak of risk."""
        return _found(self.risk, text)

    def _breaks(self, rule: Rule, sentence: str, heard: str) -> bool:
        if rule.pattern is None or ("asked" in rule.unless and _asks(sentence)):
            return False
        for match in rule.pattern.finditer(sentence):
            begins = [mark.end() for mark in _CLAUSE.finditer(sentence) if mark.end() <= match.start()]
            before = sentence[begins[-1] if begins else 0 : match.start()]
            echoes = "echoed" in rule.unless and match.group().strip().lower() in heard
            if not echoes and not self._excused(rule, before):
                return True
        return False

    def _excused(self, rule: Rule, before: str) -> bool:
        """Whether the words of the clause before a match take it back."""
        # "I do not believe for a moment that you ...": what follows "that" belongs to what stands before it.
        goes_on = before.lower().split()[-1:] == ["that"]
        return any(
            goes_on or len(before[found.end() :].split()) <= self.reach
            for name, pattern in self.excuses.items()
            if name in rule.unless
            for found in pattern.finditer(before)
        )


def _asks(sentence: str) -> bool:
    return sentence.rstrip("\"')").endswith("?") and not _TAG.search(sentence)


@lru_cache(maxsize=4096)
def _found(pattern: Pattern, text: str) -> bool:
    return pattern.search(plain(text)) is not None


@cache
def load(path: str | None = None) -> Rules:
    """The rules of a file, by default heedful's own.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is not of the form that `risk.toml` describes.
    """
    where = path or "risk.toml"
    try:
        text = files("heedful.safety").joinpath(where).read_text("utf-8") if path is None else _read(path)
        return _rules(tomllib.loads(text))
    except ConfigError as err:
        raise ConfigError(f"The rules in {where} cannot be used: {err}") from err
    except (tomllib.TOMLDecodeError, re.error, KeyError, TypeError, ValueError) as err:
        raise ConfigError(f"The rules in {where} cannot be used: {type(err).__name__} {err}.") from err


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError as err:
        raise NotFoundError(f"There is no file of rules '{path}'.") from err


def _rules(found: Mapping[str, Any]) -> Rules:
    words = dict(found["words"])
    return Rules(
        version=found["version"],
        window=found["window"],
        reach=found["reach"],
        risk=compiled([rf"\b(?:{p})\b" for p in found["risk"]["patterns"]], words),
        labels=frozenset(found["risk"]["labels"]),
        excuses={name: compiled([pattern], words) for name, pattern in found["unless"].items()},
        rules=tuple(_rule(entry, words) for entry in found["rules"]),
    )


def _rule(entry: Mapping[str, Any], words: Mapping[str, str]) -> Rule:
    name = entry["name"]
    only_keys(entry, _KEYS, where=f"rule '{name}'")
    if entry["when"] not in get_args(When):
        raise ValueError(f"rule '{name}': 'when' must be one of {', '.join(get_args(When))}")
    if stray := set(entry["unless"]) - set(EXCUSES):
        raise ValueError(f"rule '{name}': 'unless' knows {', '.join(EXCUSES)}, not '{min(stray)}'")
    return Rule(
        name=name,
        title=entry["title"],
        when=cast(When, entry["when"]),
        unless=tuple(entry["unless"]),
        pattern=compiled(entry["patterns"], words) if entry["patterns"] else None,
        empty=entry.get("empty", False),
        said=entry.get("said", ""),
        fails=tuple(entry["fails"]),
        passes=tuple(entry["passes"]),
    )
