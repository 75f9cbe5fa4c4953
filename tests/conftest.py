"""Shared fixtures. Tests use no network, no key and their own home folder; real corpora only where they are at hand."""

from __future__ import annotations

import importlib.util
import os

# Before any Hugging Face import: a hub name would otherwise stall for most of a minute offline.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Several torch processes share two cores here; spinning threads would slow each other down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

import postgres_kit
import store_kit
from heedful.cli import main
from store_kit import Clock

if TYPE_CHECKING:
    from heedful.privacy import Keys
    from heedful.store import Store

Call = Callable[..., tuple[int, str, str]]

STRICT = "HEEDFUL_TEST_STRICT"
"""Set by `.ci/run`: a part that a test needs and that `.ci/run` installs must then be there."""

# The gate's answer is a function of the code: the same examples each time. Everywhere else each run draws new ones,
# and what they find becomes a test of its own.
hypothesis.settings.register_profile("gate", derandomize=True, database=None)
if os.environ.get(STRICT):
    hypothesis.settings.load_profile("gate")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test writes to a home folder of its own (the cache of converted models is shared on purpose)."""
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Exit code, stdout, stderr of `heedful WORDS`."""

    def run(*words: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(w) for w in words])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def _data_root() -> Path | None:
    value = os.environ.get("HEEDFUL_DATA")
    return Path(value) if value and Path(value).is_dir() else None


@pytest.fixture
def data_root() -> Path:
    """The folder of real corpora."""
    root = _data_root()
    if root is None:
        pytest.skip("needs real corpora: set HEEDFUL_DATA to their folder")
    return root


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("data"):
        root = _data_root()
        for name in marker.args:
            if root is None or not (root / name).is_dir():
                pytest.skip(f"needs the corpus '{name}' under HEEDFUL_DATA")


def needs(condition: object, what: str) -> None:
    """Skip with an instruction, or fail where `.ci/run` promised the part."""
    if condition:
        return
    if os.environ.get(STRICT):
        pytest.fail(f"{what} ({STRICT} is set, so this may not be skipped)")
    pytest.skip(what)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Address of a real PostgreSQL server, with `{name}` where the name of a database goes."""
    needs(postgres_kit.programs(), postgres_kit.HINT)
    with postgres_kit.cluster() as address:
        yield address


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """Name of a database that has the newest tables and no rows: a copy of it opens in no time."""
    needs(_installed("psycopg", "sqlalchemy"), "needs a database driver: pip install 'heedful[serve]'")
    from sqlalchemy import create_engine

    from heedful.store import migrations

    _sql(postgres_server, "CREATE DATABASE heedful_template")
    address = postgres_server.format(name="heedful_template").replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(address)
    with engine.begin() as connection:
        migrations.upgrade(connection)
    engine.dispose()
    return "heedful_template"


@pytest.fixture
def postgres(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """Address of a database of its own, with tables and without rows."""
    yield from _own_database(postgres_server, f"TEMPLATE {postgres_template}")


@pytest.fixture
def empty_postgres(postgres_server: str) -> Iterator[str]:
    """Address of a database of its own, without tables."""
    needs(_installed("psycopg"), "needs a database driver: pip install 'heedful[serve]'")
    yield from _own_database(postgres_server, "")


@pytest.fixture
def clock() -> Clock:
    """The clock of `store`; only tests move it."""
    return Clock()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A key file that opens quickly."""
    needs(_installed("cryptography"), "needs cryptography: pip install 'heedful[serve]'")
    return store_kit.make_keys(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty store, on each back end."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres"))
    needs(_installed("sqlcipher3", "sqlalchemy"), "needs the embedded store: pip install 'heedful[serve]'")
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def store(url: str, keys: Keys, clock: Clock) -> Iterator[Store]:
    """An empty store on each back end."""
    opened = store_kit.open_store(url, keys, clock)
    yield opened
    opened.close()


def _own_database(server: str, template: str) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    _sql(server, f"CREATE DATABASE {name} {template}")
    yield server.format(name=name)
    _sql(server, f"DROP DATABASE {name} WITH (FORCE)")


def _sql(server: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(server.format(name="postgres"), autocommit=True) as connection:
        connection.execute(statement)


def _installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)
