"""Speed beside the peers, one run, printed as ratios: `make bench` (about 40 minutes on 2 cores).

    python scripts/bench.py sft       one supervised pass over 20 ESConv dialogues against TRL's SFTTrainer
    python scripts/bench.py metrics   2,801 replies against rouge-score, sacrebleu, NLTK and bert-score
    python scripts/bench.py rl        a GRPO step against TRL's GRPOTrainer, memory, rewards: scripts/bench_rl.py
    python scripts/bench.py decode    the server's engine against llama.cpp itself: scripts/bench_decode.py
    python scripts/bench.py clinic    200 help-seekers at once: scripts/bench_clinic.py
    python scripts/bench.py rules     the crisis rules, up to 50,000 characters: scripts/bench_rules.py
    python scripts/bench.py start     import and --help

The supervised pass: the same targets, model, LoRA and precision. TRL gets one prompt-completion pair per supporter
turn, heedful gets the conversations. Both make one optimiser step over all targets from the same weights (LoRA starts
at zero), so the losses must agree, and they stand side by side. What is no merit of whole conversations, TRL gets too:
batches by length, and the memory setting that heedful makes for itself. Every side has a process of its own; "computed"
counts padding.
Without ESConv under HEEDFUL_DATA the embedded corpus `commons` takes its place, and the output says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from heedful import corpora, formats
from heedful.formats import Sample
from heedful.models.causal import load
from heedful.models.delta import DeltaSettings, attach, lora
from heedful.settings import check
from heedful.training.config import TrainConfig
from heedful.training.plan import estimate_memory

DIALOGUES = 20
MAX_LENGTH = 2048


def corpus() -> tuple[str, list[Any]]:
    """The dialogues of the bench and what they are called."""
    if corpora.get("esconv").locate() is not None:
        return "esconv", corpora.load("esconv", "train")[:DIALOGUES]
    return "commons (ESConv is not here)", corpora.load("commons", "train")[:DIALOGUES]


def sft_heedful() -> dict[str, float]:
    """One pass with whole conversations; seconds, loss per target token, peak memory."""
    from heedful.models.causal import use_bf16
    from heedful.models.memory import keep_freed_memory
    from heedful.training.data import prepare
    from heedful.training.sft import Collator, sft

    talks = corpus()[1]
    causal = load(dtype="bfloat16" if use_bf16("auto", on_cpu=True) else "float32", device="cpu")
    ready = prepare(talks, formats.make("chat"), causal.tokenizer, max_length=MAX_LENGTH)
    causal.model = attach(causal.model, lora(DeltaSettings()), name="lora")
    causal.model.train()
    accumulation = -(-len(ready.trees) // 4)
    settings = {"max_steps": 1, "logging_steps": 1, "save_steps": 1000, "warmup_steps": 0}
    config = check(TrainConfig, {**settings, "gradient_accumulation_steps": accumulation})
    keep_freed_memory()
    logged: list[dict[str, float]] = []
    computed: list[int] = []
    collate = Collator.__call__

    def counting(self: Collator, trees: Any) -> Any:
        batch = collate(self, trees)
        computed.append(batch["input_ids"].numel())
        return batch

    Collator.__call__ = counting  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        outcome = sft(config, causal, ready, None, folder=Path(folder), log=lambda values, step: logged.append(values))
    longest = max(len(t) for t in ready.trees)
    return {
        "seconds": outcome.seconds,
        "loss": logged[0]["loss"],
        "targets": ready.samples,
        "tokens": ready.tokens,
        "computed": sum(computed),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "estimated_gib": estimate_memory(config, row_tokens=4 * longest) / 2**30,
    }


def sft_trl() -> dict[str, float]:
    """The same pass with TRL's SFTTrainer on exploded prompt-completion samples."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from heedful.models.causal import use_bf16
    from heedful.models.memory import keep_freed_memory

    talks = corpus()[1]
    bf16 = use_bf16("auto", on_cpu=True)
    causal = load(dtype="bfloat16" if bf16 else "float32", device="cpu")
    fmt = formats.make("chat")
    samples: list[Sample] = [s for c in talks for s in fmt.samples(c, causal.tokenizer, max_length=MAX_LENGTH)]
    rows = [
        {
            "input_ids": [*s.prompt, *s.target],
            "labels": [-100] * len(s.prompt) + list(s.target),
        }
        for s in samples
    ]
    for parameter in causal.model.parameters():
        parameter.requires_grad = False
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, use_cpu=True, bf16=bf16, max_steps=1, per_device_train_batch_size=4,
            gradient_accumulation_steps=-(-len(rows) // 4), max_length=MAX_LENGTH, learning_rate=2e-4, logging_steps=1,
            gradient_checkpointing=False, report_to="none", disable_tqdm=True,
            save_strategy="no", seed=13, dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False,
            train_sampling_strategy="group_by_length",
        )  # fmt: skip
        trainer = SFTTrainer(
            model=causal.model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=causal.tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
        )
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
        computed = count_tokens(trainer)
        keep_freed_memory()
        begun = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - begun
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return {
        "seconds": seconds,
        "loss": float(loss),
        "targets": len(rows),
        "tokens": sum(len(r["input_ids"]) for r in rows),
        "computed": sum(computed),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def count_tokens(trainer: Any) -> list[int]:
    """A list that gets the size of every batch, padding included, as the collator makes it."""
    sizes: list[int] = []
    collate = trainer.data_collator

    def counting(rows: Any) -> Any:
        batch = collate(rows)
        sizes.append(batch["input_ids"].numel())
        return batch

    trainer.data_collator = counting
    return sizes


def in_own_process(part: str) -> dict[str, float]:
    """Run one part alone, so that memory and warm caches of one side do not help or hurt the other."""
    done = subprocess.run([sys.executable, __file__, "--part", part], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def bench_sft() -> None:
    """Print the table of the supervised pass."""
    name, talks = corpus()
    print(f"supervised pass: {len(talks)} dialogues of {name}, SmolLM2-135M, LoRA r16 all-linear, bf16 where supported")
    sides = {"heedful": "sft_heedful", f"TRL {metadata.version('trl')}": "sft_trl"}
    print(
        f"{'':12}{'seconds':>10}{'tokens':>10}{'computed':>10}{'targets':>9}{'loss/token':>12}{'peak GiB':>10}",
        flush=True,
    )
    rows = []
    for label, part in sides.items():
        row = in_own_process(part)
        rows.append(row)
        print(
            f"{label:12}{row['seconds']:>10.1f}{row['tokens']:>10,.0f}{row['computed']:>10,.0f}{row['targets']:>9,.0f}"
            f"{row['loss']:>12.4f}{row['peak_gib']:>10.2f}",
            flush=True,
        )
    ours, theirs = rows
    print(f"ratio of time, TRL / heedful: {theirs['seconds'] / ours['seconds']:.2f}")
    print(f"difference of loss: {abs(theirs['loss'] - ours['loss']):.5f}")
    print(f"estimated peak of heedful (--dry-run): {ours['estimated_gib']:.2f} GiB, measured {ours['peak_gib']:.2f}")


def bench_start() -> None:
    """Median wall time of fresh processes."""
    for label, command in (
        ("python -c pass", [sys.executable, "-c", "pass"]),
        ("import heedful", [sys.executable, "-c", "import heedful"]),
        ("heedful --help", [str(Path(sys.executable).with_name("heedful")), "--help"]),
    ):
        times = []
        for _ in range(9):
            begun = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.monotonic() - begun)
        print(f"{label:16} median {statistics.median(times):.3f} s  (min {min(times):.3f}, max {max(times):.3f})")


def bench_metrics() -> None:
    """The metric suite against the four libraries, see scripts/bench_metrics.py."""
    command = [sys.executable, str(Path(__file__).with_name("bench_metrics.py"))]
    released = Path(os.environ.get("HEEDFUL_DATA", "")) / "glhg_generations" / "generation-glhg.json.gz"
    subprocess.run([*command, *(["--file", str(released)] if released.is_file() else [])], check=True)


def bench_rl() -> None:
    """Reinforcement learning, see scripts/bench_rl.py."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("bench_rl.py"))], check=True)


def bench_decode() -> None:
    """The default engine, see scripts/bench_decode.py."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("bench_decode.py"))], check=True)


def bench_clinic() -> None:
    """The clinic under load, see scripts/bench_clinic.py."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("bench_clinic.py"))], check=True)


def bench_rules() -> None:
    """The crisis rules, see scripts/bench_rules.py."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("bench_rules.py"))], check=True)


PARTS = {"sft_heedful": sft_heedful, "sft_trl": sft_trl}
BENCHES = {
    "start": bench_start,
    "metrics": bench_metrics,
    "sft": bench_sft,
    "rl": bench_rl,
    "decode": bench_decode,
    "clinic": bench_clinic,
    "rules": bench_rules,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="*", choices=[*BENCHES, []], help="default: all")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part]()))
    else:
        for bench in given.benches or BENCHES:
            print(f"\n== {bench} ==", flush=True)
            BENCHES[bench]()
