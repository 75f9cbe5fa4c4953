"""The table of readers: what knowledge can be read from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from heedful.corpora.base import read_bytes, roots
from heedful.corpora.jsonl import is_jsonl
from heedful.errors import NotFoundError
from heedful.knowledge.item import Source, Vectors
from heedful.registry import Registry

READERS = Registry(
    "kind of knowledge",
    {
        "atomic": "heedful.knowledge.atomic:ATOMIC",
        "cases": "heedful.knowledge.cases:CASES",
        "esc-graph": "heedful.knowledge.esc_graph:ESC_GRAPH",
        "heal": "heedful.knowledge.heal:HEAL",
    },
)
"""name -> `Reader`. Add one: a file beside this one, and a line here."""


class Encoder(Protocol):
    """What makes vectors; `heedful.models.encoder.SentenceEncoder` does."""

    name: str

    @property
    def signature(self) -> str:
        """Name, depth and precision."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (N, dim), float32."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One kind of knowledge.

    Args:
        folders: where its data lie below a folder of corpora, best first; none for a file that a person names.
        files: place -> files that it reads, by the name that is written down.
        read: place, encoder (None = there is none) -> what is in them.
        advice: how to get the data.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    files: Callable[[Path], Mapping[str, Path]] = field(repr=False)
    read: Callable[[Path, Encoder | None], Source] = field(repr=False)
    advice: str

    def locate(self, path: str | Path | None = None) -> Path | None:
        """`path`, else the first folder of that name below the folders of corpora, else None."""
        if path is not None:
            return Path(path) if Path(path).exists() else None
        found = (root / folder for root in roots() for folder in self.folders)
        return next((place for place in found if place.is_dir()), None)

    def require(self, path: str | Path | None = None) -> Path:
        """As `locate`.

        Raises:
            NotFoundError: the data are not there.
        """
        place = self.locate(path)
        if place is None:
            where = f"'{path}'" if path is not None else " or ".join(f"$HEEDFUL_DATA/{f}" for f in self.folders)
            raise NotFoundError(
                f"The data of '{self.name}' were looked for in {where}, but are not there. {self.advice}"
            )
        return place

    def hashes(self, place: Path) -> dict[str, str]:
        """SHA-256 of the unpacked content of every file, by name.

        Raises:
            NotFoundError, DataError: a file is missing or damaged.
        """
        return {name: hashlib.sha256(read_bytes(path)).hexdigest() for name, path in sorted(self.files(place).items())}


def reader_of(what: str) -> tuple[Reader, Path | None]:
    """The reader that `what` names, and the place where that says so: a `.jsonl` file is a file of cases.

    Raises:
        NotFoundError: no such reader, or no such file.
    """
    if is_jsonl(what):
        reader: Reader = READERS.get("cases")
        return reader, reader.require(what)
    return READERS.get(what), None
