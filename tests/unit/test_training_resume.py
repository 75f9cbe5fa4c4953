"""What survives a kill, a full disk and a loss that is not a number: the run goes on as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from training_kit import Bench, Poison, assert_same_run, losses, metrics

from heedful.cli import main
from heedful.errors import RunError, UserError
from heedful.training.checkpoints import SEAL, is_complete, newest

PLAIN: dict[str, Any] = {"save_steps": 2}
MICRO: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lora_dropout": 0.3,
    "save_steps": 2,
    "num_train_epochs": 3,
}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    # 3 steps an epoch; the checkpoint of step 4 lies in the middle of epoch 2, and step 5 was logged after it.
    "middle of epoch 2": (PLAIN, 6),
    "accumulation and dropout": (MICRO, 6),
    "at the end of an epoch": ({**MICRO, "save_steps": 3}, 5),
    "all weights": ({**PLAIN, "delta": "full"}, 6),
    "evaluation": ({**PLAIN, "eval_split": "valid", "eval_steps": 2, "save_total_limit": 1}, 6),
    "validation at the end": ({**PLAIN, "eval_split": "valid"}, 6),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Path:
    """The uninterrupted run that the interrupted ones must equal."""
    return bench.run("whole", **PLAIN).folder


@pytest.fixture(scope="module")
def killed(bench: Bench) -> Path:
    """The same run, killed in step 6 with complete checkpoints of steps 2 and 4."""
    return bench.crash("killed", 6, **PLAIN)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(bench: Bench, case: str) -> None:
    values, step = CASES[case]
    expected = bench.run(f"{case}, whole", **values)
    broken = bench.crash(f"{case}, killed", step, **values)
    assert len(losses(broken)) == step - 1
    assert newest(broken / "checkpoints") is not None
    again = bench.run(f"{case}, killed", resume_from_checkpoint=True, **values)
    assert_same_run(again.folder, expected.folder)
    for key in ("steps", "tokens", "best_eval_loss", "stopped"):
        assert again.summary[key] == pytest.approx(expected.summary[key]), key


def test_dropout_has_an_effect_here(bench: Bench) -> None:
    """Else the test above would not notice lost random states."""
    kept = bench.run("kept", **MICRO, max_steps=3).folder
    without = bench.run("no dropout", **{**MICRO, "lora_dropout": 0.0}, max_steps=3).folder
    assert losses(kept)[0] == pytest.approx(losses(without)[0], abs=1e-6)  # B = 0: the update adds nothing yet
    assert abs(losses(kept)[2] - losses(without)[2]) > 1e-4


def test_early_stopping_remembers_its_patience(bench: Bench) -> None:
    """Two evaluations without progress end the run, even if the process died between the two."""
    values: dict[str, Any] = {
        "eval_split": "valid",
        "eval_steps": 1,
        "save_steps": 1,
        "early_stopping_patience": 3,
        "early_stopping_threshold": 100.0,
        "num_train_epochs": 4,
    }
    expected = bench.run("patience", **values)
    assert (expected.summary["stopped"], expected.summary["steps"]) == ("early", 4)
    bench.crash("patience, killed", 4, **values)
    again = bench.run("patience, killed", resume_from_checkpoint=True, **values)
    assert_same_run(again.folder, expected.folder)


# ---------------------------------------------------------------- killed while writing


def damage_nothing_sealed(folder: Path) -> None:
    (folder / SEAL).unlink()


def damage_half_a_seal(folder: Path) -> None:
    (folder / SEAL).write_bytes((folder / SEAL).read_bytes()[:20])


def damage_half_an_adapter(folder: Path) -> None:
    os.truncate(folder / "adapter_model.safetensors", 1000)


def damage_no_optimiser(folder: Path) -> None:
    (folder / "optimizer.pt").unlink()


def damage_empty_state(folder: Path) -> None:
    os.truncate(folder / "trainer_state.json", 0)


DAMAGE = [
    damage_nothing_sealed,
    damage_half_a_seal,
    damage_half_an_adapter,
    damage_no_optimiser,
    damage_empty_state,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__.removeprefix("damage_"))
def test_a_checkpoint_that_was_cut_short_is_not_used(
    bench: Bench, whole: Path, killed: Path, tmp_path: Path, damage: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # the log as well
    damage(run / "checkpoints" / "checkpoint-4")
    assert newest(run / "checkpoints") == run / "checkpoints" / "checkpoint-2"
    bench.run(str(run), resume_from_checkpoint=True, **PLAIN)
    assert_same_run(run, whole)
    assert all(is_complete(p) for p in (run / "checkpoints").iterdir())


def test_a_checkpoint_can_be_named(bench: Bench, whole: Path, killed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    first = run / "checkpoints" / "checkpoint-2"
    bench.crash(str(run), 4, resume_from_checkpoint=str(first), **PLAIN)
    # The run went back to step 2 and died in step 4: what its first life wrote beyond is not its own any more.
    assert newest(run / "checkpoints") == first
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]
    bench.run(str(run), resume_from_checkpoint=True, **PLAIN)
    assert_same_run(run, whole)


def test_a_run_that_died_before_its_first_checkpoint_starts_anew(bench: Bench, whole: Path, tmp_path: Path) -> None:
    run = bench.crash(str(tmp_path / "run"), 2, **PLAIN)
    assert len(metrics(run)) == 1
    bench.run(str(run), **PLAIN)
    assert_same_run(run, whole)


def test_old_checkpoints_go_only_when_the_new_one_is_complete(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With save_total_limit 1 there is a complete checkpoint at every moment."""
    import heedful.training.trainer as trainer

    def refuse(folder: Path) -> None:
        if folder.name == "checkpoint-4":
            raise KeyboardInterrupt
        real(folder)

    real = trainer.seal
    monkeypatch.setattr(trainer, "seal", refuse)
    with pytest.raises(KeyboardInterrupt):
        bench.run(str(tmp_path / "run"), save_steps=2, save_total_limit=1)
    assert newest(tmp_path / "run" / "checkpoints") == tmp_path / "run" / "checkpoints" / "checkpoint-2"


@pytest.mark.parametrize("limit", [1, 3])
def test_the_newest_checkpoints_are_kept(bench: Bench, tmp_path: Path, limit: int) -> None:
    run = bench.run(str(tmp_path / "run"), save_steps=1, save_total_limit=limit).folder
    assert {p.name for p in (run / "checkpoints").iterdir()} == {f"checkpoint-{i}" for i in range(7 - limit, 7)}


@pytest.mark.slow
def test_sigkill_and_resume(bench: Bench, tmp_path: Path) -> None:
    """A real process, killed at a random moment while it saves after every step; then the command line goes on."""
    values = bench.values(str(tmp_path / "run"), save_steps=1, num_train_epochs=20, lora_dropout=0.1)
    words = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    threads = str(torch.get_num_threads())
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    log = tmp_path / "run" / "metrics.jsonl"
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "heedful", "train", *words], env=env, stdout=out, stderr=out)
        try:
            begun = time.monotonic()
            while not (log.is_file() and log.read_bytes().count(b"\n") >= 5):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() - begun < 120
                time.sleep(0.02)
            time.sleep(random.random() / 2)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert process.returncode == -signal.SIGKILL
    found = newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    reached = int(found.name.split("-")[1])
    assert 4 <= reached < 60
    main(["train", *words, "--resume"])
    expected = bench.run(str(tmp_path / "whole"), num_train_epochs=20, lora_dropout=0.1)
    assert_same_run(tmp_path / "run", expected.folder, tolerance=1e-4)


# ---------------------------------------------------------------- full disk, loss that is not a number


def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(28, "No space left on device")


def full_in_safetensors(*args: Any, **kwargs: Any) -> None:
    from safetensors import SafetensorError

    # Word for word what safetensors 0.7 raises on a full disk (seen on a small tmpfs).
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def full_in_torch(*args: Any, **kwargs: Any) -> None:
    # What torch 2.13 raises there: it does not say why.
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


@pytest.mark.parametrize(
    ("place", "error"),
    [("torch.save", full), ("torch.save", full_in_torch), ("peft.peft_model.safe_save_file", full_in_safetensors)],
    ids=["system", "torch", "safetensors"],
)
def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(
    bench: Bench, whole: Path, killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    with monkeypatch.context() as patch:
        patch.setattr(place, error)
        with pytest.raises(RunError, match=r"^The disk is full: .*--resume, the last complete checkpoint is kept\.$"):
            bench.run(str(run), resume_from_checkpoint=True, **PLAIN)
    assert newest(run / "checkpoints") == run / "checkpoints" / "checkpoint-4"
    bench.run(str(run), resume_from_checkpoint=True, **PLAIN)
    assert_same_run(run, whole)


def test_a_full_disk_at_the_very_end(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoints fit, the final files did not."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("heedful.training.run.model_card", full)
        with pytest.raises(RunError, match="The disk is full"):
            bench.run(str(run), max_steps=2)
    assert not (run / "summary.json").exists()
    again = bench.run(str(run), max_steps=2, resume_from_checkpoint=True)
    assert again.summary["steps"] == 2
    assert len(losses(run)) == 2


def test_a_full_disk_on_the_command_line(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.save", full)
    values = bench.values(str(tmp_path / "run"), max_steps=2)
    with pytest.raises(SystemExit) as stop:
        main(["train", *(f"{k}={'null' if v is None else v}" for k, v in values.items())])
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("heedful: The disk is full")
    assert "Traceback" not in err


def test_other_errors_are_not_taken_for_a_full_disk(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("torch.save", broken)
    with pytest.raises(PermissionError):
        bench.run(str(tmp_path / "run"), max_steps=1)


def test_a_loss_that_is_not_a_number_stops_the_run(bench: Bench, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError) as caught:
        bench.run(str(run), Poison(4), **PLAIN)
    message = str(caught.value)
    assert "nan at step 4;" in message
    assert "lower learning_rate" in message
    assert "--resume" in message
    assert newest(run / "checkpoints") == run / "checkpoints" / "checkpoint-2"
    bench.run(str(run), resume_from_checkpoint=True, **PLAIN)
    assert_same_run(run, whole)


def test_broken_weights_are_not_sealed(bench: Bench, whole: Path, tmp_path: Path) -> None:
    """The loss of step 4 is fine, its gradient is not: the checkpoint of step 4 must not count."""
    run = tmp_path / "run"
    with pytest.raises(RunError, match="The weights became nan at step 4; lower learning_rate"):
        bench.run(str(run), Poison(4, after=True), **PLAIN)
    assert newest(run / "checkpoints") == run / "checkpoints" / "checkpoint-2"
    bench.run(str(run), resume_from_checkpoint=True, **PLAIN)
    assert_same_run(run, whole)


def test_a_diverging_run_on_the_command_line(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = bench.values(str(tmp_path / "run"), learning_rate=1e30, delta="full", max_grad_norm=0, save_steps=1)
    with pytest.raises(SystemExit) as stop:
        main(["train", *(f"{k}={'null' if v is None else v}" for k, v in values.items())])
    assert stop.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(("heedful: The loss became", "heedful: The weights became"))
    assert "lower learning_rate" in last


def test_a_folder_that_holds_a_run_is_not_written_over(bench: Bench, whole: Path, killed: Path) -> None:
    for folder in (whole, killed):
        before = (folder / "config.resolved.yaml").read_bytes()
        with pytest.raises(UserError, match="holds a run already; continue it with --resume"):
            bench.run(folder.name, seed=1, **PLAIN)
        assert (folder / "config.resolved.yaml").read_bytes() == before


def test_a_finished_run_without_checkpoints_is_not_written_over(bench: Bench, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="holds a run already"):
        bench.run(str(run), **PLAIN)


def test_time_is_over_and_the_run_goes_on_later(bench: Bench, whole: Path, tmp_path: Path) -> None:
    run = bench.run(str(tmp_path / "run"), max_seconds=1e-6, save_steps=100)
    assert (run.summary["stopped"], run.summary["steps"]) == ("time", 1)
    assert newest(run.folder / "checkpoints") == run.folder / "checkpoints" / "checkpoint-1"
    again = bench.run(str(tmp_path / "run"), resume_from_checkpoint=True, save_steps=100)
    assert again.summary["stopped"] == "done"
    assert_same_run(run.folder, whole)
