"""Fault drill: a run that dies anywhere goes on as if nothing had happened; bad numbers leave good ones alone."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

import rl_kit
from rl_kit import ALL, Bench, Killed, assert_same_run, rows, trap, weights

from heedful.errors import ConfigError, RunError
from heedful.training.checkpoints import is_complete, newest
from heedful.training.rl import algorithms, improve

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("resume"))


# PPO: value head, adaptive KL, several updates a round, an act head with dropout; a checkpoint every second round.
FULL: dict[str, Any] = {
    "act_head": {"label_set": "esconv_strategy"}, "num_iterations": 2, "num_generations": 2, "kl_target": 0.5,
    "save_steps": 2, "eval_steps": 1, "ptx_coef": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Path:
    """The uninterrupted run that the interrupted ones must equal."""
    return bench.run("whole", "ppo", **FULL).folder


def crash(bench: Bench, name: str, method: str, where: str, number: int, **more: Any) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*trap(where, number))
        with pytest.raises(Killed):
            bench.run(name, method, **more)
    return bench.root / name


# One validation and four rounds of at most 8 - 1 forward passes after the prompt; 2 x 2 updates of 2 passes a round.
@pytest.mark.parametrize(
    ("where", "number", "from_step"),
    [("rollout", 50, 2), ("update", 22, 2), ("update", 30, 2), ("checkpoint", 2, 2), ("checkpoint", 1, 0)],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    bench: Bench, whole: Path, where: str, number: int, from_step: int
) -> None:
    name = f"{where} {number}"
    broken = crash(bench, name, "ppo", where, number, **FULL)
    found = newest(broken / "checkpoints")
    assert (found is None) == (from_step == 0)
    assert found is None or found.name == f"checkpoint-{from_step}"
    assert not (broken / "summary.json").exists()
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "rew')  # and the log was torn
    again = bench.run(name, "ppo", resume_from_checkpoint=found is not None, **FULL)
    assert_same_run(again.folder, whole)
    assert again.summary["steps"] == 4
    assert again.summary["replies"] == json.loads((whole / "summary.json").read_text())["replies"]


@pytest.mark.parametrize("method", ALL)
def test_every_method_resumes(bench: Bench, method: str) -> None:
    more: dict[str, Any] = {"max_steps": 3, "eval_steps": None, "delta": "full" if method == "rloo" else "lora"}
    more |= {"num_generations": 2} if method != "ppo" else {}
    expected = bench.run(f"{method} whole", method, **more)
    crash(bench, f"{method} killed", method, "update", 20 if method == "ppo" else 10, **more)  # in round 2 or 3
    again = bench.run(f"{method} killed", method, resume_from_checkpoint=True, **more)
    assert_same_run(again.folder, expected.folder)
    assert len(again.summary["continued"]) == 1


def test_the_drill_would_notice_a_lost_state(bench: Bench, whole: Path) -> None:
    """Dropout, the optimiser and the KL coefficient all matter to the numbers that are compared."""
    without = bench.run(
        "no dropout", "ppo", **{**FULL, "act_head": {"label_set": "esconv_strategy", "dropout": 0.0}}
    ).folder
    assert rows(without)[-1]["act_loss"] != pytest.approx(rows(whole)[-1]["act_loss"], abs=1e-4)
    coefficients = [row["kl_coefficient"] for row in rows(whole)]
    assert len(set(coefficients)) == 4
    kls = [row["kl"] for row in rows(whole)]
    for before, after, kl in zip(coefficients, coefficients[1:], kls, strict=False):
        assert after == pytest.approx(before * (1 + 0.1 * min(max(kl / 0.5 - 1, -0.2), 0.2)))


def test_files_with_words_stay_private(bench: Bench, whole: Path) -> None:
    """Also after a run went on, which rewrites them."""
    broken = crash(bench, "private", "ppo", "checkpoint", 2, **FULL)
    bench.run("private", "ppo", resume_from_checkpoint=True, **FULL)
    for folder in (whole, broken):
        for name in ("probes.jsonl", "traces.jsonl"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, (folder.name, name)


def test_other_settings_and_other_rewards_are_refused(bench: Bench) -> None:
    crash(bench, "changed", "grpo", "checkpoint", 2, num_generations=2)
    with pytest.raises(ConfigError, match="--resume cannot change rewards"):
        bench.run("changed", "grpo", num_generations=2, resume_from_checkpoint=True, rewards=["length"])
    longer = bench.run("changed", "grpo", num_generations=2, resume_from_checkpoint=True, max_steps=5)
    assert [row["step"] for row in rows(longer.folder)] == [1, 2, 3, 4, 5]


# ------------------------------------------------------------------ a real kill


@pytest.mark.slow
@pytest.mark.parametrize(("where", "number"), [("rollout", 45), ("update", 22), ("checkpoint", 2)])
def test_sigkill(bench: Bench, whole: Path, where: str, number: int) -> None:
    """A process of its own, ended by the kernel: nothing of ours runs afterwards."""
    values = bench.values(f"sigkill {where}", "ppo", **FULL)
    env = {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    command = [sys.executable, rl_kit.__file__, where, str(number), json.dumps(values)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    folder = Path(values["output_dir"])
    assert newest(folder / "checkpoints") == folder / "checkpoints" / "checkpoint-2"
    assert (where == "checkpoint") == (folder / "checkpoints" / "checkpoint-4").exists()
    again = bench.run(f"sigkill {where}", "ppo", resume_from_checkpoint=True, **FULL)
    assert_same_run(again.folder, whole, tolerance=1e-5)
    assert all(is_complete(p) for p in (folder / "checkpoints").iterdir())


# ------------------------------------------------------------------ not a number


def poisoned(method: Any, call: int) -> Any:
    """A loss that is NaN at its call number `call`."""
    count = 0

    def loss(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        found = method(self, *args, **options)
        if count == call:
            return algorithms.PolicyLoss(loss=found.loss * math.nan, held=0, of=1)
        return found

    return loss


def test_a_loss_that_is_no_number_stops_the_run_and_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"num_generations": 2, "max_steps": 3}
    expected = bench.run("healthy", **more)
    # 4 passes a round: the second pass of round 3's first update, whose first pass has left gradients behind.
    monkeypatch.setattr(algorithms.GRPO, "loss", poisoned(algorithms.GRPO.loss, 10))
    with pytest.raises(RunError, match=r"^The policy loss is not a number; nothing was changed by it\. .*--resume"):
        bench.run("nan", **more)
    monkeypatch.undo()
    assert newest(bench.root / "nan" / "checkpoints") == bench.root / "nan" / "checkpoints" / "checkpoint-2"
    assert_same_run(bench.run("nan", resume_from_checkpoint=True, **more).folder, expected.folder)


def test_the_value_loss_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = improve.value_loss
    monkeypatch.setattr(improve, "value_loss", lambda *a, **k: real(*a, **k) * math.inf)
    with pytest.raises(RunError, match="The value loss is not a number"):
        bench.run("value", "ppo", max_steps=1)


def test_a_gradient_that_is_no_number(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss can have one: sqrt at 0."""
    real = algorithms.GRPO.loss

    def loss(self: Any, flat: Any, *args: Any, **options: Any) -> Any:
        found = real(self, flat, *args, **options)
        bad = (flat.new - flat.new.detach()).abs().sum().sqrt()
        return algorithms.PolicyLoss(loss=found.loss + bad, held=0, of=1)

    monkeypatch.setattr(algorithms.GRPO, "loss", loss)
    with pytest.raises(RunError, match="The gradient is not a number although the loss was"):
        bench.run("gradient", max_steps=1)


def test_weights_that_are_no_numbers_are_not_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = improve.Improver.improve, 0

    def spoil(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        found = real(self, *args, **options)
        if calls == 2:
            next(p for p in self.causal.model.parameters() if p.requires_grad).data.fill_(math.nan)
        return found

    monkeypatch.setattr(improve.Improver, "improve", spoil)
    with pytest.raises(RunError, match="The weights became nan at step 2"):
        bench.run("weights", num_generations=2, eval_steps=None)
    found = newest(bench.root / "weights" / "checkpoints")
    assert found is not None
    assert found.name == "checkpoint-1"
    monkeypatch.undo()
    again = bench.run("weights", num_generations=2, eval_steps=None, resume_from_checkpoint=True)
    assert all(bool(torch.isfinite(value).all()) for value in weights(again.folder).values())
