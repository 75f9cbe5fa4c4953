"""Read references and generations from any JSON or JSON Lines file, so that released outputs can be scored again.

Understood: a list of objects; an object of equally long lists; an object with one list of objects; one object a line.
Each may be gzipped. Columns are found by their usual names or named by the caller.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.errors import DataError, NotFoundError, nearest
from heedful.scoring.base import Rows

USUAL: dict[str, tuple[str, ...]] = {
    "reference": (
        "reference", "references", "ref", "target", "gold_response", "ground_truth", "label", "gold", "response",
        "answer",
    ),
    "generation": (
        "generation", "generated", "prediction", "predicted", "hypothesis", "hyp", "pred", "output", "model_output",
        "candidate", "reply", "response",
    ),
    "context": ("context", "post", "last_turn", "client", "query", "history", "input"),
    "cluster": (
        "cluster", "conversation_id", "dialogue_id", "dialog_id", "conv_id", "session_id", "group", "sample_id",
    ),
}  # fmt: skip
"""Kind -> usual column names, best first. `response` is the reference where there is another column for the
generation."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a file is what; None = the file has none."""

    generation: str
    reference: str | None = None
    context: str | None = None
    cluster: str | None = None


def load(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file.

    Raises:
        NotFoundError: no such file.
        DataError: neither JSON nor JSON Lines, or of another shape than described above.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no file '{path}'.")
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as err:
        raise DataError(f"'{path}' cannot be read as UTF-8 text (plain or gzipped).") from err
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = _lines(text, path)
    except RecursionError:
        raise DataError(f"'{path}' nests lists or objects deeper than any file of replies does.") from None
    records = _records(content, path)
    if not records:
        raise DataError(f"'{path}' holds no rows.")
    return records


def _lines(text: str, path: Path) -> list[Any]:
    records = []
    # Not splitlines(): it also cuts at characters that JSON strings may hold.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as err:
            raise DataError(
                f"'{path}' is neither JSON nor JSON Lines: line {number}, column {err.colno} cannot be read."
            ) from err
    return records


def _records(content: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(content, Mapping):
        lists = {name: value for name, value in content.items() if isinstance(value, list)}
        of_objects = [value for value in lists.values() if value and all(isinstance(r, Mapping) for r in value)]
        if any(isinstance(content.get(name), str) for name in USUAL["generation"]):
            content = [content]  # one row, whose other columns may be lists (a dialogue so far)
        elif len(of_objects) == 1:
            content = of_objects[0]
        elif lists:
            lengths = {name: len(value) for name, value in lists.items()}
            if len(set(lengths.values())) > 1:
                raise DataError(f"'{path}' holds columns of different length: {lengths}.")
            content = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        else:
            content = [content]
    if not isinstance(content, list) or not all(isinstance(record, Mapping) for record in content):
        raise DataError(f"'{path}' must hold a list of objects, an object of equally long lists, or one object a line.")
    return [dict(record) for record in content]


def find_columns(
    records: Sequence[Mapping[str, Any]],
    *,
    generation: str | None = None,
    reference: str | None = None,
    context: str | None = None,
    cluster: str | None = None,
) -> Columns:
    """The columns asked for, else those with usual names.

    Raises:
        DataError: an asked-for column is not there, or no column for the generations was found; the message names what
            the file has.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    have = f"The file has: {', '.join(names) or 'no columns'}."
    asked = {"generation": generation, "reference": reference, "context": context, "cluster": cluster}
    for kind, name in asked.items():
        if name is not None and name not in names:
            raise DataError(f"There is no column '{name}' for the {kind}.{nearest(name, names)} {have}")
    taken = {name for name in asked.values() if name}
    found: dict[str, str | None] = dict(asked)
    by_lower = {name.lower(): name for name in reversed(names)}

    def first(kind: str, *, but: str | None = None) -> str | None:
        usual = (by_lower.get(name) for name in USUAL[kind])
        return next((name for name in usual if name and name != but and name not in taken), None)

    if found["generation"] is None:
        # `response` is read as the reference only where something else can be the generation.
        response = by_lower.get("response")
        found["generation"] = first("generation", but=response) or first("generation")
    if found["generation"] is None:
        raise DataError(f"No column looks like generations; name it with --generation-column. {have}")
    taken.add(found["generation"])
    for kind in ("reference", "context", "cluster"):
        if found[kind] is None:
            found[kind] = first(kind)
        taken.update(name for name in (found[kind],) if name)
    return Columns(
        generation=found["generation"],
        reference=found["reference"],
        context=found["context"],
        cluster=found["cluster"],
    )


def rows_of(records: Sequence[Mapping[str, Any]], columns: Columns) -> Rows:
    """Rows from records. A missing or null value stays missing; a list stands for its last text (a dialogue so far).

    Raises:
        DataError: a value that is no text; the message names row and column, never the content.
    """
    clusters: list[str] = []
    if columns.cluster is not None:
        # A row without a cluster stands alone.
        clusters = [
            str(record[columns.cluster]) if record.get(columns.cluster) is not None else f"row {i}"
            for i, record in enumerate(records)
        ]
    return Rows.of(
        _texts(records, columns.generation),
        _texts(records, columns.reference, single=True),
        contexts=_texts(records, columns.context),
        clusters=clusters,
    )


def _texts(records: Sequence[Mapping[str, Any]], column: str | None, *, single: bool = False) -> list[str | None]:
    if column is None:
        return []
    return [_text(record.get(column), row, column, single=single) for row, record in enumerate(records)]


def _text(value: Any, row: int, column: str, *, single: bool) -> str | None:
    if isinstance(value, list) and value:
        if single and len(value) > 1:
            raise DataError(f"Row {row}: '{column}' holds {len(value)} texts, but one reference per row is expected.")
        value = value[-1]
    if isinstance(value, Mapping):
        value = value.get("content", value.get("text", value))
    if value is None or value == []:
        return None
    if not isinstance(value, str):
        raise DataError(f"Row {row}: '{column}' must hold a text, but it holds a {type(value).__name__}.")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(
            f"Row {row}: '{column}' holds half of a character (a lone surrogate); save the file anew as UTF-8."
        )
    return value


def read(
    path: str | Path,
    *,
    generation: str | None = None,
    reference: str | None = None,
    context: str | None = None,
    cluster: str | None = None,
) -> tuple[Rows, Columns]:
    """Rows of a file, and which columns they came from.

    Raises:
        NotFoundError, DataError: see `load`, `find_columns` and `rows_of`.
    """
    records = load(path)
    columns = find_columns(records, generation=generation, reference=reference, context=context, cluster=cluster)
    return rows_of(records, columns), columns
