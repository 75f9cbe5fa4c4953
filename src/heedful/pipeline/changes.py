"""The first difference between two sets of settings, named so that a person finds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from heedful.errors import ConfigError
from heedful.settings import Settings, check

Change = tuple[str, str, str]
"""key, old value, new value, as texts."""


def settings_as_now(kind: type[Settings], old: Mapping[str, Any]) -> Mapping[str, Any]:
    """Recorded settings as this version writes them: younger keys had their defaults."""
    known = {key: value for key, value in old.items() if key in kind.model_fields}
    try:
        return check(kind, known).model_dump(mode="json")
    except ConfigError:  # a value that is refused by now; then the record is compared as it is
        return old


def first_change(old: Mapping[str, Any], new: Mapping[str, Any], *, but: frozenset[str] = frozenset()) -> Change | None:
    """The first key of `new` whose value differs, as a dotted path; None if there is none.

    >>> first_change({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}})
    ('a.b.1', '2', '3')
    """
    for key, value in new.items():
        if key not in but:
            found = _difference(key, old.get(key), value)
            if found is not None:
                return found
    return None


def _difference(path: str, old: Any, new: Any) -> Change | None:
    old, new = _plain(old), _plain(new)
    if old == new:
        return None
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = [(key, old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return path, _shown(old), _shown(new)
    inner = (_difference(f"{path}.{key}", a, b) for key, a, b in pairs)
    return next((found for found in inner if found is not None), None)


def _plain(value: Any) -> Any:
    """`format: chat` and `format: {name: chat}` say the same."""
    return value["name"] if isinstance(value, Mapping) and set(value) == {"name"} else value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "a mapping of other keys"
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 60 else f"a text of {len(said) - 2} characters"
