"""ATOMIC (Sap et al., AAAI 2019; CC BY 4.0): everyday events, and what people say about causes and effects.

One item for each event, with the answers of all workers by relation (`xIntent`, `xReact`, ...): distinct, the most
frequent first. "none" is an answer of workers and is left out here, since an absent relation says the same.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heedful.corpora.base import find_file, read_csv
from heedful.errors import DataError, NotFoundError
from heedful.knowledge.commonsense_atomic import first_person
from heedful.knowledge.item import Draft, Item, Source
from heedful.knowledge.readers import Encoder, Reader
from heedful.safety import load_screen

PARTS = ("dev", "tst", "trn")
RELATIONS = ("oEffect", "oReact", "oWant", "xAttr", "xEffect", "xIntent", "xNeed", "xReact", "xWant")


def files(place: Path) -> dict[str, Path]:
    """The parts that are there.

    Raises:
        NotFoundError: none is.
    """
    names = [f"v4_atomic_{part}.csv" for part in PARTS]
    found = {name: path for name in names if (path := find_file(place, name)) is not None}
    if not found:
        raise NotFoundError(f"Expected {', '.join(names[:2])} (or packed, .gz) in '{place}', but none is there.")
    return found


def read(place: Path, encoder: Encoder | None) -> Source:
    """All events; `id` is part and first data row from 0 (`tst/123`). The encoder is not asked.

    An answer that the screen stops is left out and counted; an event that it stops is left out whole.

    Raises:
        NotFoundError: no part is there.
        DataError: a row is none of ATOMIC; the message names file and line.
    """
    screen = load_screen()
    drafts: list[Draft] = []
    kept: dict[str, bool] = {}
    stopped = 0
    for name, path in files(place).items():
        part = name.removesuffix(".csv").rpartition("_")[2]
        for event, found in _events(path).items():
            extra: dict[str, Any] = {"event": event}
            for relation, counts in found.answers.items():
                kept.update({text: screen.why(text) is None for text in counts if text not in kept})
                # The most frequent first; among equals by the alphabet.
                texts = [text for text, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])) if kept[text]]
                stopped += len(counts) - len(texts)
                if texts:
                    extra[relation] = texts
            item = Item(
                id=f"{part}/{found.row}",
                kind="event",
                text=first_person(event),
                source=f"atomic, {part}",
                weight=float(found.workers),
                extra=extra,
            )
            drafts.append(Draft(item=item))
    return Source(drafts=tuple(drafts), left_out={"answers that the screen stops": stopped})


@dataclass(kw_only=True)
class _Event:
    """What is known of one event: its first data row, how many workers answered, and what they said."""

    row: int
    workers: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in RELATIONS})


def _events(path: Path) -> dict[str, _Event]:
    found: dict[str, _Event] = {}
    for row, (line, record) in enumerate(read_csv(path, columns=("event", *RELATIONS))):
        where = f"{path}, line {line}"
        text = record["event"].strip()
        if not text:
            raise DataError(f"{where}: 'event' is empty.")
        event = found.setdefault(text, _Event(row=row))
        event.workers += 1
        for name in RELATIONS:
            event.answers[name].update(_answers(record[name], name, where))
    return found


def _answers(cell: str, name: str, where: str) -> list[str]:
    if cell == "[]":
        return []
    try:
        values = json.loads(cell)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: '{name}' must be a JSON list of texts.")
    plain = (" ".join(value.split()) for value in values)
    return [value for value in plain if value and value.strip(" .").lower() != "none"]


ATOMIC = Reader(
    name="atomic",
    title="ATOMIC: events with their causes, effects and feelings",
    folders=("atomic",),
    files=files,
    read=read,
    advice="Get v4_atomic_dev.csv and v4_atomic_tst.csv from https://github.com/declare-lab/conv-emotion.",
)
