"""Rollout engines side by side: tokens a second of transformers and llama.cpp, on this machine, for the embedded model.

    python scripts/bench_engines.py [--threads 2] [--streams 8 32]

A LoRA of rank 16 lies on the model; prompts have about 150 tokens, 8 replies each, 32 new tokens. Prints wall seconds,
tokens a second, the seconds of a `sync`, and how far llama.cpp's log-probabilities are from the policy's.
"""

from __future__ import annotations

import argparse
import time

import torch

from heedful.models import DELTAS
from heedful.models.causal import CausalModel, load
from heedful.models.decoding import Decoding
from heedful.models.delta import DeltaSettings, attach
from heedful.models.engine import Engine, TransformersEngine
from heedful.models.llama_cpp import LlamaCppEngine

EACH = 8
SETTINGS = Decoding(max_new_tokens=32, do_sample=True)
TALK = "I have not slept well since the move, and my new flat is quiet, too quiet for me. "


def prompts(causal: CausalModel, count: int, *, round: int) -> list[tuple[int, ...]]:
    """Prompts of about 150 tokens that differ early, so that no engine finds one in its cache."""
    body = tuple(causal.tokenizer(TALK * 7, add_special_tokens=False).input_ids)
    return [(1000 + 100 * round + i, *body) for i in range(count)]


def measure(engine: Engine, causal: CausalModel, name: str, streams: list[int]) -> None:
    """Print one line per number of streams."""
    engine.sample(prompts(causal, 1, round=0), n=2, settings=SETTINGS, names=["warm"])
    for k, width in enumerate(streams, 1):
        asked = prompts(causal, max(1, width // EACH), round=k)
        begun = time.monotonic()
        made = engine.sample(asked, n=EACH, settings=SETTINGS, names=[f"{k}/{i}" for i in range(len(asked))])
        seconds = time.monotonic() - begun
        tokens = sum(len(w.tokens) for group in made for w in group)
        print(f"{name:24} {width:4} streams  {tokens:6,} tokens  {seconds:7.2f} s  {tokens / seconds:7.1f} tokens/s")


def main() -> None:
    """Both engines, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", type=int, nargs="+", default=[8, 32])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    causal = load()
    causal.model = attach(causal.model, DELTAS.get("lora")(DeltaSettings(rank=16)), name="lora").eval()
    print(
        f"torch {torch.__version__}, {given.threads} threads, prompts of {len(prompts(causal, 1, round=0)[0])} tokens"
    )
    measure(TransformersEngine(causal, dtype=torch.bfloat16), causal, "transformers bf16", given.streams)
    for precision in ("q8_0", "f16"):
        begun = time.monotonic()
        engine = LlamaCppEngine(
            causal, threads=given.threads, context=256, precision=precision, streams=max(given.streams)
        )
        print(f"llama.cpp {precision}: ready in {time.monotonic() - begun:.1f} s; {engine.checked.sentence()}")
        measure(engine, causal, f"llama.cpp {precision}", given.streams)
        begun = time.monotonic()
        engine.sync(causal)
        print(f"llama.cpp {precision}: sync {time.monotonic() - begun:.1f} s")
        engine.close()


if __name__ == "__main__":
    main()
