"""Who may call what: the table is the truth, and nothing answers beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from fastapi import APIRouter, FastAPI
from starlette.responses import PlainTextResponse

from heedful.errors import ConfigError
from heedful.server import access
from heedful.server.access import Caller
from heedful.server.gate import HEADERS
from heedful.store.states import ROLES
from server_kit import OpenGuard, Site, make_site

PUBLIC = {
    "/health",
    "/static/{name}",
    "/sign-in",
    "/setup",
    "/resources",
    "/language",
    "/invitation/{token}",
    "/protocol",
}
"""What answers without an account: crisis lines and the crisis protocol, the choice of a language, and the page
behind a signed link (decision 0057). Nothing else joins without a talk about it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = make_site(tmp_path_factory.mktemp("site"), requests_per_minute=100_000)
    yield made
    made.store.close()


def cases(site: Site) -> list[tuple[str, str, str]]:
    """(pattern, an address of it, method) of every route there is."""
    return [
        (path, re.sub(r"\{\w+\}", "0" * 32, path.replace("{name}", "server.css")), method)
        for path, methods in access.routes_of(site.app)
        for method in methods
    ]


def test_the_public_list_is_short_and_explicit() -> None:
    assert {row.path for row in access.read().rows if row.who == "public"} == PUBLIC


def test_nobody_gets_in_without_an_account(site: Site) -> None:
    with site.client() as client:
        for path, address, method in cases(site):
            answer = client.request(method, address)
            if path in PUBLIC:
                continue
            assert answer.status_code in (303, 401, 403), (method, path, answer.status_code)
            if answer.status_code == 303:
                assert answer.headers["location"].startswith("/sign-in")


def test_without_an_account_what_exists_looks_like_what_does_not(site: Site) -> None:
    with site.client() as client:
        for there, nowhere in (("/account", "/nothing-here"), ("/v1/models", "/v1/nothing-here")):
            one, two = client.get(there), client.get(nowhere)
            assert one.status_code == two.status_code
            assert one.text == two.text
            wrong_method = client.delete(there)
            assert wrong_method.status_code == client.delete(nowhere).status_code


@pytest.mark.parametrize("role", ROLES)
def test_each_role_gets_what_the_table_says(site: Site, role: str) -> None:
    rows = {(row.path, method): row for row in access.read().rows for method in row.methods}
    with site.signed_in(role) as client:
        headers = {"X-CSRF-Token": client.get("/api/session").json()["csrf"]}
        found = cases(site)
        assert {(path, method) for path, _, method in found} == set(rows)
        ending = ("/sign-out", "/account/sign-out-everywhere")  # they would end the session that asks
        for path, address, method in found:
            if path in ending:
                continue
            who = rows[path, method].who
            may = isinstance(who, str) or role in who
            answer = client.request(method, address, headers=headers)
            # What a route says itself about a missing field or a missing model is not the gate's no.
            refused = answer.status_code == 403 and (path.startswith(("/v1", "/api", "/metrics")) or may is False)
            assert refused is not may, (role, method, path, answer.status_code)


def test_help_seekers_cannot_use_the_model_directly(site: Site) -> None:
    with site.signed_in("help_seeker") as client:
        headers = {"X-CSRF-Token": client.get("/api/session").json()["csrf"]}
        body = {"messages": [{"role": "user", "content": "hello"}]}
        assert client.post("/v1/chat/completions", json=body, headers=headers).status_code == 403
        assert client.post("/api/tokens", json={"scopes": ["generate"]}, headers=headers).status_code == 403


def test_signed_in_what_is_closed_looks_like_what_does_not_exist(site: Site) -> None:
    with site.signed_in("help_seeker") as client:
        closed, nowhere = client.get("/v1/models"), client.get("/v1/nothing-here")
        assert closed.status_code == nowhere.status_code == 403
        assert closed.text == nowhere.text


def test_an_address_that_one_may_use_says_which_methods_it_takes(site: Site) -> None:
    with site.signed_in("clinician") as client:
        answer = client.delete("/v1/models")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET"


def test_between_password_and_second_factor_nothing_else_opens(site: Site) -> None:
    login = site.accounts.sign_in("clara", "three quiet green boats", address="x")
    with site.client() as client:
        client.cookies.set("heedful", login.token, domain="127.0.0.1")
        for path, address, method in cases(site):
            row = next(r for r in access.read().rows if r.path == path and method in r.methods)
            if row.who in ("public", "signing_in"):
                continue
            answer = client.request(method, address)
            assert answer.status_code in (303, 401, 403), (method, path)
            if answer.status_code == 303:
                assert answer.headers["location"].startswith("/second-factor")


def test_tokens_open_their_scope_only(site: Site) -> None:
    with site.client() as client:
        generate, metrics = site.bearer("supervisor", "generate"), site.bearer("supervisor", "metrics")
        assert client.get("/v1/models", headers=generate).status_code == 200
        assert client.get("/metrics", headers=generate).status_code == 403
        assert client.get("/metrics", headers=metrics).status_code == 200
        assert client.get("/v1/models", headers=metrics).status_code == 403
        assert client.get("/account", headers=generate).status_code == 403
        # The scopes are part of what was hashed: writing another one into the token makes it another token.
        forged = {"Authorization": generate["Authorization"].replace("hfd_generate_", "hfd_generate+metrics_")}
        assert client.get("/metrics", headers=forged).status_code == 401


def test_a_route_without_a_row_stops_the_start(tmp_path: Path) -> None:
    router = APIRouter()

    @router.get("/forgotten")
    async def forgotten() -> str:
        return "open to everybody?"

    with pytest.raises(ConfigError, match="GET /forgotten stands in no row"):
        make_site(tmp_path, routers=[router])


def test_a_row_without_a_route_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which no route answers"):
        make_site(tmp_path, access_rows=[{"path": "/acount", "methods": ["GET"], "who": "public"}])


def test_a_route_that_was_added_later_is_closed(site: Site, tmp_path: Path) -> None:
    other = make_site(tmp_path)

    @other.app.get("/later")
    async def later() -> str:
        return "open to everybody?"

    with other.signed_in("admin") as client:
        assert client.get("/later").status_code == 403
    other.store.close()


def test_mounts_are_refused_since_no_row_could_speak_for_them() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.mount("/files", PlainTextResponse("x"))
    with pytest.raises(ConfigError, match="mount or a WebSocket"):
        access.check_routes(app, access.read())


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"path": "/x", "methods": ["GET"], "who": "everybody"}, "who is"),
        ({"path": "/x", "methods": ["GET"], "who": ["clinican"]}, "Did you mean 'clinician'"),
        ({"path": "/x", "methods": ["GET"], "who": ["admin"], "scope": "all"}, "scope is one of"),
        ({"path": "/x", "methods": ["GET"], "who": "public", "scope": "generate"}, "not public"),
    ],
)
def test_rows_are_checked(row: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        access.read(more=[row])


def test_there_is_no_app_without_a_guard(tmp_path: Path) -> None:
    class Half:
        def before(self, messages: object) -> None: ...

    with pytest.raises(ConfigError, match="needs a guard"):
        make_site(tmp_path, guard=Half())
    assert OpenGuard().before([]).action == "pass"


def test_a_new_site_has_a_router_as_easily_as_a_row(tmp_path: Path) -> None:
    router = APIRouter()

    @router.get("/hello")
    async def hello(caller: access.Called) -> dict[str, str | None]:
        return {"role": caller.role}

    site = make_site(
        tmp_path, routers=[router], access_rows=[{"path": "/hello", "methods": ["GET"], "who": ["clinician"]}]
    )
    with site.signed_in("clinician") as clinician, site.signed_in("admin") as admin:
        assert clinician.get("/hello").json() == {"role": "clinician"}
        assert admin.get("/hello").status_code == 403
    site.store.close()


def test_every_answer_carries_the_headers(site: Site) -> None:
    with site.signed_in("clinician") as client:
        for address in ("/health", "/account", "/nothing", "/v1/models", "/sign-in", "/v1/chat/completions"):
            headers = client.get(address).headers
            for name, value in HEADERS.items():
                assert headers[name] == value, (address, name)
            assert "strict-transport-security" not in headers  # without TLS it would be a lie
        assert client.get("/static/server.css").headers["cache-control"].startswith("public")


def test_with_a_proxy_that_has_tls_browsers_are_told_to_stay_with_it(tmp_path: Path) -> None:
    site = make_site(tmp_path, trusted_proxy="127.0.0.1")
    with site.client() as client:
        answer = client.get("/sign-in")
        assert "max-age=31536000" in answer.headers["strict-transport-security"]
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-heedful-form=")
        assert all(word in cookie for word in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/"))
    site.store.close()


def test_other_host_names_are_refused_as_rebinding_would_use_them(tmp_path: Path) -> None:
    site = make_site(tmp_path, names=("clinic.example",))
    with site.client() as client:
        for host, status in (("evil.example", 400), ("clinic.example", 303), ("localhost:8765", 303), ("[::1]", 303)):
            assert client.get("/account", headers={"Host": host}).status_code == status, host
    site.store.close()


def test_callers_show_no_secrets_in_their_repr() -> None:
    assert "token" not in repr(Caller(csrf="token"))
