"""Speed of reinforcement learning, printed as ratios: `python scripts/bench_rl.py` (about 10 minutes on 2 cores).

    python scripts/bench_rl.py step      one GRPO step against TRL's GRPOTrainer, without and with a KL term
    python scripts/bench_rl.py memory    peak memory of a PPO step against a supervised step on the same token trees
    python scripts/bench_rl.py rewards   seconds of rewards against those of the rollout that made the replies
    python scripts/bench_rl.py profile   where a step's seconds go

The step: the same 2 prompts of about 300 tokens for both, 8 replies each of exactly 40 tokens (the end token is barred
until then), SmolLM2-135M with LoRA r16 on all linear layers, a free reward, one update per round, the same loss (GRPO
as published, scaled by group), all replies in one pass. TRL gets what helps it: the base in bf16 where the processor
computes it (its generation is several times slower in fp32), no gradient checkpointing, no logging of texts, and the
memory setting that heedful makes for itself. Every side has a process of its own with the same number of threads, one
after the other; medians of the steps after a warm-up. "rest" is everything but the rollout.
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
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from heedful.formats import Sample, TokenTree
from heedful.models.causal import load, use_bf16
from heedful.models.delta import DeltaSettings, attach, lora
from heedful.models.generate import end_ids
from heedful.models.memory import keep_freed_memory
from heedful.settings import check
from heedful.training.config import TrainConfig
from heedful.training.data import Prepared
from heedful.training.rl.config import GRPOConfig, PPOConfig, RLConfig
from heedful.training.rl.experience import Prompt
from heedful.training.rl.loop import Loop
from heedful.training.rl.processes import Processes
from heedful.training.rl.run import _loop, gather
from heedful.training.shared import tokenizer_for
from heedful.training.start import load_start

GROUP = 8
LENGTH = (280, 320)
"""Tokens of a prompt, at least and at most."""
RATE = 1e-5


def chance(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float]:
    """A reward that costs nothing and depends on the words alone."""
    return [(zlib.crc32(str(text).encode()) % 1000) / 1000 for text in completions]


def settings(options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """The settings of a run of ours."""
    return {
        "dataset": "commons", "eval_split": None, "max_length": LENGTH[1] + 60, "overlong": "skip",
        "rewards": ["bench_rl:chance"], "num_generations": GROUP, "rollout_batch_size": options.prompts,
        "mini_batch_size": options.prompts, "per_device_train_batch_size": options.prompts, "learning_rate": RATE,
        "max_new_tokens": options.tokens, "max_steps": options.steps + 1, "lr_scheduler_type": "constant",
        "save_traces": False, "max_grad_norm": 1.0, **more,
    }  # fmt: skip


def chosen(config: RLConfig, options: argparse.Namespace) -> tuple[Any, list[Prompt]]:
    """The inputs of a run, with as many prompts of about 300 tokens as a round has, from different dialogues."""
    inputs = gather(config, tokenizer_for(config, config.model_name_or_path))
    found: dict[str, Prompt] = {}
    for prompt in inputs.prompts:
        if LENGTH[0] <= len(prompt.tokens) <= LENGTH[1]:
            found.setdefault(prompt.task.context.id, prompt)
    prompts = list(found.values())[: options.prompts]
    if len(prompts) < options.prompts:
        raise SystemExit(f"commons has only {len(prompts)} prompts of {LENGTH[0]} to {LENGTH[1]} tokens.")
    return inputs, prompts


def our_loop(config: RLConfig, options: argparse.Namespace, folder: Path) -> tuple[Loop, list[dict[str, Any]]]:
    """A loop on the chosen prompts, whose end token is barred, and the rows that it logs."""
    inputs, prompts = chosen(config, options)
    causal = load_start(config, config.model_name_or_path)
    loop = _loop(config, causal, replace(inputs, prompts=prompts), folder, Processes(), lambda text: None)
    engine: Any = loop.collector.engine
    engine.banned = (*engine.banned, *end_ids(causal))
    rows: list[dict[str, Any]] = []
    loop.write = lambda name, row: rows.append(dict(row)) if name == "metrics" else None
    return loop, rows


def step_heedful(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of rollout and of the rest for each step."""
    config = check(GRPOConfig, settings(options, kl_coef=options.beta))
    times = []
    with tempfile.TemporaryDirectory() as folder:
        loop, rows = our_loop(config, options, Path(folder))
        for step in range(1, options.steps + 2):
            begun = time.monotonic()
            loop._round(step)
            times.append(time.monotonic() - begun)
    return {
        "step": times,
        "rollout": [row["seconds/rollout"] for row in rows],
        "entropy": [row["entropy"] for row in rows],
        "length": [row["length"] for row in rows],
        "prompt": [len(p.tokens) for p in loop.prompts],
        "peak_gib": peak(),
    }


def step_trl(options: argparse.Namespace) -> dict[str, Any]:
    """The same with TRL."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig as TRLConfig
    from trl import GRPOTrainer

    bf16 = use_bf16("auto", on_cpu=True)
    prompts = chosen(check(GRPOConfig, settings(options)), options)[1]
    causal = load(dtype="bfloat16" if bf16 else "float32", device="cpu")
    texts = [causal.tokenizer.decode(p.tokens, skip_special_tokens=False) for p in prompts]
    times: dict[str, list[float]] = {"step": [], "rollout": []}

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begun = time.monotonic()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times["step"].append(time.monotonic() - self.begun)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TRLConfig(
            output_dir=folder, use_cpu=True, bf16=bf16, max_steps=options.steps + 1, num_generations=GROUP,
            per_device_train_batch_size=GROUP * options.prompts, gradient_accumulation_steps=1, steps_per_generation=1,
            max_completion_length=options.tokens, generation_kwargs={"min_new_tokens": options.tokens},
            beta=options.beta, loss_type="grpo", scale_rewards="group", learning_rate=RATE,
            lr_scheduler_type="constant", max_grad_norm=1.0, gradient_checkpointing=False, logging_steps=1,
            report_to="none", disable_tqdm=True, save_strategy="no", seed=13, shuffle_dataset=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=causal.model, reward_funcs=chance, args=arguments, processing_class=causal.tokenizer,
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
            callbacks=[Clock()],
        )  # fmt: skip
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
        generate = trainer._generate_single_turn
        lengths: list[int] = []

        def timed(prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
            lengths.extend(len(ids) for ids in prompt_ids)
            begun = time.monotonic()
            found = generate(prompt_ids, *args, **kwargs)
            times["rollout"].append(time.monotonic() - begun)
            return found

        trainer._generate_single_turn = timed
        keep_freed_memory()
        trainer.train()
    log = [entry for entry in trainer.state.log_history if "entropy" in entry]
    return {
        **times,
        "entropy": [entry["entropy"] for entry in log],
        "length": [entry["completions/mean_length"] for entry in log],
        "prompt": sorted(set(lengths)),
        "peak_gib": peak(),
    }


def bench_step(options: argparse.Namespace) -> None:
    """Print the table of the step."""
    print(
        f"one GRPO step: {options.prompts} prompts x {GROUP} replies of {options.tokens} tokens, SmolLM2-135M, LoRA "
        f"r16 all-linear, {'bf16' if use_bf16('auto', on_cpu=True) else 'fp32'}, {options.threads} threads, median of "
        f"{options.steps} after a warm-up"
    )
    heads = {"beta": 6, "rollout s": 11, "rest s": 9, "step s": 9, "reply": 7, "entropy": 9, "peak GiB": 10}
    print(f"{'':14}{''.join(f'{head:>{width}}' for head, width in heads.items())}  prompts")
    for beta in options.betas:
        rows = []
        for label, part in (("heedful", "step_heedful"), (f"TRL {metadata.version('trl')}", "step_trl")):
            found = in_own_process(part, options, beta=beta)
            rollout, step = found["rollout"][1:], found["step"][1:]
            rest = [whole - rolled for whole, rolled in zip(step, rollout, strict=True)]
            row = [statistics.median(values) for values in (rollout, rest, step)]
            rows.append(row)
            print(
                f"{label:14}{beta:>6.2f}{row[0]:>11.2f}{row[1]:>9.2f}{row[2]:>9.2f}"
                f"{statistics.mean(found['length'][1:]):>7.1f}{statistics.mean(found['entropy'][1:]):>9.3f}"
                f"{found['peak_gib']:>10.2f}  {found['prompt']}",
                flush=True,
            )
        ours, theirs = rows
        names = ("rollout", "rest", "step")
        ratios = [f"{name} {theirs[i] / ours[i]:.2f}" for i, name in enumerate(names)]
        print(f"ratio of time, TRL / heedful, beta {beta:g}: {', '.join(ratios)} (goal: step 3)", flush=True)


def memory_ppo(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of PPO rounds, rollouts included."""
    config = check(PPOConfig, settings(options, num_iterations=1))
    with tempfile.TemporaryDirectory() as folder:
        loop, _ = our_loop(config, options, Path(folder))
        before = peak()
        for step in range(1, options.steps + 2):
            loop._round(step)
    return {"peak_gib": peak(), "before_gib": before}


def memory_sft(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of supervised steps on the same trees: the same prompts, 8 other replies of the same length each."""
    from heedful.training.sft import sft

    config = check(
        TrainConfig,
        {"max_steps": options.steps + 1, "per_device_train_batch_size": options.prompts, "save_steps": 10**6,
         "learning_rate": RATE},
    )  # fmt: skip
    prompts = chosen(check(GRPOConfig, settings(options)), options)[1]
    causal = load_start(config, config.model_name_or_path)
    causal.model = attach(causal.model, lora(DeltaSettings()), name="lora")
    causal.model.train()
    trees = [TokenTree.merge(replies(p, i, options.tokens, causal.tokenizer)) for i, p in enumerate(prompts)]
    sizes = {"separate_tokens": 0, "tokens": 0, "target_tokens": sum(len(t.label) for t in trees)}
    ready = Prepared(trees=trees, samples=GROUP * len(prompts), **sizes, skipped=0, hash="")
    keep_freed_memory()
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        sft(config, causal, ready, None, folder=Path(folder), log=lambda values, step: None)
    return {"peak_gib": peak(), "before_gib": before, "tokens": sum(len(t) for t in trees)}


def replies(prompt: Prompt, number: int, tokens: int, tokenizer: Any) -> list[Sample]:
    """Eight replies whose ids have no meaning, so that they part at the first token, as sampled ones nearly do."""
    few = len(tokenizer) - 100
    return [
        Sample(
            id=f"{number}/{g}", conversation_id=str(number), turn=0, prompt=prompt.tokens,
            target=tuple(100 + (7919 * g + 104729 * t + number) % few for t in range(tokens)),
        )
        for g in range(GROUP)
    ]  # fmt: skip


def bench_memory(options: argparse.Namespace) -> None:
    """Print both peaks."""
    print(f"peak memory: {options.prompts} prompts with {GROUP} replies of {options.tokens} tokens in one pass")
    found = {part: in_own_process(part, options) for part in ("memory_sft", "memory_ppo")}
    for part, row in found.items():
        print(f"{part:14} peak {row['peak_gib']:.2f} GiB, before the first step {row['before_gib']:.2f} GiB")
    ratio = found["memory_ppo"]["peak_gib"] / found["memory_sft"]["peak_gib"]
    print(f"ratio of peaks, PPO / supervised: {ratio:.2f} (goal: at most 1.3)")


def rollout(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a rollout of 64 replies, the engine's batch, which end where they end."""
    config = check(GRPOConfig, settings(options, max_new_tokens=64))
    with tempfile.TemporaryDirectory() as folder:
        loop, _ = our_loop(config, options, Path(folder))
        engine: Any = loop.collector.engine
        engine.banned = tuple(set(engine.banned) - end_ids(loop.collector.causal))
        times, sizes = [], []
        for step in range(options.steps + 1):
            written = loop.collector.write(loop.prompts, n=GROUP, name=f"bench/{step}")
            times.append(loop.collector.seconds["rollout"])
            sizes += [len(w.tokens) for mine in written for w in mine]
    return {"rollout": times, "length": statistics.mean(sizes)}


def bench_rewards(options: argparse.Namespace) -> None:
    """Print the share of rewards in the time of a rollout."""
    wide = argparse.Namespace(**{**vars(options), "prompts": max(1, 64 // GROUP) if options.prompts > 1 else 1})
    found = in_own_process("rollout", wide)
    seconds = statistics.median(found["rollout"][1:]) * 1000 / (wide.prompts * GROUP)
    print(
        f"rollout: {seconds:.0f} s for 1,000 replies of {found['length']:.1f} tokens, from {wide.prompts * GROUP} at a "
        "time to prompts of about 300 tokens",
        flush=True,
    )
    script = Path(__file__).with_name("bench_rewards.py")
    command = [sys.executable, str(script), "--threads", str(options.threads), "--rollout", f"{seconds:.1f}"]
    subprocess.run(command, check=True)


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Print cProfile's view of one step of ours after a warm-up, in processor seconds of all threads."""
    import cProfile
    import pstats

    config = check(GRPOConfig, settings(options, kl_coef=options.beta))
    with tempfile.TemporaryDirectory() as folder:
        loop, rows = our_loop(config, options, Path(folder))
        loop._round(1)
        # Processor seconds: on a busy machine the clock's say more about the others.
        watched = cProfile.Profile(time.process_time)
        watched.runcall(loop._round, 2)
    print({k: round(v, 2) for k, v in rows[-1].items() if k.startswith("seconds")}, file=sys.stderr)
    pstats.Stats(watched, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    return {}


def bench_profile(options: argparse.Namespace) -> None:
    """Print where one step's seconds go."""
    in_own_process("profile", options, beta=options.betas[-1], show=True)


def peak() -> float:
    """Largest resident size of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_own_process(part: str, options: argparse.Namespace, *, beta: float = 0.0, show: bool = False) -> dict[str, Any]:
    """Run one part alone, so that memory and warm caches of one side do not help or hurt the other."""
    sizes = {"prompts": options.prompts, "tokens": options.tokens, "steps": options.steps, "threads": options.threads}
    command = [sys.executable, __file__, "--part", part, "--beta", str(beta)]
    command += [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stderr[-3000:]}")
    if show:
        print(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


Part = Callable[[argparse.Namespace], dict[str, Any]]
PARTS: dict[str, Part] = {
    "step_heedful": step_heedful,
    "step_trl": step_trl,
    "memory_ppo": memory_ppo,
    "memory_sft": memory_sft,
    "rollout": rollout,
    "profile": profile,
}
BENCHES = {"step": bench_step, "memory": bench_memory, "rewards": bench_rewards, "profile": bench_profile}
USUAL = ("step", "memory", "rewards")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="*", choices=[*BENCHES, []], help="default: all but profile")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of a step (default: 2)")
    parser.add_argument("--tokens", type=int, default=40, help="tokens of a reply (default: 40)")
    parser.add_argument("--steps", type=int, default=3, help="steps after the warm-up (default: 3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--betas", type=float, nargs="+", default=[0.0, 0.04], help="KL weights (default: 0 and 0.04)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--beta", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.part:
        for bench in options.benches or USUAL:
            print(f"\n== {bench} ==", flush=True)
            BENCHES[bench](options)
        return
    import torch

    torch.set_num_threads(options.threads)
    print(json.dumps(PARTS[options.part](options)))


if __name__ == "__main__":
    main()
