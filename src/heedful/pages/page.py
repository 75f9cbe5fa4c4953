"""The skeleton that all pages share, what their templates can call, and how a page gets onto the disk.

A template begins with `{% extends "page.html.j2" %}` and fills the blocks `title`, `style` and `body`. The skeleton has
the content policy, which forbids scripts and everything from outside, the colours for light and dark, and the common
shapes (tables, cards, banners). Everything a template shows is escaped.
"""

from __future__ import annotations

import functools
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from heedful.errors import RunError
from heedful.pages.numbers import Parts, shown

# Control characters and lone surrogates: an HTML file cannot hold them, and UTF-8 cannot encode the latter.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@functools.cache
def environment(package: str) -> Environment:
    """Templates of `package` (its folder `templates/`) over the common skeleton; one environment per package.

    Filters: `number` (rounded for the eye, exact for a program), `setting` and `flat` for free mappings, `sentence`
    for words with numbers in them. A filter that one page adds is seen by the pages of its package only.
    """
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("heedful.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(number=number, flat=flat, setting=setting, sentence=sentence)
    return made


def write(path: str | os.PathLike[str], text: str) -> Path:
    """Write a page to `path` in one step: readers see the old page or the whole new one, never half of it.

    Missing folders are made. Only the owner may read the file, as it may hold conversations.

    Raises:
        RunError: the file cannot be written.
    """
    target = Path(path)
    scratch: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
    except OSError as err:
        if scratch is not None:
            Path(scratch).unlink(missing_ok=True)
        raise RunError(
            f"The report could not be written to '{target}' ({err.strerror or err}); choose another path or make room."
        ) from err
    return target


def clean(value: Any) -> Any:
    """The same value with characters that no web page may hold shown as U+FFFD."""
    if isinstance(value, str):
        return _FORBIDDEN.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {clean(key): clean(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [clean(entry) for entry in value]
    return value


def number(value: float | None, places: int = 0) -> Markup:
    """The rounded number for the eye, the exact one for a program; nothing measured is a dash."""
    if value is None:
        return Markup('<span title="no value">—</span>')
    return Markup('<data value="{}">{}</data>').format(repr(value), shown(value, places))


def setting(value: Any) -> str:
    """An entry of a free mapping (decoding, machine) as words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        # Settings such as 3e-05 are names of a sort: shown as they are. Only what was measured has more digits.
        return repr(value) if isinstance(value, int) or len(repr(value)) <= 9 else f"{value:.6g}"
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return ", ".join(setting(entry) for entry in value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if isinstance(value, Mapping) else str(value)


def flat(entries: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A mapping of mappings as rows: `seconds.training`, `12.5`."""
    rows: list[tuple[str, str]] = []
    for key, value in entries.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", setting(value)))
    return rows


def sentence(parts: Parts) -> Markup:
    """A sentence with its numbers as <data>, everything else escaped."""
    return Markup("").join(
        number(part.value, part.places) if not isinstance(part, str) else escape(part) for part in parts
    )
