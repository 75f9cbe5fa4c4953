"""The examples of docs/serve.md run against a real server: curl by curl, the client by the official client."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import server_kit

server_kit.require()
pytest.importorskip("openai")

from heedful.testing.engine import ScriptedEngine

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8765"
SAID = "That sounds hard. What kept you awake?"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    site = server_kit.make_site(tmp_path_factory.mktemp("site"), engine=ScriptedEngine([SAID]))
    with server_kit.running(site.app) as url:
        yield url, {**os.environ, "HEEDFUL_TOKEN": site.token("clinician", "generate"), "NO_PROXY": "127.0.0.1"}
    site.store.close()


def blocks(kind: str, word: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [block for block in found if word in block]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt install curl")
@pytest.mark.parametrize("block", blocks("bash", "curl"))
def test_curl(live: tuple[str, dict[str, str]], block: str) -> None:
    url, environment = live
    script = f"set -e\n{block.replace(ADDRESS, url)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "What kept you awake?" in done.stdout
    assert done.stdout.endswith("data: [DONE]\n\n") is ('"stream": true' in block)


def test_the_official_client(live: tuple[str, dict[str, str]]) -> None:
    url, environment = live
    (block,) = blocks("py", "openai")
    done = subprocess.run(
        [sys.executable, "-c", block.replace(ADDRESS, url)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{SAID}\n{SAID}"
