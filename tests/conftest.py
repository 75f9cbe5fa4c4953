"""Shared fixtures. Tests use no network, no key and their own home folder; real corpora only where they are at hand."""

from __future__ import annotations

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

import pytest

import postgres_kit
from heedful.cli import main

Call = Callable[..., tuple[int, str, str]]

STRICT = "HEEDFUL_TEST_STRICT"
"""Set by `.ci/run`: a part that a test needs and that `.ci/run` installs must then be there."""


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


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """Address of an empty database of its own."""
    psycopg = pytest.importorskip("psycopg", reason="run: pip install 'heedful[serve]'")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgres_server.format(name=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
