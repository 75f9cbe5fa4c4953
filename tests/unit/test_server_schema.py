"""What the API says of itself is true: schemathesis makes requests from the OpenAPI document and checks the answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import server_kit

server_kit.require()
schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from heedful.testing.engine import ScriptedEngine
from server_kit import Site, make_site

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
    ignored_auth,
]
DOCUMENTED = {"/health", "/metrics", "/api/session", "/api/tokens", "/api/tokens/{token_id}"} | {
    f"/v1/{path}" for path in ("models", "models/{name}", "chat/completions", "embeddings")
}


class Flat:
    name = "flat"

    def embed(self, texts: Any) -> tuple[list[list[float]], int]:
        return [[1.0] for _ in texts], len(texts)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = make_site(
        tmp_path_factory.mktemp("site"),
        engine=ScriptedEngine(["Good."]),
        embedder=Flat(),
        requests_per_minute=1_000_000,
        generations_per_minute=1_000_000,
    )
    with made.client():
        made.engine.start()
        yield made
    made.store.close()


@pytest.fixture(scope="module")
def schema(site: Site) -> Any:
    loaded = schemathesis.openapi.from_asgi("/api/openapi.json", site.app, headers=script(site))
    return loaded.include(path_regex="^(/v1/|/health$|/metrics$|/api/session$|/api/tokens)")


def script(site: Site) -> dict[str, str]:
    return {**site.bearer("supervisor", "generate", "metrics"), "Host": "127.0.0.1"}


def browser(site: Site) -> dict[str, str]:
    client = site.signed_in("supervisor")
    csrf = client.get("/api/session").json()["csrf"]
    return {"Cookie": f"heedful={client.cookies['heedful']}", "X-CSRF-Token": csrf, "Host": "127.0.0.1"}


def test_every_answer_is_one_that_is_described(schema: Any, site: Site) -> None:
    who = {True: browser(site), False: script(site)}
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, headers=who[case.path.startswith("/api/")])
            tried.add((case.method, case.path))

        answered()
    assert {path for _, path in tried} == DOCUMENTED


def test_all_of_the_api_is_described(site: Site) -> None:
    paths = site.app.openapi()["paths"]
    assert set(paths) >= DOCUMENTED
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation.get("summary"), path
            if path != "/health":
                assert operation["security"], path


def test_the_document_is_for_those_who_may_use_the_api(site: Site) -> None:
    with site.client() as client:
        assert client.get("/api/openapi.json").status_code == 401
        assert client.get("/api/openapi.json", headers=site.bearer()).json()["info"]["title"] == "heedful"
