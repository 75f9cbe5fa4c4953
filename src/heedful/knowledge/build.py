"""From data to an index: read, screen, drop what is stopped with all its edges, and write arrays that open at once.

Nothing that the screen stops reaches the folder: not its text, not its words, not its vector. Its id and the rule stay,
so that a person can see what was left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from heedful.errors import ConfigError, DataError, shown
from heedful.knowledge import bm25
from heedful.knowledge.dense import describe, shared_encoder
from heedful.knowledge.index import FORMAT, MANIFEST, PLACE, VERSION, Index
from heedful.knowledge.item import Draft, Edge, Item
from heedful.knowledge.keys import key
from heedful.knowledge.readers import Encoder, reader_of
from heedful.safety import load_screen
from heedful.safety.wording import empty
from heedful.settings import home

Say = Callable[[str], None]
FLAGGED, PARENT, EMPTY = "flagged", "parent", "empty"
"""Why an item was left out, besides names of the screen's rules: the data say so, its parent was, it has no text."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """What `build` did.

    Args:
        index: opened.
        stopped: kind -> why -> how many items were left out.
        unmarked: how many of them the screen stopped although the data do not mark them.
        cut: edges that led to them.
        left_out: what the reader itself did not take, in words -> how many.
    """

    index: Index = field(repr=False)
    stopped: Mapping[str, Mapping[str, int]]
    unmarked: int
    cut: int
    left_out: Mapping[str, int]


def place_of(name: str) -> Path:
    """Where the index of that name lies, unless somebody says otherwise: `$HEEDFUL_HOME/knowledge/NAME`."""
    return home() / "knowledge" / name


def _quiet(text: str) -> None:
    """Say nothing."""


def build(
    what: str,
    *,
    out: str | Path | None = None,
    path: str | Path | None = None,
    encoder: Encoder | str | None = None,
    say: Say = _quiet,
) -> Built:
    """Build an index.

    Args:
        what: a name of `READERS`, or a `.jsonl` file of cases.
        out: folder; an index that lies there is replaced in one step, anything else is left alone.
        path: where the data lie, if it is somewhere else.
        encoder: makes the vectors, or its name; without one, only words can be searched.
        say: told about each step.

    Raises:
        NotFoundError: no such reader, or its data are not there.
        DataError: the data are damaged, or the screen leaves nothing of them.
        ConfigError: `out` is a folder with something else in it, or, where nobody named it, the index of another file.
    """
    reader, named = reader_of(what)
    place = named or reader.require(path)
    target = Path(out) if out is not None else place_of(place.stem if named else reader.name)
    _check_target(target)
    if named:
        _check_same_file(target, named, given=out is not None)
    say(f"reading {place} ...")
    hashes = reader.hashes(place)
    if isinstance(encoder, str):
        encoder = shared_encoder(encoder)  # not before: a wrong name is said at once, and this takes seconds
    source = reader.read(place, encoder)
    say(f"screening {len(source.drafts):,} items ...")
    kept, why = screened(source.drafts)
    if not kept:
        raise DataError(
            f"'{place}': the screen stopped all of its {len(source.drafts):,} items; nothing is left to search."
        )
    edges = [edge for edge in source.edges if edge.one not in why and edge.other not in why]
    stopped = _counted(source.drafts, why)
    unmarked = sum(d.marked is None and why.get(d.item.id) not in (None, PARENT, EMPTY) for d in source.drafts)
    cut = len(source.edges) - len(edges)
    report = {"filtered": stopped, "unmarked": unmarked, "edges cut": cut, "left out": dict(source.left_out)}
    about = {"reader": reader.name, "data": hashes, **report}
    gone = [draft.item.stopped(why[draft.item.id]) for draft in source.drafts if draft.item.id in why]
    index = store(target, kept, edges, encoder=encoder, about=about, gone=gone, place=place, say=say)
    return Built(index=index, stopped=stopped, unmarked=unmarked, cut=cut, left_out=source.left_out)


def store(
    target: Path,
    kept: Sequence[Draft],
    edges: Sequence[Edge],
    *,
    encoder: Encoder | None,
    about: Mapping[str, Any],
    gone: Sequence[Item] = (),
    place: Path,
    say: Say = _quiet,
) -> Index:
    """Write an index of drafts as they are, and open it. `build` screens them first, and so must everybody else.

    Args:
        target: folder; one that is there is replaced in one step.
        kept: ordered by id; every end of an edge is one of them.
        about: `reader` and `data` (the hash of each file), and whatever else the manifest shall say.
        gone: what was left out, without text.
        place: where the data lie.
    """
    arrays = _arrays(kept, edges, encoder, say)
    identity = {
        "format": FORMAT,
        "version": VERSION,
        "name": target.name,
        "screen": load_screen().hash,
        "encoder": describe(encoder) if encoder is not None else None,
        "items": len(kept),
        "kinds": sorted({draft.item.kind for draft in kept}),
        "edges": len(edges),
        **about,
    }
    say(f"writing {target} ...")
    _write(target, identity, arrays, kept, gone, place)
    return Index.open(target, encoder=encoder)


def screened(drafts: Sequence[Draft]) -> tuple[list[Draft], dict[str, str]]:
    """Drafts that may be kept, ordered by id, and for all others why not.

    Raises:
        DataError: two have one id.
    """
    screen = load_screen()
    why: dict[str, str] = {}
    seen: set[str] = set()
    verdicts: dict[tuple[tuple[str, ...], tuple[str, ...]], str | None] = {}
    for draft in drafts:
        if draft.item.id in seen:
            raise DataError(f"Two items have the id {shown(draft.item.id)}; ids must differ.")
        seen.add(draft.item.id)
        asked = (tuple(draft.item.texts()), draft.stories)
        if asked not in verdicts:  # thousands of affective states say the same word
            verdicts[asked] = screen.why(*asked[0], stories=asked[1])
        reason = draft.marked or verdicts[asked] or (EMPTY if empty(draft.item.text) else None)
        if reason is not None:
            why[draft.item.id] = reason
    for draft in drafts:
        if draft.parent is not None and draft.parent in why:
            why.setdefault(draft.item.id, PARENT)
    return sorted((d for d in drafts if d.item.id not in why), key=lambda d: d.item.id), why


def _counted(drafts: Sequence[Draft], why: Mapping[str, str]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for draft in drafts:
        if draft.item.id in why:
            counts.setdefault(draft.item.kind, Counter())[why[draft.item.id]] += 1
    return {kind: dict(sorted(found.items())) for kind, found in sorted(counts.items())}


# ------------------------------------------------------------------------------------------------------ arrays


def _arrays(kept: Sequence[Draft], edges: Sequence[Edge], encoder: Encoder | None, say: Say) -> dict[str, Any]:
    rows = {draft.item.id: row for row, draft in enumerate(kept)}
    keys = np.array([key(id) for id in rows], dtype=np.uint64)
    order = np.argsort(keys, kind="stable")
    if len(np.unique(keys)) < len(keys):
        raise DataError("Two ids have the same 64-bit key, which is next to impossible; rename one of them.")
    kinds = sorted({draft.item.kind for draft in kept})
    searched = [draft.search or draft.item.text for draft in kept]
    arrays: dict[str, Any] = {
        "id_keys": keys[order],
        "id_rows": order.astype(np.int32),
        "kinds": np.array([kinds.index(draft.item.kind) for draft in kept], dtype=np.uint8),
        **_adjacency(rows, edges),
        **bm25.build(searched),
    }
    if encoder is not None:
        arrays["vectors"] = _vectors(kept, searched, encoder, say)
    return arrays


def _adjacency(rows: Mapping[str, int], edges: Sequence[Edge]) -> dict[str, Any]:
    """Neighbours of every row, both ways: the heaviest edge first, among equals the smaller row."""
    near: list[dict[int, float]] = [{} for _ in rows]
    for edge in edges:
        one, other = rows[edge.one], rows[edge.other]
        for here, there in ((one, other), (other, one)):
            near[here][there] = near[here].get(there, 0.0) + edge.weight
    start = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(found) for found in near], out=start[1:])
    ordered = [pair for found in near for pair in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))]
    return {
        "edge_start": start,
        "edge_rows": np.array([row for row, _ in ordered], dtype=np.int32),
        "edge_weights": np.array([weight for _, weight in ordered], dtype=np.float32),
    }


def _vectors(kept: Sequence[Draft], searched: Sequence[str], encoder: Encoder, say: Say) -> Any:
    """(N, dim). Each distinct text is encoded once."""
    texts = sorted({text for draft, text in zip(kept, searched, strict=True) if draft.vector is None})
    say(f"encoding {len(texts):,} texts ...")
    made = dict(zip(texts, encoder.encode(texts), strict=True))
    found = [
        draft.vector if draft.vector is not None else made[text] for draft, text in zip(kept, searched, strict=True)
    ]
    return np.ascontiguousarray(np.stack(found), dtype=np.float32)


# ------------------------------------------------------------------------------------------------------- files


def _check_target(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise ConfigError(f"'{target}' is a folder with something else in it; name an empty or a new one with --out.")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"'{target}' is a file; an index is a folder.")


def _check_same_file(target: Path, file: Path, *, given: bool) -> None:
    """Two files of one name do not share an index by accident: the first would be gone without a word."""
    if given or not (target / PLACE).is_file():
        return
    try:
        before = json.loads((target / PLACE).read_text("utf-8"))["path"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # damaged: to build again is the remedy
    if Path(before) != file.resolve():
        raise ConfigError(
            f"'{target}' is the index of another file, '{before}'. Name a new folder with --out, or this one to "
            "replace it."
        )


def _private(path: str, flags: int) -> int:
    """An opener: an index holds words of people, so only its owner reads it."""
    return os.open(path, flags, 0o600)


def _lines(path: Path, records: Sequence[Mapping[str, Any]]) -> list[int]:
    """Write one object a line; where each begins, and the end."""
    places = [0]
    with open(path, "wb", opener=_private) as file:
        for record in records:
            places.append(places[-1] + file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n"))
    return places


def _write(
    target: Path,
    identity: dict[str, Any],
    arrays: dict[str, Any],
    kept: Sequence[Draft],
    gone: Sequence[Item],
    place: Path,
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    scratch.mkdir(mode=0o700)
    try:
        items = [draft.item.to_dict() for draft in kept]
        arrays["lines"] = np.array(_lines(scratch / "items.jsonl", items), dtype=np.int64)
        _lines(scratch / "filtered.jsonl", [item.to_dict() for item in sorted(gone, key=lambda item: item.id)])
        for name, array in arrays.items():
            with open(scratch / f"{name}.npy", "wb", opener=_private) as file:
                np.save(file, array, allow_pickle=False)
        identity["arrays"] = {n: {"shape": list(a.shape), "dtype": str(a.dtype)} for n, a in sorted(arrays.items())}
        identity["files"] = {p.name: hash_of(p) for p in sorted(scratch.iterdir())}
        _json(scratch / MANIFEST, identity)
        _json(scratch / PLACE, {"path": str(place.resolve())})
        _take_place(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _json(path: Path, content: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _take_place(scratch: Path, target: Path) -> None:
    if not target.exists():
        os.rename(scratch, target)
        return
    old = scratch.with_suffix(".old")
    os.rename(target, old)
    try:
        os.rename(scratch, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
