"""What a template may ask about the request it answers: the language, texts by key, and the crisis lines.

`Here` stands around the whole app, so that pages which nobody planned (a refusal at the gate, a crash) have a language
and the crisis lines too: help is on every page, without an account.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from heedful.errors import HeedfulError
from heedful.safety import resources
from heedful.server import words
from heedful.server.access import Caller
from heedful.server.directory import Directory, bundled

_SCOPE: Final[ContextVar[Scope | None]] = ContextVar("heedful_request", default=None)


class Here:
    """ASGI middleware: remembers the request for whatever is shown in answer to it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        token = _SCOPE.set(scope)
        try:
            await self.app(scope, receive, send)
        finally:
            _SCOPE.reset(token)


def language() -> str:
    """Of the account; before somebody is signed in, what they chose on a page; else of the browser, else English."""
    scope = _SCOPE.get()
    if scope is None:
        return words.LANGUAGES[0]
    caller, headers = scope.get("state", {}).get("caller"), Headers(scope=scope)
    if isinstance(caller, Caller) and caller.kind == "session" and (found := words.known(caller.language)):
        # Between password and second factor the choice of a moment ago still counts.
        return found if caller.stage == "full" else _chosen(scope, headers) or found
    return _chosen(scope, headers) or words.accepted(headers.get("accept-language", ""))


def _chosen(scope: Scope, headers: Headers) -> str | None:
    server = getattr(getattr(scope.get("app"), "state", None), "server", None)
    name = f"{server.cookie}-language" if server is not None else ""
    return words.known(cookie_parser(headers.get("cookie", "")).get(name))


def place() -> str:
    """The page that is being shown, for a form that comes back to it; empty where it answers a form."""
    scope = _SCOPE.get()
    if scope is None or scope["method"] != "GET":
        return ""
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


def told(err: HeedfulError) -> str:
    """What a page says about an error: in the reader's language where there is a text for it."""
    return t(err.words[0], **err.words[1]) if err.words else str(err)


def t(key: str, **values: object) -> str:
    """A text of the page, in the reader's language."""
    return words.load(language()).say(key, **values)


def name_of(group: str, name: str) -> str:
    """The text of a name out of a data file (`state.risk_held`), or the name itself where a clinic made it up."""
    found = words.load(language())
    key = f"{group}.{name}"
    return found.say(key) if found.has(key) else name.replace("_", " ").replace("-", " ")


def _desk() -> Any:
    scope = _SCOPE.get()
    return getattr(getattr(scope.get("app"), "state", None), "desk", None) if scope else None


def directory() -> Directory:
    """The crisis lines of the server that answers; the bundled ones where there is none."""
    desk, scope = _desk(), _SCOPE.get()
    if desk is not None:
        found: Directory = desk.directory
        return found
    server = getattr(getattr(scope.get("app"), "state", None), "server", None) if scope else None
    return bundled(server.country if server is not None else resources.DEFAULT)


def report_link() -> Markup:
    """The way to report a problem, on every page where the profile asks for it; without an account, whom to reach."""
    desk = _desk()
    if desk is None or not desk.on("report_button"):
        return Markup("")
    scope = _SCOPE.get() or {}
    caller = scope.get("state", {}).get("caller")
    if not isinstance(caller, Caller) or caller.stage != "full":
        contact = desk.house.contact or t("house.contact")
        return Markup('<footer class="report">{}</footer>').format(t("report.without", contact=contact))
    return Markup('<footer class="report"><a href="/report">{}</a></footer>').format(t("report.title"))


def help_bar() -> Markup:
    """The crisis lines as they stand on top of every page."""
    found = directory()
    lines, shown = found.bar(language()), found.table()
    parts = [Markup("<li><span>{}</span> {}</li>").format(line.name, reach(line)) for line in lines]
    emergency = shown.emergency(found.country)
    parts.append(
        Markup('<li><span>{}</span> <a href="tel:{}">{}</a></li>').format(t("help.emergency"), emergency, emergency)
    )
    # A link, not a script: it works with nothing but HTML.
    return Markup('<aside class="help" aria-label="{}"><ul>{}<li><a href="/resources">{}</a></li></ul></aside>').format(
        t("help.label"), Markup("").join(parts), t("help.more")
    )


def reach(line: Any) -> Markup:
    """How to reach a crisis line, as a link where there can be one."""
    if line.number:
        dial = "".join(c for c in line.number if c.isdigit() or c == "+")
        return Markup('<a href="tel:{}">{}</a>').format(dial, line.number)
    if line.text:
        return Markup("<b>{}</b>").format(line.text)
    return Markup('<a href="{}" rel="noreferrer noopener">{}</a>').format(line.web, line.web)


GLOBALS: Final[dict[str, Any]] = {
    "t": t,
    "lang": language,
    "languages_here": words.LANGUAGES,
    "place": place,
    "help_bar": help_bar,
    "reach": reach,
    "name_of": name_of,
    "report_link": report_link,
}
"""What templates can call."""
