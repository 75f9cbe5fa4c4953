"""The HTTP server itself: uvicorn with limits on slow clients, and what `heedful serve` opens before it starts."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

LARGEST_HEADERS: Final = 32 * 1024
KEEP_ALIVE: Final = 15
"""Seconds that a connection may stay open between two requests."""


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, which would wait for ever for headers that never end.

    From the first byte, and from the opening of a connection on, the headers have `header_seconds` to arrive.
    """

    header_seconds: float = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The clock starts."""
        super().connection_made(transport)
        self._wind()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request: between two requests the clock starts with the first one."""
        if self._deadline is None and self._idle():
            self._wind()
        super().data_received(data)
        if not self._idle():
            self._unwind()

    def connection_lost(self, exc: Exception | None) -> None:
        """The clock stops."""
        self._unwind()
        super().connection_lost(exc)

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wind(self) -> None:
        self._deadline = self.loop.call_later(self.header_seconds, self._late)

    def _unwind(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()


def make_server(
    app: FastAPI,
    *,
    host: str,
    port: int,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    header_seconds: float = 10.0,
    drain: float = 30.0,
    connections: int = 2000,
) -> uvicorn.Server:
    """uvicorn for `app`, without a log of its own (the gate writes one), WebSockets or a server header.

    Args:
        header_seconds: in which the headers of a request have to arrive.
        drain: seconds that open requests get at the end.
        connections: open at the same time; more are answered 503.
    """
    protocol = type("Protocol", (PatientProtocol,), {"header_seconds": header_seconds})
    options: dict[str, Any] = {"ssl_certfile": tls_cert, "ssl_keyfile": tls_key} if tls_cert else {}
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(drain),
        h11_max_incomplete_event_size=LARGEST_HEADERS,
        limit_concurrency=connections,
        **options,
    )
    return uvicorn.Server(config)
