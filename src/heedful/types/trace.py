"""Trace and Score: what a system did for one turn, and what was thought of it.

A trace is written once and never changed; scores are appended. A score without a value is *unscored* and says why:
missing is not zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from heedful.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One named judgement. `value=None` means unscored, and then `reason` must say why."""

    name: str
    value: float | None
    source: str = "metric"
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise DataError(f"The score '{self.name}' has no value; give the reason why it is unscored.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One generated reply with everything that led to it.

    Args:
        id: `<conversation id>/<turn index>`; unique within a run.
        conversation_id: where the reply belongs.
        turn: index of the turn that the reply stands in for.
        reply: the text that was written.
        reference: the turn that a person wrote there, where there is one.
        system: name of the system or run that wrote the reply.
        prompt: the exact input, as text with special tokens.
        plan: what was decided before writing (strategy, values, knowledge), by name.
        finish: `stop` (end token), `length` (cut at the limit) or `error`.
        tokens: number of generated tokens, end token included.
        scores: judgements so far.
        info: settings and hashes (model, prompt, decoding).
    """

    id: str
    conversation_id: str
    turn: int
    reply: str = field(repr=False)
    reference: str | None = field(default=None, repr=False)
    system: str = "unknown"
    prompt: str | None = field(default=None, repr=False)
    plan: Mapping[str, Any] = field(default_factory=dict, repr=False)
    finish: str = "stop"
    tokens: int = 0
    scores: tuple[Score, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def with_scores(self, *scores: Score) -> Trace:
        """A copy with `scores` appended."""
        return replace(self, scores=(*self.scores, *scores))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without empty fields."""
        out: dict[str, Any] = {
            "id": self.id,
            "conversation_id": self.conversation_id,
            "turn": self.turn,
            "system": self.system,
            "reply": self.reply,
            "reference": self.reference,
            "finish": self.finish,
            "tokens": self.tokens,
        }
        if self.prompt is not None:
            out["prompt"] = self.prompt
        if self.plan:
            out["plan"] = dict(self.plan)
        if self.info:
            out["info"] = dict(self.info)
        if self.scores:
            out["scores"] = [
                {"name": s.name, "value": s.value, "source": s.source, "reason": s.reason} for s in self.scores
            ]
        return out

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Trace:
        """Read the JSON form.

        Raises:
            DataError: `id`, `conversation_id`, `turn` or `reply` is missing.
        """
        missing = [k for k in ("id", "conversation_id", "turn", "reply") if k not in record]
        if missing:
            raise DataError(f"A trace needs the fields id, conversation_id, turn and reply; missing: {missing}.")
        return cls(
            id=record["id"],
            conversation_id=record["conversation_id"],
            turn=record["turn"],
            reply=record["reply"],
            reference=record.get("reference"),
            system=record.get("system", "unknown"),
            prompt=record.get("prompt"),
            plan=dict(record.get("plan") or {}),
            finish=record.get("finish", "stop"),
            tokens=record.get("tokens", 0),
            scores=tuple(Score(**s) for s in record.get("scores") or ()),
            info=dict(record.get("info") or {}),
        )


class Sink(Protocol):
    """Where a loop puts what it made. Training and evaluation are handed one; they never open a store."""

    def trace(self, trace: Trace) -> None:
        """Take one finished trace."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Take numbers of one step."""
