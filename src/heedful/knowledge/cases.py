"""A clinic's own vetted cases: one JSON object a line.

`id`; `situation` (or `text`): what the case is about, and what it is found by; `advice` or `reply`: what to say or do;
`tags`; `author`; `vetted_by` and `date` (YYYY-MM-DD): who read it, and when. Nobody's case enters without the last two.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heedful.corpora.jsonl import read_objects
from heedful.errors import DataError, nearest, shown
from heedful.knowledge.item import Draft, Ids, Item, Source
from heedful.knowledge.readers import Encoder, Reader

_KEYS = ("id", "situation", "text", "advice", "reply", "tags", "author", "vetted_by", "date")


def read(place: Path, encoder: Encoder | None) -> Source:
    """All cases of a file. The encoder is not asked.

    Raises:
        NotFoundError: there is no such file.
        DataError: a line is no case; the message names file and line.
    """
    ids = Ids()
    drafts = [_draft(record, f"{place}, line {number}", ids, place, number) for number, record in read_objects(place)]
    if not drafts:
        raise DataError(f"{place}: expected one case a line, but the file is empty.")
    return Source(drafts=tuple(drafts))


def _draft(record: Mapping[str, Any], where: str, ids: Ids, place: Path, number: int) -> Draft:
    for key in record:
        if key not in _KEYS:
            raise DataError(
                f"{where}: the key {shown(key)} is not known.{nearest(key, _KEYS)} Known: {', '.join(_KEYS)}."
            )
    id = ids.add(record.get("id"), where)
    about = _one_of(record, ("situation", "text"), where)
    if about is None:
        raise DataError(f"{where}: a case needs 'situation' (or 'text'): what it is about.")
    extra: dict[str, Any] = {}
    answer = _one_of(record, ("advice", "reply"), where)
    if answer is not None:
        extra["advice"] = answer
    tags = record.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise DataError(f"{where}: 'tags' must be a list of texts.")
    if tags:
        extra["tags"] = tags
    for key in ("author", "vetted_by"):
        value = _text(record, key, where)
        if value is not None:
            extra[key] = value
    if "vetted_by" not in extra:
        raise DataError(f"{where}: a case needs 'vetted_by': who has read it and answers for it.")
    extra["date"] = _date(record.get("date"), where)
    item = Item(id=id, kind="case", text=about, source=f"{place.name}, line {number}", extra=extra)
    return Draft(item=item, search=" ".join((about, *tags)))


def _text(record: Mapping[str, Any], key: str, where: str) -> str | None:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
        raise DataError(f"{where}: '{key}' must be a text, but it is {shown(value)}.")
    return " ".join(value.split()) or None


def _one_of(record: Mapping[str, Any], keys: tuple[str, str], where: str) -> str | None:
    found = {key: text for key in keys if (text := _text(record, key, where)) is not None}
    if len(found) > 1:
        raise DataError(f"{where}: '{keys[0]}' and '{keys[1]}' mean the same. Keep one of them.")
    return next(iter(found.values()), None)


def _date(value: object, where: str) -> str:
    try:
        return datetime.date.fromisoformat(value if isinstance(value, str) else "").isoformat()
    except ValueError:
        raise DataError(
            f"{where}: 'date' must be the day of the vetting as YYYY-MM-DD, but it is {shown(value)}."
        ) from None


CASES = Reader(
    name="cases",
    title="A clinic's own vetted cases",
    folders=(),
    files=lambda place: {place.name: place},
    read=read,
    advice="Name a .jsonl file.",
)
