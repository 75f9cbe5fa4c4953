"""Name -> object, resolved late.

Each kind keeps its own table beside its code (`{"esconv": "heedful.corpora.esconv:ESCONV"}`), so importing a table
imports nothing else. A name may also be `module:attribute`, which is how code from outside enters without a plug-in.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from heedful.errors import ConfigError, NotFoundError, unknown


def load_path(path: str) -> Any:
    """Import `module:attribute`.

    Raises:
        NotFoundError: the module or the attribute does not exist.
    """
    module, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise NotFoundError(
            f"'{path}' is no place of code; write module:attribute, for instance my_package.my_file:THING."
        )
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as err:
        if err.name and not module.startswith(err.name):
            raise  # the module is there, one of its own imports is not
        raise NotFoundError(
            f"'{path}' names the module '{module}', which cannot be imported; {module}.py is looked for in the "
            "current folder and in the environment."
        ) from err
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise NotFoundError(f"'{path}' names '{attribute}', which the module '{module}' does not have.")
        found = getattr(found, part)
    return found


class Registry:
    """One kind of thing: a table of ours, entry points of others, and `module:attribute`."""

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self._table = dict(table)

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted({**self._table, **self._outside()})

    def get(self, name: str) -> Any:
        """The object behind `name`.

        Raises:
            NotFoundError: no such name; the message lists the known ones.
        """
        if name in self._table:
            return load_path(self._table[name])
        if ":" in name:
            return load_path(name)
        outside = self._outside()
        if name in outside:
            return load_path(outside[name])
        raise unknown(self.kind, name, self.names())

    def _outside(self) -> dict[str, str]:
        # Here, since it takes longer to import than all the rest of `import heedful`.
        from importlib.metadata import entry_points

        found: dict[str, str] = {}
        for point in entry_points(group=f"heedful.{self.kind.replace(' ', '_')}"):
            if point.name in self._table or found.get(point.name, point.value) != point.value:
                raise ConfigError(
                    f"Two packages offer the {self.kind} '{point.name}'; uninstall one of them ({point.value})."
                )
            found[point.name] = point.value
        return found
