"""What the server says when something is wrong: enough to mend it, nothing of what was sent."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from fastapi import APIRouter
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict

from heedful.errors import (
    BusyError,
    ConflictError,
    DataError,
    EngineError,
    GateError,
    NotFoundError,
    StoreError,
    TamperError,
    TransitionError,
)
from heedful.server import access
from heedful.server.problems import cut, for_programs, of_error
from heedful.testing.engine import ScriptedEngine
from server_kit import Site, csrf, make_site

MARK = "ZZmarkerZZ"
ROWS = [
    {"path": f"/api/test/{name}", "methods": ["POST"], "who": ["clinician"], "scope": "generate"}
    for name in ("raise", "strict")
] + [{"path": "/api/test/items/{item}", "methods": ["GET"], "who": ["clinician"], "scope": "generate"}]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: str
    count: int
    inner: dict[str, int] = {}


def router_of_faults() -> APIRouter:
    router = APIRouter(prefix="/api/test")

    @router.post("/raise")
    async def fail(body: dict[str, Any]) -> None:
        raise RuntimeError(f"cannot read {body}")

    @router.post("/strict")
    async def strict(body: Strict) -> None:
        raise DataError(f"A role must be one of admin, but it is '{body.role}'.")

    @router.get("/items/{item}")
    async def item(item: str, q: int = 0) -> None:
        raise NotFoundError(f"There is no item '{item}' here.")

    return router


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = make_site(
        tmp_path_factory.mktemp("site"),
        routers=[router_of_faults()],
        access_rows=ROWS,
        requests_per_minute=1_000_000,
        generations_per_minute=1_000_000,
        engine=ScriptedEngine(["Good."]),
    )
    yield made
    made.store.close()


def as_error(answer: Any) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_programs_get_the_error_object_and_people_a_page(site: Site) -> None:
    with site.client() as client:
        error = as_error(client.get("/v1/models"))
        assert error["type"] == "authentication_error"
        page = client.get("/static/nothing.css")
        assert page.status_code == 404
        assert "<h1>" in page.text
        assert 'lang="en"' in page.text
        assert 'role="alert"' in page.text


def test_a_wrong_field_is_named_and_not_shown(site: Site) -> None:
    with site.client() as client:
        headers = site.bearer()
        error = as_error(client.post("/v1/chat/completions", headers=headers, json={"messages": [{"role": MARK}]}))
        assert error["param"] == "messages.0.role"
        assert error["code"] == "invalid_value"
        answer = client.post("/api/test/strict", headers=headers, json={"role": "x", "count": 1, MARK: MARK})
        assert as_error(answer)["param"] is None  # the name is the sender's own
        broken = client.post(
            "/v1/chat/completions", headers={**headers, "Content-Type": "application/json"}, content=f'{{"{MARK}'
        )
        assert as_error(broken)["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("body", "param", "code", "says"),
    [
        ({}, "messages", "missing_required_parameter", "'messages' is needed and missing."),
        ({"messages": []}, "messages", "invalid_value", "'messages' must have at least 1 entries."),
        ({"temperature": 9}, "temperature", "invalid_value", "'temperature' must be at most 2."),
        ({"max_tokens": 0}, "max_tokens", "invalid_value", "'max_tokens' must be at least 1."),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value", "'max_tokens' must be a whole number."),
        ({"n": 3}, "n", "invalid_value", "'n' has a value that this server does not take."),
        ({"model": "gpt-4"}, "model", "model_not_found", "There is no such model; GET /v1/models lists them."),
    ],
)
def test_the_official_client_is_told_what_was_expected(
    site: Site, body: dict[str, Any], param: str, code: str, says: str
) -> None:
    openai = pytest.importorskip("openai")
    full = body if not body or "messages" in body else {"messages": [{"role": "user", "content": MARK}], **body}
    with (
        site.client() as http,
        openai.OpenAI(
            api_key=site.token("clinician", "generate"), base_url="http://127.0.0.1/v1", http_client=http, max_retries=0
        ) as client,
        pytest.raises(openai.APIStatusError) as told,
    ):
        client.post("/chat/completions", body=full, cast_to=object)
    err = told.value
    kind = "not_found_error" if code == "model_not_found" else "invalid_request_error"
    assert (err.param, err.code, err.type) == (param, code, kind)
    assert err.body["message"] == says
    assert MARK not in str(err)


def test_a_wrong_key_has_the_code_that_clients_know(site: Site) -> None:
    with site.client() as client:
        for headers in ({}, {"Authorization": "Bearer hfd_generate_none"}):
            error = as_error(client.get("/v1/models", headers=headers))
            assert error["code"] == "invalid_api_key"
            assert "Bearer hfd_" in error["message"]
        assert as_error(client.get("/api/session"))["code"] == "sign_in"


def test_too_large_requests_are_refused_before_they_are_read(site: Site) -> None:
    with site.client() as client:
        answer = client.post("/api/test/strict", headers=site.bearer(), content=b"x" * (64 * 1024 + 1))
        assert answer.status_code == 413
        assert as_error(answer)["message"] == "A request here may have at most 65,536 bytes."

        def chunks() -> Iterator[bytes]:  # without Content-Length
            for _ in range(100):
                yield b"x" * 1024

        assert client.post("/api/test/strict", headers=site.bearer(), content=chunks()).status_code == 413
        text = "y" * 50_000  # what one message may have
        body = {"messages": [{"role": "user", "content": text}]}
        assert client.post("/v1/chat/completions", headers=site.bearer(), json=body).status_code == 200


@pytest.mark.parametrize(
    ("err", "status", "code"),
    [
        (NotFoundError("x"), 404, "not_found"),
        (ConflictError("x"), 409, "conflict"),
        (TransitionError("x"), 409, "illegal_change"),
        (DataError("x"), 400, "invalid"),
        (GateError("x"), 422, "gate_refused"),
        (BusyError("x"), 503, "busy"),
        (StoreError("/secret/path"), 503, "store"),
        (TamperError("/secret/path"), 500, "internal"),
        (EngineError("x", code="full", retry_after=3.2), 503, "engine_full"),
        (EngineError("x", code="late"), 504, "engine_late"),
        (RuntimeError("/secret/path"), 500, "internal"),
    ],
)
def test_our_errors_have_their_status(err: Exception, status: int, code: str) -> None:
    found = of_error(err)
    assert (found.status, found.code) == (status, code)
    assert "secret" not in found.message
    if isinstance(err, EngineError) and err.retry_after:
        assert found.headers["Retry-After"] == "4"


def test_quoted_words_are_cut_out_whatever_they_hold() -> None:
    assert cut("It is 'O'Neil' here.") == "It is (left out) here."
    assert cut("It's the worker's; it isn't ours.") == "It's the worker's; it isn't ours."
    assert cut("A 'risk_held' conversation") == "A 'risk_held' conversation"
    assert cut('He said "hello there" twice') == "He said (left out) twice"


def requests(site: Site, client: Any) -> Iterator[Any]:
    """Every route with the mark in all that it takes: path, query, headers, cookies, JSON keys and values, forms."""
    form_of, key = csrf(client.get("/sign-in").text), site.bearer()
    fields = [
        "name",
        "password",
        "next",
        "code",
        "old",
        "new",
        "admin_name",
        "admin_password",
        "clinician_name",
        "clinician_password",
        "csrf",
    ]
    messages = [
        {"role": "user", "content": MARK, "name": MARK},
        {"role": "assistant", "content": [{"type": "text", "text": MARK}]},
    ]
    good = {"messages": messages, "model": MARK, "stop": [MARK], "user": MARK, "tools": [{MARK: MARK}]}
    bad = [
        {MARK: MARK}, [MARK], MARK, {"messages": MARK}, {"messages": [{MARK: MARK}]}, {"messages": [MARK]},
        {"messages": messages, "temperature": MARK, "stop": {MARK: MARK}, "n": MARK, "max_tokens": MARK},
        {"input": {MARK: MARK}}, {"input": [MARK, 3], "encoding_format": MARK}, {"scopes": [MARK], MARK: 1},
        {"role": MARK, "count": 1}, {"role": "x", "count": MARK, "inner": {MARK: MARK}},
    ]  # fmt: skip
    for path, methods in access.routes_of(site.app):
        for method in methods:
            place = re.sub(r"\{\w+\}", MARK, path)
            bodies = (good, {**good, "model": ""}, *bad) if for_programs(path) else ({MARK: MARK},)
            for head in (key, {"X-CSRF-Token": MARK}, {"Authorization": f"Bearer hfd_{MARK}_{MARK}"}):
                head = {**head, "X-Mark": MARK, "User-Agent": MARK, "Cookie": f"heedful={MARK}; a={MARK}"}
                address = f"{place}?{MARK}={MARK}&next={MARK}&q={MARK}"
                if method == "GET":
                    yield client.get(address, headers=head)
                    continue
                for body in bodies:
                    yield client.request(method, address, headers=head, json=body)
                form = {**dict.fromkeys(fields, MARK), "csrf": form_of}
                yield client.request(method, address, headers={"X-Mark": MARK}, data=form)
                yield client.request(method, address, headers={**head, "Content-Type": MARK}, content=MARK.encode())
    yield client.request(MARK, f"/{MARK}")
    yield client.delete(f"/v1/models/{MARK}", headers=site.bearer())
    yield client.get("/", headers={"Host": MARK})
    yield client.get(f"/sign-in/{MARK}")


def test_what_was_sent_reaches_no_log_and_no_error(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the test's own client
    logging.getLogger("heedful.server").propagate = True
    seen = set()
    with site.client() as client:
        for answer in requests(site, client):
            seen.add(answer.status_code)
            if answer.status_code >= 400:
                # A form that is shown again may keep where its sender wanted to go, if that is a page of ours: it is
                # not.
                assert MARK not in answer.text, (answer.request.method, answer.request.url.path)
                assert "Traceback" not in answer.text
    assert {200, 400, 401, 403, 404, 405, 422, 500} <= seen
    lines = [r for r in caplog.records if r.name.startswith(("heedful", "uvicorn", "fastapi", "asyncio"))]
    assert len([r for r in lines if r.name == "heedful.server"]) > 100
    for record in lines:
        assert MARK not in record.getMessage()
        assert MARK not in (record.exc_text or "")
        assert record.exc_info is None


def fields_of(site: Site) -> dict[tuple[str, str], list[str]]:
    """(path, method) -> names of the fields of its form."""
    found = {}
    for context in iter_route_contexts(site.app.routes):
        dependant = getattr(context.original_route, "dependant", None)
        for method in context.methods or ():
            found[str(context.path), method] = [p.alias for p in dependant.body_params] if dependant else []
    return found


@pytest.mark.parametrize("role", ["help_seeker", "clinician", "admin"])
def test_what_somebody_wrote_who_is_signed_in_reaches_no_log(
    site: Site, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Pages may show people their own words again; a log never does, and neither does an answer to a program."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the test's own client
    seen = set()
    with site.client():  # keeps the app alive; the clients below come and go
        for (path, method), names in fields_of(site).items():
            client = site.signed_in(role)  # a new one each time: some routes end it
            head = {"X-CSRF-Token": client.get("/api/session").json()["csrf"], "X-Mark": MARK}
            for place in (re.sub(r"\{\w+\}", MARK, path), re.sub(r"\{\w+\}", "0" * 32, path)):
                address = f"{place}?{MARK}={MARK}&q={MARK}"
                more = {"data": dict.fromkeys([*names, MARK], MARK)} if method != "GET" else {}
                answer = client.request(method, address, headers=head, **more)
                seen.add(answer.status_code)
                assert answer.status_code < 500 or path == "/api/test/raise", (method, path)
                if path.startswith(("/api/", "/v1/")) and answer.status_code >= 400:
                    assert MARK not in answer.text, (method, path)
    assert {200, 303, 403} <= seen
    for record in caplog.records:
        if record.name.startswith(("heedful", "uvicorn", "fastapi", "asyncio")):
            assert MARK not in record.getMessage()
            assert record.exc_info is None


def test_a_fault_is_logged_with_its_place_and_without_its_message(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="heedful.server")
    with site.client() as client:
        answer = client.post("/api/test/raise", headers=site.bearer(), json={"text": MARK})
    assert answer.status_code == 500
    fault = next(json.loads(r.getMessage()) for r in caplog.records if '"fault"' in r.getMessage())
    assert fault["error"] == "RuntimeError"
    assert "test_server_errors.py" in fault["where"][-1]
    request = next(json.loads(r.getMessage()) for r in caplog.records if '"event": "request"' in r.getMessage())
    assert request["route"] == "/api/test/raise"
    assert request["id"] == fault["request"] == answer.headers["x-request-id"]


def test_metrics_count_routes_not_addresses(site: Site) -> None:
    with site.client() as client:
        client.get(f"/v1/models/{MARK}", headers=site.bearer())
        text = client.get("/metrics", headers=site.bearer("admin", "metrics")).text
    assert MARK not in text
    assert 'heedful_requests_total{method="GET",route="/v1/models/{name}",status="404"}' in text
    assert "heedful_engine_ready 1" in text
    assert text.endswith("\n")


def test_a_broken_store_is_an_answer_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path)
    key = site.bearer()

    def broken(*_: object) -> None:
        raise StoreError("The disk of the database is full")

    with site.client() as client:
        monkeypatch.setattr(site.store, "read", broken)
        assert client.get("/v1/models", headers=key).status_code == 503
        assert client.get("/health").json() == {"status": "ok", "engine": "ready"}
    site.store.close()
