"""Files that a clinic may edit: ours in the package, its own below `$HEEDFUL_HOME`, checked alike."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Set
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from heedful.errors import ConfigError, DataError, only_keys
from heedful.settings import home

Kind = TypeVar("Kind", covariant=True)


class Parse(Protocol[Kind]):
    """Makes something of the content of a file; `where` is what its errors name."""

    def __call__(self, found: Mapping[str, Any], *, where: str) -> Kind: ...


class Shelf(Generic[Kind]):
    """Everything of one kind that stands in such files. They are read again only when a file of the clinic changed.

    Args:
        folder: in this package, and below `$HEEDFUL_HOME`.
        parse: makes one of a file.
        kind: what errors call it.
    """

    def __init__(self, folder: str, parse: Parse[Kind], *, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self._parse = parse
        self._kept: tuple[object, dict[str, Kind]] | None = None

    def known(self) -> dict[str, Kind]:
        """All of them by id, those of the clinic over ours.

        Raises:
            ConfigError: a file that is not of the form of the others; it is named.
        """
        now, kept = self._state(), self._kept
        if kept is None or kept[0] != now:
            found = toml_files(self.folder).items()
            self._kept = kept = now, {name: self._parse(content, where=where) for name, (content, where) in found}
        return dict(kept[1])

    def get(self, id: str) -> Kind:
        """The one of that id.

        Raises:
            DataError: there is none.
        """
        found = self.known()
        if id not in found:
            raise DataError(f"There is no {self.kind} '{id}'; known: {', '.join(found)}.")
        return found[id]

    def _state(self) -> tuple[Path, frozenset[tuple[str, int, int]]]:
        """What changes when a file of the clinic does; ours change with the version only."""
        place = home() / self.folder
        files = ((path.name, path.stat()) for path in place.glob("*.toml")) if place.is_dir() else ()
        return place, frozenset((name, stat.st_mtime_ns, stat.st_size) for name, stat in files)


def toml_files(folder: str) -> dict[str, tuple[dict[str, Any], str]]:
    """Id -> content and place of each TOML file of a folder; the clinic's own stands in for ours of the same id.

    Raises:
        ConfigError: a file that is not TOML, or has no id, or an id that another of its kind has.
    """
    found: dict[str, tuple[dict[str, Any], str]] = {}
    ours = sorted(files("heedful.review").joinpath(folder).iterdir(), key=lambda p: p.name)
    own = sorted((home() / folder).glob("*.toml")) if (home() / folder).is_dir() else []
    for place in (ours, own):
        here: set[str] = set()
        for path in place:
            if not path.name.endswith(".toml"):
                continue
            where = str(path) if place is own else path.name
            content = _read(path.read_bytes(), where)
            if content["id"] in here:
                raise ConfigError(f"{where}: the id '{content['id']}' is there twice; each file needs its own.")
            here.add(content["id"])
            found[content["id"]] = content, where
    return found


def keys(found: Mapping[str, Any], wanted: Set[str], *, where: str, optional: Set[str] = frozenset()) -> None:
    """Refuse a table that lacks a key or has an unknown one.

    Raises:
        ConfigError: as said.
    """
    if missing := sorted(wanted - set(found)):
        raise ConfigError(f"{where}: '{missing[0]}' is missing.")
    only_keys(found, wanted | optional, where=where)


def texts(
    found: Mapping[str, Mapping[str, Any]], wanted: Set[str], *, where: str, optional: Set[str] = frozenset()
) -> dict[str, Mapping[str, Any]]:
    """Language -> its words, English first.

    Raises:
        ConfigError: no English, or a language that lacks something.
    """
    if "en" not in found:
        raise ConfigError(f"{where}: there is no [text.en]; English stands in where a language is missing.")
    for language, about in found.items():
        keys(about, wanted, where=f"{where}, [text.{language}]", optional=optional)
    return {language: found[language] for language in ("en", *sorted(set(found) - {"en"}))}


def _read(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise ConfigError(f"{where} is no TOML ({type(err).__name__}); mend the file.") from err
    if not isinstance(found.get("id"), str) or not found["id"].replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"{where}: 'id' must be letters, digits, - and _.")
    return found
