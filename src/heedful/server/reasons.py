"""Why a draft says what it says, as a clinician reads it. A writer gives what it knows; what it does not is said so.

    strategy     "Question", or {"name": "Question", "distribution": {"Question": 0.6, "Reflection": 0.3},
                 "by": "model" (it chose) or the name of a scorer (which read the conversation), "rule": "argmax"}
    emotion      [{"turn": 3, "values": {"sadness": 0.7}, "evidence": "no point in"}], oldest first; the evidence is
                 that of the strongest
    sources      [{"id": "case:17", "title": "...", "text": "...", "score": 0.6, "index": "...", "vetted_by": "..."}]
    screened     [{"id": "case:9", "why": "medicine"}], found and stopped by the screen
    not_read     {"what": ["emotion"], "why": "late"}, a reader that said nothing in time
    plan         a text, a list of texts, or labels by set (what a format writes before the words)
    prompt       {"name": "draft.txt", "hash": "..."}
    uncertainty  0 to 1
    gate         {"outcome": "pass", "rules": [...]}; the clinic adds it

>>> read({"strategy": "Question"}).strategy
'Question'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What was read about emotions at one turn, and the words that it rests on."""

    turn: int
    values: Mapping[str, float] = field(repr=False)
    evidence: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something that was looked up."""

    id: str
    title: str = field(default="", repr=False)
    text: str = field(default="", repr=False)
    score: float | None = None
    index: str = ""
    vetted: str = ""


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """The parts of the reasons; empty or None = the writer did not say.

    Args:
        distribution: (strategy, probability), the most probable first.
        by, rule: who said the strategy, and how it was chosen.
        screened: (id, rule) of what the screen stopped. not_read: what readers did not say, and why.
        rest: what else the writer said, as text.
    """

    strategy: str = ""
    by: str = ""
    rule: str = ""
    screened: tuple[tuple[str, str], ...] = ()
    not_read: str = ""
    distribution: tuple[tuple[str, float], ...] = ()
    emotion: tuple[Mark, ...] = field(default=(), repr=False)
    sources: tuple[Source, ...] = field(default=(), repr=False)
    plan: tuple[str, ...] = field(default=(), repr=False)
    prompt: str = ""
    uncertainty: float | None = None
    gate: str = ""
    rules: tuple[str, ...] = ()
    rest: tuple[tuple[str, str], ...] = field(default=(), repr=False)


_KNOWN = {"strategy", "emotion", "sources", "plan", "prompt", "uncertainty", "gate", "screened", "not_read"}


def read(found: Mapping[str, Any], *, evidence_required: bool = False) -> Reasons:
    """The reasons of a draft.

    Args:
        evidence_required: emotions without the words they rest on are left out.
    """
    strategy, distribution = _strategy(found.get("strategy"))
    plan = found.get("plan")
    if not strategy and isinstance(plan, Mapping):
        strategy = next((str(v) for k, v in plan.items() if "strategy" in str(k)), "")
    prompt, gate, missed = found.get("prompt"), found.get("gate"), found.get("not_read")
    said = found.get("strategy")
    about: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    marks = tuple(m for m in map(_mark, _list(found.get("emotion"))) if m is not None)
    return Reasons(
        strategy=strategy,
        distribution=distribution,
        by=str(about.get("by", "")),
        rule=str(about.get("rule", "")),
        screened=tuple(
            (str(s.get("id", "")), str(s.get("why", "")))
            for s in _list(found.get("screened"))
            if isinstance(s, Mapping)
        ),
        not_read=f"{_flat(missed.get('what', ''))} ({missed.get('why', '')})" if isinstance(missed, Mapping) else "",
        emotion=tuple(m for m in marks if m.evidence or not evidence_required),
        sources=tuple(s for s in map(_source, _list(found.get("sources"))) if s is not None),
        plan=_plan(plan),
        prompt=f"{prompt.get('name', '')} {prompt.get('hash', '')}".strip() if isinstance(prompt, Mapping) else "",
        uncertainty=_share(found.get("uncertainty")),
        gate=str(gate.get("outcome", "")) if isinstance(gate, Mapping) else "",
        rules=tuple(map(str, _list(gate.get("rules")))) if isinstance(gate, Mapping) else (),
        rest=tuple((str(k), _flat(v)) for k, v in found.items() if k not in _KNOWN),
    )


def _strategy(found: Any) -> tuple[str, tuple[tuple[str, float], ...]]:
    if isinstance(found, str):
        return found, ()
    if not isinstance(found, Mapping):
        return "", ()
    raw = found.get("distribution")
    pairs = [(str(k), p) for k, v in raw.items() if (p := _share(v)) is not None] if isinstance(raw, Mapping) else []
    return str(found.get("name", "")), tuple(sorted(pairs, key=lambda pair: -pair[1]))


def _mark(found: Any) -> Mark | None:
    if not isinstance(found, Mapping) or not isinstance(found.get("values"), Mapping):
        return None
    pairs = [(str(k), p) for k, v in found["values"].items() if (p := _share(v)) is not None]
    values = dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))  # the store keeps no order of keys
    turn = found.get("turn")
    if not values or not isinstance(turn, int):
        return None
    return Mark(turn=turn, values=values, evidence=str(found.get("evidence", "")))


def _source(found: Any) -> Source | None:
    if isinstance(found, str):
        return Source(id=found)
    if not isinstance(found, Mapping) or "id" not in found:
        return None
    score = found.get("score")
    return Source(
        id=str(found["id"]),
        title=str(found.get("title") or found.get("name") or ""),
        text=str(found.get("text", "")),
        score=float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None,
        index=str(found.get("index", "")),
        vetted=", ".join(str(found[key]) for key in ("vetted_by", "date") if key in found),
    )


def _plan(found: Any) -> tuple[str, ...]:
    if isinstance(found, str):
        return (found,)
    if isinstance(found, Mapping):
        return tuple(f"{k}: {_flat(v)}" for k, v in found.items())
    return tuple(_flat(item) for item in _list(found))


def _share(found: Any) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
        return None
    return float(found)


def _list(found: Any) -> Sequence[Any]:
    return found if isinstance(found, list | tuple) else ()


def _flat(found: Any) -> str:
    if isinstance(found, Mapping):
        return ", ".join(f"{k} {_flat(v)}" for k, v in found.items())
    return ", ".join(map(_flat, found)) if isinstance(found, list | tuple) else str(found)
