"""Toy proof of reinforcement learning: a reward whose optimum is known, four algorithms, three seeds each.

    python scripts/rl_toy.py                                 all twelve runs, pictures and table of docs/rl-toy.md
    python scripts/rl_toy.py --methods grpo --seeds 13       some of them; prints the table, writes no page
    python scripts/rl_toy.py --jobs 1 --out runs/rl-toy      one run at a time; where runs lie

A model of four layers is made from nothing and trained on the embedded corpus `commons` for about a minute, until it
writes lines that look like a supporter's. Then each algorithm trains a LoRA adapter on it. A reply is worth 1 if it
holds a question mark and has 8 to 20 words, else 0: the best possible mean is 1, and the start is well below it.

Every number of the page's table comes from here. Each run has a process of its own with one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from heedful import corpora
from heedful.pages.charts import Curve, curves, standalone
from heedful.training.methods import configured

SEEDS = (13, 21, 42)
GOAL = 0.9
WINDOW = 5
"""Steps over which a training reward is averaged before it is compared with the goal."""
DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- written by scripts/rl_toy.py -->", "<!-- end -->"
LOOKS = {13: ("#0072B2", "solid"), 21: ("#B34700", "dashed"), 42: ("#00765A", "dotted")}

SHARED: dict[str, Any] = {
    "dataset": "commons",
    "format": {"name": "chat", "system": ""},
    "precision": "fp32",
    "lora_rank": 16,
    "max_length": 112,
    "overlong": "skip",
    "max_new_tokens": 48,
    # 1 for a question within the gate, 0 outside: the total is 0 or 1.
    "rewards": [
        {"name": "question"},
        {"name": "length_between", "params": {"low": 8, "high": 20}, "weight": 0.0, "gate": 1.0, "gate_total": 0.0},
    ],
    "rollout_batch_size": 16,
    "num_generations": 8,
    "num_iterations": 2,
    "mini_batch_size": 8,
    "per_device_train_batch_size": 8,
    "engine_options": {"branches": 128},
    "lr_scheduler_type": "linear",
    "learning_rate": 1.5e-3,
    "max_grad_norm": 1.0,
    "max_steps": 50,
    "eval_steps": 10,
    "max_eval_prompts": 128,
    "save_steps": 10**6,
    "save_traces": False,
}
"""What all algorithms have in common: 16 prompts of 8 replies a round, and 4 updates."""
METHODS: dict[str, dict[str, Any]] = {
    "ppo": {"kl_coef": 0.015, "kl_target": 6.0, "value_learning_rate": 1e-2},
    # The KL term of GRPO is a mean over tokens beside advantages of size 1; those of the others are sums over a reply.
    "grpo": {"kl_coef": 0.02},
    "rloo": {"kl_coef": 0.01},
    "reinforce++": {"kl_coef": 0.01},
}


def start_model(folder: Path, *, steps: int = 150, layers: int = 4, hidden: int = 128) -> Path:
    """A run of a small model that was trained on `commons`, made where it is not there yet.

    Args:
        folder: gets `random` (untrained) and `start` (trained).
        steps: of supervised training, four dialogues each.
    """
    if (folder / "start" / "summary.json").is_file():
        return folder / "start"
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = made_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(SEEDS[0])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.save_pretrained(folder / "random")
    tokenizer.save_pretrained(folder / "random")
    values = {
        "method": "sft", "model_name_or_path": str(folder / "random"), "delta": "full", "dataset": "commons",
        "format": SHARED["format"], "precision": "fp32", "max_length": 768, "overlong": "skip", "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine", "warmup_steps": min(20, steps // 4), "max_steps": steps, "save_steps": 10**6,
        "output_dir": str(folder / "start"),
    }  # fmt: skip
    method, config = configured(values)
    method.train(config)
    return folder / "start"


def made_tokenizer() -> Any:
    """Byte-level BPE with 2,048 entries, trained on the training part of `commons`; no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=["<end>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator((t.text for c in corpora.load("commons", "train") for t in c.turns), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>", pad_token="<end>", model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def train_one(method: str, seed: int, folder: Path, **more: Any) -> Path:
    """One run; its folder.

    Args:
        folder: where `start` lies and the run's folder comes to lie; an older run of the name is replaced.
        more: settings that differ from those above.
    """
    import torch

    torch.set_num_threads(1)
    target = folder / f"{method}-{seed}"
    shutil.rmtree(target, ignore_errors=True)
    start = start_model(folder)
    values = {**SHARED, **METHODS[method], **more, "method": method, "seed": seed, "model_name_or_path": str(start)}
    kind, config = configured({**values, "output_dir": str(target)})
    begun, work = time.monotonic(), time.process_time()
    kind.train(config)
    took = {"seconds": time.monotonic() - begun, "processor_seconds": time.process_time() - work}
    (target / "took.json").write_text(json.dumps(took), "utf-8")
    return target


def lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def figures(target: Path) -> dict[str, Any]:
    """What the table says of a run."""
    rows, checks = lines(target / "metrics.jsonl"), lines(target / "validation.jsonl")
    rewards, kl = [row["reward"] for row in rows], [row["kl"] for row in rows]
    means = [statistics.fmean(rewards[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(rewards))]
    there = [row["step"] for row, mean in zip(rows, means, strict=True) if mean >= GOAL and row["step"] >= WINDOW]
    first, last = ([v for v in check["total"] if v is not None] for check in (checks[0], checks[-1]))
    return {
        "start": statistics.fmean(first),
        "end": statistics.fmean(last),
        "n": len(last),
        "reached": there[0] if there else None,
        "first": rewards[0],
        "training": means[-1],
        "kl": statistics.fmean(kl[-WINDOW:]),
        "most_kl": max(kl),
        "distinct2": (checks[0]["distinct2"], checks[-1]["distinct2"]),
        **json.loads((target / "took.json").read_text("utf-8")),
    }


def least_kl(start: float, end: float) -> float:
    """The smallest KL in nats per reply at which a 0/1 reward can have the mean `end`, where it begins at `start`.

    It is reached by the start itself with its good replies made likelier and its bad ones less likely, and nothing
    else changed: end * log(end / start) + (1 - end) * log((1 - end) / (1 - start)).
    """
    if not 0 < start < 1:
        return math.nan
    return sum(p * math.log(p / q) for p, q in ((end, start), (1 - end, 1 - start)) if p > 0)


def table(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    out = [
        "| method | seed | validation, start → end | goal reached at step | reward of the last steps | their KL | "
        "largest KL | least KL for that reward | different 2-grams, start → end | processor seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (method, seed), f in found.items():
        before, after = f["distinct2"]
        out.append(
            f"| {method} | {seed} | {f['start']:.3f} → {f['end']:.3f} | {f['reached'] or '–'} | {f['training']:.3f} | "
            f"{f['kl']:.2f} | {f['most_kl']:.2f} | {least_kl(f['first'], f['training']):.2f} | "
            f"{before:.2f} → {after:.2f} | {f['processor_seconds']:.0f} |"
        )
    return "\n".join(out)


def made_with(command: str, seconds: float) -> str:
    """Date, command, machine and versions."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    return (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({processor()}), one thread a run, "
        f"{seconds / 60:.0f} minutes in all on a machine that did other work too; Python {platform.python_version()}, "
        f"{versions}."
    )


def processor() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    rows = info.read_text("utf-8").splitlines() if info.is_file() else []
    return next((row.partition(":")[2].strip() for row in rows if row.startswith("model name")), platform.machine())


def draw(folder: Path, methods: Sequence[str], seeds: Sequence[int], pictures: Path) -> list[str]:
    """Pictures of reward and KL by step; returns Markdown that shows them."""
    pictures.mkdir(parents=True, exist_ok=True)
    out = ["| | reward | KL to the start, nats per reply |", "|---|---|---|"]
    for method in methods:
        runs = {seed: lines(folder / f"{method}-{seed}" / "metrics.jsonl") for seed in seeds}
        cells = []
        for key, title in (("reward", "Mean reward"), ("kl", "KL to the start")):
            found = [
                Curve(name=f"seed {seed}", x=[r["step"] for r in rows], y=[r[key] for r in rows], colour=LOOKS[seed][0],
                      style=LOOKS[seed][1])  # type: ignore[arg-type]
                for seed, rows in runs.items()
            ]  # fmt: skip
            name = f"rl-toy-{method.rstrip('+')}-{key}.svg"
            picture = curves(found, title=f"{title} by step, {method}", x_label="step", most_dots=0, left=13.0)
            (pictures / name).write_text(standalone(picture, width=420), "utf-8")
            cells.append(f"![{title} by step, {method}, one line per seed](pictures/{name})")
        out.append(f"| {method} | {cells[0]} | {cells[1]} |")
    return out


def fill(page: Path, text: str) -> None:
    """Put `text` between the page's two marks."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def run_all(options: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """All runs, `--jobs` at a time, each in its own process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def one(pair: tuple[str, int]) -> dict[str, Any]:
        command = [sys.executable, __file__, "--one", pair[0], str(pair[1]), "--out", str(options.out)]
        if options.steps:
            command += ["--steps", str(options.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"{pair[0]}, seed {pair[1]} failed:\n{done.stderr[-3000:]}")
        found = figures(options.out / f"{pair[0]}-{pair[1]}")
        print(
            f"{pair[0]:12} seed {pair[1]}: reward {found['start']:.3f} -> {found['end']:.3f} (n = {found['n']}), last "
            f"steps {found['training']:.3f}, goal at step {found['reached']}, KL {found['kl']:.2f}, "
            f"{found['processor_seconds']:.0f} s of processor",
            flush=True,
        )
        return found

    pairs = [(method, seed) for method in options.methods for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        return dict(zip(pairs, pool.map(one, pairs), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/rl-toy"))
    parser.add_argument("--steps", type=int, help=f"default: {SHARED['max_steps']}")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    more = {"max_steps": options.steps} if options.steps else {}
    if options.one:
        train_one(options.one[0], int(options.one[1]), options.out, **more)
        return
    begun = time.monotonic()
    start_model(options.out)
    print(f"start: {time.monotonic() - begun:.0f} s", flush=True)
    found = run_all(options)
    print(table(found))
    made = made_with("python scripts/rl_toy.py", time.monotonic() - begun)
    print(made)
    if set(found) == {(m, s) for m in METHODS for s in SEEDS} and not options.steps:
        pictures = draw(options.out, list(METHODS), SEEDS, DOCS / "pictures")
        n = next(iter(found.values()))["n"]
        said = (
            f"Validation: the mean over {n} replies to other dialogues' prompts, one each. The last steps are "
            f"{WINDOW}: {WINDOW * SHARED['rollout_batch_size'] * SHARED['num_generations']} replies. {made}"
        )
        fill(DOCS / "rl-toy.md", "\n\n".join([table(found), said, "\n".join(pictures)]))
        print(f"written: {DOCS / 'rl-toy.md'} and its pictures")


if __name__ == "__main__":
    main()
