"""HOPE's raw dialogue-act strings -> the twelve acts (Malhotra et al., WSDM 2022, arXiv 2111.06647).

The released files write acts in lower case, with slips, and with `yna`, which merges positive and negative answers.
Plain spellings and slips are aliases in `hope_act.toml` (`op`, `on`, `acak`, `cr` are readings of ours, not HOPE's);
this module adds what a table of spellings cannot say: several acts in one cell, strings that carry no act, and `yna`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from heedful.taxonomy._files import get
from heedful.taxonomy._sets import normalise

MERGED = "yna"
"""The raw string for 'yes or no answer'; `resolve_yna` tells which from the words."""

DROPPED = frozenset({"cv", "ci", "vc", "comp", "com", "ay", "ap", "yp", ""})
"""Strings that occur in HOPE and carry no act we can name: left out of act training, kept in the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActResult:
    """What one raw act cell says.

    Args:
        value: one of the twelve acts, or None.
        alternatives: the further parts of the cell ("cd/id" has one), lower-cased, as written.
        source: `gold` if the string itself decides, `rule` if it is `yna` and only the words of the turn can decide.
        known: False for a string that no table has; count and list those, never drop them silently.
    """

    value: str | None
    alternatives: tuple[str, ...] = ()
    source: Literal["gold", "rule"] = "gold"
    known: bool = True


def normalise_act(raw: str, *, text: str | None = None, table: Mapping[str, str | None] | None = None) -> ActResult:
    """Read one act cell.

    Args:
        raw: the cell; the first part before a comma or slash counts, the others become `alternatives`.
        text: the words of the turn; with them `yna` is decided by `resolve_yna`.
        table: overrides, raw string -> act or None; asked before anything else.

    Raises:
        LabelError: `table` leads to something that is no act.

    >>> normalise_act("CD/id")
    ActResult(value='CD', alternatives=('id',), source='gold', known=True)
    """
    first, *rest = (normalise(part) for part in re.split(r"[,/]", raw))
    alternatives = tuple(part for part in rest if part)
    acts = get("hope_act")
    overrides = {normalise(key): value for key, value in (table or {}).items()}
    if first in overrides:
        act = overrides[first]
        return ActResult(value=None if act is None else acts.require(act), alternatives=alternatives)
    if first == MERGED:
        return ActResult(value=None if text is None else resolve_yna(text), alternatives=alternatives, source="rule")
    value = acts.resolve(first)
    return ActResult(value=value, alternatives=alternatives, known=value is not None or first in DROPPED)


# ------------------------------------------------------------------------------------------------ yes or no

_FILLERS = "um|umm|uh|er|erm|ah|oh|well|so|and|but|like|hm|hmm|honestly|actually|i mean|you know"
_POSITIVE = (
    "yes|yeah|yep|yup|yea|yah|ya|aye|right|sure|okay|ok|alright|mhm|mhmm|mm hmm|uh huh|absolutely|definitely|certainly"
    "|exactly|totally|correct|true|indeed|of course|for sure|i think so|i guess so|i believe so|i suppose so"
    "|that's right|that's true|that's correct|i agree|no doubt|no problem"
)
_NEGATIVE = (
    "no|nope|nah|naw|never|not|uh uh|nuh uh|mm mm|i don't|i didn't|i'm not|i haven't|i wasn't|i wouldn't|i can't"
    "|i cannot|it isn't|it doesn't|it didn't|it wasn't|it's not|i guess not|i suppose not|i disagree|absolutely not"
    "|definitely not|certainly not|of course not|that's not true|that's not right|that isn't true|that's wrong"
)
_UNDECIDED = (
    "not sure|i'm not sure|i am not sure|i was not sure|i don't know|i do not know|i don't really know"
    "|i don't even know|i dunno|no idea|i have no idea|i can't say|i cannot say|i can't tell|yes and no|yeah and no"
    "|yes or no|no and yes|right now|right then|right after|right before|never mind|no one|nobody|not only|not just"
)
# "I was" says yes, "I was never" says no.
_AUXILIARIES = "i do|i did|i am|i have|i was|i would|i can|it is|it does|it did|it was"
_NEGATIONS = ("not", "never", "hardly", "barely")

_Polarity: TypeAlias = Literal["PA", "NA"]


def _phrases(joined: str) -> list[tuple[str, ...]]:
    return [tuple(phrase.split()) for phrase in joined.split("|")]


_SKIPPED = frozenset(_phrases(_FILLERS))
_OPENINGS: dict[tuple[str, ...], _Polarity | None] = {
    **dict.fromkeys(_phrases(_POSITIVE), "PA"),
    **dict.fromkeys(_phrases(_AUXILIARIES), "PA"),
    **dict.fromkeys(_phrases(_NEGATIVE), "NA"),
    **dict.fromkeys([(*phrase, word) for phrase in _phrases(_AUXILIARIES) for word in _NEGATIONS], "NA"),
    **dict.fromkeys(_phrases(_UNDECIDED)),
}
_LONGEST = max(map(len, _OPENINGS))
# After "yeah", these make "no" part of a noun phrase ("yeah, no one called") and not a second answer.
_AFTER_NO = frozenset(_phrases("one|problem|problems|worries|doubt|matter|reason|need|longer|more|time"))


def resolve_yna(text: str) -> _Polarity | None:
    """Yes or no, by the polarity of the first words; None where they do not settle it.

    Fillers are skipped, the longest known opening counts ("not sure" before "not"), and an answer that is at once
    followed by its opposite ("yeah, no") stays open. A rule of ours (HOPE gives none): mark its results as `rule`.

    >>> resolve_yna("Um, not really."), resolve_yna("Yeah, I think so."), resolve_yna("I don't know.")
    ('NA', 'PA', None)
    """
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain)
    at = _skip_fillers(words)
    polarity, length = _opening(words, at)
    after = at + length
    if polarity is None or (length == 1 and _turns(words[after : after + 2], polarity)):
        return None
    return polarity


def _skip_fillers(words: list[str]) -> int:
    at = 0
    while at < len(words):
        # "uh" is a filler, "uh huh" is an answer.
        filler = next((n for n in (2, 1) if tuple(words[at : at + n]) in _SKIPPED), 0)
        if filler == 0 or _opening(words, at)[1] > 0:
            break
        at += filler
    return at


def _turns(following: list[str], polarity: _Polarity) -> bool:
    """True if the words right after a one-word answer answer the other way."""
    if not following:
        return False
    if polarity == "NA":
        return following[0] in ("yes", "yeah", "yep")
    return following[0] in ("no", "nope", "nah") and tuple(following[1:]) not in _AFTER_NO


def _opening(words: list[str], at: int) -> tuple[_Polarity | None, int]:
    """Polarity and length of the longest known phrase at `at`; (None, 0) if there is none."""
    for length in range(min(_LONGEST, len(words) - at), 0, -1):
        phrase = tuple(words[at : at + length])
        if phrase in _OPENINGS:
            return _OPENINGS[phrase], length
    return None, 0
