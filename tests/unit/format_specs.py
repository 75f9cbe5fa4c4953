"""Every format with every switch, made from the table and the options' types: a new format is in it by its name."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from typing import Any, Literal, get_args, get_origin, get_type_hints

from heedful.formats import FORMATS

TEXTS: dict[str, tuple[Any, ...]] = {
    "system": (None, "Be brief.", ""),
    "emotion_set": ("mesc_emotion",),
    "act_set": ("hope_act",),
    "window": (4, 2),
    "relation": ("atomic.xIntent",),
    "max_cause": (96,),
    "max_intention": (24,),
    "budget": (128,),
}
"""Values of options that are neither a switch nor a choice."""


def switches(name: str) -> list[dict[str, Any]]:
    """All combinations of one format's options; its defaults come first."""
    cls = FORMATS.get(name)
    hints = get_type_hints(cls)
    columns = []
    for option in fields(cls):
        kind = hints[option.name]
        values = get_args(kind) if get_origin(kind) is Literal else (True, False) if kind is bool else None
        found = values or TEXTS[option.name]
        found = (option.default, *(v for v in found if v != option.default))
        columns.append([(option.name, value) for value in found])
    return [{"name": name, **dict(row)} for row in product(*columns)]


SPECS: list[dict[str, Any]] = [spec for name in FORMATS.names() for spec in switches(name)]
assert {s["name"] for s in SPECS} == set(FORMATS.names())


def spec_id(spec: dict[str, Any]) -> str:
    """A readable name for a test."""
    return "-".join(
        [spec["name"], *(f"{k}={v}" for k, v in spec.items() if k not in ("name", "emotion_set", "act_set"))]
    )
