"""Mappings and lists that cannot be changed, so that a frozen record is frozen all the way down.

They are a `dict` and a `list` to everybody who reads: equal to plain ones, written by `json`, pickled, copied. What
changes them in place raises TypeError. They are not hashable, so records leave them out of their hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn


def _refuse(self: object, *args: object, **kwargs: object) -> NoReturn:
    raise TypeError("A record cannot be changed; make a new one with dataclasses.replace and dict(...) or list(...).")


class FrozenDict(dict[str, Any]):
    """A dict without the methods that change it; `|`, `{**d}` and `.copy()` give plain dicts."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        # Without it pickle and copy would fill an empty one through __setitem__.
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A list without the methods that change it; `+`, slices and `.copy()` give plain lists."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __reduce__(self) -> tuple[type[FrozenList], tuple[list[Any]]]:
        return FrozenList, (list(self),)


EMPTY = FrozenDict()


def freeze(value: Mapping[str, Any]) -> FrozenDict:
    """An immutable copy, with everything in it; one that is immutable already comes back as it is."""
    if isinstance(value, FrozenDict):
        return value
    return FrozenDict({key: _freeze(item) for key, item in value.items()}) if value else EMPTY


def _freeze(value: Any) -> Any:
    if isinstance(value, FrozenDict | FrozenList):
        return value
    if isinstance(value, Mapping):
        return freeze(value)
    if isinstance(value, list):
        return FrozenList(_freeze(item) for item in value)
    return tuple(_freeze(item) for item in value) if type(value) is tuple else value


def thaw(value: Any) -> Any:
    """A plain copy that may be changed, as the JSON form wants it: dicts and lists."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    return [thaw(item) for item in value] if isinstance(value, list | tuple) else value
