"""Conversations from and to `.jsonl` / `.jsonl.gz` files: `{"id", "messages": [...], "labels": [...], ...}` a line.

>>> from heedful import corpora
>>> talks = corpora.load("my_talks.jsonl")                            # doctest: +SKIP
>>> corpora.write_jsonl("train.jsonl.gz", talks)                      # doctest: +SKIP
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from heedful import taxonomy
from heedful.corpora.base import Count, Report
from heedful.corpora.jsonl import read_objects, write_objects
from heedful.corpora.leaks import find_leaks
from heedful.errors import DataError, LabelError, NotFoundError, nearest, shown
from heedful.types import Conversation, Label

OneSided = Literal["error", "keep"]
MAX_PROBLEMS = 50
"""`validate_file` stops listing after this many; the first few say what is wrong with the file."""


def iter_jsonl(path: str | Path, *, one_sided: OneSided = "error") -> Iterator[Conversation]:
    """Read conversations one at a time.

    Args:
        path: a `.jsonl` or `.jsonl.gz` file.
        one_sided: what to do with a conversation in which only one side speaks (`keep` suits files of prompts).

    Raises:
        DataError: `FILE, line N: ...` for malformed JSON, missing fields, an empty or one-sided conversation, or an id
            that came before. Values of known label sets are brought to their canonical form; unknown ones raise
            LabelError with the nearest known name.
    """
    seen: dict[str, int] = {}
    for number, record in read_objects(path):
        yield _conversation(record, path=Path(path), number=number, seen=seen, one_sided=one_sided)


def load_jsonl(path: str | Path, split: str | None = None, *, one_sided: OneSided = "error") -> list[Conversation]:
    """All conversations of the file, or those whose `split` field is `split`.

    Raises:
        DataError: see `iter_jsonl`; also if the file holds no conversation.
        NotFoundError: no conversation has the wanted split.
    """
    conversations = list(iter_jsonl(path, one_sided=one_sided))
    if not conversations:
        raise DataError(f"{path}: expected one conversation a line, but the file is empty.")
    if split is None:
        return conversations
    chosen = [c for c in conversations if c.split == split]
    if not chosen:
        known = sorted({c.split for c in conversations if c.split})
        raise NotFoundError(
            f"{path} has no conversation with split '{split}'.{nearest(split, known)} "
            f'Splits in the file: {", ".join(map(shown, known)) or "none"}. Give lines a "split", or ask for none '
            "(train_split=null eval_split=null in training, split=null in an evaluation)."
        )
    return chosen


def write_jsonl(path: str | Path, conversations: Iterable[Conversation]) -> int:
    """Write conversations so that `load_jsonl` gives them back; returns how many. Whole file or nothing.

    Raises:
        NotFoundError: the folder does not exist.
        DataError: a record holds something that JSON cannot.
    """
    return write_objects(path, (c.to_dict() for c in conversations))


def validate_file(path: str | Path) -> Report:
    """Check a file of conversations line by line; problems are collected, not raised, except a missing file.

    Label sets that the taxonomy does not know are allowed, and a warning names them: they may be misspelt.
    """
    conversations: list[Conversation] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    records = read_objects(path)
    while len(problems) < MAX_PROBLEMS:
        try:
            number, record = next(records)
        except StopIteration:
            break
        except DataError as err:
            # The stream cannot go on after a broken line, so the rest of the file stays unchecked.
            problems.append(f"{err} The lines after it were not checked.")
            break
        try:
            conversations.append(_conversation(record, path=Path(path), number=number, seen=seen, one_sided="error"))
        except DataError as err:
            problems.append(str(err))
    if not conversations and not problems:
        problems.append(f"{path}: expected one conversation a line, but the file is empty.")
    leaks = find_leaks(conversations)
    problems += [f.sentence() for f in leaks.leaks]
    counts = (
        Count(name="dialogues", found=len(conversations)),
        Count(name="turns", found=sum(len(c) for c in conversations)),
        Count(name="target turns", found=sum(len(c.targets()) for c in conversations)),
    )
    return Report(
        corpus=str(path),
        path=str(path),
        counts=counts,
        files_ok=0,
        leaks=leaks,
        problems=tuple(problems),
        warnings=(*_unknown_sets(conversations), *(f.sentence() for f in leaks.overlaps)),
    )


def _unknown_sets(conversations: Sequence[Conversation]) -> Iterator[str]:
    """One sentence for each label set that the taxonomy does not have."""
    known = taxonomy.names()
    layers = [labels for c in conversations for labels in (c.labels, *(turn.labels for turn in c.turns))]
    counts = Counter(label.set for labels in layers for label in labels if label.set not in known)
    for name, n in sorted(counts.items()):
        yield f"label set {shown(name)} is not known ({n} label{'' if n == 1 else 's'}).{nearest(name, known)}"


def _conversation(
    record: dict[str, object], *, path: Path, number: int, seen: dict[str, int], one_sided: OneSided
) -> Conversation:
    where = f"{path}, line {number}"
    try:
        conversation = Conversation.from_dict(record)
    except DataError as err:
        raise DataError(f"{where}: {err}") from err
    if not conversation.id:
        conversation = replace(conversation, id=f"{path.name.split('.')[0]}-{number}")
    if conversation.id in seen:
        raise DataError(
            f"{where}: the id {shown(conversation.id)} was used before, in line {seen[conversation.id]}. "
            "Each conversation needs an id of its own."
        )
    seen[conversation.id] = number
    name = shown(conversation.id)
    roles = {turn.role for turn in conversation.turns if turn.text.strip()}
    if not roles & {"user", "assistant"}:
        raise DataError(f"{where}: the conversation {name} is empty. Remove the line.")
    if one_sided == "error" and not roles >= {"user", "assistant"}:
        absent = "assistant" if "user" in roles else "user"
        raise DataError(
            f"{where}: the conversation {name} has no '{absent}' message. Complete it, or load with one_sided='keep'."
        )
    return _canonical(conversation, where)


def _canonical(conversation: Conversation, where: str) -> Conversation:
    """The same conversation with canonical label values."""
    known = set(taxonomy.names())

    def fix(label: Label, at: str) -> Label:
        if label.set not in known:
            return label
        try:
            value = taxonomy.get(label.set).require(label.value)
        except LabelError as err:
            raise LabelError(f"{where}, {at}: {err}") from err
        return label if value == label.value else replace(label, value=value)

    turns = tuple(
        replace(turn, labels=tuple(fix(label, f"label of message {i}") for label in turn.labels))
        if turn.labels
        else turn
        for i, turn in enumerate(conversation.turns)
    )
    labels = tuple(fix(label, "label of the conversation") for label in conversation.labels)
    return replace(conversation, turns=turns, labels=labels)
