"""Index: a folder of arrays that are mapped and not read, so that it opens in milliseconds, and exact search in it.

    manifest.json    what it is: format, data (SHA-256 of each file), rules of the screen, encoder, counts, hashes
    items.jsonl      one item a line, ordered by id; lines.npy: where each begins
    filtered.jsonl   ids and rules of what was left out, without text
    vectors.npy      float32 (N, dim); bm25_*.npy, edge_*.npy, id_*.npy, kinds.npy

Equal data and equal weights give equal files. Two scores that are equal are ordered by id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from heedful.errors import ConfigError, DataError, NotFoundError, nearest, shown
from heedful.knowledge.bm25 import BM25
from heedful.knowledge.dense import Dense, cosines, describe, shared_encoder
from heedful.knowledge.item import Item, Link, Vectors
from heedful.knowledge.keys import best, find
from heedful.knowledge.readers import READERS, Encoder, Reader
from heedful.safety import load_screen
from heedful.safety.screen import screen_hash
from heedful.settings import home

Method = Literal["bm25", "embedding", "hybrid"]
METHODS: tuple[Method, ...] = get_args(Method)
FORMAT, VERSION = "heedful-knowledge", 1
MANIFEST, PLACE = "manifest.json", "place.json"
FUSION, DEPTH = 60, 100
"""Reciprocal rank fusion: 1 / (60 + rank) is summed over both lists (Cormack et al., SIGIR 2009), each 100 deep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What a search found: where, how well, and by which score.

    Args:
        row: of the index.
        score: BM25, cosine, or the sum of reciprocal ranks.
    """

    row: int
    id: str
    kind: str
    score: float


class Index:
    """An opened index; `open` makes one. Nothing is read before it is asked for.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], encoder: Encoder | None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.kinds: tuple[str, ...] = tuple(manifest["kinds"])
        self.size: int = manifest["items"]
        self._encoder = encoder
        self._checked = False
        self._arrays = {name: self._map(name, about) for name, about in manifest["arrays"].items()}
        self._lines: npt.NDArray[np.uint8] = np.memmap(folder / "items.jsonl", dtype=np.uint8, mode="r")
        self._of_row = self._arrays["kinds"]
        sizes = {len(self._of_row), len(self._arrays["lines"]) - 1, len(self._arrays.get("vectors", self._of_row))}
        if sizes != {self.size} or int(self._arrays["lines"][-1]) != len(self._lines):
            raise ValueError("arrays of different lengths")
        self._words = BM25.of(self._arrays, self.size)
        self._read: dict[int, Item] = {}
        self._origins: dict[int, tuple[str, ...]] = {}
        self._filtered: dict[str, Item] | None = None

    # ------------------------------------------------------------------------------------------ opening, checking

    @classmethod
    def open(cls, folder: str | Path, *, encoder: Encoder | None = None) -> Index:
        """Open the index in a folder, or the one of that name in `$HEEDFUL_HOME/knowledge`.

        Args:
            encoder: instead of the one that the index names; it must be the one that the vectors were made with.

        Raises:
            NotFoundError: there is none.
            DataError: it is damaged, or was made by another version of heedful or under other rules of the screen.
        """
        place = _place(str(folder))
        try:
            manifest = json.loads((place / MANIFEST).read_text("utf-8"))
            if manifest["format"] != FORMAT or manifest["version"] != VERSION:
                raise DataError(f"'{place}' is an index of another format than {FORMAT} {VERSION}. {_again(manifest)}")
            if manifest["screen"] != screen_hash():
                raise DataError(
                    f"'{place}' was screened by other rules (hash {shown(manifest['screen'])}) than these "
                    f"('{screen_hash()}'). {_again(manifest)}"
                )
            return cls(place, manifest, encoder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            if isinstance(err, DataError):
                raise
            # Without its cause, which may quote the file.
            reason = type(err).__name__
        raise DataError(f"The index in '{place}' is damaged or incomplete ({reason}). Build it again.")

    def _map(self, name: str, about: Mapping[str, Any]) -> npt.NDArray[Any]:
        shape = tuple(about["shape"])
        if 0 in shape:
            return np.zeros(shape, dtype=about["dtype"])  # nothing can be mapped where there is nothing
        found: npt.NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if found.shape != shape or str(found.dtype) != about["dtype"]:
            raise ValueError(name)
        return found

    def verify(self, data: str | Path | None = None) -> bool:
        """Check the files of the index, and that it was built from the data that lie here.

        Args:
            data: file or folder that it should have been built from; by default where they were or usually lie.

        Returns:
            False where the data are not at hand to compare with.

        Raises:
            NotFoundError: `data` is not there.
            DataError: a file was changed, or the data are others.
        """
        for name, expected in self.manifest["files"].items():
            with (self.folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise DataError(
                        f"'{self.folder / name}' was changed after the index was built. {_again(self.manifest)}"
                    )
        reader: Reader = READERS.get(self.manifest["reader"])
        place = reader.require(data) if data is not None else self._data(reader)
        if place is None:
            return False
        found = reader.hashes(place)
        if list(found.values()) != list(self.manifest["data"].values()):
            known = self.manifest["data"]
            other = sorted({*known, *found}, key=lambda n: (known.get(n) == found.get(n), n))[0]
            raise DataError(
                f"The index '{self.folder}' was built from other data than '{place}': '{other}' does not have the hash "
                f"that it had then. {_again(self.manifest)}"
            )
        return True

    def _data(self, reader: Reader) -> Path | None:
        if reader.folders:
            return reader.locate()
        try:
            return reader.locate(json.loads((self.folder / PLACE).read_text("utf-8"))["path"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # a copy without it: nothing to compare with

    @property
    def fingerprint(self) -> str:
        """Name and hash of the manifest, which holds the hashes of everything else."""
        content = json.dumps(self.manifest, sort_keys=True).encode()
        return f"{self.manifest['name']}#{hashlib.sha256(content).hexdigest()[:12]}"

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"Index({self.fingerprint}, {self.size:,} items: {', '.join(self.kinds)})"

    # ----------------------------------------------------------------------------------------------------- items

    def row(self, id: str) -> int | None:
        """Where the item stands, or None."""
        at = find(self._arrays["id_keys"], id)
        row = int(self._arrays["id_rows"][at]) if at is not None else None
        return row if row is not None and self._record(row)["id"] == id else None

    def _record(self, row: int) -> dict[str, Any]:
        begin, end = self._arrays["lines"][row : row + 2]
        found: dict[str, Any] = json.loads(self._lines[begin:end].tobytes())
        return found

    def at(self, row: int) -> Item:
        """The item of a row, without links. Its texts are screened again: what is stopped now comes without them."""
        if row not in self._read:
            item = Item.from_dict(self._record(row))
            why = item.why or load_screen().why(*item.texts())
            self._read[row] = item if why is None else item.stopped(why)
        return self._read[row]

    def origins(self, row: int) -> tuple[str, ...]:
        """Conversations that the item of a row was taken from, as `source/id`."""
        if row not in self._origins:
            self._origins[row] = tuple(self._record(row).get("origins", ()))
        return self._origins[row]

    def item(self, id: str) -> Item:
        """An item by its id, with its links; one that was left out comes without text, with the rule in `why`.

        Raises:
            NotFoundError: the index never had it.
        """
        row = self.row(id)
        if row is None:
            found = self.filtered().get(id)
            if found is None:
                raise NotFoundError(f"The index '{self.folder.name}' has no item {shown(id)}.")
            return found
        item = self.at(row)
        rows, weights = self.near(row)
        links = (Link(to=self._record(int(r))["id"], weight=float(w)) for r, w in zip(rows, weights, strict=True))
        return Item(**{**{name: getattr(item, name) for name in Item.__slots__}, "links": tuple(links)})

    def filtered(self) -> Mapping[str, Item]:
        """What was left out, by id, without text."""
        if self._filtered is None:
            lines = (self.folder / "filtered.jsonl").read_text("utf-8").splitlines()
            self._filtered = {item.id: item for item in map(Item.from_dict, map(json.loads, lines))}
        return self._filtered

    def near(self, row: int, kind: str | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Rows of the neighbours and the weights of the edges, heaviest first, among equals by id."""
        begin, end = self._arrays["edge_start"][row : row + 2]
        rows, weights = self._arrays["edge_rows"][begin:end], self._arrays["edge_weights"][begin:end]
        if kind is None:
            return rows, weights
        wanted = self._of_row[rows] == self._number(kind)
        return rows[wanted], weights[wanted]

    def count(self, kind: str) -> int:
        """How many items of a kind there are; 0 for one that it does not have."""
        return int((self._of_row == self.kinds.index(kind)).sum()) if kind in self.kinds else 0

    def _number(self, kind: str) -> int:
        if kind not in self.kinds:
            raise ConfigError(
                f"The index '{self.folder.name}' has no items of the kind '{kind}'.{nearest(kind, self.kinds)} "
                f"Known: {', '.join(self.kinds)}."
            )
        return self.kinds.index(kind)

    # --------------------------------------------------------------------------------------------------- vectors

    @property
    def vectors(self) -> Vectors:
        """Unit vectors of all rows (N, dim).

        Raises:
            ConfigError: the index was built without an encoder.
        """
        if "vectors" not in self._arrays:
            raise ConfigError(f"The index '{self.folder.name}' has no vectors; build it with an encoder, or use bm25.")
        return self._arrays["vectors"]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts by the index's own encoder, each distinct text once.

        Raises:
            ConfigError: the index has no vectors, or the encoder at hand is not the one they were made with.
            MissingExtraError: its libraries are not installed.
        """
        self.vectors  # noqa: B018  (refuses an index without)
        known = self.manifest["encoder"]
        if self._encoder is None:
            self._encoder = shared_encoder(known["name"])
        if not self._checked:
            found = describe(self._encoder)
            if found["hash"] != known["hash"]:
                raise ConfigError(
                    f"The vectors of '{self.folder.name}' were made by the encoder {known['name']} ({known['hash']}), "
                    f"but this is {found['name']} ({found['hash']}). {_again(self.manifest)}"
                )
            self._checked = True
        distinct = sorted(set(texts))
        made = dict(zip(distinct, self._encoder.encode(distinct), strict=True))
        return np.stack([made[text] for text in texts]) if texts else np.zeros((0, self.vectors.shape[1]), np.float32)

    def cosines(self, rows: npt.NDArray[Any] | Sequence[int], query: Vectors) -> npt.NDArray[np.float64]:
        """Exact cosines of some rows with one query."""
        return cosines(self.vectors[np.asarray(rows, dtype=np.int64)], query)

    # ---------------------------------------------------------------------------------------------------- search

    def search(self, query: str, *, method: Method = "hybrid", k: int = 10, kinds: Sequence[str] = ()) -> list[Hit]:
        """The `k` best items for one text. See `search_all`."""
        return self.search_all([query], method=method, k=k, kinds=kinds)[0]

    def search_all(
        self, queries: Sequence[str], *, method: Method = "hybrid", k: int = 10, kinds: Sequence[str] = ()
    ) -> list[list[Hit]]:
        """The `k` best items for each text, best first; equal scores are ordered by id.

        Args:
            method: `bm25` (common words; items without one are not found), `embedding` (cosine of sentence vectors), or
                `hybrid` (both ranks fused).
            kinds: only items of these kinds.

        Raises:
            ConfigError: no such method or kind, `k` below 1, or no vectors to search.
        """
        if method not in METHODS:
            raise ConfigError(f"method must be one of {', '.join(METHODS)}, but it is {shown(method)}.")
        if k < 1:
            raise ConfigError(f"k must be a whole number from 1 up, but it is {k}.")
        mask = self._mask(kinds)
        if method == "bm25":
            found = [self._by_words(query, k, mask) for query in queries]
        else:
            near = self.nearest(self.encode(queries), k if method == "embedding" else max(k, DEPTH), kinds=kinds)
            if method == "hybrid":
                words = [self._by_words(query, max(k, DEPTH), mask) for query in queries]
                near = [_fused(one, other, k) for one, other in zip(words, near, strict=True)]
            found = near
        return [[self.hit(row, score) for row, score in pairs] for pairs in found]

    def nearest(self, vectors: Vectors, k: int, *, kinds: Sequence[str] = ()) -> list[list[tuple[int, float]]]:
        """Rows and cosines of the `k` items nearest to each unit vector, nearest first."""
        mask, begin, end = self._mask(kinds), 0, self.size
        if mask is not None:
            inside = np.flatnonzero(mask)
            begin, end = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
            mask = mask[begin:end]
        found = Dense(self.vectors).top(vectors, k, begin=begin, end=end, mask=mask)
        return [list(zip(rows.tolist(), scores.tolist(), strict=True)) for rows, scores in found]

    def _by_words(self, query: str, k: int, mask: npt.NDArray[np.bool_] | None) -> list[tuple[int, float]]:
        scores = self._words.scores(query)
        scores[scores <= 0 if mask is None else (scores <= 0) | ~mask] = -np.inf
        rows = best(scores, k)
        return list(zip(rows.tolist(), scores[rows].tolist(), strict=True))

    def _mask(self, kinds: Sequence[str]) -> npt.NDArray[np.bool_] | None:
        if not kinds or set(kinds) >= set(self.kinds):
            for kind in kinds:
                self._number(kind)
            return None
        found: npt.NDArray[np.bool_] = np.isin(self._of_row, [self._number(kind) for kind in kinds])
        return found

    def hit(self, row: int, score: float) -> Hit:
        """A row with a score, under its id."""
        return Hit(row=row, id=self._record(row)["id"], kind=self.kinds[self._of_row[row]], score=score)


def _fused(one: list[tuple[int, float]], other: list[tuple[int, float]], k: int) -> list[tuple[int, float]]:
    scores: dict[int, float] = {}
    for ranked in (one, other):
        for rank, (row, _) in enumerate(ranked, start=1):
            scores[row] = scores.get(row, 0.0) + 1 / (FUSION + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]


def _place(folder: str) -> Path:
    """The folder itself where it is one, else the index of that name."""
    own = home() / "knowledge" / folder
    for place in (Path(folder), own):
        if (place / MANIFEST).is_file():
            return place
    known = sorted(p.parent.name for p in (home() / "knowledge").glob(f"*/{MANIFEST}"))
    if Path(folder).is_dir():
        raise NotFoundError(f"'{folder}' is no knowledge index: it has no {MANIFEST}.{_known(known)}")
    hint = folder if folder in READERS.names() else "NAME"
    raise NotFoundError(
        f"There is no knowledge index '{folder}'.{nearest(folder, known)} Build one with: heedful knowledge build "
        f"{hint}.{_known(known)}"
    )


def _known(names: Sequence[str]) -> str:
    return f" Here are: {', '.join(names)}." if names else ""


def _again(manifest: Mapping[str, Any]) -> str:
    what = manifest.get("reader")
    return f"Build it again: heedful knowledge build {'FILE.jsonl' if what == 'cases' else what}."
