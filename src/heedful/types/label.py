"""Span and Label: what people or models noted about a turn or a talk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from heedful.errors import DataError, shown
from heedful.types._read import Fields, kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters `start` (inclusive) to `end` (exclusive) of a turn's text."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise DataError(f"A span needs 0 <= start < end, but start is {self.start} and end is {self.end}.")

    def shifted(self, by: int) -> Span:
        """The same characters after `by` more were put in front of the text."""
        return Span(start=self.start + by, end=self.end + by) if by else self

    @classmethod
    def read(cls, value: object, where: str) -> Span:
        """Read the JSON form, a list `[start, end]`.

        Raises:
            DataError: it is anything else; the message starts with `where`.
        """
        pair = value if isinstance(value, list | tuple) else ()
        if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in pair):
            what = kind(value) if not isinstance(value, list | tuple) else "another list"
            raise DataError(f"{where}: a span must be a list of two whole numbers [start, end], but it is {what}.")
        try:
            return cls(start=pair[0], end=pair[1])
        except DataError as err:
            raise DataError(f"{where}: {err}") from err

    def to_list(self) -> list[int]:
        """The JSON form."""
        return [self.start, self.end]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One entry of one layer. `confidence` lies in [0, 1]; `evidence` says why (never quoted client text).

    A turn without a label has no entry: `value` is always a text, and None is refused.
    """

    set: str
    value: str
    source: str = "gold"
    confidence: float | None = None
    evidence: str | None = field(default=None, repr=False)
    span: Span | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.value, str) or not self.value.strip():
            raise DataError(
                f"A label's value must be a text, but it is {shown(self.value)}. "
                "An unlabelled turn has no label at all: leave the entry out."
            )
        if self.confidence is not None and not 0.0 <= self.confidence <= 1.0:
            raise DataError(f"A label's confidence must lie between 0 and 1, but it is {shown(self.confidence)}.")

    def by(self, source: str) -> bool:
        """Whether the label comes from `source`; a kind such as `human` covers `human:7`."""
        return self.source == source or self.source.startswith(f"{source}:")


_KEYS = ("turn", "set", "value", "source", "confidence", "evidence", "span")


def read_label(entry: object, *, where: str, n: int) -> tuple[int | None, Label]:
    """Index of the turn (None = the whole talk of `n` turns) and label out of one entry of `labels`.

    Raises:
        DataError: the message starts with `where`.
    """
    fields = Fields.of(entry, where, "an object with 'turn', 'set' and 'value'")
    fields.only(_KEYS)
    at, name = read_turn(fields, n), fields.text("set")
    if not name:
        fields.fail("set", "the name of a label set")
    value = fields.name("value")
    if value is None or not value.strip():
        what = "null" if "value" in fields.record and value is None else "empty" if value is not None else "missing"
        raise DataError(
            f"{where}: 'value' is {what}. An unlabelled turn has no label entry: leave the entry out "
            "(null, the label 'none' and the label 'other' are three different things)."
        )
    confidence, raw = fields.number("confidence"), fields.record.get("span")
    if confidence is not None and not 0.0 <= confidence <= 1.0:
        fields.fail("confidence", "a number between 0 and 1")
    return at, Label(
        set=name,
        value=value,
        source=fields.text("source") or "gold",
        confidence=confidence,
        evidence=fields.text("evidence"),
        span=None if raw is None else Span.read(raw, where),
    )


def write_label(turn: int | None, label: Label) -> dict[str, Any]:
    """The entry of `labels`; undoes `read_label`."""
    out: dict[str, Any] = {"turn": turn, "set": label.set, "value": label.value, "source": label.source}
    if label.span is not None:
        out["span"] = label.span.to_list()
    if label.confidence is not None:
        out["confidence"] = label.confidence
    if label.evidence is not None:
        out["evidence"] = label.evidence
    return out


def read_turn(fields: Fields, n: int) -> int | None:
    """The field `turn`: None, or the index of one of `n` turns.

    Raises:
        DataError: no such turn.
    """
    at = fields.record.get("turn")
    if at is None or (isinstance(at, int) and not isinstance(at, bool) and 0 <= at < n):
        return at
    numbered = f"the turns are numbered 0 to {n - 1}" if n else "there are no turns"
    raise DataError(f"{fields.where}: it points to turn {shown(at)}, but {numbered}.")
