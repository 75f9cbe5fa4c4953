"""Crisis rules of one language, from `<language>.toml` beside this file. The head of `en.toml` explains the format."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast, get_args

from heedful.errors import ConfigError, NotFoundError, only_keys, unknown
from heedful.safety.crisis._needs import Need, begins, needs
from heedful.safety.crisis._views import Disguises, fold
from heedful.safety.wording import Pattern, compiled

Tier = Literal["none", "thoughts", "immediate"]
"""No sign; thoughts or another reason to ask; intent, plan, preparation, or an attempt in the past week."""
TIERS: tuple[Tier, ...] = get_args(Tier)
Behaviour = Literal["none", "self-injury", "preparation", "attempt"]
"""What was done, recently: the behaviour part of the C-SSRS ladder, lowest first."""
BEHAVIOURS: tuple[Behaviour, ...] = get_args(Behaviour)

Needs = tuple[frozenset[Need], ...]

CLASSES: Mapping[str, str] = {
    "passive": "wish to be dead or not to wake up",
    "active": "thoughts of ending the own life",
    "method": "a way of doing it is thought about",
    "intent": "means to act",
    "plan": "plan, time, place or preparation",
    "attempt": "a recent attempt",
    "self-injury": "recent injury, or the urge to it",
    "past": "history that is over; noted, never a reason to escalate",
    "veiled": "burden, entrapment, unbearable pain, farewell, giving things away",
    "coded": "slang, abbreviations, code words",
    "method-question": "asks about ways or doses in distress",
    "someone-else": "worry for another person, also 'asking for a friend'",
    "joking": "the same words with a sign of a joke; does not lower anything",
    "voices": "voices that command",
    "harm-from-others": "threat or violence by somebody",
    "harm-to-others": "wish, urge or plan to hurt somebody",
    "unsafe": "was asked, and is not safe now",
    "refusal": "was asked, and does not want to be asked",
    "denial": "says that there are no such thoughts; does not lower anything",
}
"""Every class that a rule may have, with its meaning."""
QUIET = frozenset({"past", "denial", "refusal"})
"""Classes that are noted and raise nothing."""
EXCUSES = ("negated", "past", "idiom", "quoted", "fiction", "other-person", "general")
"""What `unless` may name: denied, long ago, a figure of speech, a quotation, a story, somebody else, a topic."""
LANGUAGES = ("en", "es", "de", "zh")

_KEYS = {"name", "class", "ideation", "behaviour", "tier", "unless", "patterns", "hits", "misses"}
_EXCUSE_KEYS = {"before", "after", "cover", "around", "revoked"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.

    Args:
        cls: its class, one of `CLASSES`.
        ideation: rung of the C-SSRS ladder of ideation, 0 (none) to 5 (plan and intent).
        behaviour: what the words say was done.
        tier: what the words alone ask for.
        unless: names of the excuses that take a match back.
        patterns: each with what it cannot do without, and what it begins with.
        hits, misses: messages it must find, and messages in which no rule may raise anything.
    """

    name: str
    language: str
    version: str
    cls: str
    ideation: int
    behaviour: Behaviour
    tier: Tier
    unless: tuple[str, ...]
    patterns: tuple[tuple[Pattern, Needs, frozenset[Need] | None], ...] = field(repr=False)
    hits: tuple[str, ...] = field(repr=False)
    misses: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Excuse:
    """One excuse: patterns of what stands right before a match, right after it, around it in the sentence, or over it.

    `cover` patterns excuse a match that begins inside of what they find. Where `revoked` stands in the sentence, none
    of them counts.

    Args:
        needs: of each of these what its patterns cannot do without; an empty one where that is not known.
    """

    needs: Mapping[str, tuple[Needs, ...]] = field(default_factory=dict, repr=False)
    before: Pattern | None = field(default=None, repr=False)
    after: Pattern | None = field(default=None, repr=False)
    cover: Pattern | None = field(default=None, repr=False)
    around: Pattern | None = field(default=None, repr=False)
    revoked: Pattern | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A question about suicide or safety in the supporter's last turn, and what counts as which answer to it.

    `yes` and `no` open an answer; `refused` stands anywhere in it. Where the last question asks whether somebody is
    safe, only `no` tells anything.
    """

    question: Pattern = field(repr=False)
    safety: Pattern = field(repr=False)
    yes: Pattern = field(repr=False)
    no: Pattern = field(repr=False)
    refused: Pattern = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class RuleSet:
    """The rules of a language.

    Args:
        hash: first 16 hex digits of the SHA-256 of the file.
        spaceless: the language has no blanks between words.
        function_words: by these the language of a message is guessed.
    """

    language: str
    version: str
    hash: str
    spaceless: bool
    function_words: frozenset[str] = field(repr=False)
    disguises: Disguises = field(repr=False)
    joking: Pattern = field(repr=False)
    answers: Answers = field(repr=False)
    excuses: Mapping[str, Excuse] = field(repr=False)
    rules: tuple[Rule, ...] = field(repr=False)

    def rule(self, name: str) -> Rule:
        """The rule of this name.

        Raises:
            NotFoundError: there is none.
        """
        for rule in self.rules:
            if rule.name == name:
                return rule
        raise unknown("crisis rule", name, [rule.name for rule in self.rules])


def tier_of(ideation: int, behaviour: Behaviour) -> Tier:
    """What a rung and a behaviour ask for, where the rule says nothing else (decision 0045)."""
    if ideation >= 4 or behaviour in ("attempt", "preparation"):
        return "immediate"
    return "thoughts" if ideation or behaviour != "none" else "none"


@cache
def load(language: str) -> RuleSet:
    """The rules of a language.

    Raises:
        NotFoundError: heedful has no rules for it.
        ConfigError: the file is not of the form that its head describes.
    """
    if language not in LANGUAGES:
        raise unknown("language of crisis rules", language, LANGUAGES)
    content = files("heedful.safety.crisis").joinpath(f"{language}.toml").read_bytes()
    return parse(content.decode("utf-8"), where=f"{language}.toml")


def parse(text: str, *, where: str) -> RuleSet:
    """Rules from the text of a TOML file.

    Raises:
        ConfigError: it is not of the form that the head of `en.toml` describes; the message names the rule.
    """
    try:
        return _rule_set(tomllib.loads(text), hashlib.sha256(text.encode()).hexdigest()[:16])
    except ConfigError as err:
        raise ConfigError(f"The crisis rules in {where} cannot be used: {err}") from err
    except (tomllib.TOMLDecodeError, re.error, KeyError, TypeError, ValueError, NotFoundError) as err:
        raise ConfigError(f"The crisis rules in {where} cannot be used: {type(err).__name__} {err}.") from err


def _rule_set(found: Mapping[str, Any], digest: str) -> RuleSet:
    maker = _Maker(words=found["words"], spaceless=found["spaceless"], german=found["language"] == "de")
    names = [entry["name"] for entry in found["rules"]]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two rules are called '{min(twice)}'; give each its own name.")
    if stray := set(found["unless"]) - set(EXCUSES):
        raise ConfigError(f"'unless' knows {', '.join(EXCUSES)}, not '{min(stray)}'.")
    asked = found["asked"]
    return RuleSet(
        language=found["language"],
        version=found["version"],
        hash=digest,
        spaceless=found["spaceless"],
        function_words=frozenset(found["function_words"].split()),
        disguises=Disguises(
            words=frozenset(found["disguised"]["words"].split()), phrases=tuple(found["disguised"]["phrases"])
        ),
        joking=maker.anywhere(found["joking"]["patterns"]),
        answers=Answers(
            question=maker.anywhere(asked["question"]),
            safety=maker.anywhere(asked["safety"]),
            yes=maker.opening(asked["yes"]),
            no=maker.opening(asked["no"]),
            refused=maker.anywhere(asked["refused"]),
        ),
        excuses={name: maker.excuse(name, entry) for name, entry in found["unless"].items()},
        rules=tuple(_rule(entry, maker, found) for entry in found["rules"]),
    )


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Turns what stands in a file into patterns that fit folded text."""

    words: Mapping[str, str]
    spaceless: bool
    german: bool

    def plain(self, pattern: str) -> str:
        """A pattern with the letters that a folded text has; German umlauts also as two letters."""
        if self.german:
            # German sets a comma before every clause; people leave half of them out.
            pattern = re.sub(r"(?<![\[,\-]) (?!\?)", ",? ", pattern)
            for letter, both in (("ä", "(?:ae|a)"), ("ö", "(?:oe|o)"), ("ü", "(?:ue|u)"), ("ß", "(?:ss|s)")):
                pattern = pattern.replace(letter, both)
        # Case is kept in escapes (\S is not \s): only letters outside ASCII are folded, and patterns are written small.
        return "".join(char if char.isascii() else fold(char) for char in pattern)

    def compiled(self, text: str) -> Pattern:
        return compiled(
            [self.plain(text)], {name: self.plain(value) for name, value in self.words.items()}, case="small"
        )

    def bounded(self, patterns: Sequence[str]) -> str:
        joined = "|".join(f"(?:{pattern})" for pattern in patterns)
        return f"(?:{joined})" if self.spaceless else f"(?<![a-z0-9])(?:{joined})(?![a-z0-9])"

    def anywhere(self, patterns: Sequence[str]) -> Pattern:
        return self.compiled(self.bounded(patterns))

    def opening(self, patterns: Sequence[str]) -> Pattern:
        end = "" if self.spaceless else "(?![a-z0-9])"
        return self.compiled(rf"^[\W_]{{0,8}}(?:{'|'.join(f'(?:{p})' for p in patterns)}){end}")

    def excuse(self, name: str, entry: Mapping[str, Any]) -> Excuse:
        only_keys(entry, _EXCUSE_KEYS, where=f"the excuse '{name}'")
        edge = "" if self.spaceless else "(?<![a-z0-9])"
        made: dict[str, Pattern] = {}
        for key, patterns in entry.items():
            joined = f"(?:{'|'.join(f'(?:{p})' for p in patterns)})"
            if key == "before":
                made[key] = self.compiled(rf"{edge}{joined}[\s,:]{{0,3}}$")
            elif key == "after":
                made[key] = self.compiled(rf"^[\s,]{{0,3}}{joined}" + ("" if self.spaceless else "(?![a-z0-9])"))
            else:
                made[key] = self.anywhere(patterns)
        return Excuse(
            needs={key: tuple(self.needs(one) for one in patterns) for key, patterns in entry.items()}, **made
        )

    def needs(self, pattern: str) -> Needs:
        """What a pattern of an excuse cannot do without; nothing where that cannot be shown."""
        try:
            found = needs(self.compiled(f"(?:{pattern})").pattern, spaceless=self.spaceless)
        except ConfigError:
            return ()
        # Where words have no blanks between them, Latin letters may stand inside of a run of them.
        plain = all(not need.text.isascii() for one in found for need in one)
        return found if plain or not self.spaceless else ()


def _rule(entry: Mapping[str, Any], maker: _Maker, found: Mapping[str, Any]) -> Rule:
    name = entry["name"]
    only_keys(entry, _KEYS, where=f"rule '{name}'")
    if entry["class"] not in CLASSES:
        raise ConfigError(f"rule '{name}': 'class' must be one of {', '.join(CLASSES)}.")
    ideation, behaviour = entry["ideation"], entry.get("behaviour", "none")
    if ideation not in range(6) or behaviour not in BEHAVIOURS or entry.get("tier", "none") not in TIERS:
        raise ConfigError(
            f"rule '{name}': 'ideation' is 0 to 5, 'behaviour' one of {', '.join(BEHAVIOURS)}, "
            f"'tier' one of {', '.join(TIERS)}."
        )
    if stray := set(entry["unless"]) - set(found["unless"]):
        raise ConfigError(f"rule '{name}': 'unless' names '{min(stray)}', which the file does not have.")
    end = "" if maker.spaceless else r"\b"
    patterns = []
    for one in entry["patterns"]:
        inner = maker.compiled(f"(?:{one}){end}").pattern
        needed = needs(inner, spaceless=maker.spaceless)
        patterns.append((maker.anywhere([one]), needed, begins(inner, spaceless=maker.spaceless)))
    default: Tier = "none" if entry["class"] in QUIET else tier_of(ideation, behaviour)
    return Rule(
        name=name,
        language=found["language"],
        version=found["version"],
        cls=entry["class"],
        ideation=ideation,
        behaviour=cast(Behaviour, behaviour),
        tier=cast(Tier, entry.get("tier", default)),
        unless=tuple(entry["unless"]),
        patterns=tuple(patterns),
        hits=tuple(entry["hits"]),
        misses=tuple(entry["misses"]),
    )
