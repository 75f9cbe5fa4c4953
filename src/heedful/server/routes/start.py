"""`/`: everybody to their own first page. `/resources`: crisis lines, for everybody. `/language`: of an account."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from starlette.responses import RedirectResponse, Response

from heedful.errors import ConfigError
from heedful.safety import texts
from heedful.server import here, words
from heedful.server.access import Called
from heedful.server.clinic import At
from heedful.server.gate import cookie_text, inside
from heedful.server.shown import home, show
from heedful.server.state import Serving

router = APIRouter(include_in_schema=False)


@router.get("/")
def start(caller: Called) -> Response:
    """To the first page of the role."""
    return RedirectResponse("/account" if caller.waits else home(caller.role), status_code=303)


@router.get("/resources")
def resources(caller: Called, desk: At) -> Response:
    """All crisis lines of the country, for everybody."""
    language = here.language()
    table, country = desk.directory.table(), desk.directory.country
    groups = {
        "anyone": tuple(line for line in table.of(country, language=language) if line.audience == "anyone"),
        "harm-from-others": tuple(
            line
            for line in table.of(country, language=language, audience="harm-from-others")
            if line.audience == "harm-from-others"
        ),
        "young": tuple(
            line for line in table.of(country, language=language, audience="young") if line.audience == "young"
        ),
    }
    found = texts.load(texts.nearest_language(language))
    lines = desk.directory.fill(language)
    return show(
        "resources.html.j2",
        caller,
        desk,
        groups=groups,
        emergency=table.emergency(country),
        options=found.options("thoughts", line=lines.line, emergency=lines.emergency),
        on_duty=desk.on_duty,
        protocol=desk.on("protocol_page"),
    )


@router.post("/language")
def language(
    caller: Called,
    desk: At,
    server: Serving,
    language: Annotated[str, Form(max_length=20)],
    back: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """Another language: of the account, or of this browser until somebody is signed in."""
    found, user = words.known(language), caller.user or ""
    if found is None:
        raise words.refusal(ConfigError, "refusal.language", known=", ".join(words.LANGUAGES))
    response = RedirectResponse(inside(back) or "/", status_code=303)
    if caller.kind == "session" and caller.stage == "full":
        desk.clinic.store.run(lambda unit: unit.users.change(user, by=user, language=found))
    else:
        name = f"{server.cookie}-language"
        response.headers.append("Set-Cookie", cookie_text(name, found, secure=server.secure))
    return response
