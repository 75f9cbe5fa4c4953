"""Two processes are one: same prompts, same replies, same numbers in every row, same weights at the end."""

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

from rl_kit import Bench, assert_same_run, rows

from heedful.training.rl.processes import Processes

if not torch.distributed.is_gloo_available():
    pytest.skip("needs a torch with gloo, the back end for processes on CPUs", allow_module_level=True)

HERE = Path(__file__).parent
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("rl-processes"))


def launch(values: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    """`heedful train` in two processes without a GPU, one thread each."""
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    env = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    command = [sys.executable, "-m", *TORCHRUN, "-m", "heedful", "train", *words, *more]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)


CASES: dict[str, dict[str, Any]] = {
    # 3 validation prompts: the processes have one and two of them.
    "ppo": {"num_iterations": 2, "kl_target": 0.5, "ptx_coef": 0.1, "max_eval_prompts": 3},
    # Every third reply is unscored, so the processes train on different numbers of tokens.
    "grpo": {"num_generations": 3, "rewards": ["rl_kit:choosy", {"name": "rl_kit:brief", "weight": 0.3}]},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", CASES)
def test_two_processes_are_one(bench: Bench, method: str) -> None:
    values = bench.values(f"{method} two", method, **CASES[method])
    done = launch(values, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    expected = bench.run(f"{method} one", method, **CASES[method])
    two = Path(values["output_dir"])
    assert_same_run(two, expected.folder, tolerance=1e-5)
    assert len(rows(two)) == 4
    summary = json.loads(done.stdout)  # one process reports, the other is silent
    for key in ("steps", "tokens", "replies", "stopped", "data_hash"):
        assert summary[key] == expected.summary[key], key
    said = [line for line in done.stderr.splitlines() if line.startswith("step 1/4")]
    assert len(said) == 1


@pytest.mark.slow
def test_a_mini_batch_that_cannot_be_shared_is_one_sentence(bench: Bench) -> None:
    values = bench.values("odd", mini_batch_size=1)
    done = launch(values)
    assert done.returncode != 0
    assert "mini_batch_size is 1, which 2 processes cannot share evenly; choose a multiple of 2." in done.stderr
    assert "line" not in done.stderr.split("mini_batch_size is 1")[0].rpartition("\n")[2]  # no traceback leads up to it


# ------------------------------------------------------------------ without a second process


def test_one_process_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    alone = Processes()
    assert alone.first
    assert list(alone.slice(5)) == [0, 1, 2, 3, 4]
    assert [list(p) for p in alone.share([3, 4, 5], size=2)] == [[3, 4], [5]]
    assert alone.gather("x") == ["x"]
    assert alone.sum({"a": 1.0}) == {"a": 1.0}
    assert alone.agree(True)
    assert not alone.agree(False)
    alone.sum_gradients([])
    alone.wait()


def of(rank: int, count: int) -> Processes:
    found = Processes.__new__(Processes)
    found.rank, found.count = rank, count
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [0, 1, 2, 5, 8])
def test_shares_are_everything_once_and_in_order(count: int, size: int) -> None:
    parts = [list(of(rank, count).slice(size)) for rank in range(count)]
    assert [i for part in parts for i in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    items = [f"prompt {i}" for i in range(size)]
    shares = [x for rank in range(count) for part in of(rank, count).share(items, size=2) for x in part]
    assert shares == items


def test_sums_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    two = of(0, 2)
    monkeypatch.setattr(two, "gather", lambda _: [{"loss": 1.0, "norm": 3.0}, {"loss": 2.0, "norm": 3.0, "act": 5.0}])
    assert two.sum({}, but=("norm",)) == {"loss": 3.0, "norm": 3.0, "act": 5.0}
    monkeypatch.setattr(two, "gather", lambda flag: [flag, True])
    assert two.agree(False)
