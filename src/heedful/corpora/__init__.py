"""Corpora: each one a file that says where it comes from, what its licence allows, how it is read and checked.

>>> from heedful import corpora
>>> talks = corpora.load("esconv", split="train")          # doctest: +SKIP
>>> report = corpora.validate("esconv")                    # doctest: +SKIP
>>> mine = corpora.load("path/to/talks.jsonl.gz")          # doctest: +SKIP

Roles are the same everywhere: `user` is the help-seeker (client, patient), `assistant` the supporter (therapist).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heedful.corpora.base import Corpus, CorpusInfo, Count, Findings, Report
from heedful.corpora.jsonl import is_jsonl
from heedful.corpora.leaks import Leak, LeakReport, find_leaks, shared_runs
from heedful.corpora.messages import iter_jsonl, load_jsonl, validate_file, write_jsonl
from heedful.corpora.options import check_options
from heedful.corpora.pairs import Pair, pairs
from heedful.corpora.table import CORPORA
from heedful.errors import ConfigError, DataError
from heedful.types import Conversation

__all__ = [
    "CORPORA",
    "Corpus",
    "CorpusInfo",
    "Count",
    "Findings",
    "Leak",
    "LeakReport",
    "Pair",
    "Report",
    "find_leaks",
    "get",
    "is_file",
    "iter_jsonl",
    "load",
    "load_jsonl",
    "names",
    "overlaps",
    "pairs",
    "shared_runs",
    "validate",
    "validate_file",
    "write_jsonl",
]


def names() -> list[str]:
    """Names of all corpora, installed or not."""
    return CORPORA.names()


def get(name: str) -> Corpus:
    """The corpus object.

    Raises:
        NotFoundError: no such name; the message lists the known ones.
    """
    found = CORPORA.get(name)
    if not isinstance(found, Corpus):
        raise ConfigError(f"'{name}' is no corpus: expected a heedful.corpora.Corpus, got {type(found).__name__}.")
    return found


def load(name: str, split: str | None = None, *, path: str | Path | None = None, **options: Any) -> list[Conversation]:
    """Conversations of a corpus by name, or of a `.jsonl` / `.jsonl.gz` file by path.

    Args:
        name: a name of the table, `module:attribute`, or the path of a file.
        split: `train`, `valid`, `test`, or None for all.
        path: the corpus' folder, if it is not under HEEDFUL_DATA or HEEDFUL_HOME.
        options: what this corpus' `read` takes (`corpora.get(name).options()`).

    Raises:
        NotFoundError: an unknown name or split, or a corpus that is not here; the message says how to get it.
        DataError: a file that cannot be read as what it claims to be; the message names the place.
        ConfigError: an option that the corpus does not have, or a value that the option does not take.
    """
    if not is_file(name):
        return get(name).load(split, path=path, **options)
    if path is not None:
        raise ConfigError(f"'{name}' is a file already; leave out path.")
    check_options(load_jsonl, options, who="A file of conversations")
    return load_jsonl(name, split, **options)


def validate(name: str, *, path: str | Path | None = None) -> Report:
    """Check a corpus by name, or a file by path: hashes, counts, labels, leaks.

    Raises:
        NotFoundError: an unknown name, or a corpus that is not here.
    """
    return validate_file(name) if is_file(name) else get(name).validate(path=path)


def overlaps(learned: object, part: str | None, dataset: str, split: str | None) -> bool:
    """Whether what was learned from `part` of one data set saw some of `split` of another; None is all parts.

    A file may be written in several ways and is still the same.
    """
    one = str(learned)
    same = one == dataset or (is_file(one) and Path(one).expanduser().resolve() == Path(dataset).expanduser().resolve())
    return same and (part is None or split is None or part == split)


def is_file(name: str) -> bool:
    """Whether `name` means a file of conversations and not a corpus of the table.

    Raises:
        DataError: it is a file, but of another kind.
    """
    if is_jsonl(name):
        return True
    if Path(name).is_file():
        raise DataError(
            f"'{name}' is a file, but conversations are read from .jsonl or .jsonl.gz. Rename or convert it."
        )
    return False
