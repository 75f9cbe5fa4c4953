"""Seconds that the lexical and embedding rewards take for 1,000 replies: `python scripts/bench_rewards.py`.

    python scripts/bench_rewards.py                      # MESC, 125 prompts of 8 replies, as in GRPO with G = 8
    python scripts/bench_rewards.py --group 1            # 1,000 prompts of one reply, as in PPO
    python scripts/bench_rewards.py --dataset esconv     # longer contexts
    python scripts/bench_rewards.py --rollout 490        # beside the seconds of the rollout that made the replies

Replies are the references of a test part, shuffled by seed 13, so that they are real sentences at the wrong place.
Each component runs once cold (nothing remembered; loading weights and WordNet is printed apart), in the order of a
reward set, and once more on the same replies, which shows what is remembered. Then the whole set runs as one.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

from heedful import corpora
from heedful.errors import HeedfulError
from heedful.scoring.metrics import bertscore as shared
from heedful.scoring.rewards import Task, make
from heedful.scoring.rewards.texts import rows
from heedful.scoring.wordnet import find, wordnet
from heedful.types import Trace

LEXICAL = ["copy", "repetition", "length", "bleu1", "rouge1", "rouge2", "rougeL", "meteor", "risk_gate"]
EMBEDDING = ["bertscore", "similarity", "relevance", "reader_released"]


def tasks(dataset: str, *, prompts: int) -> list[Task]:
    """The first `prompts` turns of the test part that a supporter answered, spread over all its conversations."""
    talks = [talk.merged() for talk in corpora.load(dataset, "test")]
    found = [
        Task(id=f"{talk.id}/{i}", context=talk.before(i), reference=talk.turns[i])
        for talk in talks
        for i in talk.targets()
        if talk.turns[i - 1].role == "user"
    ]
    random.Random(13).shuffle(found)
    if len(found) < prompts:
        found = found * (prompts // len(found) + 1)
    return found[:prompts]


def replies(dataset: str, *, n: int) -> list[str]:
    """`n` different supporter turns of the training part, by seed 13."""
    talks = [talk.merged() for talk in corpora.load(dataset, "train")]
    texts = {talk.turns[i].text for talk in talks for i in talk.targets()}
    return random.Random(13).sample(sorted(texts), n)


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of `run` by the clock, and of the processor (the one that counts on a busy machine)."""
    start, work = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - work


def said(seconds: tuple[float, float]) -> str:
    """Both kinds of seconds."""
    return f"{seconds[0]:7.3f} s (processor {seconds[1]:7.3f} s)"


def main() -> int:
    parser = argparse.ArgumentParser(description="Seconds per reward for 1,000 replies.")
    parser.add_argument("--dataset", default="mesc")
    parser.add_argument("--replies", type=int, default=1000)
    parser.add_argument("--group", type=int, default=8, help="replies per prompt (default: 8)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rollout", type=float, help="seconds of the rollout, to print the share")
    options = parser.parse_args()
    try:
        if corpora.get(options.dataset).locate() is None:
            print(f"Skipped: the corpus {options.dataset} is not here; set HEEDFUL_DATA to the folder of real corpora.")
            return 0
        asked = tasks(options.dataset, prompts=-(-options.replies // options.group))
        written = replies(options.dataset, n=options.replies)
    except HeedfulError as err:
        print(f"Skipped: {err}")
        return 0
    due = [asked[i // options.group] for i in range(options.replies)]
    traces = [
        Trace(id=f"{task.id}#{i}", conversation_id=task.context.id, turn=len(task.context), reply=text)
        for i, (task, text) in enumerate(zip(due, written, strict=True))
    ]
    return report(options, traces, due)


def report(options: argparse.Namespace, traces: list[Trace], due: list[Task]) -> int:
    """Run and print."""
    names = [n for n in LEXICAL if n != "meteor" or find() is not None]
    if shared.missing() is None:
        names += EMBEDDING
    else:
        print(f"  without the embedding rewards: {shared.missing()}")
    words = sum(len(t.reply.split()) for t in traces) / len(traces)
    print(
        f"{len(traces)} replies of {words:.1f} words to {len({t.id for t in due})} prompts ({options.dataset}), "
        f"{options.threads} threads"
    )
    load(options.threads, embedding="bertscore" in names)
    sets = {name: make([name]) for name in names}
    forget()
    cold = {name: timed(partial(single, traces, due)) for name, single in sets.items()}
    for name, single in sets.items():
        print(f"  {name:16} cold {said(cold[name])}   warm {said(timed(partial(single, traces, due)))}")
    whole = make(names)
    forget()
    first, again = timed(partial(whole, traces, due)), timed(partial(whole, traces, due))
    print(f"  all as one set   cold {said(first)}   warm {said(again)}")
    if options.rollout:
        print(f"  that is {100 * first[0] / options.rollout:.1f} % of a rollout of {options.rollout:.0f} s")
    return 0


def load(threads: int, *, embedding: bool) -> None:
    """Load what is loaded once per process, and say how long it takes."""
    loaded = []
    if find() is not None:
        loaded.append(f"WordNet {timed(lambda: wordnet().synonyms('calm'))[0]:.2f} s")
    if embedding:
        import torch

        torch.set_num_threads(threads)
        loaded.append(f"encoder {timed(lambda: shared.encoder().encode(['calm']))[0]:.2f} s")
    print(f"  loaded once: {', '.join(loaded) or 'nothing'}")


def forget() -> None:
    """Drop what earlier runs left behind."""
    rows.cache_clear()
    if shared.missing() is None:
        shared.encoder().forget()


if __name__ == "__main__":
    sys.exit(main())
