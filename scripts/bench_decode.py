"""The default engine beside llama.cpp itself: `python scripts/bench_decode.py` (about two minutes; --quick: less).

    python scripts/bench_decode.py --quick
    python scripts/bench_decode.py --model FILE.gguf --threads 2
    python scripts/bench_decode.py --json FILE          # the figures, for LOG.md

**Tokens a second.** One stream, the same GGUF file, the same threads, context and greedy reply. On one side the engine
of the server (`heedful.server.engine`: the worker process, frames over a socket, pieces as they come), timed from the
first piece to the end. On the other side llama.cpp alone in a process of its own, not streaming, with the speed that it
reports for itself (`timings.predicted_per_second`). The wheel of xllamacpp has no `llama-bench`, so llama.cpp's own
clock stands for it. Both are loaded all the time and take turns, so that a slow minute of the machine hits both. Goal:
0.9. On a machine that does something else, take `--threads 1`: two threads of llama.cpp wait for each other.

**Time to the first token.** Conversations of 20 messages of a help-seeker, as the writer of drafts sends them, medians
over the conversations. Goal: at most 1.2 from turn 2 to turn 20. A turn is a message of either side, so these are the
replies to messages 1 and 10; but message 1 reads the system prompt as well, so a ratio below 1 there says little. The
harder one stands beside it: message 20 over message 2. With each: how many tokens were read then, of how many.
Four ways: a clinician sends each draft as it is, or other words of the same length; and the engine reads ahead after
each reply, as the server does while a help-seeker reads and types (we wait until it has), or not. `--first` measures
this alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from heedful.models.embedded import DEFAULT_MODEL
from heedful.server.config import ServeConfig
from heedful.server.engine.base import Completion, Message, Options, Request
from heedful.server.engine.find import find_gguf
from heedful.server.engine.host import WorkerEngine
from heedful.server.serve import engine_of
from heedful.server.writer import EngineWriter
from heedful.types import Conversation, Turn

DECODE_GOAL, FIRST_GOAL = 0.9, 1.2
TALKED = 20
MESSAGES = (1, 2, 10, 20)
"""Of the help-seeker; what is looked at. The reply to message n is turn 2n of the conversation."""
TALK = (
    "I could not sleep again last night, and work was long.",
    "My sister called, but I did not know what to tell her.",
    "It is a bit better today. I went out for a walk by the canal.",
    "I keep thinking about the exam, and what comes after it.",
    "Nobody at home asks how I am, and I do not ask either.",
)
EDITED = (
    "I am glad that you wrote again. That sounds like a lot to carry at once, and nobody sees it. What was the hardest "
    "part of it for you?"
)
ASKED = "Please write a long story about a garden, a dog, a canal and an old boat, with many details."


def alone(model: Path, threads: int, context: int) -> None:
    """llama.cpp without us: for every line on stdin one reply, and what llama.cpp says about its speed on stdout."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = str(model)
    p.n_parallel, p.n_ctx, p.n_batch, p.n_ubatch = 1, context, 512, 512
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.verbosity, p.fit_params = -1, False
    server = xllamacpp.Server(p)
    print("{}", flush=True)
    for line in sys.stdin:
        found = server.handle_chat_completions({**json.loads(line), "stream": False, "cache_prompt": False})
        print(json.dumps(found["timings"]), flush=True)


class Alone:
    """The process of llama.cpp alone."""

    def __init__(self, model: Path, threads: int, context: int) -> None:
        command = [
            sys.executable,
            __file__,
            "--alone",
            str(model),
            "--threads",
            str(threads),
            "--context",
            str(context),
        ]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read()

    def read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        found: dict[str, Any] = json.loads(self.child.stdout.readline())
        return found

    def speed(self, tokens: int) -> float:
        """Tokens a second of one greedy reply, by llama.cpp's own clock."""
        assert self.child.stdin is not None
        body = {"messages": [{"role": "user", "content": ASKED}], "max_tokens": tokens, "temperature": 0, "top_k": 1}
        self.child.stdin.write(json.dumps(body) + "\n")
        self.child.stdin.flush()
        return float(self.read()["predicted_per_second"])

    def stop(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait(30)


def ours(engine: WorkerEngine, tokens: int) -> float:
    """Tokens a second of one greedy reply through the engine of the server."""
    options = Options(max_tokens=tokens, temperature=0)
    done = engine.run(Request(messages=(Message(role="user", content=ASKED),), options=options))
    return (done.completion_tokens - 1) / (done.seconds["total"] - done.seconds["first"])


def decode(
    engine: WorkerEngine, model: Path, *, threads: int, context: int, rounds: int, tokens: int
) -> dict[str, Any]:
    """Both sides in turn; medians and their ratio."""
    other = Alone(model, threads, context)
    try:
        ours(engine, 8)
        other.speed(8)
        pairs = []
        for n in range(rounds):
            sides = [lambda: ours(engine, tokens), lambda: other.speed(tokens)]
            if n % 2:
                there, here = sides[1](), sides[0]()
            else:
                here, there = sides[0](), sides[1]()
            pairs.append((here, there))
    finally:
        other.stop()
    ratios = [here / there for here, there in pairs]
    row = {
        "engine": statistics.median(here for here, _ in pairs),
        "llama_cpp": statistics.median(there for _, there in pairs),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    print(f"tokens a second: engine {row['engine']:.1f}, llama.cpp alone {row['llama_cpp']:.1f}, {rounds} pairs")
    print(
        f"ratio, engine / llama.cpp, median of pairs: {row['ratio']:.3f} ({min(ratios):.3f} to {max(ratios):.3f}); "
        f"goal at least {DECODE_GOAL}"
    )
    return row


def talk(engine: WorkerEngine, name: str, *, sent: str | None, ahead: bool) -> list[Completion]:
    """One conversation; what came back for each message of the help-seeker.

    Args:
        sent: what is sent in place of each draft; None = the draft.
        ahead: whether each reply is read before the next message comes.
    """
    # A draft that is not sent leaves nothing in the conversation, so it may be short.
    writer = EngineWriter(engine, options=Options(max_tokens=4 if sent else 40, temperature=0))
    turns: list[Turn] = []
    replies = []
    for n in range(1, TALKED + 1):
        turns.append(Turn(role="user", text=f"{TALK[(n + len(name)) % len(TALK)]} That is {n} of {name}."))
        said = Conversation(id=name, turns=tuple(turns), source="clinic")
        done = engine.run(writer.request(said, key=f"{name}/{n}"))
        replies.append(done)
        turns.append(Turn(role="assistant", text=sent or done.text.strip() or "I hear you."))
        if ahead:
            writer.read_ahead(replace(said, turns=tuple(turns)), key=f"{name}/{n}")
    return replies


def first_tokens(engine: WorkerEngine, *, talks: int) -> dict[str, Any]:
    """Conversations of 20 messages; when the first words came, by message."""
    ways = {
        f"{words}, {reading}": (sent, ahead)
        for words, sent in (("sent as written", None), ("other words sent", EDITED))
        for reading, ahead in (("read ahead", True), ("not read ahead", False))
    }
    made: dict[str, list[list[Completion]]] = {way: [] for way in ways}
    for n in range(talks):  # the ways take turns, so that a slow minute hits all of them
        for at, (way, (sent, ahead)) in enumerate(ways.items()):
            made[way].append(talk(engine, f"talk {n}-{at}", sent=sent, ahead=ahead))
    return {way: _first_row(way, replies, talks) for way, replies in made.items()}


def _first_row(way: str, replies: list[list[Completion]], talks: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for n in MESSAGES:
        found = [talk[n - 1] for talk in replies]
        row[f"first_{n}"] = statistics.median(done.seconds["first"] for done in found)
        row[f"read_{n}"] = statistics.median(done.prompt_tokens - done.cached_tokens for done in found)
        row[f"prompt_{n}"] = statistics.median(done.prompt_tokens for done in found)
    row["ratio_turns"] = row["first_10"] / row["first_1"]
    row["ratio_messages"] = row["first_20"] / row["first_2"]
    print(f"first token, {way}; {talks} talks")
    for n in MESSAGES:
        read = f"{row[f'read_{n}']:.0f} of {row[f'prompt_{n}']:.0f} tokens read"
        print(f"  message {n:>2} (turn {2 * n:>2}): {1000 * row[f'first_{n}']:.0f} ms ({read})")
    print(f"  ratio turn 20 / turn 2: {row['ratio_turns']:.2f}; message 20 / message 2: {row['ratio_messages']:.2f}")
    return row


def main(*, model: str, threads: int, quick: bool, first: bool, out: Path | None) -> None:
    """Both measurements."""
    config = ServeConfig(model=model, threads=threads, streams=1)
    found = find_gguf(model).gguf
    size = found.stat().st_size / 2**20
    print(f"{found.name}, {size:.0f} MiB, {threads} threads, 1 stream; load of the machine {os.getloadavg()[0]:.1f}")
    engine = engine_of(config)
    engine.start()
    try:
        rounds, tokens, talks = (3, 96, 2) if quick else (9, 192, 5)
        rows: dict[str, Any] = {"file": found.name, "threads": threads, "load": os.getloadavg()[0]}
        if not first:
            rows["decode"] = decode(
                engine, found, threads=threads, context=config.context, rounds=rounds, tokens=tokens
            )
        rows["first_token"] = first_tokens(engine, talks=talks)
        print(f"goal of the ratios: at most {FIRST_GOAL}; load of the machine at the end {os.getloadavg()[0]:.1f}")
    finally:
        engine.stop()
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="as for heedful serve: a GGUF file, a run, a name")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter replies")
    parser.add_argument("--first", action="store_true", help="the time to the first token only")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--context", type=int, default=4096, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        alone(given.alone, given.threads, given.context)
    else:
        main(model=given.model, threads=given.threads, quick=given.quick, first=given.first, out=given.json)
