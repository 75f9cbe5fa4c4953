"""Two processes are one process with twice the batch: same losses, same gradients, same weights.

`torchrun` starts them: on a CPU, `accelerate launch --cpu --num_processes 2` starts one process whatever the number
says (accelerate 1.15, `launch_command`); it needs an MPI host file for more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from training_kit import Bench, assert_same_run, losses

from heedful.training.checkpoints import is_complete

if not torch.distributed.is_gloo_available():
    pytest.skip("needs a torch with gloo, the back end for processes on CPUs", allow_module_level=True)

pytestmark = pytest.mark.slow

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29741"),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("processes"))


def launch(
    launcher: tuple[str, ...], values: dict[str, Any], *more: str, where: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`heedful train` in two processes without a GPU, one thread each."""
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", *launcher, "-m", "heedful", "train", *words, *more]
    return subprocess.run(command, env=env, cwd=where, capture_output=True, text=True, timeout=240, check=False)


SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"num_train_epochs": 3},
    # An epoch ends with one conversation: the second process has nothing in that step.
    "9 conversations": {"num_train_epochs": 3, "max_train_conversations": 9},
    # Both have something in the last pass, and the second one less.
    "11 conversations": {
        "num_train_epochs": 3,
        "max_train_conversations": 11,
        "gradient_accumulation_steps": 2,
        "delta": "full",
        "learning_rate": 1e-3,
    },
    # A step of 8 and one of 4 conversations an epoch; validation is divided into 2 and 1.
    "accumulation and validation": {
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 5,
        "eval_split": "valid",
        "eval_steps": 2,
        "save_steps": 2,
        "max_eval_conversations": 3,
    },
}


@pytest.mark.parametrize(
    ("launcher", "shape"),
    [*((TORCHRUN, shape) for shape in SHAPES), (ACCELERATE, "plain")],
    ids=[*SHAPES, "accelerate"],
)
def test_two_processes_are_one_with_twice_the_batch(bench: Bench, launcher: tuple[str, ...], shape: str) -> None:
    more = SHAPES[shape]
    name = f"{launcher[0]} {shape}"
    values = bench.values(f"{name}, two", per_device_train_batch_size=2, **more)
    done = launch(launcher, values, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    two = Path(values["output_dir"])
    expected = bench.run(f"{name}, one", per_device_train_batch_size=4, **more)
    assert len(losses(two)) == expected.summary["steps"] >= 5
    assert_same_run(two, expected.folder, tolerance=1e-5)
    summary = json.loads(done.stdout)  # one process reports, the other is silent
    for key in ("steps", "planned_steps", "tokens", "stopped", "data_hash"):
        assert summary[key] == expected.summary[key], key
    checkpoints = list((two / "checkpoints").iterdir())
    assert checkpoints
    for folder in checkpoints:
        assert is_complete(folder)
        assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= {p.name for p in folder.iterdir()}


def test_they_stop_together_agree_on_a_folder_and_one_talks(bench: Bench, tmp_path: Path) -> None:
    """`max_seconds` and no output_dir: clocks differ, and so would the seconds in the folder's name."""
    values = bench.values("unused", num_train_epochs=10_000, max_seconds=1.0, eval_split="valid", eval_steps=1000)
    del values["output_dir"]
    done = launch(TORCHRUN, values, "--json", where=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert (summary["stopped"], summary["weights_step"]) == ("time", summary["steps"])
    (folder,) = (tmp_path / "runs").iterdir()
    assert summary["folder"] == f"runs/{folder.name}"
    assert is_complete(folder / "checkpoints" / f"checkpoint-{summary['steps']}")
    said = [line for line in done.stderr.splitlines() if line.startswith(("data ", "model "))]
    assert len(said) == 2


def test_a_run_of_one_process_does_not_go_on_in_two(bench: Bench) -> None:
    """Batches would be others, and the second process has no state of its random numbers."""
    values = {**bench.values("one leg"), "save_steps": 1}
    bench.crash("one leg", 3, save_steps=1)
    done = launch(TORCHRUN, values, "--resume")
    assert done.returncode != 0
    assert "the number of processes (processes) was 1 and now is 2;" in done.stderr


def test_two_processes_merge_an_adapter_and_go_on(bench: Bench) -> None:
    first = bench.run("first", max_steps=3)
    more: dict[str, Any] = {"model_name_or_path": str(first.folder), "num_train_epochs": 2}
    values = bench.values("second, two", per_device_train_batch_size=2, **more)
    done = launch(TORCHRUN, values)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = bench.run("second, one", per_device_train_batch_size=4, **more)
    assert_same_run(Path(values["output_dir"]), expected.folder, tolerance=1e-5)
    assert is_complete(Path(values["output_dir"]) / "base")
