"""Pages are true: their examples run, generated ones are up to date, links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import heedful

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MODULES = sorted(m.name for m in pkgutil.walk_packages(heedful.__path__, "heedful.") if not m.name.endswith("__main__"))
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def by_path(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def examples(page: Path) -> list[str]:
    return FENCE.findall(page.read_text("utf-8"))


@pytest.mark.parametrize("page", [p for p in PAGES if examples(p)], ids=by_path)
def test_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ```python blocks of a page share one namespace and one empty folder; `>>>` blocks are compared."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for number, code in enumerate(examples(page), start=1):
        if ">>>" not in code:
            exec(compile(code, f"{page.name}:{number}", "exec"), names)
            continue
        test = doctest.DocTestParser().get_doctest(code, names, f"{page.name}:{number}", str(page), 0)
        said: list[str] = []
        result = doctest.DocTestRunner().run(test, out=said.append, clear_globs=False)
        names.update(test.globs)
        assert result.failed == 0, "".join(said)


def with_examples() -> Iterator[str]:
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and ">>>" in Path(spec.origin).read_text("utf-8"):
            yield name


@pytest.mark.parametrize("name", list(with_examples()))
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", ["cli.md", "labels.md", "metrics.md"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    pages = _script().PAGES
    assert set(pages) == {"cli.md", "labels.md", "metrics.md"}
    assert (ROOT / "docs" / name).read_text("utf-8") == pages[name](), "run: make docs"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("heedful_docs_script", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


def _anchors(page: Path) -> set[str]:
    """Headings as GitHub names them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "LOG.md"], ids=by_path)
def test_named_files_exist(page: Path) -> None:
    """A path of this repository in back quotes is a promise too."""
    named = re.findall(r"`((?:src|tests|scripts|recipes|docs)/[\w./*-]+)`", page.read_text("utf-8"))
    gone = [n for n in named if not any(ROOT.glob(n)) and "NAME" not in n]
    assert not gone


def test_no_page_holds_a_placeholder() -> None:
    found = [
        f"{by_path(p)}: {m}" for p in PAGES for m in re.findall(r"\b[A-Z]{4,}_[A-Z_]{3,}\b", p.read_text("utf-8"))
        if not m.startswith(("HEEDFUL_", "HF_HUB_", "NLTK_DATA", "VLLM_"))
    ]  # fmt: skip
    assert not found
