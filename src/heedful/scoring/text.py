"""Shared tokenisations: each text is split once per tokenisation, turned to integers, and counted by numpy.

Four tokenisations, because a metric is only comparable under its own:

- `published`: lower case, a sentence split after [.!?] and white space, then NLTK's word tokenizer on each sentence. It
  stands for `nltk.word_tokenize(text.lower())`, which needs tokenizer data, and reproduces the BLEU-1..4 and
  distinct-1/2 that GLHG printed. Without the sentence split the same replies score 1.5 BLEU-1 points less.
- `13a`: mteval-v13a as sacrebleu has it; case is kept.
- `rouge`: lower case, runs of [a-z0-9], as rouge-score has it without stemming.
- `space`: split at white space.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from heedful.errors import MissingExtraError
from heedful.scoring.treebank import treebank_tokens

Tokenisation = Literal["published", "13a", "rouge", "space"]
Ints = npt.NDArray[np.int64]

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_ALPHANUMERIC = re.compile(r"[a-z0-9]+")
# mteval-v13a: symbols stand alone; full stop and comma unless between digits; dash after a digit. Its first class also
# holds the space, which changes no token and costs most of the time, so it is left out here.
_MTEVAL = (
    (re.compile(r"([\{-\~\[-\`\!-\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def needs_eval(module: str) -> Any:
    """Import a library of the extra `eval`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise MissingExtraError(
            f"This score needs the library {module.split('.')[0]}; run: pip install 'heedful[eval]'"
        ) from err


TESTED = {"bert-score": "0.3.13", "nltk": "3.10.4", "rouge-score": "0.1.2", "sacrebleu": "2.6.0"}
"""Library -> the version that our own code was tested to be equal to."""


@cache
def signature(*parts: str, libraries: tuple[str, ...] = (), equal: str | None = None) -> str:
    """`part|part|equal:library-version|library:version|heedful:version`, in the manner of sacrebleu.

    Args:
        libraries: those that take part in the computation, with the version that is installed.
        equal: the library whose value it is; its version is the one of the tests.
    """
    same = [f"equal:{equal}-{TESTED[equal]}"] if equal else []
    named = [f"{name}:{_version(name)}" for name in (*libraries, "heedful")]
    return "|".join((*parts, *same, *named))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


# ---------------------------------------------------------------------------------------------- text -> tokens


def sentences(text: str) -> list[str]:
    """Pieces of `text`, cut at white space that follows [.!?]."""
    return _SENTENCE_END.split(text)


def published_tokens(text: str) -> list[str]:
    """Sentence split, then NLTK's word tokens, lower case (module docstring)."""
    return [token for piece in sentences(text.lower()) for token in treebank_tokens(piece)]


def tokens_13a(text: str) -> list[str]:
    """mteval-v13a tokens, equal to sacrebleu's `13a`."""
    line = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in line:
        for entity, character in _ENTITIES:
            line = line.replace(entity, character)
    line = f" {line} "
    for pattern, replacement in _MTEVAL:
        line = pattern.sub(replacement, line)
    return line.split()


def rouge_tokens(text: str) -> list[str]:
    """Lower-cased runs of [a-z0-9], equal to rouge-score without stemming."""
    return _ALPHANUMERIC.findall(text.lower())


_TOKENISERS: dict[str, Callable[[str], list[str]]] = {
    "published": published_tokens,
    "13a": tokens_13a,
    "rouge": rouge_tokens,
    "space": str.split,
}


def tokenise(text: str, how: Tokenisation) -> list[str]:
    """The tokens of one text."""
    return _TOKENISERS[how](text)


# ---------------------------------------------------------------------------------------------- tokens -> counts


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Columns of texts under one tokenisation with one vocabulary.

    Attributes:
        words: id -> token.
        columns: column name -> one list of ids per row.
    """

    words: list[str] = field(repr=False)
    columns: dict[str, list[list[int]]] = field(repr=False)
    _grams: dict[int, Ints] = field(default_factory=dict, repr=False)

    @classmethod
    def build(cls, columns: dict[str, Sequence[str]], how: Tokenisation) -> Encoded:
        """Tokenise every distinct text once."""
        ids: dict[str, int] = {}
        seen: dict[str, list[int]] = {}
        split = _TOKENISERS[how]
        for text in chain.from_iterable(columns.values()):
            if text not in seen:
                seen[text] = [ids.setdefault(token, len(ids)) for token in split(text)]
        return cls(words=list(ids), columns={name: [seen[text] for text in c] for name, c in columns.items()})

    def lengths(self, column: str) -> Ints:
        """Tokens per row, shape (N,)."""
        return np.fromiter((len(row) for row in self.columns[column]), np.int64, len(self.columns[column]))

    def counts(self, column: str, order: int) -> Ints:
        """n-grams of length `order` per row, shape (N,)."""
        return np.maximum(self.lengths(column) - order + 1, 0)

    def grams(self, column: str, order: int) -> tuple[Ints, Ints]:
        """All n-grams of a column as (row index, n-gram id), in reading order; ids agree between columns."""
        start = 0
        for name in self.columns:
            if name == column:
                break
            start += int(self.lengths(name).sum())
        lengths = self.lengths(column)
        ids = self._all_grams(order)[start : start + int(lengths.sum())]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        keep = ids >= 0
        return rows[keep], ids[keep]

    def kinds(self, order: int) -> int:
        """Number of different n-grams in all columns together."""
        ids = self._all_grams(order)
        return int(ids.max()) + 1 if len(ids) else 0

    def _all_grams(self, order: int) -> Ints:
        # Position -> id of the n-gram that starts there, -1 where the text ends before it does.
        if order in self._grams:
            return self._grams[order]
        flat = np.fromiter(chain.from_iterable(chain.from_iterable(self.columns.values())), np.int64)
        if order == 1:
            self._grams[1] = flat
            return flat
        shorter = self._all_grams(order - 1)
        grams = np.full_like(flat, -1)
        lengths = np.concatenate([self.lengths(name) for name in self.columns]) if self.columns else flat
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(flat))
        at = np.flatnonzero(left >= order)
        _, grams[at] = np.unique(shorter[at] * (len(self.words) + 1) + flat[at + order - 1], return_inverse=True)
        self._grams[order] = grams
        return grams

    def matches(self, order: int, *, first: str = "hypothesis", second: str = "reference") -> Ints:
        """Per row the clipped number of n-grams that two columns share: sum of min(count, count), shape (N,)."""
        kinds = self.kinds(order)
        sides = []
        for column in (first, second):
            rows, ids = self.grams(column, order)
            sides.append(np.unique(rows * kinds + ids, return_counts=True))
        (keys_a, counts_a), (keys_b, counts_b) = sides
        keys, at_a, at_b = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
        shared = np.minimum(counts_a[at_a], counts_b[at_b])
        n = len(self.columns[first])
        return np.bincount(keys // max(kinds, 1), weights=shared, minlength=n).astype(np.int64)

    def lcs(self, *, first: str = "hypothesis", second: str = "reference") -> Ints:
        """Length of the longest common subsequence per row, shape (N,)."""
        pairs = zip(self.columns[first], self.columns[second], strict=True)
        return np.fromiter((lcs_length(a, b) for a, b in pairs), np.int64, len(self.columns[first]))


def lcs_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Longest common subsequence by bit-parallel addition (Crochemore et al., 2001; Hyyrö, 2004).

    One big integer stands for a whole row of the usual table, so a pair takes len(b) steps.
    """
    where: dict[int, int] = {}
    bit = 1
    for token in a:
        where[token] = where.get(token, 0) | bit
        bit <<= 1
    full = bit - 1
    row = full
    for token in b:
        hit = row & where.get(token, 0)
        if hit:
            row = ((row + hit) | (row - hit)) & full
    return len(a) - row.bit_count()
