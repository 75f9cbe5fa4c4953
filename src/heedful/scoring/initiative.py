"""Who leads a talk, turn by turn: the EAFR view of KEMI and its statistics of flow (kemi.md, part A).

Paper: Deng et al. 2023; definitions of the released analysis scripts (GitHub suhyun565/STAR, `eafr`).

    the seeker leads    E expression    |    the seeker follows    F feedback
    the supporter leads A action        |    the supporter follows R reflection

Turns before the first one that leads are the greeting H; turns from the first one with "bye" on are the farewell B (a
turn that could be both is B). A supporter's turn leads by its strategy (cross-walk `esconv_strategy` to `initiative`).
How the authors labelled seekers is not known: `SeekerRule` is a **heuristic of ours**, so E and F, H, and all counts
with them in, are estimates. `initiative_rate` needs no heuristic.

"bye" is looked for as the release does (`substring`) and as a word (`word`: bye, bye-bye, goodbye, good bye), and both
are reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from heedful import taxonomy
from heedful.classify.features import shared_vectors
from heedful.errors import DataError
from heedful.scoring.content_words import content_words
from heedful.types import Conversation, Turn

SET = "esconv_strategy"
Letter = Literal["E", "A", "F", "R", "H", "B"]
Bye = Literal["word", "substring"]
LETTERS: tuple[Letter, ...] = ("E", "A", "F", "R", "H", "B")
TOLD: tuple[Letter, ...] = ("E", "A", "F", "R")
TRANSITIONS = ("ER", "RE", "EA", "AE", "RF", "FR", "AF", "FA")
"""The eight pairs of turns that follow each other by different speakers."""
SLICES = 5

_BYE: Mapping[str, re.Pattern[str]] = {
    "word": re.compile(r"\b(?:good[\s-]?)?bye\b", re.IGNORECASE),
    "substring": re.compile("bye", re.IGNORECASE),
}
_REQUEST = re.compile(
    r"\b(?:(?:can|could|would|will) (?:you|u|someone|anyone)|please|help me|tell me|advi[cs]e me|teach me|show me|"
    r"i (?:need|want|would like|'d like|am looking for|'m looking for|was hoping for) (?:some |your |an? )?"
    r"(?:help|advice|suggestions?|ideas?|opinions?|tips?|support|to know|to ask|you to)|any (?:advice|suggestions?|"
    r"ideas?|tips?)|what (?:should|can|do) i|how (?:should|can|do) i|i wonder (?:if|how|what|whether))\b",
    re.IGNORECASE,
)
Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]


def leads(strategy: str) -> bool:
    """Whether a supporter who uses this strategy takes the initiative.

    >>> leads("Question"), leads("Reflection of feelings")
    (True, False)

    Raises:
        LabelError: no strategy of ESConv.
    """
    return _leading()[taxonomy.get(SET).require(strategy)]


def _leading() -> Mapping[str, bool]:
    return {name: value == "initiative" for name, value in taxonomy.crosswalk(SET, "initiative").table.items()}


@dataclass(frozen=True, kw_only=True)
class SeekerRule:
    """When a seeker's turn leads. A heuristic: checked against nothing, since no labels are known. It leads if it

    - has a question mark, or
    - holds a request ("can you", "any advice", "what should I"), or
    - states something new: at least `words` content words, and a cosine (MiniLM) below `floor` to every earlier turn of
      the talk. The seeker's first turn of that length is new if nobody said the like before.

    Args:
        floor, words: see above.
        encode: texts -> unit vectors (N, dim); the embedded MiniLM if not given.
    """

    floor: float = 0.3
    words: int = 4
    encode: Encode | None = field(default=None, repr=False, compare=False)

    @property
    def note(self) -> str:
        """One sentence for a page."""
        return (
            "heuristic: a seeker's turn leads if it asks (question mark or request words), or has at least "
            f"{self.words} content words and a MiniLM cosine below {self.floor:g} to all turns before it"
        )

    def __call__(self, conversations: Sequence[Conversation]) -> list[list[bool]]:
        """For each turn of each conversation whether it leads; False for turns that are not the seeker's."""
        asks = [[turn.role == "user" and _asks(turn.text) for turn in conv.turns] for conv in conversations]
        due = [
            [
                turn.role == "user" and not asked and len(content_words(turn.text)) >= self.words
                for turn, asked in zip(conv.turns, row, strict=True)
            ]
            for conv, row in zip(conversations, asks, strict=True)
        ]
        talks = [i for i, row in enumerate(due) if any(row)]
        texts = list(dict.fromkeys(turn.text for i in talks for turn in conversations[i].turns))
        vectors = dict(zip(texts, self._encode(texts), strict=True)) if texts else {}
        for i in talks:
            table = np.stack([vectors[turn.text] for turn in conversations[i].turns])
            for k, wanted in enumerate(due[i]):
                if wanted:
                    asks[i][k] = k == 0 or float((table[:k] @ table[k]).max()) < self.floor
        return asks

    def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if self.encode is not None:
            return self.encode(texts)
        if len(texts) >= 1000:  # a corpus: its vectors are wanted again
            shared_vectors().keep(texts)
        return shared_vectors().encode(texts)


def _asks(text: str) -> bool:
    return "?" in text or _REQUEST.search(text) is not None


def letters(conv: Conversation, seeker: Sequence[bool], *, bye: Bye = "word") -> list[Letter | None]:
    """E, A, F, R, H or B for each turn; None for a supporter's turn without a strategy, and for `system` turns.

    Args:
        seeker: for each turn whether the seeker leads there, as `SeekerRule` says (looked at for their turns only).

    Raises:
        DataError: `seeker` is not as long as the conversation.
    """
    if len(seeker) != len(conv):
        raise DataError(f"seeker needs one value for each of {len(conv)} turns, but it has {len(seeker)}.")
    leading = [_leads(turn, asks) for turn, asks in zip(conv.turns, seeker, strict=True)]
    first = next((i for i, value in enumerate(leading) if value), len(conv))
    ends = next((i for i, turn in enumerate(conv.turns) if _BYE[bye].search(turn.text)), len(conv))
    out: list[Letter | None] = []
    for i, (turn, value) in enumerate(zip(conv.turns, leading, strict=True)):
        if i >= ends:
            out.append("B")
        elif i < first:
            out.append("H")
        elif value is None:
            out.append(None)
        elif turn.role == "user":
            out.append("E" if value else "F")
        else:
            out.append("A" if value else "R")
    return out


def _leads(turn: Turn, asks: bool) -> bool | None:
    if turn.role == "user":
        return asks
    strategy = turn.label(SET) if turn.role == "assistant" else None
    return None if strategy is None else leads(strategy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A fifth of the talks, by place: turn i of n belongs to fifth 5 i / n, rounded down.

    Args:
        turns: how many.
        initiative: share of them that are E or A; greeting and farewell count as neither, so they lower it.
        seeker, supporter: the same among the turns of one speaker; None where there are none.
        relaxation: mean over the supporter's turns that have one; None where nothing was measured.
    """

    turns: int
    initiative: float | None
    seeker: float | None
    supporter: float | None
    relaxation: float | None


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Flow of initiative in a set of talks.

    Args:
        bye: how farewells were found.
        rule: how seekers' turns were judged, in words.
        counts: turns by letter; `unlabelled`: those without one.
        shares: of E, A, F and R among these four.
        transitions: turns that follow each other, by letters, where both are of E, A, F, R and the speaker changes.
        same_speaker: pairs of such turns that one speaker wrote; they are in no transition.
        after_greeting: letter of the first turn after the greeting, over talks that have one (`end`: nothing follows).
        before_farewell: letter of the last turn before the farewell, over talks that have one (`start`: nothing does).
        slices: the five fifths.
    """

    talks: int
    turns: int
    bye: Bye
    rule: str
    counts: Mapping[str, int]
    unlabelled: int
    shares: Mapping[str, float]
    transitions: Mapping[str, int]
    same_speaker: int
    after_greeting: Mapping[str, int]
    before_farewell: Mapping[str, int]
    slices: tuple[Slice, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def flow(
    conversations: Sequence[Conversation],
    *,
    bye: Bye = "word",
    rule: SeekerRule | None = None,
    seeker: Sequence[Sequence[bool]] | None = None,
    relaxation: Mapping[tuple[str, int], float] | None = None,
) -> Flow:
    """Statistics of flow.

    Args:
        bye: what is a farewell, see the module.
        rule: the heuristic for seekers' turns; `SeekerRule()` if not given.
        seeker: what the rule said, where it was asked before.
        relaxation: (conversation id, turn) -> relaxation of the supporter's turn there (`SupportScores.relaxation`).

    Raises:
        DataError: no conversation.
    """
    if not conversations:
        raise DataError("The flow of initiative needs at least one conversation.")
    rule = rule or SeekerRule()
    judged = rule(conversations) if seeker is None else seeker
    rows = [letters(conv, row, bye=bye) for conv, row in zip(conversations, judged, strict=True)]
    counts = Counter(letter for row in rows for letter in row)
    told = sum(counts[letter] for letter in TOLD)
    pairs: Counter[str] = Counter()
    same = 0
    for conv, row in zip(conversations, rows, strict=True):
        for k in range(len(row) - 1):
            a, b = row[k], row[k + 1]
            if a in TOLD and b in TOLD:
                if conv.turns[k].role == conv.turns[k + 1].role:
                    same += 1
                else:
                    pairs[f"{a}{b}"] += 1
    after = Counter(_after(row) for row in rows if row[:1] == ["H"])
    before = Counter(_before(row) for row in rows if "B" in row)
    return Flow(
        talks=len(conversations),
        turns=sum(len(row) for row in rows),
        bye=bye,
        rule=rule.note,
        counts={letter: counts[letter] for letter in LETTERS},
        unlabelled=counts[None],
        shares={letter: counts[letter] / told if told else 0.0 for letter in TOLD},
        transitions={pair: pairs[pair] for pair in TRANSITIONS},
        same_speaker=same,
        after_greeting=dict(sorted(after.items())),
        before_farewell=dict(sorted(before.items())),
        slices=_slices(conversations, rows, relaxation or {}),
    )


def _after(row: Sequence[Letter | None]) -> str:
    following = next((i for i, letter in enumerate(row) if letter != "H"), None)
    return "end" if following is None else row[following] or "unlabelled"


def _before(row: Sequence[Letter | None]) -> str:
    begins = row.index("B")
    return "start" if begins == 0 else row[begins - 1] or "unlabelled"


def _slices(
    conversations: Sequence[Conversation],
    rows: Sequence[Sequence[Letter | None]],
    relaxation: Mapping[tuple[str, int], float],
) -> tuple[Slice, ...]:
    leading: list[list[tuple[str, bool]]] = [[] for _ in range(SLICES)]
    calm: list[list[float]] = [[] for _ in range(SLICES)]
    for conv, row in zip(conversations, rows, strict=True):
        for k, letter in enumerate(row):
            part = SLICES * k // len(row)
            if letter is not None:
                leading[part].append((conv.turns[k].role, letter in ("E", "A")))
            if (conv.id, k) in relaxation:
                calm[part].append(relaxation[conv.id, k])
    return tuple(
        Slice(
            turns=len(turns),
            initiative=_mean([led for _, led in turns]),
            seeker=_mean([led for role, led in turns if role == "user"]),
            supporter=_mean([led for role, led in turns if role == "assistant"]),
            relaxation=_mean(values),
        )
        for turns, values in zip(leading, calm, strict=True)
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def initiative_rate(conversations: Sequence[Conversation], *, opening: bool = False) -> float | None:
    """Share of labelled supporter turns whose strategy leads; None without any. No heuristic is in it.

    Args:
        opening: count a supporter's turn that opens a talk too; it answers nothing, so it is no target.
    """
    turns = [conv.turns[i] for conv in conversations for i in conv.targets(opening=opening)]
    return _mean([leads(strategy) for turn in turns if (strategy := turn.label(SET))])


@dataclass(frozen=True, kw_only=True)
class InitiativeReport:
    """All of this module for one set of talks: rates of gold strategies, and the flow with both kinds of farewell."""

    rate: float | None
    rate_with_opening: float | None
    word: Flow
    substring: Flow

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def report(
    conversations: Sequence[Conversation],
    *,
    rule: SeekerRule | None = None,
    relaxation: Mapping[tuple[str, int], float] | None = None,
) -> InitiativeReport:
    """Rates and both flows; the rule is asked once. Arguments and errors as of `flow`."""
    rule = rule or SeekerRule()
    seeker = rule(conversations)
    flows = {
        bye: flow(conversations, bye=bye, rule=rule, seeker=seeker, relaxation=relaxation)
        for bye in ("word", "substring")
    }
    return InitiativeReport(
        rate=initiative_rate(conversations),
        rate_with_opening=initiative_rate(conversations, opening=True),
        word=flows["word"],
        substring=flows["substring"],
    )
