"""The gate: the one place where a request is let in. Around the whole app, so nothing answers without it.

    host -> address -> who -> how often -> may they -> body -> forged? -> the app -> headers, a line in the log

A request has a least set of rights when nothing says otherwise: no row in the table, no entrance.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import time
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heedful.errors import HeedfulError
from heedful.server import logs, words
from heedful.server.access import Caller, Row
from heedful.server.config import is_loopback
from heedful.server.problems import Problem, answer, for_programs, of_error, wait
from heedful.server.state import Server

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[dict[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "accelerometer=(), camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}
"""On every answer; a route may set its own Cache-Control."""
YEAR: Final = 365 * 24 * 3600
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SAFE: Final = ("GET", "HEAD", "OPTIONS")
QUIET: Final = ("/health", "/static/")
"""Paths for which nobody is looked up: they answer everybody, and often."""


class Gate:
    """ASGI middleware; `create_app` puts it around the app.

    Args:
        app: what is behind it.
        server: the parts that it asks.
    """

    def __init__(self, app: ASGIApp, *, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in, or answer."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSockets here: unanswered, the connection is closed
        visit = _Visit(self.server, scope, send)
        try:
            problem, inner = await self._admit(visit, scope, receive)
            if problem is None:
                await self.app(scope, inner, visit.send)
            else:
                await self._refuse(problem, visit, scope, receive)
        except Exception as err:
            await self._failed(err, visit, scope, receive)
        finally:
            visit.note()

    async def _admit(self, visit: _Visit, scope: Scope, receive: Receive) -> tuple[Problem | Response | None, Receive]:
        server, headers, path = self.server, Headers(scope=scope), scope["path"]
        state = scope.setdefault("state", {})
        state["id"], state["caller"] = visit.id, visit.caller
        if not self._known_host(headers.get("host", "")):
            message = "This host name is not one of the server's; an administrator can add it to 'names'."
            return Problem(status=400, message=message, code="unknown_host"), receive
        address = self._address(scope, headers)
        cookies = cookie_parser(headers.get("cookie", ""))
        visit.caller = state["caller"] = replace(await self._caller(path, headers, cookies, visit), address=address)
        pause = server.requests.take(visit.caller.user or f"address:{_network(address)}")
        if pause > 0:
            message = "Too many requests; wait a moment."
            return Problem(status=429, message=message, code="rate_limited", headers=wait(pause)), receive
        verdict, row, mine = server.access.find(path, scope["method"], visit.caller)
        visit.row = row
        if verdict != "allowed":
            return _denied(verdict, mine, scope), receive
        assert row is not None
        body = await self._body(headers, row, receive)
        if isinstance(body, Problem):
            return body, receive
        if (
            scope["method"] not in SAFE
            and visit.caller.kind != "token"
            and not _ours(headers, body, visit.caller, scope)
        ):
            message = "This form is out of date or was not sent from our own page; load the page again, then send it."
            return Problem(status=403, message=message, code="csrf"), receive
        return None, _replay(body, receive)

    async def _caller(self, path: str, headers: Headers, cookies: dict[str, str], visit: _Visit) -> Caller:
        server, accounts = self.server, self.server.accounts
        if path.startswith(QUIET):
            return Caller()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.casefold() == "bearer":
            return await to_thread.run_sync(accounts.by_token, token.strip()) or Caller()
        if cookie := cookies.get(server.cookie):
            found = await to_thread.run_sync(accounts.by_session, cookie)
            if found is not None:
                return replace(found, csrf=self._csrf(cookie))
        before = cookies.get(f"{server.cookie}-form", "")
        if not before and not for_programs(path):
            before = secrets.token_urlsafe(16)
            visit.cookies.append(cookie_text(f"{server.cookie}-form", before, secure=server.secure))
        return Caller(csrf=self._csrf(before) if before else "")

    def _csrf(self, cookie: str) -> str:
        return self.server.store.keys.digest(f"csrf\0{cookie}".encode("utf-8", "surrogatepass"))

    async def _body(self, headers: Headers, row: Row, receive: Receive) -> bytes | Problem:
        limit = row.body or self.server.config.max_body
        large = Problem(
            status=413,
            message=f"A request here may have at most {limit:,} bytes.",
            code="too_large",
            headers={"Connection": "close"},
        )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return large
        found = bytearray()
        try:
            async with asyncio.timeout(self.server.config.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        break
                    found += message.get("body", b"")
                    if len(found) > limit:
                        return large
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            said = "The request did not arrive in time."
            return Problem(status=408, message=said, code="too_slow", headers={"Connection": "close"})
        return bytes(found)

    def _known_host(self, host: str) -> bool:
        name = (urlsplit(f"//{host}").hostname or "") if host.isascii() else ""
        config = self.server.config
        if name in (config.host, "localhost", *config.names):
            return True
        try:  # a name can be made to point here by anybody, an address cannot
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _address(self, scope: Scope, headers: Headers) -> str:
        direct = str((scope.get("client") or ("unknown", 0))[0])
        if direct != self.server.config.trusted_proxy:
            return direct
        # The last entry is the proxy's own; those before it were sent by the client.
        return headers.get("x-forwarded-for", direct).rpartition(",")[2].strip()

    async def _refuse(self, problem: Problem | Response, visit: _Visit, scope: Scope, receive: Receive) -> None:
        path, csrf = scope["path"], visit.caller.csrf
        response = problem if isinstance(problem, Response) else answer(problem, path=path, csrf=csrf)
        await response(scope, receive, visit.send)

    async def _failed(self, err: Exception, visit: _Visit, scope: Scope, receive: Receive) -> None:
        problem = of_error(err)
        if problem.status >= 500 or not isinstance(err, HeedfulError):
            logs.fault(err, request=visit.id)
        if not visit.status:
            await self._refuse(problem, visit, scope, receive)


class _Visit:
    """One request on its way: what is known of it, and what is added to its answer."""

    def __init__(self, server: Server, scope: Scope, send: Send) -> None:
        self.server, self.scope, self._send = server, scope, send
        self.id, self.begun = secrets.token_hex(8), time.monotonic()
        self.caller = Caller()
        self.row: Row | None = None
        self.status = 0
        self.cookies: list[str] = []

    async def send(self, message: Message) -> None:
        """Pass on an answer, with our headers on it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self.server.secure:
                headers["Strict-Transport-Security"] = f"max-age={YEAR}"
            headers["X-Request-Id"] = self.id
            for cookie in self.cookies:
                headers.append("Set-Cookie", cookie)
        await self._send(message)

    def note(self) -> None:
        """The line in the log."""
        seconds = time.monotonic() - self.begun
        route = self.row.path if self.row else "none"
        method = self.scope["method"] if self.scope["method"] in METHODS else "other"
        facts: dict[str, Any] = {"method": method, "route": route, "status": self.status}
        logs.note("request", id=self.id, ms=round(seconds * 1000, 1), role=self.caller.role, **facts)
        self.server.metrics.count("requests_total", method=method, route=route, status=str(self.status))
        self.server.metrics.took(route, seconds)


def cookie_text(name: str, value: str, *, secure: bool, seconds: float | None = None) -> str:
    """A Set-Cookie header: HttpOnly, SameSite=Strict, Secure over HTTPS; None = until the browser is closed."""
    age = "" if seconds is None else f"; Max-Age={int(seconds)}"
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}{age}"


def inside(path: str) -> str:
    """`path` if it is a page of this server, else nothing: a link must not lead anybody elsewhere.

    >>> inside("/account"), inside("//evil.example"), inside("https://evil.example"), inside("/\\\\evil.example")
    ('/account', '', '', '')
    """
    parts = urlsplit(path)
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain and not parts.scheme and not parts.netloc else ""


def from_here(scope: Scope) -> bool:
    """Whether a request comes from this machine and through no proxy (which may stand on this machine)."""
    headers = Headers(scope=scope)
    passed_on = any(name in headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))
    return is_loopback(str((scope.get("client") or ("", 0))[0])) and not passed_on


def _denied(verdict: str, mine: tuple[str, ...], scope: Scope) -> Problem | Response:
    if verdict == "method":
        allow = {"Allow": ", ".join(mine)}
        return Problem(status=405, message="This address takes other methods.", code="method", headers=allow)
    if verdict in ("sign_in", "second_factor") and not for_programs(scope["path"]):
        return _way_in(verdict, scope)
    if verdict == "unconfirmed":
        message = words.load("en").say("problem.unconfirmed")
        return Problem(status=403, message=message, code="unconfirmed")
    if verdict == "forbidden":
        return Problem(status=403, message="There is nothing here for this account.", code="forbidden")
    ask = {"WWW-Authenticate": 'Bearer realm="heedful"'}
    return Problem(status=401, message="Sign in first, or send an API token.", code="sign_in", headers=ask)


def _way_in(verdict: str, scope: Scope) -> Response:
    place = "/second-factor" if verdict == "second_factor" else "/sign-in"
    back = f"?next={quote(scope['path'])}" if scope["method"] == "GET" and scope["path"] != "/" else ""
    return RedirectResponse(f"{place}{back}", status_code=303)


def _ours(headers: Headers, body: bytes, caller: Caller, scope: Scope) -> bool:
    """Whether our own page sent this.

    Browsers say where a request comes from (Sec-Fetch-Site; Origin before that, though our Referrer-Policy can make it
    `null`). Whatever they say, the token of the session has to be there.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    if site is None and origin not in (None, "null") and urlsplit(origin).netloc != headers.get("host"):
        return False
    sent = headers.get("x-csrf-token")
    if sent is None and headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        sent = parse_qs(body.decode("utf-8", "replace")).get("csrf", [""])[0]
    return bool(caller.csrf) and secrets.compare_digest((sent or "").encode("utf-8", "replace"), caller.csrf.encode())


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes after it (that the client went away)."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def inner() -> Message:
        return waiting.pop() if waiting else await receive()

    return inner


def _network(address: str) -> str:
    """One customer has a whole /64 of IPv6 addresses."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
