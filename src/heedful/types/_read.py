"""Typed access to the fields of one JSON object. A refusal names the field and what came, never a sentence in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from heedful.errors import DataError, nearest, shown

DEEPEST = 50
"""Levels of lists and objects that a column without a type of its own may have."""


def kind(value: object) -> str:
    """What came where a list or object belongs. A word there explains nothing, so it is never quoted."""
    return "a text" if isinstance(value, str) else shown(value)


def encodable(text: str) -> bool:
    """Whether the text has a UTF-8 form: a lone surrogate (half an emoji, cut by some tool) has none."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_text(value: object, what: str) -> None:
    """Refuse what is no text, and text that no tokenizer and no file can hold.

    Raises:
        DataError: in the words of `what`, such as "a turn's text".
    """
    if not isinstance(value, str):
        raise DataError(f"{what} must be a text, but it is {shown(value)}.")
    if not encodable(value):
        raise DataError(f"{what} holds half a character (a lone surrogate). Repair or remove it.")


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object and where it stands. `null` counts as missing."""

    record: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, record: object, where: str, expected: str) -> Fields:
        """The fields of `record`.

        Raises:
            DataError: it is no object; `expected` says what one would hold.
        """
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: expected {expected}, but it is {kind(record)}.")
        return cls(record, where)

    def fail(self, name: str, expected: str) -> NoReturn:
        """Refuse the value of `name`."""
        raise DataError(f"{self.where}: '{name}' must be {expected}, but it is {shown(self.record.get(name))}.")

    def text(self, name: str) -> str | None:
        """A text or None."""
        value = self.record.get(name)
        if value is not None:
            check_text(value, f"{self.where}: '{name}'")
        return value

    def name(self, name: str) -> str | None:
        """A text, or a whole number taken as one: ids and label values are often written so."""
        value = self.record.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None and not isinstance(value, str):
            self.fail(name, "a text or a whole number")
        return self.text(name)

    def number(self, name: str) -> float | None:
        """A finite number or None; true and false are none."""
        value = self.record.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fail(name, "a number")
        return value

    def whole(self, name: str, *, least: int = 0) -> int | None:
        """A whole number from `least` up, or None."""
        value = self.record.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.fail(name, f"a whole number from {least} up")
        return value

    def items(self, name: str, expected: str) -> Sequence[Any]:
        """A list; empty if missing."""
        value = self.record.get(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise DataError(f"{self.where}: '{name}' must be a list of {expected}, but it is {kind(value)}.")
        return value

    def objects(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """A list of objects with any content that JSON can hold; empty if missing."""
        found = tuple(self.items(name, "objects"))
        for item in found:
            if not isinstance(item, Mapping):
                raise DataError(f"{self.where}: '{name}' must be a list of objects, but it holds {kind(item)}.")
            check_plain(item, f"{self.where}: '{name}'")
        return found

    def map(self, name: str) -> dict[str, Any]:
        """An object with any content that JSON can hold; empty if missing."""
        value = self.record.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise DataError(f"{self.where}: '{name}' must be an object, but it is {kind(value)}.")
        check_plain(value, f"{self.where}: '{name}'")
        return dict(value)

    def numbers(self, name: str) -> dict[str, float | None]:
        """An object of finite numbers and nulls; empty if missing."""
        found = self.map(name)
        inner = Fields(found, f"{self.where}, '{name}'")
        return {key: inner.number(key) for key in found}

    def rest(self, known: Collection[str]) -> dict[str, Any]:
        """Columns that have no field, from beside the fields and from the object `extra`.

        Raises:
            DataError: a column stands in both places, or holds what JSON cannot.
        """
        out = {}
        for key, value in self.record.items():
            if key not in known and key != "extra":
                check_plain({key: value}, f"{self.where}: {shown(key)}")
                out[key] = value
        for key, value in self.map("extra").items():
            if key in out:
                raise DataError(f"{self.where}: {shown(key)} stands in 'extra' and beside it. Keep one of them.")
            out[key] = value
        return out

    def only(self, known: Collection[str]) -> None:
        """Refuse keys that are not in `known`.

        Raises:
            DataError: there is one.
        """
        for key in self.record:
            if key not in known:
                hint = nearest(key, known) if isinstance(key, str) else ""
                raise DataError(
                    f"{self.where}: the key {shown(key)} is not known.{hint} Known: {', '.join(sorted(known))}. "
                    "A file of a newer heedful needs that heedful."
                )


def check_plain(value: object, what: str, *, depth: int = 0) -> None:
    """Refuse what JSON, a tokenizer or the next reader could not hold.

    Raises:
        DataError: a broken character, an infinite number, a key that is no text, or more levels than `DEEPEST`.
    """
    if depth > DEEPEST:
        raise DataError(f"{what} is nested more than {DEEPEST} levels deep.")
    if isinstance(value, str):
        check_text(value, what)
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{what} holds a number that is not finite. Write null for a missing number.")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_text(key, f"{what}: each key")
            check_plain(item, what, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_plain(item, what, depth=depth + 1)
