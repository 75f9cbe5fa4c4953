"""What a recipe makes of what its folder holds: finished, interrupted, changed, outdated, gone, held by another."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("peft")

from pipeline_kit import Lines
from training_kit import Killed

from heedful.errors import ConfigError, HeedfulError
from heedful.pipeline import Done, look, read, run
from heedful.pipeline.record import Record, claim

Call = Callable[..., tuple[int, str, str]]
FAST = {"method": "pipeline_kit:FAST"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recipe of two trainings, the second made from the first, and one that is made from neither."""
    stages = {
        "first": FAST,
        "second": {**FAST, "model_name_or_path": "${stages.first}", "max_steps": "${options.steps}"},
        "other": {**FAST, "when": {"more": True}},
    }
    options = {"steps": {"default": 2}, "more": {"default": False, "choices": [True, False]}}
    file = tmp_path / "mine.yaml"
    place = str(tmp_path / "run")
    file.write_text(yaml.safe_dump({"output_dir": place, "options": options, "stages": stages}, sort_keys=False))
    return file


def go(path: Path, *words: str, **options: Any) -> tuple[Done, Lines]:
    said = Lines()
    return run(read(path, words), say=said, **options), said


def die(path: Path, at: str, *words: str, **options: Any) -> None:
    with pytest.raises(Killed):
        run(read(path, words), say=Lines(at), **options)


def states(path: Path, *words: str, **options: Any) -> dict[str, str]:
    return dict(look(read(path, words), **options).states)


def refused(path: Path, *words: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as err:
        look(read(path, words), **options)
    return str(err.value)


def learnt(folder: Path, stage: str) -> list[float]:
    found: list[float] = json.loads((folder / stage / "weights.json").read_text())
    return found


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize(
    ("at", "expected", "attempts"),
    [
        ("stage 1/2", {"first": "to do", "second": "to do"}, (1, 1)),
        ("first: step 1", {"first": "interrupted", "second": "to do"}, (2, 1)),
        ("first: step 3", {"first": "interrupted", "second": "to do"}, (2, 1)),
        ("first: weights", {"first": "interrupted", "second": "to do"}, (2, 1)),
        ("first: summary", {"first": "done", "second": "to do"}, (1, 1)),
        ("stage 2/2", {"first": "done", "second": "to do"}, (1, 1)),
        ("second: step 2", {"first": "done", "second": "interrupted"}, (1, 2)),
    ],
)
@pytest.mark.parametrize("checkpoints", ["true", "false"])
def test_a_crash_anywhere(
    path: Path, at: str, expected: dict[str, str], attempts: tuple[int, int], checkpoints: str
) -> None:
    """The same ends as without it, whether or not the method writes checkpoints."""
    words = [f"first.checkpoints={checkpoints}", f"second.checkpoints={checkpoints}"]
    die(path, at, *words)
    assert states(path, *words) == expected
    done, said = go(path, *words)
    assert [row.state for row in done.rows] == ["done", "done"]
    assert (learnt(done.folder, "first"), learnt(done.folder, "second")) == ([0.01] * 3, [0.01] * 2)
    entries = Record.read(done.folder).entries
    assert (entries["first"].attempts, entries["second"].attempts) == attempts
    assert [line for line in said.stages if line.endswith("goes on")] == [
        f"stage {i}/2 {name} (pipeline_kit:FAST): goes on"
        for i, name in ((1, "first"), (2, "second"))
        if expected[name] == "interrupted"
    ]
    again, said = go(path, *words)
    assert all(line.endswith("finished before") for line in said)
    assert again.rows == done.rows


def test_only_what_is_missing_is_learnt(path: Path) -> None:
    die(path, "first: step 3")
    _, said = go(path)
    assert [line.strip() for line in said if "first: step" in line] == ["first: step 3"]
    die(path, "first: step 3", "first.checkpoints=false", fresh=["first"])
    _, said = go(path, "first.checkpoints=false")
    assert [line.strip() for line in said if "first: step" in line] == [f"first: step {i}" for i in (1, 2, 3)]


def test_a_crash_after_the_last_file_of_a_stage_keeps_its_time(path: Path) -> None:
    die(path, "first: summary")
    done, _ = go(path)
    assert done.rows[0].seconds == 1.5  # what the summary says; nobody wrote down the rest


def test_a_stage_that_fails_is_not_finished(path: Path) -> None:
    with pytest.raises(HeedfulError, match="told to fail"):
        go(path, "second.fail=true")
    found = Record.read(path.parent / "run").entries
    assert (found["first"].finished is None, found["second"].finished is None) == (False, True)
    # Nothing was learnt yet, so the mistake can be mended in place.
    done, _ = go(path)
    assert [row.state for row in done.rows] == ["done", "done"]


# ---------------------------------------------------------------- changed settings


def test_changed_settings_are_refused(path: Path) -> None:
    go(path)
    assert refused(path, "first.learning_rate=0.02") == (
        "The stage 'first' was finished with other settings: learning_rate was 0.01 and now is 0.02. Redo it and what "
        "depends on it with --fresh first, take the change back, or choose another output_dir."
    )
    assert refused(path, "steps=5") == (
        "The stage 'second' was finished with other settings: max_steps was 2 and now is 5. Redo it with --fresh "
        "second, take the change back, or choose another output_dir."
    )
    # Also where the stage is not selected, but is what a selected one starts from.
    assert "'first' was finished" in refused(path, "first.seed=2", only=["second"])
    assert states(path, "steps=5", only=["first"]) == {"first": "done"}


def test_a_method_that_changed_is_refused(path: Path) -> None:
    done, _ = go(path)
    record = json.loads((done.folder / "pipeline.json").read_text())
    record["stages"]["second"]["method"] = "sft"
    (done.folder / "pipeline.json").write_text(json.dumps(record))
    assert "method was sft and now is pipeline_kit:FAST" in refused(path)


def test_an_interrupted_stage_may_get_longer_but_not_different(path: Path) -> None:
    die(path, "first: step 2")
    said = refused(path, "first.learning_rate=0.02")
    assert "The stage 'first' was interrupted with other settings: learning_rate was 0.01 and now is 0.02." in said
    done, _ = go(path, "first.max_steps=4", only=["first"])
    assert learnt(done.folder, "first") == [0.01] * 4


def test_an_attempt_without_a_checkpoint_may_be_changed(path: Path) -> None:
    die(path, "first: step 1")
    done, _ = go(path, "first.learning_rate=0.02")
    assert learnt(done.folder, "first") == [0.02] * 3
    assert Record.read(done.folder).entries["first"].settings["learning_rate"] == 0.02


def test_another_start_is_another_stage(path: Path) -> None:
    """A record that says it was made from another run than the one that is there."""
    done, _ = go(path)
    record = json.loads((done.folder / "pipeline.json").read_text())
    record["stages"]["first"]["hash"] = "0" * 16
    (done.folder / "pipeline.json").write_text(json.dumps(record))
    assert "The stage 'second' was finished with another 'first' than there is now. Redo it with" in refused(path)


# ---------------------------------------------------------------- done anew


def test_fresh_does_a_stage_and_its_dependents_anew(path: Path) -> None:
    done, _ = go(path, "more=true")
    hashes = {name: entry.hash for name, entry in Record.read(done.folder).entries.items()}
    (done.folder / "second" / "mine.txt").write_text("left behind")
    (done.folder / "first" / "mine.txt").write_text("stays")
    _, said = go(path, "steps=1", "more=true", fresh=["second"])
    assert said[0] == "second: deleted, to be done anew"
    assert (learnt(done.folder, "second"), (done.folder / "second" / "mine.txt").exists()) == ([0.01], False)
    assert (done.folder / "first" / "mine.txt").is_file()
    found = look(read(path, ["steps=1", "first.seed=3", "more=true"]), fresh=["first"])
    assert (found.anew, found.due) == (("first", "second"), ("first", "second"))
    _, said = go(path, "steps=1", "first.seed=3", "more=true", only=["first"], fresh=["first"])
    assert "second: deleted, as it is outdated" in said
    entries = Record.read(done.folder).entries
    assert set(entries) == {"first", "other"}
    assert entries["first"].hash != hashes["first"]
    assert entries["other"].hash == hashes["other"]
    assert not (done.folder / "second").exists()


def test_a_kill_while_things_are_deleted(path: Path) -> None:
    """What was made from a stage goes first, so nothing outdated is ever called finished."""
    go(path)
    die(path, "first: deleted", "first.seed=3", fresh=["first"])
    assert states(path) == {"first": "done", "second": "interrupted"}
    done, _ = go(path, "first.seed=3", fresh=["first"])
    assert [row.state for row in done.rows] == ["done", "done"]


# ---------------------------------------------------------------- parts of a recipe


def test_only_and_until(path: Path) -> None:
    said = refused(path, only=["second"])
    assert said == "The stage 'second' needs 'first', which is not finished; select it too, or run --until first first."
    done, _ = go(path, until="first")
    assert [row.state for row in done.rows] == ["done", "to do"]
    assert states(path, only=["second"]) == {"second": "to do"}
    assert "is left out: more is false and it runs for true" in refused(path, only=["other"])
    assert "needs 'first', which is not finished" in refused(path, only=["second"], fresh=["first"])
    assert states(path, "more=true", only=["other", "first"]) == {"first": "done", "other": "to do"}


def test_a_stage_that_is_not_selected_stands_as_it_was_run(path: Path) -> None:
    done, _ = go(path)
    done, _ = go(path, "steps=5", only=["first"])  # `second` took 2 steps and is not looked at
    assert [row.settings["max_steps"] for row in done.rows] == [3, 2]
    resolved = yaml.safe_load((done.folder / "config.resolved.yaml").read_text())
    assert [stage["max_steps"] for stage in resolved["stages"].values()] == [3, 2]


def test_what_lies_in_the_way(path: Path) -> None:
    folder = path.parent / "run"
    (folder / "first").mkdir(parents=True)
    (folder / "first" / "notes.txt").write_text("mine")
    for fresh in ([], ["first"]):
        assert "is not empty, and " in refused(path, fresh=fresh)
    assert (folder / "first" / "notes.txt").read_text() == "mine"
    (folder / "summary.json").write_text("{}")
    assert "holds a run that is no recipe's; choose another output_dir." in refused(path)


def test_a_folder_that_is_gone(path: Path, tmp_path: Path) -> None:
    done, _ = go(path)
    (done.folder / "second").rename(tmp_path / "kept second")
    assert states(path) == {"first": "done", "second": "to do"}  # a last stage is simply done again
    (done.folder / "first").rename(tmp_path / "kept first")
    assert "The stage 'second' needs 'first', which " in refused(path)
    (tmp_path / "kept second").rename(done.folder / "second")
    assert states(path) == {"first": "done", "second": "done"}  # nobody needs it any more


# ---------------------------------------------------------------- processes


def test_two_processes_do_not_share_a_folder(path: Path) -> None:
    with claim(path.parent / "run"), pytest.raises(ConfigError, match="is in use by process"):
        go(path)
    assert not (path.parent / "run" / "pipeline.json").exists()
    done, _ = go(path)
    assert [row.state for row in done.rows] == ["done", "done"]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_several_processes_share_one_training_stage(path: Path, monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    with monkeypatch.context() as many:
        many.setenv("WORLD_SIZE", "2")
        many.setenv("RANK", rank)
        with pytest.raises(HeedfulError, match=r"2 processes can share one training stage .* but first, second would"):
            go(path)
        assert not (path.parent / "run" / "first").exists()
    go(path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    go(path)  # nothing is due


def test_a_process_that_is_not_the_first_writes_no_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    pipeline = read(path)
    first = pipeline.step("first")
    watched = replace(first, kind=replace(first.kind, run=lambda config, **more: seen.append(config)))
    done = run(replace(pipeline, steps=(watched, *pipeline.steps[1:])), only=["first"])
    assert [config.output_dir for config in seen] == [str(path.parent / "run" / "first")]
    assert (done.rows, (path.parent / "run").exists()) == ((), False)


# ---------------------------------------------------------------- the command


def test_the_command(path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["heedful", "train", "x.yaml"])
    folder = path.parent / "run"
    assert call("validate", path) == (
        0,
        'ok: first: steps 3, note "none"\nok: second: settings ok; its data are read when it starts from first\n'
        "left out: other: more is false and it runs for true\n",
        "first: reading its data\n",
    )
    code, out, err = call("train", path, "--only", "first")
    assert code == 0, err
    assert "stage 1/2 first (pipeline_kit:FAST)\n  first: step 1\n" in err
    assert "3 steps" in out
    assert "to do" in out
    assert out.splitlines()[-1] == f"all reports: {folder / 'index.html'}"
    code, out, _ = call("train", path, "--resume", "--json")
    found = json.loads(out)
    assert [(s["stage"], s["state"], s["result"]) for s in found["stages"]] == [
        ("first", "done", "3 steps"),
        ("second", "done", "2 steps"),
    ]
    entry = json.loads((folder / "pipeline.json").read_text())["stages"]["second"]
    assert entry["command"] == "heedful train x.yaml"
    plans = json.loads(call("validate", path, "--json")[1])["stages"]
    assert [plan["steps"] for plan in plans.values()] == [3, 2]
    code, out, err = call("train", path, "steps=3")
    assert (code, out) == (2, "")
    assert err.startswith("heedful: The stage 'second' was finished with other settings: ")


def test_a_single_run_of_a_method_without_figures(tmp_path: Path, call: Call) -> None:
    """What every method gets from the command: its settings, its plan, one line at the end."""
    words = ["method=pipeline_kit:FAST", f"output_dir={tmp_path / 'one'}"]
    code, out, _ = call("train", *words, "--dry-run")
    assert code == 0
    assert out.endswith('\n\n# steps: 3\n# note: "none"\n')
    assert call("validate", *words) == (0, 'ok: steps 3, note "none"\n', "")
    code, out, _ = call("train", *words)
    assert (code, out.splitlines()[0]) == (0, f"{tmp_path / 'one'}: 3 steps in 2 s")
