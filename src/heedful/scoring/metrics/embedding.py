"""Extrema, average and greedy matching of word vectors (Liu et al., EMNLP 2016; nlg-eval, as in codes_zcj).

Papers on ESConv take GloVe-6B-300d, one gigabyte that nobody ships: the file is read where a person has put it
(`HEEDFUL_GLOVE`, else `glove/glove.6B.300d.txt` under HEEDFUL_DATA or HEEDFUL_HOME). Without it these scores are
unscored. Values under other vectors are other scores; the signature names the file and its size.

A word without a vector gets the mean of all vectors. One pass over the file finds that mean and the words that are
needed, so it never lies in memory as a whole. The first pass takes about a minute; the mean is then kept in the cache
(2 kB), and later passes read only the words that are needed, in a few seconds.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from heedful.errors import DataError, NotFoundError
from heedful.models.embedded import cache_dir
from heedful.scoring.base import Floats, Metric, Result, Rows
from heedful.scoring.text import signature
from heedful.settings import DATA_VARIABLE, home

VARIABLE = "HEEDFUL_GLOVE"
FILE = "glove/glove.6B.300d.txt"
_LINES = 4096
_NOWHERE = "no word"


def places() -> tuple[Path, ...]:
    """Where the vectors are looked for: the file that HEEDFUL_GLOVE names, and nothing else if it is set."""
    if named := os.environ.get(VARIABLE):
        return (Path(named),)
    data = os.environ.get(DATA_VARIABLE)
    return (*((Path(data) / FILE,) if data else ()), home() / FILE)


def find() -> Path | None:
    """The file of vectors, or None."""
    return next((path for path in places() if path.is_file()), None)


def missing() -> str | None:
    """Why the vectors cannot be read here, or None."""
    if find() is not None:
        return None
    named = os.environ.get(VARIABLE)
    if named:
        return f"{VARIABLE} names '{named}', but there is no such file"
    return (
        f"no word vectors: fetch GloVe-6B (nlp.stanford.edu/projects/glove) and put glove.6B.300d.txt at "
        f"{places()[0]}, or set {VARIABLE} to the file"
    )


class WordVectors:
    """Vectors of a text file with `word number number ...` on each line (GloVe; a word2vec header is passed over).

    Raises:
        DataError: a line that does not hold a word and as many numbers as the first one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        about = path.stat()
        self._kept = cache_dir() / "vectors" / f"{path.stem}-{about.st_size}-{about.st_mtime_ns}.npy"
        self.unknown: Floats | None = np.load(self._kept) if self._kept.is_file() else None
        self._known: dict[str, Floats] = {}
        self._asked: set[str] = set()

    def table(self, words: Sequence[str]) -> Floats:
        """Vectors of `words`, shape (W, D); the mean of the whole file where a word is not in it."""
        unknown = self._read(set(words) - self._asked)
        return np.stack([self._known.get(word, unknown) for word in words]) if words else np.zeros((0, len(unknown)))

    def _read(self, wanted: set[str]) -> Floats:
        """Keep the vectors of `wanted`; the mean of all."""
        if self.unknown is not None and not wanted:
            return self.unknown
        total: Floats | None = None
        count, width = 0, 0
        with self.path.open("rb") as file:
            numbered: Iterator[tuple[int, bytes]] = enumerate(file, 1)
            while block := list(islice(numbered, _LINES)):
                if block[0][0] == 1 and len(block[0][1].split()) == 2:
                    block = block[1:]  # word2vec's header: how many words, how long
                width = width or (len(block[0][1].split()) - 1 if block else 0)
                parts = [(number, *line.partition(b" ")[::2]) for number, line in block]
                chosen = [part for part in parts if part[1].decode("utf-8", "replace") in wanted]
                if self.unknown is None:
                    values = self._numbers(parts, width)
                    total = values.sum(axis=0) if total is None else total + values.sum(axis=0)
                    count += len(parts)
                for (_, word, _), vector in zip(chosen, self._numbers(chosen, width), strict=True):
                    self._known.setdefault(word.decode("utf-8", "replace"), vector)
        if total is not None and count:
            self.unknown = total / count
            self._keep(self.unknown)
        if self.unknown is None:
            raise DataError(f"{self.path}: expected lines of a word and its numbers, but the file is empty.")
        self._asked |= wanted
        return self.unknown

    def _keep(self, mean: Floats) -> None:
        with suppress(OSError):  # a cache that cannot be written costs a minute next time
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._kept.with_name(f"{os.getpid()}-{self._kept.name}")
            np.save(scratch, mean)
            os.replace(scratch, self._kept)

    def _numbers(self, parts: Sequence[tuple[int, bytes, bytes]], width: int) -> Floats:
        """Numbers of some lines, shape (lines, width)."""
        if not parts:
            return np.zeros((0, width))
        # Line by line, since a short one and a long one could make up for each other.
        even = all(rest.strip().count(b" ") == width - 1 for _, _, rest in parts)
        found = _parsed(b" ".join(rest for _, _, rest in parts)) if even else None
        if found is not None and len(found) == len(parts) * width:
            return found.reshape(len(parts), width)
        for number, _, rest in parts:
            alone = _parsed(rest)
            if alone is None or len(alone) != width:
                raise DataError(
                    f"{self.path}, line {number}: expected a word and {width} numbers, as in the file's first line."
                )
        raise DataError(f"{self.path}: expected a word and {width} numbers on each line, one blank between them.")


def _parsed(text: bytes) -> Floats | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns of what it cannot read, and stops there
        try:
            return np.fromstring(text.decode("ascii"), dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            return None


@lru_cache(maxsize=2)
def _vectors(path: Path, size: int, changed: int) -> WordVectors:
    return WordVectors(path)


def vectors() -> WordVectors:
    """The user's vectors, kept for the process as long as the file stays the same.

    Raises:
        NotFoundError: they are nowhere.
    """
    path = find()
    if path is None:
        raise NotFoundError(f"These scores need word vectors, but: {missing()}.")
    about = path.stat()
    return _vectors(path, about.st_size, about.st_mtime_ns)


# ------------------------------------------------------------------------------------------------------- the scores


def extrema(words: Floats) -> Floats:
    """Per dimension the value that is farthest from 0; words (T, D) -> (D,). A smallest value of exactly 0 wins, as
    coded in nlg-eval."""
    high, low = words.max(axis=0), words.min(axis=0)
    found: Floats = np.where((low > 0) | ((low < 0) & (high > -low)), high, low)
    return found


def cosine(a: Floats, b: Floats) -> float:
    """0 where one of the vectors is 0."""
    return float((_unit(a[None]) @ _unit(b[None]).T)[0, 0])


def greedy(hypothesis: Floats, reference: Floats) -> float:
    """Mean over words of the cosine with the nearest word of the other text, in both directions, averaged."""
    cosines = _unit(hypothesis) @ _unit(reference).T
    return float((cosines.max(axis=0).mean() + cosines.max(axis=1).mean()) / 2)


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = rows / np.where(lengths > 0, lengths, 1.0)
    return found


def _per_row(rows: Rows, how: Callable[[Floats, Floats], float]) -> Result:
    encoded = rows.encoded("published", "hypothesis", "reference")
    table = rows.memo("word vectors", lambda: vectors().table(encoded.words))
    values = [
        how(table[said], table[wanted]) if said and wanted else np.nan for said, wanted in _pairs(encoded.columns)
    ]
    return Result.mean(values, scale=100.0, reason=f"{_NOWHERE} in the reply or in the reference")


def _pairs(columns: dict[str, list[list[int]]]) -> Iterable[tuple[list[int], list[int]]]:
    return zip(columns["hypothesis"], columns["reference"], strict=True)


def _named() -> str:
    path = find()
    return f"{path.name}:{path.stat().st_size}" if path else "vectors:absent"


def _metric(name: str, title: str, definition: str, how: Callable[[Floats, Floats], float]) -> Metric:
    return Metric(
        name=f"embedding_{name}",
        title=f"{title} (word vectors)",
        definition=f"{definition}, mean; GloVe-6B-300d from the user's own file; lower-cased NLTK tokens after a "
        "sentence split; a word without a vector gets the mean of all.",
        signature=lambda: signature(f"embedding:{name}", _named(), "tok:published", "lc"),
        compute=lambda rows: _per_row(rows, how),
        missing=missing,
    )


EMBEDDING_EXTREMA = _metric(
    "extrema",
    "Extrema",
    "Cosine of the vectors that hold, per dimension, the value of the text's words farthest from 0",
    lambda said, wanted: cosine(extrema(said), extrema(wanted)),
)
EMBEDDING_AVERAGE = _metric(
    "average",
    "average",
    "Cosine of the sums of the words' vectors",
    lambda said, wanted: cosine(said.sum(axis=0), wanted.sum(axis=0)),
)
EMBEDDING_GREEDY = _metric(
    "greedy",
    "greedy matching",
    "Mean cosine of each word with the nearest word of the other text, both directions averaged",
    greedy,
)
