"""`index.html` of a recipe: its stages, what each came to, and the way to each report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from heedful.pages import page as pages


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage.

    Args:
        seconds: wall time of its attempts; None while it is not finished.
        result: one line from its summary.
        report: the page to open.
    """

    stage: str
    method: str
    state: Literal["done", "interrupted", "to do"]
    seconds: float | None
    result: str
    report: str | None
    settings: Mapping[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the settings."""
        return {k: getattr(self, k) for k in ("stage", "method", "state", "seconds", "result", "report")}


def write_page(
    path: Path,
    *,
    title: str,
    file: str,
    options: Mapping[str, Any],
    rows: Sequence[Row],
    left_out: Mapping[str, str],
    command: str,
) -> Path:
    """Write the page; links are relative, so the folder can be moved.

    Raises:
        RunError: the file cannot be written.
    """
    links = {row.stage: quote(Path(os.path.relpath(row.report, path.parent)).as_posix()) for row in rows if row.report}
    view = {
        "title": title,
        "file": file,
        "options": dict(options),
        "rows": rows,
        "links": links,
        "left_out": dict(left_out),
        "command": command,
    }
    return pages.write(path, pages.environment("heedful.pipeline").get_template("index.html.j2").render(view))
