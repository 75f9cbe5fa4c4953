"""Milliseconds that the crisis rules take for a message: `python scripts/bench_rules.py` (a minute; --quick: less).

    python scripts/bench_rules.py --quick           # each message twice instead of seven times
    python scripts/bench_rules.py --json FILE       # the rows, for LOG.md

Four kinds of messages: help-seekers' turns of `commons`; the rules' own cases in four languages; texts of 50,000
characters in each language (calm prose, every case joined, many different sentences that all hold crisis words); and
texts of 50,000 characters that were made to be slow. All languages are tried on each, as the server does.

Each message is timed several times with the garbage collector as it is in a server. "p99" is over all single timings,
"best" over the fastest timing of each message: where the two lie far apart, another process had the core.
The goal is a p99 under 10 ms; the ratio is 10 ms / p99, so that more is better.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

from heedful import corpora
from heedful.safety import crisis
from heedful.safety.evaluation import own_cases

LENGTH = 50_000
GOAL_MS = 10.0

CALM = {
    "en": "The garden is green and the rain was soft, number {0}. We walked along the canal until noon, and I told her "
    "about my week, what {1} said and how I slept. I don't know why it is hard for me to begin in the morning. ",
    "es": "El jardín está verde y la lluvia fue suave, número {0}. Caminamos hasta el mediodía y le conté mi semana, "
    "lo que dijo {1} y cómo dormí. No sé por qué me cuesta tanto empezar por la mañana. ",
    "de": "Der Garten ist grün und der Regen war weich, Nummer {0}. Wir gingen bis mittags am Kanal entlang, und ich "
    "habe von meiner Woche erzählt, was {1} sagte und wie ich schlief. Warum fällt mir der Anfang so schwer? ",
    "zh": "花园很绿，雨下得很轻，第{0}次。我们沿着运河走到中午，我跟她说了这一周的事，{1}说了什么，我睡得怎么样。"
    "我不知道为什么早上开始做事对我来说这么难。",
}
"""Invented everyday sentences; each copy gets other numbers, so that nothing is remembered from one to the next."""

GRAVE = {
    "en": "My sister said {0} times that i want to kill {1} myself and die number {0} tonight with pills. ",
    "es": "Mi hermana dijo {0} veces que quiero morir y matarme {1} esta noche con pastillas. ",
    "de": "Meine Schwester sagte {0} mal, dass ich sterben will und mich {1} heute Nacht umbringen werde. ",
    "zh": "我姐姐说了{0}次，我想死，今晚第{1}次想自杀，吃药。",
}
"""Different pieces that all hold what many rules need: the most work that the budget allows."""

SLOW = (
    "i want to ", "want to kill myself. ", "k i l l ", "k*ll", "a", "é", "1a!", "!", "((((", "\n", " ",
    "don't want to don't ", "sometimes i really just want to really ", "我想", "想死死", "killlllll", "😂",
    "my friend keeps saying that he ", "\u200b", "... ", "a.b.c.", "*s*u*i*c*i*d*e* ", "diediedie", "\u202eאני ",
)  # fmt: skip
"""Units that are repeated; every fifth copy gets a number."""


def filled(unit: str) -> str:
    """`LENGTH` characters of a unit with places for numbers."""
    parts, size, n = [], 0, 0
    while size < LENGTH:
        parts.append(unit.format(n, n * 7919 % 10_007))
        size += len(parts[-1])
        n += 1
    return "".join(parts)[:LENGTH]


def families() -> Iterator[tuple[str, list[str]]]:
    """Kinds of messages with the messages."""
    talks = [talk for part in ("train", "valid", "test") for talk in corpora.load("commons", part)]
    said = [turn.text for talk in talks for turn in talk.turns if turn.role == "user"]
    yield "commons, help-seekers' turns", said
    cases = [turn.text for case in own_cases() for turn in case.turns if turn.role == "user"]
    rules = {name: [t for rule in crisis.load(name).rules for t in (*rule.hits, *rule.misses)] for name in CALM}
    yield "own cases, four languages", [*cases, *(text for texts in rules.values() for text in texts)]
    joined = [" ".join(f"{text} {n}" for n, text in enumerate(said))[i * LENGTH :][:LENGTH] for i in range(3)]
    yield "50,000 of commons", [text for text in joined if len(text) > LENGTH // 2]
    for name in CALM:
        every = filled(" ".join(rules[name]).replace("{", "(").replace("}", ")") + " {0} ")
        yield f"50,000 in {name}", [filled(CALM[name]), every, filled(GRAVE[name])]
    yield (
        "50,000, made to be slow",
        ["".join(f"{u}{n % 97}" if n % 5 == 0 else u for n in range(LENGTH // len(u) + 1))[:LENGTH] for u in SLOW],
    )


def timings(text: str, *, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` assessments."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        crisis.assess(text)
        found.append((time.perf_counter() - begun) * 1000)
    return found


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main(*, repeats: int, out: Path | None, each: bool) -> None:
    """Time every family, print the table, write the rows."""
    crisis.assess("warm")
    rows = []
    print(f"{'':32}{'n':>6}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'best, max':>11}{'10 ms / p99':>13}", flush=True)
    for name, texts in families():
        times = [timings(text, repeats=repeats) for text in texts]
        flat = [t for row in times for t in row]
        row = {
            "family": name,
            "n": len(texts),
            "p50_ms": quantile(flat, 0.5),
            "p99_ms": quantile(flat, 0.99),
            "max_ms": max(flat),
            "best_max_ms": max(min(row) for row in times),
        }
        rows.append(row)
        print(
            f"{name:32}{len(texts):>6}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}{row['max_ms']:>9.2f}"
            f"{row['best_max_ms']:>11.2f}{GOAL_MS / float(row['p99_ms']):>13.2f}",
            flush=True,
        )
        if each:
            for n, one in enumerate(times):
                print(f"    {n:>3} {min(one):>8.2f} {max(one):>8.2f}")
    worst = max(rows, key=lambda row: float(row["p99_ms"]))
    print(f"slowest: {worst['family']}, p99 {worst['p99_ms']:.2f} ms; goal under {GOAL_MS:.0f} ms")
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two timings of each message instead of seven")
    parser.add_argument("--each", action="store_true", help="also the fastest and slowest timing of each long message")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args()
    main(repeats=2 if given.quick else 7, out=given.json, each=given.each)
