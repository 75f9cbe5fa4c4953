"""The TOML files of this folder, read on first use and kept.

A set that lies in the folder is known; no other list has to be changed. A set from outside is a `LabelSet` behind
`module:attribute` or behind an entry point of the group `heedful.label_set`; `parse_set` makes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast, get_args

from heedful.errors import LabelError, NotFoundError
from heedful.registry import Registry
from heedful.taxonomy._sets import Cardinality, Crosswalk, LabelInfo, LabelSet

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_SET_KEYS = {"name", "version", "title", "source", "cardinality", "labels"}
_LABEL_KEYS = {"id", "name", "title", "meaning", "cue", "not_when", "group", "aliases", "lossy", "items"}


def _folder() -> Traversable:
    # This, tomllib, hashlib and json are imported where they are used: they take longer than the rest of the module,
    # and most commands read no label set.
    from importlib.resources import files

    return files("heedful.taxonomy")


@cache
def _paths() -> Mapping[str, Traversable]:
    found = {p.name.removesuffix(".toml"): p for p in _folder().iterdir() if p.name.endswith(".toml")}
    return dict(sorted(found.items()))


@cache
def _crosswalk_paths() -> Mapping[tuple[str, str], Traversable]:
    found: dict[tuple[str, str], Traversable] = {}
    for path in (_folder() / "crosswalks").iterdir():
        source, parted, target = path.name.removesuffix(".toml").partition("--")
        if parted and path.name.endswith(".toml"):
            found[source, target] = path
    return dict(sorted(found.items()))


def _read(path: Traversable) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as err:
        raise LabelError(f"{path.name} is not valid TOML ({err}); mend the file.") from err


@cache
def _registry() -> Registry:
    # Ours stand in it for their names only; they are read from their files.
    return Registry("label set", dict.fromkeys(_paths(), ""))


@cache
def _names() -> tuple[str, ...]:
    return tuple(_registry().names())


def names() -> list[str]:
    """The names of all label sets, sorted; those behind `module:attribute` have no name here."""
    return list(_names())


def crosswalks() -> list[tuple[str, str]]:
    """All (source, target) pairs that have a table, sorted."""
    return list(_crosswalk_paths())


@cache
def get(name: str) -> LabelSet:
    """The label set `name`: one of `names()`, or `module:attribute`.

    Raises:
        NotFoundError: no such set; the message lists the known ones.
        LabelError: its file breaks a rule of label sets (see `parse_set`), or the attribute is no LabelSet.
    """
    paths = _paths()
    if name in paths:
        return parse_set(_read(paths[name]), where=paths[name].name)
    found = _registry().get(name)
    if not isinstance(found, LabelSet):
        raise LabelError(
            f"'{name}' is no label set: expected a heedful.taxonomy.LabelSet, got {type(found).__name__}. "
            "heedful.taxonomy.parse_set makes one."
        )
    return found


@cache
def crosswalk(source: str, target: str) -> Crosswalk:
    """The table from the label set `source` to the label set `target`.

    Raises:
        NotFoundError: there is no table for this pair; tables are never chained.
    """
    paths = _crosswalk_paths()
    if (source, target) not in paths:
        known = ", ".join(f"{a} to {b}" for a, b in paths)
        raise NotFoundError(
            f"There is no crosswalk from '{source}' to '{target}', and none is chained. Known: {known}."
        )
    record = _read(paths[source, target])
    return parse_crosswalk(record, source=get(source), target=get(target), where=paths[source, target].name)


def parse_set(record: Mapping[str, Any], *, where: str) -> LabelSet:
    """Turn the content of a TOML file (or a mapping with the same keys) into a label set. `where` is named in errors.

    Raises:
        LabelError: a key is missing or unknown, an id is out of order, a meaning is empty, or one spelling leads to
            two labels.
    """
    if set(record) != _SET_KEYS:
        raise LabelError(f"{where}: expected exactly the keys {sorted(_SET_KEYS)}, but it has {sorted(record)}.")
    if record["cardinality"] not in get_args(Cardinality):
        raise LabelError(f"{where}: 'cardinality' must be single or multi, but it is '{record['cardinality']}'.")
    labels = tuple(_parse_label(entry, at, where=where) for at, entry in enumerate(record["labels"]))
    made = LabelSet(
        name=record["name"],
        version=record["version"],
        title=record["title"],
        source=record["source"],
        cardinality=cast(Cardinality, record["cardinality"]),
        labels=labels,
        hash=_digest(record),
    )
    twice = sorted({name for name in made.names if made.names.count(name) > 1})
    if twice:
        raise LabelError(f"{where}: two labels have the name '{twice[0]}'; names must differ.")
    for label in labels:
        for spelling in (label.name, label.title, *label.aliases, *label.lossy):
            if made.resolve(spelling) != label.name:
                raise LabelError(f"{where}: '{spelling}' leads to two labels, '{label.name}' and another; keep one.")
    return made


def _digest(record: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the content (of the content, so that comments and line ends are free)."""
    import hashlib
    import json

    canonical = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _parse_label(entry: Mapping[str, Any], at: int, *, where: str) -> LabelInfo:
    extra = set(entry) - _LABEL_KEYS
    if extra:
        raise LabelError(f"{where}, label {at}: unknown keys {sorted(extra)}; known: {sorted(_LABEL_KEYS)}.")
    if entry.get("id") != at:
        raise LabelError(
            f"{where}, label {at}: ids must count from 0 in file order, but this one is {entry.get('id')}."
        )
    for key in ("name", "meaning"):
        if not entry.get(key):
            raise LabelError(f"{where}, label {at}: '{key}' must be a text that is not empty.")
    return LabelInfo(
        id=at,
        name=entry["name"],
        title=entry.get("title", entry["name"]),
        meaning=entry["meaning"],
        cue=entry.get("cue", ""),
        not_when=entry.get("not_when", ""),
        group=entry.get("group", ""),
        aliases=tuple(entry.get("aliases", ())),
        lossy=tuple(entry.get("lossy", ())),
        items=tuple(entry.get("items", ())),
    )


def parse_crosswalk(record: Mapping[str, Any], *, source: LabelSet, target: LabelSet, where: str) -> Crosswalk:
    """Turn the content of a TOML file (`loss`, `table`, optional `none`: source labels without counterpart) into one.

    Raises:
        LabelError: a label of the source is missing or named twice, or a name is not a canonical one.
    """
    extra = set(record) - {"loss", "table", "none"}
    if extra or not record.get("loss"):
        raise LabelError(f"{where}: expected 'loss' (a text), 'table' and perhaps 'none', but found {sorted(record)}.")
    given: dict[str, str | None] = dict(record.get("table", {}))
    unmapped = list(record.get("none", ()))
    mapped = sorted([*given, *unmapped])
    if mapped != sorted(source.names):
        raise LabelError(f"{where}: each label of '{source.name}' must stand exactly once in 'table' or in 'none'.")
    wrong = sorted({str(value) for value in given.values()} - set(target.names))
    if wrong:
        raise LabelError(f"{where}: {wrong} are no labels of '{target.name}'; known: {', '.join(target.names)}.")
    given.update(dict.fromkeys(unmapped))
    ordered = {name: given[name] for name in source.names}
    return Crosswalk(source=source, target=target, table=MappingProxyType(ordered), loss=record["loss"])
