"""The error tree as it is drawn, and names that are looked up late."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from heedful import errors
from heedful.errors import ConfigError, GateError, HeedfulError, NotFoundError, RunError, UserError, nearest, unknown
from heedful.registry import Registry, load_path

TABLE = {"words": "heedful.errors:nearest", "gone": "heedful.errors:not_there", "lost": "heedful.no_such_module:x"}


def test_every_error_belongs_to_the_tree_and_is_drawn() -> None:
    found = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
    assert len(found) >= 10
    for cls in found:
        assert issubclass(cls, HeedfulError)
        assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("cls", "code", "base"),
    [
        (ConfigError, 2, ValueError),
        (errors.DataError, 2, ValueError),
        (errors.LabelError, 2, errors.DataError),
        (errors.LeakError, 2, ValueError),
        (NotFoundError, 2, LookupError),
        (errors.MissingExtraError, 2, ImportError),
        (errors.UnlockError, 2, ValueError),
        (errors.ConflictError, 2, RuntimeError),
        (errors.TransitionError, 2, ValueError),
        (RunError, 1, RuntimeError),
        (errors.TamperError, 1, RunError),
        (errors.BusyError, 1, errors.StoreError),
        (GateError, 3, RuntimeError),
    ],
)
def test_exit_codes_and_standard_bases(cls: type[HeedfulError], code: int, base: type[Exception]) -> None:
    assert cls.exit_code == code
    assert issubclass(cls, base)
    assert issubclass(cls, UserError) == (code == 2)
    assert str(cls("One sentence.")) == "One sentence."


def test_nearest_suggests_only_what_is_near() -> None:
    assert nearest("learning_rat", ["learning_rate", "epochs"]) == " Did you mean 'learning_rate'?"
    assert nearest("zzz", ["learning_rate", "epochs"]) == ""
    assert str(unknown("metric", "bleo", ["rouge", "bleu"])) == (
        "Unknown metric 'bleo'. Did you mean 'bleu'? Known: bleu, rouge."
    )
    assert str(unknown("metric", "x", [])).endswith("Known: none.")


def test_a_registry_resolves_names_and_paths() -> None:
    table = Registry("thing", TABLE)
    assert table.get("words") is nearest
    assert table.get("heedful.errors:unknown") is unknown
    assert table.get("heedful.registry:Registry.names") is Registry.names
    assert table.names() == sorted(TABLE)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("word", "Unknown thing 'word'. Did you mean 'words'?"),
        ("gone", "'not_there'"),
        ("lost", "cannot be imported"),
        ("no_such_package_at_all:x", "cannot be imported"),
    ],
)
def test_a_name_that_is_not_there(name: str, says: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        Registry("thing", TABLE).get(name)
    assert says in str(caught.value)


def test_a_broken_import_inside_a_module_is_not_hidden(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "needs_something.py").write_text("import a_library_that_is_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_installed") as caught:
        load_path("needs_something:x")
    assert not isinstance(caught.value, NotFoundError)


def points(monkeypatch: pytest.MonkeyPatch, *found: EntryPoint) -> list[str]:
    asked: list[str] = []

    def entry_points(*, group: str) -> tuple[EntryPoint, ...]:
        asked.append(group)
        return found

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    return asked


def test_other_packages_enter_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = points(monkeypatch, EntryPoint(name="theirs", value="heedful.errors:unknown", group="heedful.odd_thing"))
    table = Registry("odd thing", {"ours": "heedful.errors:nearest"})
    assert table.get("theirs") is unknown
    assert table.names() == ["ours", "theirs"]
    assert set(asked) == {"heedful.odd_thing"}


@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_two_packages_with_one_name_clash(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    points(
        monkeypatch,
        EntryPoint(name=name, value="a:x", group="heedful.thing"),
        EntryPoint(name=name, value="b:x", group="heedful.thing"),
    )
    with pytest.raises(ConfigError, match=f"thing '{name}'"):
        Registry("thing", {"ours": "heedful.errors:nearest"}).names()


def test_importing_the_core_imports_nothing_heavy() -> None:
    modules = "heedful.types, heedful.errors, heedful.registry, heedful.taxonomy, heedful.formats, heedful.models"
    more = "heedful.models.causal, heedful.models.delta, heedful.models.forward, heedful.models.generate"
    code = (
        f"import {modules}, {more}, heedful.testing, sys; "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'nltk', 'peft', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
