"""Trace: what a system did for one turn, with the judgements of it.

A trace is written once and never changed; scores are appended. A score without a value is *unscored* and says why:
missing is not zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from heedful.errors import DataError, shown
from heedful.types._frozen import freeze, thaw
from heedful.types._read import Fields
from heedful.types.score import Score, read_score, write_score

__all__ = ["Score", "Sink", "Trace", "text_hash"]

_MAPS = ("plan", "usage", "info")
_LISTS = ("messages", "sources")
_NEEDED = ("id", "conversation_id", "turn", "reply")
_KEYS = (*_NEEDED, "reference", "system", "prompt", "finish", "tokens", "scores", *_MAPS, *_LISTS)


def text_hash(text: str) -> str:
    """Sixteen hex digits of SHA-256 over the UTF-8 form: what `Trace.info["prompt_hash"]` holds.

    >>> text_hash("Hello.")
    '2d8bd7d9bb5f85ba'
    """
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One generated reply with everything that led to it.

    Mappings inside cannot be changed. Equal traces have equal hashes; the hash looks at `system` and `id` alone.

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
        scores: judgements so far; their spans count in the reply, unless a score names another turn.
        info: settings and hashes: `model`, `prompt_hash` (see `text_hash`), `format`, `decoding`.
        messages: what was said to and by the models on the way, in time order: objects with `role` and `content`, and
            whatever else a step needs (`name` of an agent, `tool`).
        sources: what was looked up and used: objects with `name` and, where known, `text`, `score`, `url`.
        usage: what it cost, by name: `calls`, `prompt_tokens`, `completion_tokens`, `seconds`.
        extra: fields of a newer heedful or of another program, kept and written back.
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
    messages: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    sources: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    usage: Mapping[str, float | None] = field(default_factory=dict, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in (*_MAPS, "extra"):
            object.__setattr__(self, name, freeze(getattr(self, name)))
        for name in _LISTS:
            object.__setattr__(self, name, tuple(freeze(item) for item in getattr(self, name)))
        object.__setattr__(self, "scores", tuple(self.scores))
        for score in self.scores:
            end = max((span.end for span in score.spans), default=0) if score.turn is None else 0
            if end > len(self.reply):
                raise DataError(
                    f"The score {shown(score.name)} has a span that ends at {end}, but the reply has "
                    f"{len(self.reply)} characters."
                )

    def __hash__(self) -> int:
        return hash((self.system, self.id))

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
        for name in ("plan", "info", "messages", "sources", "usage"):
            if getattr(self, name):
                out[name] = thaw(getattr(self, name))
        if self.scores:
            out["scores"] = [write_score(score) for score in self.scores]
        inside = {key: thaw(value) for key, value in self.extra.items() if key in _KEYS or key == "extra"}
        out.update({key: thaw(value) for key, value in self.extra.items() if key not in inside})
        if inside:
            out["extra"] = inside
        return out

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Trace:
        """Read the JSON form. Files of older versions are read; fields that are not known go to `extra`.

        Raises:
            DataError: `id`, `conversation_id`, `turn` or `reply` is missing, or a field has the wrong type.
        """
        missing = [k for k in _NEEDED if Fields.of(record, "A trace", "an object").record.get(k) is None]
        if missing:
            raise DataError(f"A trace needs the fields id, conversation_id, turn and reply; missing: {missing}.")
        where = f"Trace {shown(record['id'])}"
        fields = Fields(record, where)
        try:
            return cls(
                id=fields.name("id") or "",
                conversation_id=fields.name("conversation_id") or "",
                turn=fields.whole("turn") or 0,
                reply=fields.text("reply") or "",
                reference=fields.text("reference"),
                system=fields.text("system") or "unknown",
                prompt=fields.text("prompt"),
                finish=fields.text("finish") or "stop",
                tokens=fields.whole("tokens") or 0,
                scores=tuple(
                    read_score(entry, where=f"{where}, score {k}")
                    for k, entry in enumerate(fields.items("scores", "objects with 'name' and 'value'"))
                ),
                plan=fields.map("plan"),
                info=fields.map("info"),
                messages=fields.objects("messages"),
                sources=fields.objects("sources"),
                usage=fields.numbers("usage"),
                extra=fields.rest(_KEYS),
            )
        except DataError as err:
            raise DataError(str(err) if str(err).startswith(where) else f"{where}: {err}") from err


class Sink(Protocol):
    """Where a loop puts what it made. Training and evaluation are handed one; they never open a store."""

    def trace(self, trace: Trace) -> None:
        """Take one finished trace."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Take numbers of one step."""
