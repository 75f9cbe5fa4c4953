"""The HTTP server itself: uvicorn with limits on slow clients, and what `heedful serve` opens before it starts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from heedful.errors import ConfigError, MissingExtraError, NotFoundError, UnlockError
from heedful.models.server import opened
from heedful.privacy import Keys
from heedful.server import guard, logs, readers
from heedful.server.app import DRAIN, create_app
from heedful.server.clinic import check_clinic
from heedful.server.config import ServeConfig, check_private, check_secret, check_start, is_loopback
from heedful.server.engine.find import check_model
from heedful.server.engine.host import Limits, WorkerEngine
from heedful.server.routes.setup import has_admin
from heedful.server.state import Server
from heedful.store import Store

PASSPHRASE_VARIABLE: Final = "HEEDFUL_PASSPHRASE_FILE"
ATTEMPTS: Final = 3
Ask = Callable[[Literal["open", "create"]], str]
"""Asks for the passphrase: of keys that are there, or (typed twice) of new ones."""

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
    try:
        config.load()
    except (ssl.SSLError, OSError) as err:
        raise ConfigError(
            f"The TLS files cannot be used ({type(err).__name__}); they have to be PEM, and fit."
        ) from err
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn's server, which sets aside what was made while it started: a look through the heap for garbage would stop
    everybody for 0.2 s each time, and those 230,000 objects stay anyway."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets=sockets)
        gc.collect()
        gc.freeze()


def serve(
    config: ServeConfig,
    *,
    ask: Ask,
    say: Callable[[str], None],
    browser: Literal["open", "leave"] = "leave",
) -> None:
    """Open keys, store and engine, and answer until Ctrl-C; replies that are being written may finish.

    Args:
        ask: for the passphrase, where no file and no keychain has it.
        say: tells the address, and at the first start the code.

    Raises:
        UserError: a configuration that must not be served, keys that do not open, a port that is taken.
    """
    check_start(config)
    check_clinic(config)
    if config.engine != "openai":
        check_model(config.model)
    readers.check(config)
    guarding, engine = guard.make(config.guard), engine_of(config)
    with bound(config.host, config.port) as listening:
        keys = open_keys(config, ask)
        with contextlib.closing(keys), contextlib.closing(Store.open(config.database_url, keys)) as store:
            app = create_app(config, store, engine, guard=guarding)
            server = make_server(
                app,
                host=config.host,
                port=config.port,
                tls_cert=str(config.tls_cert) if config.tls_cert else None,
                tls_key=str(config.tls_key) if config.tls_key else None,
                header_seconds=config.header_seconds,
                drain=DRAIN,
            )
            logs.to_stderr()
            address = _address(config, listening.getsockname()[1])
            _tell(app.state.server, address, say)
            if browser == "open":
                _open_when_started(server, address)
            server.run(sockets=[listening])


def engine_of(config: ServeConfig) -> WorkerEngine:
    """The engine of a configuration, not started yet.

    Raises:
        ConfigError: an address of another server that may not be used.
    """
    options: dict[str, Any] = {"model": config.model, "streams": config.streams, "context": config.context}
    name = Path(config.model).expanduser().name
    if config.engine == "openai":
        opened(config.model)
        options, name = {**options, "model_name": config.model_name}, config.model_name or "remote"
    if config.engine == "xllamacpp":
        options |= {"threads": config.threads, "cache_mib": config.cache_mib}
    if config.plan is not None:
        options["plan"] = config.plan
    limits = Limits(queue_length=config.queue_length, time_limit=config.time_limit, wait_limit=config.wait_limit)
    return WorkerEngine(config.engine, options, model=name, limits=limits)


def open_keys(config: ServeConfig, ask: Ask) -> Keys:
    """The keys of the home folder: by the passphrase in a file, by the keychain, or by asking. Made at the first start.

    Raises:
        NotFoundError: HEEDFUL_PASSPHRASE_FILE names no file.
        ConfigError: that file is open to other accounts.
        UnlockError: a wrong passphrase, or one that everybody tries first.
    """
    path, named = config.keys_path, os.environ.get(PASSPHRASE_VARIABLE)
    if named:
        passphrase = _passphrase(Path(named))
        return Keys.open(path, passphrase) if path.exists() else Keys.create(path, passphrase)
    if not path.exists():
        passphrase = ask("create")
        check_secret(passphrase, what="This passphrase")
        return Keys.create(path, passphrase)
    with contextlib.suppress(UnlockError, MissingExtraError):
        return Keys.open(path)
    for attempt in range(ATTEMPTS):
        try:
            return Keys.open(path, ask("open"))
        except UnlockError:
            if attempt == ATTEMPTS - 1:
                raise
    raise UnlockError("No passphrase was given.")


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there; 0 = a free port.

    Raises:
        ConfigError: the port is taken, or the machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio switches off Nagle's wait only then, and an answer is two small writes, of which
    # the second would wait 40 ms for the client's acknowledgement of the first.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as err:
        made.close()
        reason = os.strerror(err.errno) if err.errno and err.errno > 0 else "unknown address"
        raise ConfigError(
            f"The server cannot listen on {host}, port {port} ({reason}); choose another --port."
        ) from err
    return made


def _passphrase(path: Path) -> str:
    if not path.is_file():
        raise NotFoundError(f"{PASSPHRASE_VARIABLE} names '{path}', which is no file.")
    check_private(path)
    passphrase = path.read_text("utf-8").rstrip("\r\n")
    check_secret(passphrase, what=f"The passphrase in {path}")
    return passphrase


def _address(config: ServeConfig, port: int) -> str:
    name = config.names[0] if config.names else config.host
    host = f"[{name}]" if ":" in name else name
    return f"{'https' if config.tls else 'http'}://{host}:{port}"


def _tell(server: Server, address: str, say: Callable[[str], None]) -> None:
    say(f"heedful listens on {address}")
    if has_admin(server):
        return
    config = server.config
    here = address if is_loopback(config.host) else f"https://127.0.0.1:{address.rpartition(':')[2]}"
    say(f"First start: open {here}/setup on this machine and type the code {server.setup.code}")


def _open_when_started(server: uvicorn.Server, address: str) -> None:
    def wait() -> None:
        while not server.started and not server.should_exit:
            time.sleep(0.05)
        if server.started:
            webbrowser.open(address)

    threading.Thread(target=wait, daemon=True).start()
