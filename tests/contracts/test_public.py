"""The promised surface: about thirty names, with their signatures on file; importing them stays light."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import heedful
from heedful.registry import load_path

PROMISED = Path(__file__).with_name("public_names.txt")
HEAVY = ("torch", "transformers", "sklearn", "nltk", "peft", "scipy", "matplotlib", "bert_score", "datasets")
LIGHT = [
    "heedful", "heedful.corpora", "heedful.taxonomy", "heedful.formats", "heedful.scoring", "heedful.scoring.rewards",
    "heedful.classify", "heedful.pages", "heedful.pipeline", "heedful.training", "heedful.training.methods",
    "heedful.cli",
]  # fmt: skip


def described(name: str) -> str:
    """`name(signature)` of what is called, the bare name of what is only a type or a protocol."""
    found = load_path(heedful._PUBLIC[name])
    if isinstance(found, type) and (issubclass(found, BaseException) or getattr(found, "_is_protocol", False)):
        return name
    text = str(inspect.signature(found)).replace("typing.", "")
    return name + re.sub(r"<function .*? at 0x[0-9a-f]+>", "<function>", text)


def test_names_and_signatures_are_those_on_file() -> None:
    """A change here is a change for users: write the new line, and say it in CHANGELOG.md."""
    pytest.importorskip("torch")
    promised = PROMISED.read_text("utf-8").splitlines()
    assert [described(name) for name in sorted(heedful._PUBLIC)] == promised
    assert len(promised) <= 35


def test_all_is_what_can_be_imported() -> None:
    pytest.importorskip("torch")
    assert sorted(heedful._PUBLIC) == sorted(heedful.__all__)
    for name in heedful.__all__:
        assert getattr(heedful, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing_here'"):
        heedful.nothing_here


def test_every_public_name_is_explained() -> None:
    pytest.importorskip("torch")
    silent = [name for name in heedful._PUBLIC if not (load_path(heedful._PUBLIC[name]).__doc__ or "").strip()]
    assert not silent


@pytest.mark.parametrize("module", LIGHT)
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(m for m in {HEAVY!r} if m in sys.modules)); print(len(sys.modules))"
    env = {k: v for k, v in os.environ.items() if not k.startswith("COV_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    heavy, count = done.stdout.splitlines()
    assert heavy == ""
    if module == "heedful":
        assert int(count) < 200  # about 60 of them are Python's own before the first line
    assert done.stderr == ""


def test_the_table_of_names_is_where_the_names_are_defined() -> None:
    """A name leads to where it stands, so tracebacks and `help` name a path that can be opened."""
    pytest.importorskip("torch")
    for name, path in heedful._PUBLIC.items():
        module, _, attribute = path.partition(":")
        assert hasattr(importlib.import_module(module), attribute), name
