"""The numbers of a training run: what the loss is, what a batch is, when it stops, what it gives back."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from training_kit import Bench, assert_same_run, losses, metrics, weights
from transformers import TrainerCallback, TrainingArguments

from heedful import corpora, formats
from heedful.errors import UserError
from heedful.formats import Sample
from heedful.models.causal import load, use_bf16
from heedful.models.forward import likelihood
from heedful.models.memory import give_freed_memory_back, keep_freed_memory
from heedful.training import Run, TrainConfig, dry_run, train
from heedful.training.config import TrainConfig as Config
from heedful.training.data import Filled, LengthBatches, prepare
from heedful.training.plan import LIBRARIES, estimate_memory, steps_of
from heedful.training.sft import Collator
from heedful.training.trainer import one_device


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("loop"))


def samples_of(bench: Bench, split: str, tokenizer: Any) -> list[Sample]:
    fmt = formats.make("chat")
    return [s for c in corpora.load(str(bench.data), split) for s in fmt.samples(c, tokenizer, max_length=1024)]


def exploded_loss(bench: Bench, model: Any, samples: list[Sample]) -> Any:
    """Mean NLL over the targets of `samples`, each its own sequence, by transformers' own forward pass."""
    total, count = torch.zeros(()), 0
    for sample in samples:
        ids = torch.tensor([[*sample.prompt, *sample.target]])
        logits = model(input_ids=ids).logits[0, len(sample.prompt) - 1 : -1].log_softmax(-1)
        total = total - logits.gather(1, torch.tensor(sample.target)[:, None]).sum()
        count += len(sample.target)
    return total / count


def mean_nll(causal: Any, samples: list[Sample]) -> float:
    found = likelihood(causal, samples)
    return sum(f.text_nll + f.plan_nll for f in found) / sum(f.text_tokens + f.plan_tokens for f in found)


# ---------------------------------------------------------------- what a step computes


def test_a_step_on_whole_conversations_is_a_step_on_all_their_samples(bench: Bench) -> None:
    """Loss, norm of the gradient and the loss after the step: the Trainer against a plain loop over samples."""
    run = bench.run(
        "whole", delta="full", per_device_train_batch_size=12, max_steps=2, learning_rate=1e-3, max_grad_norm=0.5
    )
    causal = load(str(bench.model), device="cpu")
    samples = samples_of(bench, "train", causal.tokenizer)
    assert len(samples) > 24  # several a conversation
    optimiser = torch.optim.AdamW(causal.model.parameters(), lr=1e-3, weight_decay=0.0)
    for row in metrics(run.folder)[:2]:
        loss = exploded_loss(bench, causal.model, samples)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(causal.model.parameters(), 0.5)
        optimiser.step()
        assert row["loss"] == pytest.approx(loss.item(), abs=1e-5)
        assert row["grad_norm"] == pytest.approx(float(norm), abs=1e-4)
        for group in optimiser.param_groups:
            group["lr"] = 0.5e-3  # linear decay over two steps
    assert run.summary["tokens"] == 2 * dry_run(TrainConfig(**bench.values("x"))).tokens


@pytest.mark.parametrize("delta", ["lora", "full"])
def test_accumulation_is_a_larger_batch(bench: Bench, delta: str) -> None:
    """Conversations differ in length, so a mean of means would be another number."""
    values: dict[str, Any] = {"delta": delta, "learning_rate": 3e-3}
    together = bench.run(f"{delta} 4", per_device_train_batch_size=4, **values).folder
    parts = bench.run(f"{delta} 2x2", per_device_train_batch_size=2, gradient_accumulation_steps=2, **values).folder
    single = bench.run(f"{delta} 1x4", per_device_train_batch_size=1, gradient_accumulation_steps=4, **values).folder
    assert len(losses(together)) == 6
    assert_same_run(parts, together, tolerance=2e-5)
    assert_same_run(single, together, tolerance=2e-5)


def test_a_last_short_batch_counts_its_own_targets(bench: Bench) -> None:
    """10 conversations in batches of 4: the third step has two."""
    values: dict[str, Any] = {"max_train_conversations": 10, "learning_rate": 3e-3}
    together = bench.run("10 in 4", per_device_train_batch_size=4, **values).folder
    parts = bench.run("10 in 2x2", per_device_train_batch_size=2, gradient_accumulation_steps=2, **values).folder
    # `epoch` counts batches of two here and batches of four there.
    assert_same_run(parts, together, tolerance=2e-5, without=("epoch",))


@pytest.mark.parametrize("delta", ["lora", "full"])
def test_gradient_checkpointing_changes_memory_and_nothing_else(bench: Bench, delta: str) -> None:
    class Count(TrainerCallback):
        calls = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.mlp"))

            def count(*_: Any) -> None:
                self.calls += 1

            # Before it: the second computation stops as soon as the last value that is needed is there.
            self.hook = layer.register_forward_pre_hook(count)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.hook.remove()

    plain, saving = Count(), Count()
    values: dict[str, Any] = {"delta": delta, "max_steps": 3}
    expected = bench.run(f"{delta} plain", plain, **values).folder
    found = bench.run(f"{delta} checkpointing", saving, gradient_checkpointing=True, **values).folder
    assert_same_run(found, expected, tolerance=1e-5)
    assert plain.calls == 3
    assert saving.calls == 6  # computed again on the way back


def test_first_losses_are_those_of_the_day_they_were_recorded(bench: Bench) -> None:
    """A change of data order, loss, optimiser, schedule or seed shows. Recorded 2026-11-21, torch 2.13 on a CPU."""
    run = bench.run("recorded", lora_dropout=0.1, weight_decay=0.01, warmup_steps=2)
    assert losses(run.folder) == pytest.approx(RECORDED, abs=1e-4)


RECORDED = [6.43831, 6.43346, 6.4205, 6.27973, 6.22899, 6.14077]


def test_the_seed_decides_and_only_the_seed(bench: Bench) -> None:
    torch.manual_seed(1)
    first = bench.run("seed 13", max_steps=2).folder
    torch.manual_seed(2)
    torch.rand(7)
    assert_same_run(bench.run("seed 13 again", max_steps=2).folder, first)
    other = bench.run("seed 14", seed=14, max_steps=2).folder
    assert any(not torch.allclose(v, weights(other)[k]) for k, v in weights(first).items())


# ---------------------------------------------------------------- when it stops and what it keeps


def test_early_stopping_stops_and_gives_back_the_best_model(bench: Bench) -> None:
    """Overfitting two conversations; checkpoints of `save_steps` alone would miss the best step."""
    run = bench.run(
        "early",
        delta="full",
        learning_rate=0.02,
        lr_scheduler_type="constant",
        max_train_conversations=2,
        eval_split="valid",
        eval_steps=1,
        save_steps=50,
        early_stopping_patience=2,
        max_steps=60,
    )
    curve = {int(r["step"]): r["eval_loss"] for r in metrics(run.folder) if "eval_loss" in r}
    best = min(curve, key=lambda step: curve[step])
    assert run.summary["stopped"] == "early"
    assert run.summary["steps"] == best + 2 < 60
    assert run.summary["best_eval_loss"] == pytest.approx(curve[best], abs=1e-9)
    assert curve[best + 2] > curve[best] + 1e-3
    causal = load(str(run.folder), device="cpu")
    assert mean_nll(causal, samples_of(bench, "valid", causal.tokenizer)) == pytest.approx(curve[best], abs=1e-4)


def test_the_best_adapter_is_given_back_without_early_stopping(bench: Bench) -> None:
    run = bench.run(
        "best",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_train_conversations=2,
        eval_split="valid",
        eval_steps=2,
        save_total_limit=1,
        max_steps=14,
    )
    curve = [r["eval_loss"] for r in metrics(run.folder) if "eval_loss" in r]
    assert len(curve) == 7
    assert min(curve) < curve[-1] - 1e-3
    assert run.summary["stopped"] == "done"
    causal = load(str(run.folder), device="cpu")
    assert mean_nll(causal, samples_of(bench, "valid", causal.tokenizer)) == pytest.approx(min(curve), abs=1e-4)


def test_validation_loss_is_a_mean_over_tokens(bench: Bench) -> None:
    """Whatever the batch, it is the likelihood that evaluation computes; without eval_steps it is measured once."""
    found = [
        bench.run(f"valid {size}", max_steps=1, eval_split="valid", per_device_eval_batch_size=size) for size in (1, 3)
    ]
    rows = [[r for r in metrics(run.folder) if "eval_loss" in r] for run in found]
    assert [len(r) for r in rows] == [1, 1]
    causal = load(str(found[0].folder), device="cpu")
    expected = mean_nll(causal, samples_of(bench, "valid", causal.tokenizer))
    for run, (row,) in zip(found, rows, strict=True):
        assert row["eval_loss"] == pytest.approx(expected, abs=1e-5)
        assert row["eval_perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
        assert run.summary["best_eval_loss"] == row["eval_loss"]
        assert f"| {row['eval_loss']:.4f} nats per token |" in (run.folder / "README.md").read_text("utf-8")


def test_max_seconds_stops_and_keeps_what_was_learnt(bench: Bench) -> None:
    run = bench.run("seconds", num_train_epochs=10_000, max_seconds=0.3)
    assert run.summary["stopped"] == "time"
    assert 1 <= run.summary["steps"] < run.summary["planned_steps"]
    assert run.summary["seconds"] < 30
    assert any(v.abs().max() > 0 for k, v in weights(run.folder).items() if "lora_B" in k)
    assert "the time was over" in (run.folder / "README.md").read_text("utf-8")


TRAP: dict[str, Any] = {
    "max_train_conversations": 2,
    "eval_split": "valid",
    "save_steps": 4,
    "eval_steps": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
}


class LateAfter(TrainerCallback):
    """Makes the time be over as step `step` ends."""

    def __init__(self, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step, self.monkeypatch = step, monkeypatch

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            self.monkeypatch.setattr("heedful.training.trainer.Clock._is_over", lambda self, args, limit: True)


def eval_losses(folder: Path) -> dict[int, float]:
    return {int(r["step"]): r["eval_loss"] for r in metrics(folder) if "eval_loss" in r}


def assert_weights_of(bench: Bench, run: Run, step: int, loss: float) -> None:
    causal = load(str(run.folder), device="cpu")
    assert mean_nll(causal, samples_of(bench, "valid", causal.tokenizer)) == pytest.approx(loss, abs=1e-4)
    assert run.summary["weights_step"] == step
    assert f"| weights | those of step {step} |" in (run.folder / "README.md").read_text("utf-8")


def test_what_was_learnt_up_to_the_end_of_the_time_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last evaluation was at step 4; at the stop in step 7 there is another, and its weights are the best."""
    run = bench.run("late", LateAfter(7, monkeypatch), max_seconds=600, max_steps=40, **TRAP)
    assert (run.summary["stopped"], run.summary["steps"]) == ("time", 7)
    curve = eval_losses(run.folder)
    assert list(curve) == [4, 7]
    assert curve[7] < curve[4]
    assert run.summary["best_eval_loss"] == curve[7]
    assert_weights_of(bench, run, 7, curve[7])


def test_the_last_step_is_measured_too(bench: Bench) -> None:
    run = bench.run("odd end", max_steps=6, **TRAP)
    curve = eval_losses(run.folder)
    assert list(curve) == [4, 6]
    assert_weights_of(bench, run, 6, curve[6])


def test_an_earlier_best_step_is_named(bench: Bench) -> None:
    run = bench.run("early best", max_steps=14, **{**TRAP, "eval_steps": 2, "save_steps": 2, "learning_rate": 0.1})
    curve = eval_losses(run.folder)
    best = min(curve, key=lambda step: curve[step])
    assert best < 14
    assert_weights_of(bench, run, best, curve[best])


# ---------------------------------------------------------------- plan

SHAPES: list[dict[str, Any]] = [
    {},
    {"per_device_train_batch_size": 5, "num_train_epochs": 1.5},
    {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    {"max_steps": 2},
    {"max_train_conversations": 7, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
    {"max_length": 180, "keep_context": 0.5, "overlong": "skip"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: ",".join(s) or "plain")
def test_the_plan_counts_the_steps_that_are_taken(bench: Bench, shape: dict[str, Any], request: Any) -> None:
    """The dry run's steps and tokens are those of the Trainer."""
    values = bench.values(request.node.name.replace("/", "_"), **shape)
    plan = dry_run(TrainConfig(**values))
    run = bench.run(request.node.name.replace("/", "_"), **shape)
    assert run.summary["steps"] == plan.steps == run.summary["planned_steps"]
    assert run.summary["data_hash"] == plan.data_hash
    # Exact for whole epochs; a part of one is counted with conversations of mean length.
    batch = shape.get("per_device_train_batch_size", 4) * shape.get("gradient_accumulation_steps", 1)
    whole = plan.steps % math.ceil(plan.conversations / batch) == 0
    assert plan.tokens_in_all == pytest.approx(run.summary["tokens"], rel=1e-9 if whole else 0.35)
    if not shape:
        assert plan.tokens_in_all == 2 * plan.tokens
    assert plan.separate_tokens > plan.tokens > plan.target_tokens


def test_several_processes_share_the_steps() -> None:
    config = Config(per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=3)
    assert steps_of(config, trees=16) == 12
    assert steps_of(config, trees=16, processes=2) == 6
    assert steps_of(config, trees=1, processes=2) == 3


def test_the_memory_estimate_grows_with_what_needs_memory(bench: Bench) -> None:
    def of(tokens: int = 1000, **more: Any) -> int:
        return estimate_memory(TrainConfig(**bench.values("x", **more)), row_tokens=tokens)

    assert of(2000) > of(1000) > 0
    assert of(delta="full") > of()
    assert of(gradient_checkpointing=True) < of()
    assert of(precision="bf16") < of(precision="fp32")
    # 4 bytes a weight: 500 x 32 (tied) and two layers of 4 x 32 x 32 + 3 x 32 x 64.
    assert of(0) - LIBRARIES - 12 * 14 * 4 * 32 * 2 == 4 * (500 * 32 + 2 * (4 * 32**2 + 3 * 32 * 64))
    assert estimate_memory(TrainConfig(model_name_or_path="someone/not-here"), row_tokens=10) == 0


# ---------------------------------------------------------------- data


def order(lengths: list[int], *, size: int, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = LengthBatches(lengths, global_batch=size, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def batches(found: list[int], size: int) -> Iterator[list[int]]:
    return (found[i : i + size] for i in range(0, len(found), size))


@pytest.mark.parametrize(("n", "size"), [(1, 4), (4, 4), (7, 2), (100, 8), (131, 4), (300, 16)])
def test_every_conversation_once_an_epoch(n: int, size: int) -> None:
    lengths = [(i * 37) % 101 + 1 for i in range(n)]
    found = order(lengths, size=size)
    assert sorted(found) == list(range(n))
    assert found == order(lengths, size=size)
    assert len(LengthBatches(lengths, global_batch=size, seed=0)) == n
    for fill in (2, 4):  # several processes
        filled = list(LengthBatches(lengths, global_batch=size, seed=0, fill=fill))
        assert filled == found + [n] * (-n % fill)
        assert len(LengthBatches(lengths, global_batch=size, seed=0, fill=fill)) == len(filled)
    if n > 4 * size:
        assert found != order(lengths, size=size, epoch=1)
        assert found != order(lengths, size=size, seed=1)
        spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches(found, size)][:-1]
        assert sum(spread) / len(spread) < 30  # of 100 when drawn blindly
        firsts = [lengths[b[0]] for b in batches(found, size)]
        assert firsts != sorted(firsts, reverse=True)  # the batches themselves stay in random order


def test_what_is_prepared_is_counted(bench: Bench) -> None:
    tokenizer = load(str(bench.model), device="cpu").tokenizer
    talks = corpora.load(str(bench.data), "train")
    found = prepare(talks, formats.make("chat"), tokenizer, max_length=1024)
    samples = samples_of(bench, "train", tokenizer)
    assert found.samples == len(samples)
    assert found.separate_tokens == sum(len(s.prompt) + len(s.target) for s in samples)
    assert found.target_tokens == sum(len(s.target) for s in samples)
    assert (len(found.trees), found.skipped) == (len(talks), 0)
    assert prepare(talks, formats.make("chat"), tokenizer, max_length=1024).hash == found.hash
    assert prepare(talks[:-1], formats.make("chat"), tokenizer, max_length=1024).hash != found.hash
    less = prepare(talks, formats.make("chat"), tokenizer, max_length=140, overlong="skip")
    assert less.skipped == found.samples - less.samples > 0


def test_nothing_to_learn_from_is_said(bench: Bench) -> None:
    tokenizer = load(str(bench.model), device="cpu").tokenizer
    opener = list(corpora.load(str(bench.data), "train"))[:1]
    with pytest.raises(UserError, match="needs turns of role 'assistant'"):
        prepare([c.before(1) for c in opener], formats.make("chat"), tokenizer, max_length=1024)


def test_a_filler_adds_nothing(bench: Bench) -> None:
    tokenizer = load(str(bench.model), device="cpu").tokenizer
    trees = prepare(corpora.load(str(bench.data), "train"), formats.make("chat"), tokenizer, max_length=1024).trees[:2]
    filled, collate = Filled(trees, pad_id=7), Collator(7)
    assert len(filled) == 2
    assert [filled[0], filled[1]] == trees
    with pytest.raises(IndexError):
        filled[3]
    alone = collate([filled[2], filled[2]])
    assert (alone["input_ids"].tolist(), len(alone["label"]), int(alone["filled"])) == ([[7]], 0, 0)
    mixed, plain = collate([filled[0], filled[2]]), collate([trees[0]])
    assert set(mixed) == set(plain)
    for name, value in plain.items():
        torch.testing.assert_close(mixed[name], value)


# ---------------------------------------------------------------- machine


def test_one_process_uses_one_gpu(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """nn.DataParallel, which transformers takes for several, would cut packed batches wrongly."""
    several = TrainingArguments(output_dir=str(bench.root / "x"), use_cpu=True, report_to="none")
    several._n_gpu = 4
    assert several.train_batch_size == 4 * several.per_device_train_batch_size
    assert one_device(several).n_gpu == 1
    assert several.train_batch_size == several.per_device_train_batch_size
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    said: list[str] = []
    train(TrainConfig(**bench.values("four", max_steps=1)), say=said.append)
    assert [x for x in said if "GPU" in x] == [
        "4 GPUs are visible and one process uses one of them; for all of them: torchrun --nproc_per_node 4 -m heedful "
        "train ..."
    ]


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert use_bf16("bf16", on_cpu=True)
    assert not use_bf16("fp32", on_cpu=True)
    assert not use_bf16("fp16", on_cpu=False)
    for there in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda there=there: there)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert use_bf16("auto", on_cpu=True) is there


def test_bf16_trains_too(bench: Bench) -> None:
    run = bench.run("bf16", precision="bf16", max_steps=3).folder
    exact = bench.run("fp32", precision="fp32", max_steps=3).folder
    assert losses(run) == pytest.approx(losses(exact), abs=0.05)
    assert losses(run) != losses(exact)
    assert {v.dtype for v in weights(run).values()} == {torch.float32}


def test_freed_memory_is_kept_where_glibc_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import platform

    assert keep_freed_memory() is give_freed_memory_back() is (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_freed_memory() is give_freed_memory_back() is False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_stage_has_freed_goes_back_before_the_next_one() -> None:
    """In a process of its own, since the setting holds until its end."""
    code = """
import gc, torch
from heedful.models.memory import give_freed_memory_back, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
keep_freed_memory()
blocks = [torch.ones(1 << 20) for _ in range(120)]
few = blocks[::40]
full = resident()
del blocks
gc.collect()
print(full, resident(), give_freed_memory_back(), resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    full, kept, trimmed, left = done.stdout.split()
    if trimmed != "True":
        pytest.skip("needs glibc's allocator")
    assert float(kept) > float(full) - 50
    assert float(left) < float(full) - 300


def test_stdout_belongs_to_results(bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from heedful.cli import main

    values = bench.values(str(tmp_path / "run"), max_steps=1)
    main(["train", "--json", *(f"{k}={'null' if v is None else v}" for k, v in values.items())])
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 1
    assert found["folder"] == str(tmp_path / "run")
