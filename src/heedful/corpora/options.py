"""Options of a reader, checked against its own type hints: a slip of the pen must not give other data in silence."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from heedful.errors import ConfigError, nearest, shown

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def option_names(reader: Callable[..., Any]) -> tuple[str, ...]:
    """The keyword-only parameters of `reader`."""
    parameters = inspect.signature(reader).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def check_options(reader: Callable[..., Any], options: Mapping[str, Any], *, who: str) -> None:
    """Do nothing if `reader` can be called with `options`.

    Literals, truth values, numbers, texts, mappings and unions of these are checked; other hints accept any value.

    Args:
        reader: takes the options as keyword-only parameters.
        options: name -> value.
        who: subject of the message, such as "The corpus 'mesc'".

    Raises:
        ConfigError: an unknown name or a value of the wrong kind; the message names the nearest valid one.
    """
    known = option_names(reader)
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{who} has no option '{name}'.{nearest(name, known)} Known: {', '.join(known) or 'none'}."
            )
    hints = _hints(reader) if options else {}
    for name, value in options.items():
        hint = hints.get(name, Any)
        if not _accepts(hint, value):
            choices = [str(choice) for choice in _choices(hint)]
            hint_of_slip = nearest(value, choices) if isinstance(value, str) else ""
            raise ConfigError(f"{who}: '{name}' must be {_words(hint)}, but it is {shown(value)}.{hint_of_slip}")


def _hints(reader: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(reader)
    except (NameError, TypeError):
        # A reader from outside may name types that exist for the type checker only, or be an object with __call__.
        return {}


def _accepts(hint: Any, value: object) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin in (Union, types.UnionType):
        return any(_accepts(option, value) for option in arguments)
    if hint is type(None):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint in (int, float):
        # True is an int for Python, and not for the person who wrote it.
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        of_key, of_value = arguments
        return isinstance(value, Mapping) and all(
            _accepts(of_key, key) and _accepts(of_value, item) for key, item in value.items()
        )
    return True


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for option in get_args(hint) for choice in _choices(option)]


def _words(hint: Any) -> str:
    """The kind of value as a person would say it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f"'{choice}'" if isinstance(choice, str) else str(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(option) for option in arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping from {_words(arguments[0])} to {_words(arguments[1])}"
    return "null" if hint is type(None) else _KINDS.get(hint, "a value of another kind")
