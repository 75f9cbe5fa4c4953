"""Item: one thing that can be looked up, with where it comes from; and Draft, an item before the screen has read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from heedful.errors import DataError, shown

Vectors = npt.NDArray[np.float32]
LONGEST_ID = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An edge to another item, with its weight (a count)."""

    to: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that can be looked up. An item that is not safe has no text: it was left out when the index was built.

    Args:
        id: unique within its index.
        kind: `stressor`, `response`, `expectation`, `feedback`, `affect`, `event`, `case`, ...
        text: what may be shown and written into an input.
        source: where it comes from, for people (`heal`, `esconv`, `cases.jsonl, line 3`).
        weight: how often it was seen.
        why: the rule that stopped it, or None.
        links: edges, heaviest first; filled in by `Index.item`.
        origins: conversations that it was taken from, as `source/id`; it is never shown to these.
        extra: further columns (a case's advice and who vetted it, an event's relations). Their texts are screened too.
    """

    id: str
    kind: str
    text: str = field(default="", repr=False)
    source: str
    weight: float = 1.0
    why: str | None = None
    links: tuple[Link, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = field(default=(), repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "extra", MappingProxyType(dict(self.extra)))

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    @property
    def safe(self) -> bool:
        """Whether no rule stopped it."""
        return self.why is None

    def stopped(self, why: str) -> Item:
        """The same item without anything that could be shown."""
        return Item(id=self.id, kind=self.kind, source=self.source, weight=self.weight, why=why)

    def texts(self) -> Iterator[str]:
        """Everything in it that can be shown: the text, and the texts in `extra`, however deep."""
        yield self.text
        yield from _texts(self.extra)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without links; fields without content are left out."""
        out: dict[str, Any] = {"id": self.id, "kind": self.kind, "text": self.text, "source": self.source}
        if self.weight != 1.0:
            out["weight"] = self.weight
        if self.why is not None:
            out["why"] = self.why
        if self.origins:
            out["origins"] = list(self.origins)
        if self.extra:
            out["extra"] = dict(self.extra)
        return out

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Item:
        """Read the JSON form.

        Raises:
            KeyError, TypeError: it is none.
        """
        return cls(
            id=record["id"],
            kind=record["kind"],
            text=record["text"],
            source=record["source"],
            weight=float(record.get("weight", 1.0)),
            why=record.get("why"),
            origins=tuple(record.get("origins", ())),
            extra=record.get("extra", {}),
        )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An item as a reader found it.

    Args:
        search: the text that it is found by; its own text if empty.
        stories: what it was made from. Screened, used in `search` at most, never kept.
        marked: why the data themselves say that it must be left out, or None.
        parent: id of the item that it belongs to; it is left out with it.
        vector: its own unit vector, instead of the encoder's of `search`.
    """

    item: Item
    search: str = field(default="", repr=False)
    stories: tuple[str, ...] = field(default=(), repr=False)
    marked: str | None = None
    parent: str | None = None
    vector: Vectors | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge between two items of a source; direction does not matter."""

    one: str
    other: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a reader gives.

    Args:
        drafts: all items.
        edges: between items; each end is one of `drafts`.
        left_out: what the reader itself did not take, in words -> how many.
    """

    drafts: tuple[Draft, ...] = field(repr=False)
    edges: tuple[Edge, ...] = field(default=(), repr=False)
    left_out: Mapping[str, int] = field(default_factory=dict)


class Ids:
    """Ids of a source, each of which may stand once."""

    def __init__(self) -> None:
        self.where: dict[str, str] = {}

    def add(self, id: object, where: str) -> str:
        """The id as a text.

        Raises:
            DataError: it is no id, or it stood somewhere before; both places are named.
        """
        if isinstance(id, int) and not isinstance(id, bool):
            id = str(id)
        if not isinstance(id, str) or not id.strip() or len(id) > LONGEST_ID or not id.isprintable():
            raise DataError(f"{where}: 'id' must be a text of 1 to {LONGEST_ID} characters, but it is {shown(id)}.")
        if id in self.where:
            raise DataError(f"{where}: the id {shown(id)} stands twice, first in {self.where[id]}. Ids must differ.")
        self.where[id] = where
        return id
