"""What tests of the server share: an app over a real store, people with passwords, and a client that keeps cookies."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import store_kit

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from heedful.server.config import ServeConfig
    from heedful.store import Store

PASSWORD = "three quiet green boats"
PEOPLE = {
    "help_seeker": "anna",
    "clinician": "clara",
    "supervisor": "susan",
    "annotator": "aron",
    "admin": "root-admin",
}
"""Role -> name."""


NEEDED = ("fastapi", "uvicorn", "argon2", "fpdf", "pyotp", "segno", "multipart", "sqlcipher3", "uharfbuzz")


def require() -> None:
    """At the top of a test file: skip it, or fail where `.ci/run` promised the parts."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        said = f"needs {', '.join(missing)}: pip install 'heedful[serve]'"
        if os.environ.get("HEEDFUL_TEST_STRICT"):
            pytest.fail(said)
        pytest.skip(said, allow_module_level=True)


class OpenGuard:
    """A guard that lets everything pass, except replies with the word FORBIDDEN and prompts with the word DANGER."""

    def before(self, messages: Any) -> Any:
        from heedful.server.guard import Verdict

        if any("DANGER" in m.content for m in messages):
            return Verdict(action="replace", text="A person answers this.", facts={"level": 5})
        return Verdict()

    def after(self, text: str) -> Any:
        from heedful.server.guard import Verdict

        return Verdict(action="replace", text="This was held back.") if "FORBIDDEN" in text else Verdict()


@dataclass(kw_only=True)
class Site:
    """An app with everything behind it."""

    app: FastAPI
    store: Store
    config: ServeConfig
    engine: Any
    ids: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def accounts(self) -> Any:
        return self.app.state.server.accounts

    def client(self, **options: Any) -> TestClient:
        from starlette.testclient import TestClient

        options = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 50000), **options}
        return TestClient(self.app, follow_redirects=False, raise_server_exceptions=True, **options)

    def signed_in(self, role: str) -> TestClient:
        """A client with a full session (made beside the pages; the pages have tests of their own)."""
        client = self.client()
        user = self.store.run(lambda unit: unit.users.get(self.ids[role]))
        login = self.accounts._open(user, device="", stage="full")
        client.cookies.set("heedful", login.token, domain="127.0.0.1")
        return client

    def confirm(self, who: str) -> None:
        """Somebody who may read, at once: tests of the wait for it have people of their own."""
        self.store.run(lambda unit: unit.users.confirm(self.ids[who], by="test", way="machine"))

    def token(self, role: str, *scopes: str) -> str:
        return str(self.accounts.issue(self.ids[role], scopes=list(scopes))[1])

    def bearer(self, role: str = "clinician", *scopes: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(role, *(scopes or ('generate',)))}"}


def make_site(folder: Path, *, engine: Any = None, clock: Any = None, **settings: Any) -> Site:
    """A site with one account of each role; `settings` go into the configuration."""
    from heedful.server.app import create_app
    from heedful.server.auth.passwords import Cost, Passwords
    from heedful.server.config import ServeConfig
    from heedful.server.state import SetupCode
    from heedful.testing.engine import ScriptedEngine

    kwargs = {key: settings.pop(key) for key in ("routers", "access_rows", "embedder", "backoff") if key in settings}
    people = settings.pop("people", True)
    guard = settings.pop("guard", None) or OpenGuard()
    keys = store_kit.make_keys(folder)
    store = store_kit.open_store(f"sqlite:///{folder}/store.db", keys, clock)
    config = ServeConfig(home_folder=folder, **{"country": "US", **settings})
    app = create_app(
        config,
        store,
        engine or ScriptedEngine(),
        guard=guard,
        passwords=Passwords(Cost(memory_kib=64, passes=1, lanes=1)),
        setup=SetupCode("aaaa-bbbb"),
        **kwargs,
    )
    site = Site(app=app, store=store, config=config, engine=app.state.server.engine)
    if people:
        for role, name in PEOPLE.items():
            site.ids[role] = site.accounts.add(role=role, name=name, password=PASSWORD, by="setup").id
            if role in ("clinician", "supervisor", "annotator"):
                site.confirm(role)
    return site


def csrf(text: str) -> str:
    """The token of the first form of a page."""
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', text)
    assert found, "the page has no form with a token"
    return found[1]


def post(client: Any, path: str, values: Mapping[str, str], *, page: str | None = None) -> Any:
    """Open a page, fill its form, send it."""
    token = csrf(client.get(page or path).text)
    return client.post(path, data={**values, "csrf": token})


@contextlib.contextmanager
def running(app: FastAPI, **options: Any) -> Iterator[str]:
    """The app behind a real uvicorn on a free loopback port, in a thread; its address."""
    from heedful.server.serve import make_server

    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = make_server(app, host="127.0.0.1", port=port, **options)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end, "the server did not start"
        assert thread.is_alive(), "the server stopped"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
