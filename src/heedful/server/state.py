"""What the routes share: one object per app, behind `request.app.state.server`."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request

from heedful.server import house as houses
from heedful.server.access import Access
from heedful.server.auth.accounts import Accounts
from heedful.server.auth.limits import Buckets
from heedful.server.auth.passwords import AT_ONCE
from heedful.server.config import ServeConfig
from heedful.server.directory import country_of
from heedful.server.embeddings import Embedder
from heedful.server.engine.base import Engine
from heedful.server.guard import Guard
from heedful.server.logs import Metrics
from heedful.store import Store


@dataclass(frozen=True, kw_only=True)
class Server:
    """The parts of a running server."""

    config: ServeConfig
    store: Store
    engine: Engine
    guard: Guard
    embedder: Embedder
    accounts: Accounts
    access: Access
    setup: SetupCode
    requests: Buckets
    generations: Buckets
    metrics: Metrics = field(default_factory=Metrics)
    # Work that takes long waits here, outside of the threads that look callers up: a flood of passwords or of texts to
    # encode must not keep anybody else waiting.
    stretching: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(AT_ONCE), repr=False)
    encoding: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1), repr=False)
    drawing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1), repr=False)

    @property
    def secure(self) -> bool:
        """Whether browsers reach it over HTTPS."""
        return self.config.tls or self.config.trusted_proxy is not None

    @cached_property
    def country(self) -> str:
        """Whose crisis lines its pages show."""
        return country_of(self.config.country, houses.load(self.config.folder).country, self.config.profiles)

    @property
    def cookie(self) -> str:
        """Name of the session's cookie. `__Host-` binds it to this host and to HTTPS, so it needs HTTPS."""
        return "__Host-heedful" if self.secure else "heedful"


class SetupCode:
    """The one-time code of the first start: it is printed on the terminal and lives in memory only."""

    def __init__(self, code: str | None = None) -> None:
        self._code = code or "-".join(secrets.token_hex(2) for _ in range(4))
        self._lock = threading.Lock()
        self._state = "unused"

    @property
    def code(self) -> str:
        """What is printed."""
        return self._code

    @property
    def used(self) -> bool:
        """Whether it was spent."""
        return self._state == "spent"

    def fits(self, text: str) -> bool:
        """Whether `text` is the code, and it was not spent."""
        same = secrets.compare_digest("".join(text.split()).casefold().encode("utf-8", "replace"), self._code.encode())
        return same and not self.used

    def spend(self) -> None:
        """It opens nothing any more."""
        with self._lock:
            self._state = "spent"


async def serving(request: Request) -> Server:
    """The parts of the server that answers this request."""
    return cast(Server, request.app.state.server)


Serving = Annotated[Server, Depends(serving)]
"""A parameter of this type is the server's parts."""
