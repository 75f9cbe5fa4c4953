"""The app: routers, gate, errors and the worker, put together.

>>> from heedful.server.app import create_app
>>> create_app.__kwdefaults__["routers"]
()
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, FastAPI

from heedful.server import access, describe, problems
from heedful.server.auth.accounts import Accounts
from heedful.server.auth.limits import Backoff, Buckets
from heedful.server.auth.passwords import Passwords
from heedful.server.config import ServeConfig, check_start
from heedful.server.embeddings import Embedder, MiniLM
from heedful.server.engine.base import Engine
from heedful.server.gate import Gate
from heedful.server.guard import Guard, checked
from heedful.server.here import Here
from heedful.server.routes import ROUTERS
from heedful.server.state import Server, SetupCode
from heedful.store import Store

DRAIN = 20.0
"""Seconds that running replies get when the server stops."""


def create_app(
    config: ServeConfig,
    store: Store,
    engine: Engine,
    *,
    guard: Guard,
    routers: Iterable[APIRouter] = (),
    access_rows: Iterable[Mapping[str, Any]] = (),
    embedder: Embedder | None = None,
    passwords: Passwords | None = None,
    backoff: Backoff | None = None,
    setup: SetupCode | None = None,
) -> FastAPI:
    """The server as an ASGI app. It starts the engine when it starts and stops it when it stops; the store stays open.

    Args:
        guard: looks at every prompt and reply; there is no app without one.
        routers: more routes; their rows go into `access.toml`, or into `access_rows`.
        access_rows: rows as in `access.toml`.
        embedder, passwords, backoff, setup: others in tests.

    Raises:
        ConfigError: a configuration that must not be served, no guard, or a route without a row.
    """
    check_start(config)
    table = access.read(more=access_rows)
    server = Server(
        config=config,
        store=store,
        engine=engine,
        guard=checked(guard),
        embedder=embedder or MiniLM(),
        accounts=Accounts(store, config, passwords=passwords, backoff=backoff),
        access=table,
        setup=setup or SetupCode(),
        requests=Buckets(config.requests_per_minute),
        generations=Buckets(config.generations_per_minute),
    )
    app = FastAPI(
        title="heedful",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.server = server
    for router in (*ROUTERS, *routers):
        app.include_router(router)
    problems.install(app)
    app.add_middleware(Gate, server=server)
    app.add_middleware(Here)  # around the gate: its refusals have a language and the crisis lines too
    access.check_routes(app, table)
    app.openapi = lambda: describe.document(app, table)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine = app.state.server.engine
    await to_thread.run_sync(engine.start)
    try:
        yield
    finally:
        await to_thread.run_sync(lambda: engine.stop(drain=DRAIN))
