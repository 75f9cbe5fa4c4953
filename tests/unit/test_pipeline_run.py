"""Recipes that run: real stages in order, what a second call does, and that crashes change no number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pipeline_kit import Lines
from training_kit import Bench, Crash, Killed, assert_same_run

from heedful.pipeline import Done, look, read, run
from heedful.pipeline.record import Record
from heedful.settings import read_yaml

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("recipes"))


def stages(bench: Bench) -> dict[str, Any]:
    """A model, one that starts from it, and an evaluation of the second; nothing that takes long."""
    fast = {"method": "sft", "max_steps": 3, "save_steps": 1, "lora_rank": 4, "learning_rate": 0.01}
    return {
        "first": {**fast, "model_name_or_path": str(bench.model)},
        "second": {**fast, "model_name_or_path": "${stages.first}", "max_steps": "${options.steps}"},
        "test": {
            "method": "eval",
            "model_name_or_path": "${stages.second}",
            "split": "valid",
            "max_conversations": 2,
            "decoding": {"max_new_tokens": 4},
            "metrics": ["bleu1"],
            "baselines": ["fixed_reply"],
            "bootstrap": 10,
            "when": {"measure": True},
        },
    }


def recipe(bench: Bench, name: str) -> Path:
    """A recipe file called `name`."""
    found = stages(bench)
    path = bench.root / f"{name}.yaml"
    shared = {
        "dataset": str(bench.data),
        "precision": "fp32",
        "warmup_steps": 0,
        "eval_split": None,
        "logging_steps": 1,
    }
    options = {"steps": {"default": 2}, "measure": {"default": False, "choices": [True, False]}}
    place = str(bench.root / "runs" / name)
    path.write_text(
        yaml.safe_dump({"output_dir": place, "options": options, "shared": shared, "stages": found}, sort_keys=False)
    )
    return path


def go(path: Path, *words: str, **options: Any) -> tuple[Done, Lines]:
    said = Lines()
    return run(read(path, words), say=said, **options), said


def written(folder: Path) -> dict[str, int]:
    """When each file of importance was written."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*.safetensors") if "checkpoints" not in p.parts}


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Done:
    """The recipe from start to end without interruption."""
    return go(recipe(bench, "whole"), "measure=true")[0]


# ---------------------------------------------------------------- from start to end


def test_stages_run_in_order_and_each_leaves_its_run(whole: Done, bench: Bench) -> None:
    assert [(r.stage, r.method, r.state) for r in whole.rows] == [
        ("first", "sft", "done"),
        ("second", "sft", "done"),
        ("test", "eval", "done"),
    ]
    assert read_yaml(whole.folder / "second" / "config.resolved.yaml")["model_name_or_path"] == str(
        whole.folder / "first"
    )
    summary = json.loads((whole.folder / "test" / "summary.json").read_text())
    assert [s["name"] for s in summary["systems"]] == ["trained", "base", "fixed_reply"]
    assert whole.rows[0].result == "3 steps"
    assert whole.rows[2].result.startswith("Perplexity per token: trained ")
    assert whole.rows[0].report == str(whole.folder / "first" / "README.md")
    assert whole.rows[2].report == str(whole.folder / "test" / "report.html")
    assert all(row.seconds is not None and row.seconds > 0 for row in whole.rows)


def test_the_record_says_what_happened(whole: Done) -> None:
    found = json.loads((whole.folder / "pipeline.json").read_text())
    assert found["options"] == {"steps": 2, "measure": True}
    entry = found["stages"]["second"]
    assert entry["settings"]["model_name_or_path"] == "${stages.first}"
    assert entry["needs"] == {"first": found["stages"]["first"]["hash"]}
    assert entry["started"] <= entry["finished"]
    assert entry["attempts"] == 1


def test_the_page_links_every_report(whole: Done) -> None:
    text = whole.page.read_text()
    for link in ("first/README.md", "second/README.md", "test/report.html"):
        assert f'href="{link}"' in text
        assert (whole.folder / link).is_file()
    assert "<script" not in text


def test_the_resolved_recipe_repeats_the_run(whole: Done, bench: Bench) -> None:
    again = read(whole.folder / "config.resolved.yaml", [f"output_dir={bench.root / 'again'}"])
    assert again.folder == bench.root / "again"
    for step, before in zip(again.steps, read(bench.root / "whole.yaml", ["measure=true"]).steps, strict=True):
        assert step.settings == before.settings
    done = run(again, until="second")
    assert_same_run(done.folder / "second", whole.folder / "second")


def test_called_again_it_does_nothing(whole: Done, bench: Bench) -> None:
    before, record = written(whole.folder), (whole.folder / "pipeline.json").read_text()
    again, said = go(bench.root / "whole.yaml", "measure=true")
    assert written(whole.folder) == before
    assert (whole.folder / "pipeline.json").read_text() == record
    assert said.stages == [
        f"stage {i}/3 {s}: finished before" for i, s in ((1, "first (sft)"), (2, "second (sft)"), (3, "test (eval)"))
    ]
    assert again.rows == whole.rows


def test_a_moved_folder_is_the_same_run(whole: Done, bench: Bench) -> None:
    place = bench.root / "moved"
    whole.folder.rename(place)
    try:
        found = look(read(bench.root / "whole.yaml", ["measure=true", f"output_dir={place}"]))
        assert found.due == ()
    finally:
        place.rename(whole.folder)


# ---------------------------------------------------------------- crashes


def test_a_crash_before_a_checkpoint(bench: Bench, whole: Done) -> None:
    path = recipe(bench, "early")
    with pytest.raises(Killed):
        run(read(path), say=Lines("second: model"))
    done, said = go(path)
    assert said.stages == ["stage 1/2 first (sft): finished before", "stage 2/2 second (sft): goes on"]
    for stage in ("first", "second"):
        assert_same_run(done.folder / stage, whole.folder / stage)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_crash_within_a_stage(bench: Bench, whole: Done, stage: int) -> None:
    """Killed as the second step begins, of the first or of the second training: it goes on from the checkpoint."""
    path = recipe(bench, f"within {stage}")
    if stage == 2:
        go(path, only=["first"])
    with pytest.raises(Killed):
        run(read(path), callbacks=(Crash(2),))
    assert look(read(path)).states[("first", "second")[stage - 1]] == "interrupted"
    done, said = go(path)
    name = ("first", "second")[stage - 1]
    assert f"stage {stage}/2 {name} (sft): goes on" in said
    record = read_yaml(done.folder / name / "config.resolved.yaml")["x_heedful"]
    assert [c["from_step"] for c in record["continued"]] == [1]
    assert json.loads((done.folder / "pipeline.json").read_text())["stages"][name]["attempts"] == 2
    for folder in ("first", "second"):
        assert_same_run(done.folder / folder, whole.folder / folder)


def test_an_evaluation_goes_on(bench: Bench) -> None:
    path = recipe(bench, "half measured")
    with pytest.raises(Killed):
        run(read(path, ["measure=true"]), say=Lines("test: scores"))
    traces = (bench.root / "runs" / "half measured" / "test" / "traces" / "trained.jsonl").read_bytes()
    done, said = go(path, "measure=true")
    assert "stage 3/3 test (eval): goes on" in said
    assert (done.folder / "test" / "traces" / "trained.jsonl").read_bytes() == traces
    assert done.rows[2].state == "done"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_real_kill(bench: Bench, whole: Done) -> None:
    path = recipe(bench, "killed")
    folder = bench.root / "runs" / "killed"
    words = [sys.executable, "-m", "heedful", "train", str(path)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    limit = time.monotonic() + 120
    while not (folder / "second" / "checkpoints" / "checkpoint-1").is_dir() and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Record.read(folder).entries["first"].finished
    done, _ = go(path)
    for stage in ("first", "second"):
        assert_same_run(done.folder / stage, whole.folder / stage)
