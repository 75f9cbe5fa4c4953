"""`/health`, `/metrics`, static files and the description of the API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from heedful.server.state import Serving
from heedful.server.views import static

router = APIRouter()


class Health(BaseModel):
    """Whether the server answers, and whether its model does."""

    status: str
    engine: str


@router.get("/health", tags=["state"])
async def health(server: Serving) -> Health:
    """The process is up; `engine` is starting, ready or down. No names, no numbers, no account needed."""
    return Health(status="ok", engine=server.engine.state().word)


@router.get("/metrics", tags=["state"], response_class=PlainTextResponse)
async def metrics(server: Serving) -> PlainTextResponse:
    """Counters for Prometheus."""
    state = server.engine.state()
    text = server.metrics.text(
        engine_ready=float(state.word == "ready"),
        engine_waiting=float(state.waiting),
        engine_running=float(state.running),
        engine_restarts=float(state.restarts),
    )
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/static/{name}", include_in_schema=False)
async def files(name: str) -> Response:
    """Style sheets and scripts of our own; there are no others."""
    return static(name)


@router.get("/api/openapi.json", include_in_schema=False)
async def description(request: Request) -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = request.app.openapi()
    return found
