"""KEMI's four emotional-support metrics: Proactivity, Information, Repetition, Relaxation (kemi.md, part B).

Paper: Deng et al. 2023; definitions of the released code (GitHub DSincerity/CSCI-662-project, `metric_utils`).

| metric | of a supporter's turn t | read it as |
|---|---|---|
| Proactivity | 1 if the strategy leads (`initiative.leads`) | a distance to people's value; no end of it is good |
| Information | size of W(t) without all words seen so far | new content |
| Repetition | size of W(t) and the seeker's words so far, in common | taking up what the seeker said |
| Relaxation | e(last seeker turn) - e(next seeker turn), simulated | positive: the intensity fell |

W(t) are the content words of `content_words`. Where no tagger is installed, Information and Repetition carry a star.

Where the release does something that it hardly means, this module does not (`seen="released"` counts words as it does):

- A reply is judged after the corpus' own dialogue before it. In the release the simulator also sees the corpus' reply.
- All words of the dialogue before a reply are seen. In the release those of the corpus' supporter are not, while
  those of the system's own earlier replies are, although nobody in the dialogue heard them.
- Before any seeker turn there is no e(last seeker turn), so Relaxation is unscored. In the release it is a leftover of
  the dialogue before (7 turns of ESConv test).
- Relaxation has one sign for everybody. In the release that of human dialogues is turned round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from heedful.agents.seeker import Simulator
from heedful.errors import ConfigError, DataError
from heedful.scoring.base import Floats, Result
from heedful.scoring.content_words import Words, load_words
from heedful.scoring.initiative import SET, leads
from heedful.scoring.intensity import Intensity
from heedful.scoring.intervals import Paired, interval, paired
from heedful.types import Conversation, Trace, Turn

Seen = Literal["context", "released"]
Name = Literal["proactivity", "information", "repetition", "relaxation"]
Part = Literal["all", "initiative", "non_initiative"]
NAMES: tuple[Name, ...] = ("proactivity", "information", "repetition", "relaxation")
PARTS: tuple[Part, ...] = ("all", "initiative", "non_initiative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a system said at one place, with the strategy that it announced; None where it announced none."""

    conversation_id: str
    turn: int
    text: str = field(repr=False)
    strategy: str | None = None


def gold_replies(conversations: Sequence[Conversation], *, opening: bool = False) -> list[Reply]:
    """The corpus' own replies and strategies: the system that every other is read beside."""
    return [
        Reply(conversation_id=conv.id, turn=i, text=conv.turns[i].text, strategy=conv.turns[i].label(SET))
        for conv in conversations
        for i in conv.targets(opening=opening)
    ]


def replies_of(traces: Sequence[Trace]) -> list[Reply]:
    """A system's replies out of its traces, strategies out of their plans; traces that failed are left out."""
    return [
        Reply(conversation_id=trace.conversation_id, turn=trace.turn, text=trace.reply, strategy=trace.plan.get(SET))
        for trace in traces
        if trace.finish != "error"
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The four values of one reply; None = unscored."""

    conversation_id: str
    turn: int
    proactivity: float | None
    information: float
    repetition: float
    relaxation: float | None
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class SupportScores:
    """The metrics of one system on one set of places.

    Args:
        words: `tagger` or `filter`; `star` goes behind the names of Information and Repetition.
        seen: which words count as seen.
        simulator, intensity: fingerprints; None where Relaxation was not asked for.
        heldout: what e(u) is worth.
    """

    system: str
    rows: tuple[Row, ...] = field(repr=False)
    words: str
    star: str
    seen: Seen
    simulator: str | None = None
    intensity: str | None = None
    heldout: Mapping[str, Any] = field(default_factory=dict)

    def title(self, name: Name) -> str:
        """The name to print, with its star where the tagger is missing."""
        return name.capitalize() + (self.star if name in ("information", "repetition") else "")

    def values(self, name: Name, part: Part = "all") -> Floats:
        """Per reply, NaN where unscored or, with a `part`, where the reply's strategy is not of it."""
        found = [getattr(row, name) if part == "all" or _part(row) == part else None for row in self.rows]
        return np.array([np.nan if value is None else value for value in found], dtype=np.float64)

    def result(self, name: Name, part: Part = "all") -> Result:
        """The mean, ready to be resampled over dialogues."""
        return Result.mean(self.values(name, part))

    @property
    def relaxation(self) -> dict[tuple[str, int], float]:
        """(conversation id, turn) -> relaxation, where scored: for `initiative.flow`."""
        return {(row.conversation_id, row.turn): row.relaxation for row in self.rows if row.relaxation is not None}

    def paired(self, other: SupportScores, name: Name, part: Part = "all") -> Paired | None:
        """`other` minus this on the same places, resampled over dialogues.

        Raises:
            DataError: the two have other places, or were counted in another way.
        """
        self._refuse(other)
        return paired(self.result(name, part), other.result(name, part), _clusters(self.rows))

    def to_dict(self, gold: SupportScores | None = None) -> dict[str, Any]:
        """All means with intervals; with the corpus' own replies beside them, Proactivity's distance to theirs.

        Raises:
            DataError: `gold` has other places, or was counted in another way.
        """
        if gold is not None:
            self._refuse(gold)
        clusters = _clusters(self.rows)
        metrics: dict[str, Any] = {}
        for name in NAMES:
            for part in PARTS if name != "proactivity" else PARTS[:1]:
                values, found = self.values(name, part), self.result(name, part)
                spread = interval(found, clusters)
                unscored = [row.why for row in self.rows if name == "relaxation" and row.relaxation is None]
                metrics[name if part == "all" else f"{name}_{part}"] = {
                    "title": self.title(name),
                    "value": None if np.isnan(found.value) else found.value,
                    "low": spread[0] if spread else None,
                    "high": spread[1] if spread else None,
                    "n": int((~np.isnan(values)).sum()),
                    "unscored": int(np.isnan(values).sum()) if part == "all" else None,
                    "reasons": sorted({why for why in unscored if why}) if part == "all" else [],
                }
        if gold is not None:
            own, theirs = metrics["proactivity"]["value"], gold.result("proactivity").value
            known = own is not None and not np.isnan(theirs)
            metrics["proactivity"]["gold"] = None if np.isnan(theirs) else theirs
            metrics["proactivity"]["distance"] = abs(own - theirs) if known else None
        return {
            "system": self.system,
            "replies": len(self.rows),
            "words": self.words,
            "seen": self.seen,
            "simulator": self.simulator,
            "intensity": self.intensity,
            "intensity_heldout": dict(self.heldout),
            "metrics": metrics,
        }

    def rows_to_dicts(self) -> list[dict[str, Any]]:
        """One object per reply, without any words."""
        return [asdict(row) for row in self.rows]

    def _refuse(self, other: SupportScores) -> None:
        places = [[(row.conversation_id, row.turn) for row in scores.rows] for scores in (self, other)]
        if places[0] != places[1]:
            raise DataError(
                f"'{self.system}' and '{other.system}' were not scored at the same places ({len(places[0]):,} and "
                f"{len(places[1]):,}); compare them on the places that both have."
            )
        ways = [(s.words, s.seen, s.simulator, s.intensity) for s in (self, other)]
        if ways[0] != ways[1]:
            raise DataError(
                f"'{self.system}' and '{other.system}' were not scored in the same way (content words, seen words, "
                "simulator or e(u) differ); score both again."
            )


def _part(row: Row) -> Part | None:
    return None if row.proactivity is None else "initiative" if row.proactivity else "non_initiative"


def _clusters(rows: Sequence[Row]) -> Any:
    return np.unique([row.conversation_id for row in rows], return_inverse=True)[1]


def support_scores(
    system: str,
    conversations: Sequence[Conversation],
    replies: Sequence[Reply],
    *,
    simulator: Simulator | None = None,
    intensity: Intensity | None = None,
    words: Words | None = None,
    seen: Seen = "context",
) -> SupportScores:
    """Score a system's replies.

    Args:
        system: its name.
        conversations: the corpus' own talks; what stands before a place is the context.
        replies: at most one for each place. Order does not matter.
        simulator, intensity: both or none; Relaxation is unscored without them.
        words: `load_words()` if not given.
        seen: `context`: all words before the reply. `released`: the seeker's, and those of the system's own earlier
            replies of the talk.

    Raises:
        DataError: a reply at a place that does not exist, or two at one.
        ConfigError: one of simulator and intensity is missing.
        LabelError: a strategy that is none of ESConv.
    """
    if (simulator is None) != (intensity is None):
        raise ConfigError("Relaxation needs a simulator and e(u); give both, or none of them.")
    words = words or load_words()
    talks = {conv.id: conv for conv in conversations}
    ordered = _ordered(replies, talks)
    rows = [_row(reply, talks[reply.conversation_id], words) for reply in ordered]
    if seen == "released":
        rows = _as_released(rows, ordered, talks, words)
    if simulator is not None and intensity is not None:
        rows = _relaxed(rows, ordered, talks, simulator, intensity)
    return SupportScores(
        system=system,
        rows=tuple(rows),
        words=words.how,
        star=words.star,
        seen=seen,
        simulator=simulator.fingerprint if simulator else None,
        intensity=intensity.fingerprint if intensity else None,
        heldout=intensity.heldout if intensity else {},
    )


def _ordered(replies: Sequence[Reply], talks: Mapping[str, Conversation]) -> list[Reply]:
    order = {name: i for i, name in enumerate(talks)}
    for reply in replies:
        conv = talks.get(reply.conversation_id)
        if conv is None or not 0 <= reply.turn < len(conv) or conv.turns[reply.turn].role != "assistant":
            raise DataError(
                f"A reply belongs to conversation '{reply.conversation_id}', turn {reply.turn}, but there is no "
                "supporter's turn; give the conversations that the system was asked about."
            )
    if len({(reply.conversation_id, reply.turn) for reply in replies}) < len(replies):
        raise DataError("A system has at most one reply at a place, but some places have two; score one decoding.")
    return sorted(replies, key=lambda reply: (order[reply.conversation_id], reply.turn))


def _row(reply: Reply, conv: Conversation, words: Words) -> Row:
    before = conv.turns[: reply.turn]
    own = words(reply.text)
    return Row(
        conversation_id=reply.conversation_id,
        turn=reply.turn,
        proactivity=None if reply.strategy is None else float(leads(reply.strategy)),
        information=float(len(own - _union(before, words))),
        repetition=float(len(own & _union([turn for turn in before if turn.role == "user"], words))),
        relaxation=None,
        why="no simulator",
    )


def _union(turns: Sequence[Turn], words: Words) -> frozenset[str]:
    return frozenset().union(*(words(turn.text) for turn in turns))


def _as_released(
    rows: Sequence[Row], replies: Sequence[Reply], talks: Mapping[str, Conversation], words: Words
) -> list[Row]:
    said: dict[str, frozenset[str]] = {}
    out = []
    for row, reply in zip(rows, replies, strict=True):
        seeker = [t for t in talks[reply.conversation_id].turns[: reply.turn] if t.role == "user"]
        earlier = said.get(reply.conversation_id, frozenset())
        own = words(reply.text)
        out.append(replace(row, information=float(len(own - _union(seeker, words) - earlier))))
        said[reply.conversation_id] = earlier | own
    return out


def _relaxed(
    rows: Sequence[Row],
    replies: Sequence[Reply],
    talks: Mapping[str, Conversation],
    simulator: Simulator,
    intensity: Intensity,
) -> list[Row]:
    contexts: dict[int, Conversation] = {}
    last: dict[int, str] = {}
    for i, reply in enumerate(replies):
        before = talks[reply.conversation_id].before(reply.turn)
        said = [turn.text for turn in before.turns if turn.role == "user"]
        if said:
            contexts[i] = replace(before, turns=(*before.turns, Turn(role="assistant", text=reply.text)))
            last[i] = said[-1]
    answers = dict(zip(contexts, simulator.next(list(contexts.values())), strict=True))
    scored = [i for i, answer in answers.items() if answer is not None and answer.strip()]
    values = intensity([*(last[i] for i in scored), *(answers[i] or "" for i in scored)])
    fell = dict(zip(scored, values[: len(scored)] - values[len(scored) :], strict=True))
    return [
        replace(row, relaxation=float(fell[i]), why=None)
        if i in fell
        else replace(row, why="the simulator said nothing" if i in contexts else "no seeker turn before it")
        for i, row in enumerate(rows)
    ]
