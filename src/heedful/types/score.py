"""Score: one judgement about a reply, a turn or a whole talk."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from heedful.errors import DataError, shown
from heedful.types._read import Fields
from heedful.types.label import Span, read_turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One named judgement. `value=None` means unscored, and then `reason` must say why: missing is not zero.

    Args:
        name: of the metric, reward, question or check.
        value: a number, true or false (a check), or a text (the answer of a judge); None = unscored.
        source: what kind of thing gave it: `metric`, `reward`, `judge`, `human`.
        reason: why there is no value.
        explanation: why this value; may quote a person, so it stays out of the repr.
        spans: the characters that it rests on: of the reply, or of the turn that `turn` names.
        by: who exactly: judge with version, or a salted id of a person.
        at: when, as ISO 8601 ("2026-11-21T10:30:00+00:00").
        turn: which turn it is about; None = the reply of its trace, or the whole talk of its conversation.
    """

    name: str
    value: float | bool | str | None
    source: str = "metric"
    reason: str | None = None
    explanation: str | None = field(default=None, repr=False)
    spans: tuple[Span, ...] = ()
    by: str | None = None
    at: str | None = None
    turn: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "spans", tuple(self.spans))
        if self.value is None and not self.reason:
            raise DataError(f"The score {shown(self.name)} has no value; give the reason why it is unscored.")
        if isinstance(self.value, float) and not math.isfinite(self.value):
            raise DataError(
                f"The score {shown(self.name)} is {self.value}, and that is no value. Give value=None with a reason."
            )
        if self.at is not None:
            try:
                datetime.fromisoformat(self.at)
            except (TypeError, ValueError):
                raise DataError(
                    f"The score {shown(self.name)}: 'at' must be a time in ISO 8601, but it is {shown(self.at)}."
                ) from None

    def __repr__(self) -> str:
        # The answer of a judge may quote the person who was judged.
        value = shown(self.value) if isinstance(self.value, str) else self.value
        about = "" if self.turn is None else f", turn={self.turn}"
        why = f", reason={self.reason!r}" if self.value is None else ""
        return f"Score(name={self.name!r}, value={value}, source={self.source!r}{about}{why})"


_KEYS = ("name", "value", "source", "reason", "explanation", "spans", "by", "at", "turn")


def read_score(entry: object, *, where: str, turns: int | None = None) -> Score:
    """Read one entry of `scores`; `turns` is the number of turns that `turn` may name (None = not known here).

    Raises:
        DataError: the message starts with `where`.
    """
    fields = Fields.of(entry, where, "an object with 'name' and 'value'")
    fields.only(_KEYS)
    name = fields.text("name")
    if not name:
        fields.fail("name", "the name of a score")
    value = fields.record.get("value")
    if isinstance(value, str):
        fields.text("value")
    elif not isinstance(value, bool):
        value = fields.number("value")
    turn = fields.whole("turn") if turns is None else read_turn(fields, turns)
    try:
        return Score(
            name=name,
            value=value,
            source=fields.text("source") or "metric",
            reason=fields.text("reason"),
            explanation=fields.text("explanation"),
            spans=tuple(Span.read(span, where) for span in fields.items("spans", "spans [start, end]")),
            by=fields.text("by"),
            at=fields.text("at"),
            turn=turn,
        )
    except DataError as err:
        text = str(err)
        raise DataError(text if text.startswith(where) else f"{where}: {text}") from err


def write_score(score: Score) -> dict[str, Any]:
    """The entry of `scores`; undoes `read_score`."""
    out: dict[str, Any] = {"name": score.name, "value": score.value, "source": score.source, "reason": score.reason}
    for name in ("explanation", "by", "at", "turn"):
        if getattr(score, name) is not None:
            out[name] = getattr(score, name)
    if score.spans:
        out["spans"] = [span.to_list() for span in score.spans]
    return out
