"""What every corpus has in common: who made it, where its files lie, how it is read and how it proves itself.

A corpus is data about itself (`CorpusInfo`), a function that reads its folder and a function that counts what was
read. Nothing is downloaded: a person puts the folder in place, and `validate()` says whether it is the right one.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from heedful import taxonomy
from heedful.corpora.leaks import LeakReport, find_leaks
from heedful.corpora.options import check_options, option_names
from heedful.errors import DataError, HeedfulError, LabelError, NotFoundError, nearest
from heedful.settings import DATA_VARIABLE, home
from heedful.types import Conversation, Label

LicenceClass = Literal["CC0", "R", "R*", "NC", "L"]
"""CC0: free. R: may be shipped with its notice. R*: stated as permissive, rights unclear. NC: non-commercial only.
L: local research only, weights trained on it are not published."""

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusInfo:
    """What is known about a corpus before a file is opened.

    Args:
        name: key in the table.
        title: one line.
        url: where it comes from.
        licence: SPDX id or the source's own words.
        licence_class: what the licence allows (see `LicenceClass`).
        lang: BCP-47 tag.
        citation: authors, title, venue.
        splits: names of the parts it is divided into; empty if it has none.
        gated: how to ask for it, or None if it can be fetched without asking.
        layers: label sets that its turns carry.
        folders: names that its folder may have, best first.
        files: path inside the folder -> sha256 of the unpacked content; each must be there, packed (`.gz`) or plain.
        optional_files: the same for files that add something but may be missing.
        known_leaks: `kind split/split` -> count that the published split has; more than that is a problem.
        example: one invented record in the JSON form of a conversation.
    """

    name: str
    title: str
    url: str
    licence: str
    licence_class: LicenceClass
    lang: str
    citation: str
    splits: tuple[str, ...]
    gated: str | None
    layers: tuple[str, ...]
    folders: tuple[str, ...]
    example: Mapping[str, Any] = field(repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    optional_files: Mapping[str, str] = field(default_factory=dict, repr=False)
    known_leaks: Mapping[str, int] = field(default_factory=dict)


Figure: TypeAlias = int | float | tuple[float, ...] | None
"""A number as it is printed (a share is rounded to the digits of its source), a row of them, or None: nothing there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One number of a corpus; `expected=None` means that no published or measured value exists."""

    name: str
    found: Figure
    expected: Figure = None

    @property
    def ok(self) -> bool:
        """False only where a value was expected and another one was found."""
        return self.expected is None or self.expected == self.found


def figure(value: Figure) -> str:
    """A count for a table or a sentence.

    >>> figure(18376), figure(20.7), figure((47.2, 19.2)), figure(None)
    ('18,376', '20.7', '47.2 19.2', 'nothing')
    """
    if value is None:
        return "nothing"
    return " ".join(f"{v:,}" for v in value) if isinstance(value, tuple) else f"{value:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a corpus' own check reports beside hashes and leaks."""

    counts: tuple[Count, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Result of `validate()`. `problems` make the corpus unfit; `warnings` are worth knowing. No text of a turn."""

    corpus: str
    path: str
    counts: tuple[Count, ...]
    files_ok: int
    leaks: LeakReport
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if there is no problem."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "corpus": self.corpus,
            "path": self.path,
            "ok": self.ok,
            "files_ok": self.files_ok,
            "counts": [{"name": c.name, "found": c.found, "expected": c.expected} for c in self.counts],
            "leaks": self.leaks.to_dict(),
            "problems": list(self.problems),
            "warnings": list(self.warnings),
        }


def no_findings(conversations: Sequence[Conversation], folder: Path) -> Findings:
    """The check of a corpus that has nothing to add: number of dialogues and turns."""
    turns = sum(len(c) for c in conversations)
    return Findings(counts=(Count(name="dialogues", found=len(conversations)), Count(name="turns", found=turns)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A corpus that can be found, read and checked.

    Args:
        info: what is known beforehand.
        read: folder, keyword options -> all conversations, with `split` set where the corpus is divided.
        check: conversations read with default options, folder -> counts, problems, warnings.
    """

    info: CorpusInfo
    read: Callable[..., list[Conversation]] = field(repr=False)
    check: Callable[[Sequence[Conversation], Path], Findings] = field(default=no_findings, repr=False)

    def locate(self, path: str | Path | None = None) -> Path | None:
        """The folder: `path`, else `$HEEDFUL_DATA/<folder>`, else `$HEEDFUL_HOME/corpora/<folder>`, else None."""
        if path is not None:
            return Path(path) if Path(path).is_dir() else None
        for root in roots():
            for folder in self.info.folders:
                if (root / folder).is_dir():
                    return root / folder
        return None

    def require(self, path: str | Path | None = None) -> Path:
        """The folder, or a sentence that says where to put it.

        Raises:
            NotFoundError: the folder is not there.
        """
        found = self.locate(path)
        if found is not None:
            return found
        if path is not None:
            raise NotFoundError(f"The corpus '{self.info.name}' was looked for in '{path}', but that is no folder.")
        ask = self.info.gated or f"Get it from {self.info.url}."
        raise NotFoundError(
            f"The corpus '{self.info.name}' is not here. {ask} Then put its folder at "
            f"{home() / 'corpora' / self.info.folders[0]}, set HEEDFUL_DATA to the folder above it, "
            "or give path=..."
        )

    def load(self, split: str | None = None, *, path: str | Path | None = None, **options: Any) -> list[Conversation]:
        """All conversations, or those of one split (`train`, `valid`, `test`).

        Raises:
            NotFoundError: the folder, a file or the split does not exist.
            ConfigError: an option that this corpus does not have, or a value that the option does not take.
            DataError: a file is not what it claims to be.
        """
        check_options(self.read, options, who=f"The corpus '{self.info.name}'")
        if split is not None and split not in (self.info.splits or SPLITS):
            raise NotFoundError(
                f"The corpus '{self.info.name}' has no split '{split}'.{nearest(split, self.info.splits)} "
                f"Known: {', '.join(self.info.splits) or 'none'}."
            )
        conversations = self._read(self.require(path), **options)
        return conversations if split is None else [c for c in conversations if c.split == split]

    def validate(self, *, path: str | Path | None = None) -> Report:
        """Check hashes, counts, labels and leaks. Problems are collected, not raised, except a missing folder."""
        folder = self.require(path)
        files_ok, problems, warnings = check_hashes(folder, self.info)
        conversations: list[Conversation] = []
        findings = Findings()
        try:
            conversations = self._read(folder)
            findings = self.check(conversations, folder)
        except (DataError, NotFoundError) as err:
            problems.append(str(err))
        problems += [
            f"{c.name}: expected {figure(c.expected)}, found {figure(c.found)}." for c in findings.counts if not c.ok
        ]
        leaks = find_leaks(conversations)
        for leak in leaks.findings:
            if leak.level == "overlap":
                warnings.append(leak.sentence())
            elif leak.is_known(self.info.known_leaks):
                warnings.append(f"{leak.sentence()} This is known of the published split.")
            else:
                problems.append(leak.sentence())
        return Report(
            corpus=self.info.name,
            path=str(folder),
            counts=findings.counts,
            files_ok=files_ok,
            leaks=leaks,
            problems=(*problems, *findings.problems),
            warnings=(*warnings, *findings.warnings),
        )

    def options(self) -> tuple[str, ...]:
        """Names of the options that `load` takes besides `split` and `path`."""
        return option_names(self.read)

    def _read(self, folder: Path, **options: Any) -> list[Conversation]:
        """`read`, with every stumble over a damaged file as one sentence."""
        try:
            return self.read(folder, **options)
        except HeedfulError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError) as err:
            place = _innermost(err)
            # Without its cause: int("...") and dict["..."] repeat what they were given, which may be a turn.
        raise DataError(
            f"A file in '{folder}' is not what the corpus '{self.info.name}' expects ({place}). "
            f"`heedful data check {self.info.name}` compares the files with the known ones; get them again."
        )


def _innermost(err: BaseException) -> str:
    """Kind of error and line of code, for the person who has to mend a loader."""
    trace = err.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}" if trace else "unknown place"
    return f"{type(err).__name__} in {place}"


# ---------------------------------------------------------------------------------------------- places and files


def roots() -> tuple[Path, ...]:
    """Folders that hold corpus folders, in the order in which they are searched."""
    data = os.environ.get(DATA_VARIABLE)
    own = home() / "corpora"
    return (Path(data), own) if data else (own,)


def find_file(folder: Path, name: str) -> Path | None:
    """`folder/name`, plain or packed (`.gz`), or None."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    return None


def need_file(folder: Path, name: str) -> Path:
    """Like `find_file`.

    Raises:
        NotFoundError: neither form exists.
    """
    found = find_file(folder, name)
    if found is None:
        raise NotFoundError(f"Expected '{name}' (or '{name}.gz') in '{folder}', but it is not there.")
    return found


def read_bytes(path: Path) -> bytes:
    """The unpacked content.

    Raises:
        DataError: the gzip stream is damaged.
    """
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise DataError(f"{path}: expected a complete gzip file, but it is damaged. Copy it again.") from err


def read_text(path: Path) -> str:
    """The unpacked content as UTF-8, a leading byte order mark removed.

    Raises:
        DataError: not UTF-8; the message names line and byte.
    """
    content = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        byte = err.start - (content.rfind(b"\n", 0, err.start) + 1) + 1
        raise DataError(f"{path}, line {line}, byte {byte}: not UTF-8. Save the file as UTF-8.") from err


def read_json(path: Path) -> Any:
    """One JSON value.

    Raises:
        DataError: malformed; the message names line and column.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as err:
        raise DataError(f"{path}, line {err.lineno}, column {err.colno}: not valid JSON ({err.msg}).") from err


def read_csv(path: Path, *, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and row of a comma separated file with a header; line breaks inside quotes are kept.

    Raises:
        DataError: a needed column is missing, or a row is shorter or longer than the header.
    """
    # Not csv.DictReader over pandas-like defaults: the act `NA` must stay a text (trap 10 of HOPE).
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{path}: expected the columns {', '.join(columns)}, but these are missing: {missing}.")
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: expected {len(header)} columns, but the row has {len(row)}."
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as err:
        raise DataError(f"{path}, line {reader.line_num}: not a readable CSV row ({err}).") from err


def check_hashes(folder: Path, info: CorpusInfo) -> tuple[int, list[str], list[str]]:
    """How many files are byte for byte the known ones, then problems and warnings."""
    good, problems, warnings = 0, [], []
    for name, expected in {**info.files, **info.optional_files}.items():
        path = find_file(folder, name)
        if path is None:
            if name in info.files:
                problems.append(f"The file '{name}' (or '{name}.gz') is missing in '{folder}'.")
            else:
                warnings.append(f"The optional file '{name}' is not in '{folder}'.")
            continue
        try:
            found = hashlib.sha256(read_bytes(path)).hexdigest()
        except DataError as err:
            problems.append(str(err))
            continue
        if found == expected:
            good += 1
        else:
            problems.append(
                f"'{name}' is not the file this loader was written for: expected sha256 {expected[:12]}..., "
                f"found {found[:12]}...; results on it are not comparable."
            )
    return good, problems, warnings


def gold(set: str, raw: str, *, where: str, source: str = "gold") -> Label:
    """A label with the canonical name of `raw`.

    Raises:
        LabelError: the set does not know `raw`; the message starts with `where`.
    """
    try:
        return Label(set=set, value=taxonomy.get(set).require(raw), source=source)
    except LabelError as err:
        raise LabelError(f"{where}: {err}") from err
