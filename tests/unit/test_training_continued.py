"""`--resume` goes on with the run that it names: other settings or inputs are refused, what may change is recorded."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from training_kit import Bench, assert_same_run, metrics

from heedful import corpora
from heedful.cli import main
from heedful.errors import ConfigError
from heedful.settings import read_yaml, write_yaml
from heedful.training import TrainConfig, train
from heedful.training.checkpoints import newest, seal
from heedful.training.resume import MAY_CHANGE
from heedful.training.trainer import CLOCK

PLAIN: dict[str, Any] = {"save_steps": 2}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("continued"))


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Path:
    return bench.run("whole", **PLAIN).folder


@pytest.fixture(scope="module")
def died(bench: Bench) -> Path:
    """Killed in step 6 with complete checkpoints of steps 2 and 4."""
    return bench.crash("died", 6, **PLAIN)


@pytest.fixture
def run(died: Path, tmp_path: Path) -> Path:
    shutil.copytree(died, tmp_path / "run")
    return tmp_path / "run"


OTHER: dict[str, tuple[Any, str, str]] = {
    "learning_rate": (0.02, "0.01", "0.02"),
    "seed": (14, "13", "14"),
    "delta": ("dora", '"lora"', '"dora"'),
    "lora_rank": (8, "4", "8"),
    "format": ("qa", '"chat"', '"qa"'),
    "max_train_conversations": (6, "null", "6"),
    "per_device_train_batch_size": (2, "4", "2"),
    "eval_steps": (2, "null", "2"),
    "lora_dropout": (0.5, "0.0", "0.5"),
    "warmup_steps": (2.0, "0.0", "2.0"),
}


@pytest.mark.parametrize("key", OTHER)
def test_another_setting_is_refused(bench: Bench, run: Path, key: str) -> None:
    value, was, now = OTHER[key]
    before = (run / "config.resolved.yaml").read_bytes()
    said = rf"^--resume cannot change {key}: the run in .* has {re.escape(was)}, but now it is {re.escape(now)}; .*\.$"
    with pytest.raises(ConfigError, match=said):
        bench.run(str(run), resume_from_checkpoint=True, **{**PLAIN, key: value})
    assert (run / "config.resolved.yaml").read_bytes() == before
    assert newest(run / "checkpoints") == run / "checkpoints" / "checkpoint-4"


def test_every_other_key_is_refused(bench: Bench, run: Path) -> None:
    """So that a key which is added later is refused until somebody thinks about it."""
    assert set(TrainConfig.model_fields) >= MAY_CHANGE
    refused = set(TrainConfig.model_fields) - MAY_CHANGE - {"output_dir", "resume_from_checkpoint", "method"}
    record = read_yaml(run / "config.resolved.yaml")
    for key in refused:
        write_yaml(run / "config.resolved.yaml", {**record, key: "something else"})
        with pytest.raises(ConfigError, match=f'cannot change {key}: the run in .* has "something else"'):
            bench.run(str(run), resume_from_checkpoint=True, **PLAIN)


def test_on_the_command_line_it_is_one_sentence(bench: Bench, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", str(run / "config.resolved.yaml"), f"output_dir={run}", "seed=5", "--resume"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("heedful: --resume cannot change seed: ")


def test_other_data_under_the_same_name_are_refused(bench: Bench, tmp_path: Path) -> None:
    data = tmp_path / "talks.jsonl"
    shutil.copy(bench.data, data)
    values = {**PLAIN, "dataset": str(data), "eval_split": "valid"}
    run = bench.crash(str(tmp_path / "run"), 4, **values)
    talks = corpora.load(str(bench.data))
    for split, key in (("train", "data_hash"), ("valid", "eval_data_hash")):
        last = max(i for i, c in enumerate(talks) if c.split == split)
        corpora.write_jsonl(data, [replace(c, split="test") if i == last else c for i, c in enumerate(talks)])
        with pytest.raises(ConfigError, match=rf"\({key}\) was [0-9a-f]{{16}} and now is [0-9a-f]{{16}}; take it back"):
            bench.run(str(run), resume_from_checkpoint=True, **values)
    shutil.copy(bench.data, data)
    assert bench.run(str(run), resume_from_checkpoint=True, **values).summary["stopped"] == "done"


@pytest.mark.parametrize(("key", "value"), [("format_fingerprint", "chat/v0#00000000"), ("processes", 2)])
def test_another_format_or_number_of_processes_is_refused(bench: Bench, run: Path, key: str, value: Any) -> None:
    record = read_yaml(run / "config.resolved.yaml")
    record["x_heedful"][key] = value
    write_yaml(run / "config.resolved.yaml", record)
    with pytest.raises(ConfigError, match=rf"\({key}\) was {value} and now is "):
        bench.run(str(run), resume_from_checkpoint=True, **PLAIN)


def test_a_checkpoint_without_a_record_is_refused(bench: Bench, run: Path) -> None:
    (run / "config.resolved.yaml").unlink()
    with pytest.raises(ConfigError, match=r"^Nothing says what .*checkpoint-4 was trained with: .*; start anew\.$"):
        bench.run(str(run), resume_from_checkpoint=True, **PLAIN)


def test_the_same_settings_in_other_words_go_on(bench: Bench, whole: Path, run: Path) -> None:
    bench.run(str(run), resume_from_checkpoint=True, format={"name": "chat"}, **PLAIN)
    assert_same_run(run, whole)
    assert read_yaml(run / "config.resolved.yaml")["x_heedful"]["continued"][0]["changed"] == {}


def test_a_longer_run_is_allowed_said_and_recorded(bench: Bench, run: Path) -> None:
    said: list[str] = []
    values = bench.values(str(run), resume_from_checkpoint=True, max_steps=12, logging_steps=2, save_steps=3)
    done = train(TrainConfig(**values), say=said.append)
    assert done.summary["steps"] == done.summary["planned_steps"] == 12
    assert [x for x in said if x.startswith("note: ")] == [
        "note: 12 steps instead of 6; from step 4 on the learning rate follows the schedule of 12 steps"
    ]
    found = read_yaml(run / "config.resolved.yaml")
    assert (found["max_steps"], found["learning_rate"]) == (12, 0.01)
    (one,) = found["x_heedful"]["continued"]
    assert one["from_step"] == 4
    assert one["changed"] == {
        "max_steps": {"from": -1, "to": 12},
        "logging_steps": {"from": 1, "to": 2},
        "save_steps": {"from": 2, "to": 3},
    }
    card = " ".join((run / "README.md").read_text("utf-8").split())
    assert "repeats the run, all in one go and with the length that it had last." in card
    rates = {row["step"]: row["learning_rate"] for row in metrics(run) if "loss" in row}
    assert sorted(rates) == [1, 2, 3, 4, 6, 8, 10, 12]
    # Linear to zero over twelve steps from here; the rate of a step is that of the steps before it.
    for step in (6, 8, 10, 12):
        assert rates[step] == pytest.approx(0.01 * (12 - step + 1) / 12, rel=1e-6)


def test_a_run_cannot_end_before_it_goes_on(bench: Bench, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"of step 4, but the run would end at step 3 now; raise max_steps or num_"):
        bench.run(str(run), resume_from_checkpoint=True, **PLAIN, max_steps=3)


def test_a_moved_run_goes_on_with_its_best_checkpoint(bench: Bench, tmp_path: Path) -> None:
    """The state of a checkpoint names the best one by its path, which is another one now."""
    values: dict[str, Any] = {
        "eval_split": "valid",
        "eval_steps": 2,
        "save_steps": 2,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_train_conversations": 2,
        "max_steps": 14,
    }
    expected = bench.run(str(tmp_path / "whole"), **values)
    assert expected.summary["weights_step"] < 12
    killed = bench.crash(str(tmp_path / "killed"), 14, **values)
    shutil.move(killed, tmp_path / "moved")
    again = bench.run(str(tmp_path / "moved"), resume_from_checkpoint=True, **values)
    assert_same_run(again.folder, expected.folder)
    assert again.summary["weights_step"] == expected.summary["weights_step"]


# ---------------------------------------------------------------- seconds of all legs


def test_the_seconds_are_those_of_all_legs(bench: Bench, run: Path) -> None:
    checkpoint = run / "checkpoints" / "checkpoint-4"
    taken = json.loads((checkpoint / CLOCK).read_text())["seconds"]
    assert 0 < taken < 60
    (checkpoint / CLOCK).write_text('{"seconds": 7200.0}')
    seal(checkpoint)
    done = bench.run(str(run), resume_from_checkpoint=True, **PLAIN, max_seconds=600)
    assert done.summary["stopped"] == "done"  # the limit is that of one leg
    assert 7200 < done.summary["seconds"] < 7300
    assert re.search(r" tokens, 7,2\d\d s \|", (run / "README.md").read_text("utf-8"))
    last = json.loads((run / "checkpoints" / "checkpoint-6" / CLOCK).read_text())["seconds"]
    assert 7200 < last <= done.summary["seconds"] + 0.1
