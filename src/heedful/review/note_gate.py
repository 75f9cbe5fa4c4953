"""What a model's note or plan has to pass before anybody signs it: the reply gate as far as it fits, and two checks.

A plan is told to a help-seeker, so every rule of the gate holds. A note tells a professional what was said: rules about
how to talk with somebody do not fit it (`NOT_IN_NOTES`). Both may name only people and numbers of the conversation, and
speak of danger where it was spoken of and nowhere else (docs/decisions/0076-drafted-notes.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from heedful.privacy.deidentify import find
from heedful.review import crisis
from heedful.review.said import conversation
from heedful.safety.crisis import assess
from heedful.safety.gate import OUTCOMES, Author, Outcome, Verdict, load_gate
from heedful.safety.screen import DANGER, load_screen
from heedful.safety.state import State
from heedful.safety.texts import OWN_LIFE
from heedful.store.records import CaseNote
from heedful.store.unit import Unit
from heedful.types import Turn

NOT_IN_NOTES: Final = frozenset({
    "silent", "names-amount", "goes-along", "demands-promise", "refuses-topic", "replaces-people", "claims-human",
    "couples-advice", "leaves-traces", "pulls-for-no", "too-many-options", "no-first-option",
})  # fmt: skip
"""Rules about talking with somebody. A note says what was said, amounts of tablets included."""
NAMES: Final = ("contact", "numbers", "places", "people", "capitals")
WORDS: Final = re.compile(
    r"sui[cz]id|self[- ]?harm|hurt(?:ing)? (?:him|her|them)sel|kill|to die|be dead|end (?:his|her|their) life|"
    r"in danger|selbstmord|umbringen|sterben|selbstverletz|das leben nehmen|lebensm[uü]de|in gefahr|"
    r"matarse|morir|quitarse la vida|autolesi|en peligro|自杀|自残|轻生|想死|危险",
    re.IGNORECASE,
)
"""Words of danger as somebody tells them of another person."""
Looking = Literal["note", "plan"]


class Gate(Protocol):
    """As in `heedful.review.clinic`."""

    def __call__(self, text: str, *, said: Sequence[Turn], state: State, author: Author) -> Verdict: ...


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the rules say of a draft.

    Args:
        outcome: `pass`; `return` = a person looks again before signing; `block` = these words are never signed.
        rules: what was broken. names: what is called by a name that nobody said.
    """

    outcome: Outcome
    rules: tuple[str, ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)
    version: str = ""


def look(unit: Unit, note: CaseNote, *, gate: Gate) -> Look:
    """What the rules say of a note or plan as it stands; of one that a person wrote by hand, nothing."""
    if note.model is None:
        return Look(outcome="pass")
    return judge(unit, note.text, kind="plan" if note.kind == "plan" else "note", thread=note.thread_id, gate=gate)


def judge(unit: Unit, text: str, *, kind: Looking, thread: str, gate: Gate) -> Look:
    """The same of words that are not kept yet."""
    here = unit.threads.get(thread)
    turns, state = conversation(unit, thread).turns, crisis.known(unit, here)
    verdict = gate(text, said=turns, state=state, author="draft")
    broken = {rule: _weight(rule, verdict) for rule in verdict.rules if kind == "plan" or rule not in NOT_IN_NOTES}
    names = _invented(unit, text, [turn.text for turn in turns], people=(here.help_seeker, here.owner))
    if names:
        broken["invented-name"] = "return"
    told, spoken = _dangerous(text), any(_dangerous(turn.text) for turn in turns if turn.role == "user")
    own = state.level > 0 or state.behaviour != "none" or bool(OWN_LIFE & set(state.classes))
    if own and not told:
        broken["leaves-danger-out"] = "return"
    if told and not (own or spoken or state.tier != "none"):
        broken["adds-danger"] = "return"
    outcome: Outcome = max(broken.values(), key=OUTCOMES.index, default="pass")
    return Look(outcome=outcome, rules=tuple(broken), names=names, version=verdict.version)


def _weight(rule: str, verdict: Verdict) -> Outcome:
    """What one rule asks for; a rule that heedful's gate does not have asks for what the gate said of the whole."""
    known = load_gate()
    own: dict[str, Outcome] = {one.rule.name: one.verdict for one in known.rules}
    own |= {one.name: "return" if one.name in known.returned else "block" for one in known.base.rules}
    return own.get(rule, verdict.outcome)


def _dangerous(text: str) -> bool:
    return bool(WORDS.search(text)) or load_screen().why(text) in DANGER or assess(text).tier != "none"


def _invented(unit: Unit, text: str, said: Sequence[str], *, people: Sequence[str | None]) -> tuple[str, ...]:
    """Names, numbers and places of a text that stand nowhere in the conversation."""
    known = [user.name for id in people if id and (user := unit.users.find(id)) is not None and user.name]
    heard = _plain(" ".join((*said, *known)))
    # German writes every noun with a capital: there it tells nothing.
    recognisers = NAMES[:-1] if assess(text).language == "de" else NAMES
    found = [text[one.start : one.end] for one in find(text, recognisers=recognisers)]
    return tuple(dict.fromkeys(words for words in found if _plain(words) not in heard))


def _plain(text: str) -> str:
    return re.sub(r"[^\w]+", " ", text.casefold()).strip()
