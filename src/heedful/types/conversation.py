"""Conversation, Turn, Label and Span: what was said, by whom, and what people or models noted about it.

Labels are layers. A layer is one label set (`esconv_strategy`, `mesc_emotion`, ...) from one source (`gold`, `rule`,
`model`, `human:<id>`); a turn may carry any number of them, and a turn without an entry is unlabelled, which is not
the same as labelled `none` or `other`.

>>> turn = Turn(role="user", text="I slept badly.", labels=(Label(set="mesc_emotion", value="depression"),))
>>> turn.label("mesc_emotion")
'depression'
>>> turn
Turn(role='user', 3 words, labels=['mesc_emotion'])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast

from heedful.errors import DataError

Role = Literal["system", "user", "assistant"]
"""`user` is the help-seeker, `assistant` the supporter (the names of the OpenAI message format)."""
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters `start` (inclusive) to `end` (exclusive) of a turn's text."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise DataError(f"A span needs 0 <= start < end, but start is {self.start} and end is {self.end}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One entry of one layer. `confidence` lies in [0, 1]; `evidence` says why (never quoted client text)."""

    set: str
    value: str
    source: str = "gold"
    confidence: float | None = None
    evidence: str | None = field(default=None, repr=False)
    span: Span | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0.0 <= self.confidence <= 1.0:
            raise DataError(f"A label's confidence must lie between 0 and 1, but it is {self.confidence}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message. `extra` keeps columns of the source that heedful has no field for."""

    role: Role
    text: str = field(repr=False)
    labels: tuple[Label, ...] = ()
    speaker_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"A turn's role must be one of {', '.join(ROLES)}, but it is '{self.role}'.")

    def __repr__(self) -> str:
        # The text stays out: a repr ends up in logs, tracebacks and notebooks.
        sets = sorted({label.set for label in self.labels})
        return f"Turn(role={self.role!r}, {len(self.text.split())} words, labels={sets})"

    def label(self, set: str, *, source: str | None = None) -> str | None:
        """The value of the first label of `set` (and `source`), or None if there is none."""
        for label in self.labels:
            if label.set == set and (source is None or label.source == source):
                return label.value
        return None

    def values(self, set: str) -> tuple[str, ...]:
        """All values of `set`, in order: for sets that allow several (values, distortions)."""
        return tuple(label.value for label in self.labels if label.set == set)

    def with_labels(self, *labels: Label) -> Turn:
        """A copy with `labels` appended; earlier ones are kept, because corrections append."""
        return replace(self, labels=(*self.labels, *labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Turns in time order, with where they came from and what is known about them.

    Args:
        id: unique within `source`.
        turns: the messages.
        source: name of the corpus.
        licence: SPDX id or the source's own words.
        split: `train`, `valid`, `test` or None.
        lang: BCP-47 tag.
        situation: the help-seeker's own summary, if the corpus has one.
        problem_type: the corpus' problem class.
        survey: scores given by people about the whole talk (`None` = asked, not answered).
        labels: layers about the whole conversation.
        group: whatever must not be divided between splits besides the conversation itself (a speaker, a video).
        extra: columns that heedful has no field for.
    """

    id: str
    turns: tuple[Turn, ...] = field(repr=False)
    source: str = "unknown"
    licence: str | None = None
    split: str | None = None
    lang: str = "en"
    situation: str | None = field(default=None, repr=False)
    problem_type: str | None = None
    survey: Mapping[str, float | None] = field(default_factory=dict, repr=False)
    labels: tuple[Label, ...] = ()
    group: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.turns)

    def __iter__(self) -> Iterator[Turn]:
        return iter(self.turns)

    def __repr__(self) -> str:
        return f"Conversation(id={self.id!r}, source={self.source!r}, split={self.split!r}, {len(self.turns)} turns)"

    def before(self, index: int) -> Conversation:
        """The conversation as it stood before turn `index`: what a model may see. The future is not in it.

        Survey scores, conversation-level labels and `extra` describe the whole talk, so they are left out as well.
        """
        return replace(self, turns=self.turns[:index], survey={}, labels=(), extra={})

    def targets(self, *, opening: bool = False) -> list[int]:
        """Indices of the supporter's turns; the very first turn of a talk counts only with `opening=True`."""
        return [i for i, turn in enumerate(self.turns) if turn.role == "assistant" and (i > 0 or opening)]

    def merged(self, *, separator: str = " ") -> Conversation:
        """Runs of turns by one role joined into one turn each.

        The joined turn carries the labels of the run's *last* turn, since that is what the reply answers to
        (MESC's 454 test pairs are counted so); every original turn stays in `extra["merged"]`.
        """
        runs: list[list[Turn]] = []
        for turn in self.turns:
            if runs and runs[-1][-1].role == turn.role:
                runs[-1].append(turn)
            else:
                runs.append([turn])
        turns = [
            run[0]
            if len(run) == 1
            else replace(
                run[-1],
                text=separator.join(t.text for t in run),
                extra={**run[-1].extra, "merged": tuple(run)},
            )
            for run in runs
        ]
        return replace(self, turns=tuple(turns))

    # ------------------------------------------------------------------ JSON (conventions: one object a line)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Conversation:
        """Read the JSON form: `{"id", "messages": [{"role", "content"}], "labels": [{"turn", "set", "value"}], ...}`.

        Raises:
            DataError: a required field is missing or has the wrong type; the message names field and id.
        """
        where = f"Conversation '{record.get('id', '?')}'"
        messages = record.get("messages")
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            raise DataError(f"{where}: 'messages' must be a list of objects with 'role' and 'content'.")
        per_turn: dict[int | None, list[Label]] = {}
        for entry in record.get("labels") or ():
            at, label = _label_from_dict(entry, where=where, n=len(messages))
            per_turn.setdefault(at, []).append(label)
        turns = tuple(
            _turn_from_dict(message, i, tuple(per_turn.get(i, ())), where=where) for i, message in enumerate(messages)
        )
        known = {f.name for f in fields(cls)} | {"messages"}
        extra = {k: v for k, v in record.items() if k not in known}
        extra.update(record.get("extra") or {})
        return cls(
            id=str(record.get("id", "")),
            turns=turns,
            source=record.get("source") or "unknown",
            licence=record.get("licence"),
            split=record.get("split"),
            lang=record.get("lang") or "en",
            situation=record.get("situation"),
            problem_type=record.get("problem_type"),
            survey=dict(record.get("survey") or {}),
            labels=tuple(per_turn.get(None, ())),
            group=record.get("group"),
            extra=extra,
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; fields without content are left out, so that a round trip changes nothing."""
        out: dict[str, Any] = {"id": self.id, "source": self.source}
        for name in ("licence", "split", "situation", "problem_type", "group"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        out["lang"] = self.lang
        if self.survey:
            out["survey"] = dict(self.survey)
        out["messages"] = [_turn_to_dict(turn) for turn in self.turns]
        entries = [_label_to_dict(None, label) for label in self.labels]
        entries += [_label_to_dict(i, label) for i, turn in enumerate(self.turns) for label in turn.labels]
        if entries:
            out["labels"] = entries
        out.update(self.extra)
        return out


def _turn_from_dict(message: Any, index: int, labels: tuple[Label, ...], *, where: str) -> Turn:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
        raise DataError(f"{where}, message {index}: expected an object with 'role' and a text in 'content'.")
    role = message.get("role")
    if role not in ROLES:
        raise DataError(f"{where}, message {index}: 'role' must be one of {', '.join(ROLES)}, but it is '{role}'.")
    extra = {k: v for k, v in message.items() if k not in ("role", "content", "speaker_id")}
    return Turn(
        role=cast(Role, role),
        text=message["content"],
        labels=labels,
        speaker_id=message.get("speaker_id"),
        extra=extra,
    )


def _turn_to_dict(turn: Turn) -> dict[str, Any]:
    out: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.speaker_id is not None:
        out["speaker_id"] = turn.speaker_id
    out.update({k: v for k, v in turn.extra.items() if k != "merged"})
    return out


def _label_from_dict(entry: Any, *, where: str, n: int) -> tuple[int | None, Label]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("set"), str) or "value" not in entry:
        raise DataError(f"{where}: each entry of 'labels' needs 'turn', 'set' and 'value'.")
    at = entry.get("turn")
    if at is not None and (not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < n):
        raise DataError(f"{where}: a label points to turn {at!r}, but the turns are numbered 0 to {n - 1}.")
    span = entry.get("span")
    return at, Label(
        set=entry["set"],
        value=str(entry["value"]),
        source=entry.get("source") or "gold",
        confidence=entry.get("confidence"),
        evidence=entry.get("evidence"),
        span=Span(start=span[0], end=span[1]) if span else None,
    )


def _label_to_dict(turn: int | None, label: Label) -> dict[str, Any]:
    out: dict[str, Any] = {"turn": turn, "set": label.set, "value": label.value, "source": label.source}
    if label.span is not None:
        out["span"] = [label.span.start, label.span.end]
    if label.confidence is not None:
        out["confidence"] = label.confidence
    if label.evidence is not None:
        out["evidence"] = label.evidence
    return out
