"""Pages: templates of this package, filled and sent. Everything that a template shows is escaped.

A page begins with `{% extends "base.html.j2" %}`. Forms that change something hold `{{ csrf_field(csrf) }}`. There is
no inline script and no inline style, since the content policy forbids both.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from heedful.server import here

KINDS: Final[dict[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
"""Files that the folder `static` may hold."""


def page(
    template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, language: str = "en", **values: Any
) -> HTMLResponse:
    """A page. Every template needs `csrf`, empty for callers without a session."""
    text = environment().get_template(template).render(language=language, **values)
    return HTMLResponse(text, status_code=status, headers=dict(headers or {}))


@functools.cache
def environment() -> Environment:
    """The templates; what a page does not get is an error, not an empty place."""
    made = Environment(
        loader=PackageLoader("heedful.server"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(csrf_field=csrf_field, asset=asset, **here.GLOBALS)
    return made


def csrf_field(csrf: str) -> Markup:
    """The hidden field of a form that changes something."""
    return Markup('<input type="hidden" name="csrf" value="{}">').format(csrf)


@functools.cache
def asset(name: str) -> str:
    """The address of a static file, with its hash: a new version is fetched at once, an old one never again."""
    data, _ = _static(name)
    return f"/static/{name}?v={hashlib.sha256(data).hexdigest()[:12]}"


def static(name: str) -> Response:
    """A file of the folder `static`.

    Raises:
        HTTPException: 404.
    """
    data, kind = _static(name)
    return Response(data, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})


def _static(name: str) -> tuple[bytes, str]:
    kind = KINDS.get(name[name.rfind(".") :] if "." in name else "")
    file = resources.files("heedful.server").joinpath("static", name)
    # A name with a slash is no name: the pattern of the route keeps them out, and this does it again.
    if kind is None or "/" in name or "\\" in name or name.startswith(".") or not file.is_file():
        raise HTTPException(404, "There is no such file.")
    return file.read_bytes(), kind
