"""200 help-seekers at once: how long a message waits for its acknowledgement. `python scripts/bench_clinic.py`

    python scripts/bench_clinic.py                  # two minutes of talk after signing in
    python scripts/bench_clinic.py --quick          # 40 seconds
    python scripts/bench_clinic.py --database postgresql://...
    python scripts/bench_clinic.py --json FILE      # the figures, for LOG.md
    python scripts/bench_clinic.py --cost           # seconds of the processor for each kind of request, 20 people

A server process of its own, put together as `heedful serve` does it (crisis guard, store on the disk, real argon2, the
threads that write drafts and watch the clocks), with an engine that says what is written down. Each person signs in
over HTTP with a password, reads what is said before first use, then sends a message every 20 seconds through the API
that the page's script uses, with cookie and CSRF token, and looks for news as often as it does (every 4 seconds). All
of them come from one address, like a house behind one router. Drafts are made for every message (co-pilot mode).

"Acknowledge" is from sending the request to having read the answer, which says that the message is on the disk. The
clients are a process of their own on the same machine, so they take part of the two cores as well.
Goal: no error, p95 below 150 ms. The ratio is 150 ms / p95.

Waiting depends on what else the machine does. `--cost` does not: one request after the other, and the seconds of the
processor that the server's process used for them, a message's with its draft. 200 people cost 50 looks for news and 10
messages a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

GOAL_MS = 150.0
EVERY, POLL = 20.0, 4.0
"""Seconds between messages of one person, and between looks for news (`static/talk.js`)."""
PASSWORD = "three quiet green boats"
LINES = (
    "I could not sleep again, and the day at work was long.",
    "My sister called. I did not know what to tell her about the last weeks.",
    "It is a bit better today; I went out for a walk before it rained.",
    "I keep thinking about the exam. What if I fail it a second time?",
    "Nobody at home asks how I am, and I don't know how to begin.",
    "I feel so alone in this town since the move.",
)


@dataclass
class Figures:
    """What was measured."""

    acknowledged: list[float] = field(default_factory=list)
    polled: list[float] = field(default_factory=list)
    signed_in: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    processor: float = 0.0
    talked: float = 0.0


# ---------------------------------------------------------------------- the server


def serve(folder: Path, database: str, people: int) -> None:
    """The server process: accounts are made, the port is printed, and it runs until it is told to stop."""
    from heedful.privacy import Keys
    from heedful.server import guard
    from heedful.server.app import create_app
    from heedful.server.auth.passwords import Passwords
    from heedful.server.config import ServeConfig
    from heedful.server.serve import bound, make_server
    from heedful.store import Store
    from heedful.testing.engine import ScriptedEngine

    keys = Keys.create(folder / "keys.json", "a bench needs no secret")
    store = Store.open(database or f"sqlite:///{folder}/store.db", keys)
    config = ServeConfig(home_folder=folder, port=0)
    app = create_app(
        config,
        store,
        ScriptedEngine(["That sounds like a long day. What was the hardest part of it?"], pace=0.005),
        guard=guard.make(config.guard),
    )
    # One hash for everybody: making them is not what is measured. Checking them is done for each.
    stored = Passwords().hash(PASSWORD)
    for n in range(people):
        name = f"person-{n}"
        store.run(
            lambda unit, name=name: unit.users.add(role="help_seeker", name=name, by="setup", password_hash=stored)
        )
    with bound("127.0.0.1", 0) as listening:
        listening.listen(2048)  # whoever comes before the server is ready waits
        print(listening.getsockname()[1], flush=True)
        make_server(app, host="127.0.0.1", port=0).run(sockets=[listening])


# ---------------------------------------------------------------------- the clients


async def timed(
    client: httpx.AsyncClient, figures: Figures, times: list[float], method: str, path: str, **more: object
) -> httpx.Response | None:
    """One request; its milliseconds, or its error."""
    begun = time.perf_counter()
    try:
        answer = await client.request(method, path, **more)  # type: ignore[arg-type]
    except httpx.HTTPError as err:
        figures.errors[f"{method} {path.partition('?')[0]} {type(err).__name__}"] += 1
        return None
    times.append((time.perf_counter() - begun) * 1000)
    if answer.status_code >= 400:
        figures.errors[f"{method} {path.partition('?')[0]} {answer.status_code}"] += 1
        return None
    return answer


def token(page: str) -> str:
    """The CSRF token of a page."""
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
    return found[1] if found else ""


async def person(
    base: str, n: int, figures: Figures, start: asyncio.Event, ready: asyncio.Semaphore, seconds: float
) -> None:
    """Sign in, begin, and talk."""
    limits = httpx.Limits(max_connections=2, keepalive_expiry=60)
    async with httpx.AsyncClient(base_url=base, timeout=30, limits=limits) as client:
        async with ready:
            form = token((await client.get("/sign-in")).text)
            body = {"name": f"person-{n}", "password": PASSWORD, "csrf": form}
            await timed(client, figures, figures.signed_in, "POST", "/sign-in", data=body)
            page = await client.get("/talk")
            await client.post("/talk/begin", data={"csrf": token(page.text)})
            csrf = token((await client.get("/talk")).text)
        await start.wait()
        chance = random.Random(n)
        await asyncio.gather(talk(client, n, figures, csrf, chance, seconds), look(client, figures, chance, seconds))


async def talk(
    client: httpx.AsyncClient, n: int, figures: Figures, csrf: str, chance: random.Random, seconds: float
) -> None:
    """A message every 20 seconds."""
    begun = time.monotonic()
    await asyncio.sleep(chance.uniform(0, EVERY))
    k = 0
    while time.monotonic() - begun < seconds:
        at = time.monotonic()
        body = {"client_id": f"bench-{n}-{k}", "text": chance.choice(LINES)}
        await timed(
            client, figures, figures.acknowledged, "POST", "/api/talk/turns", json=body, headers={"X-CSRF-Token": csrf}
        )
        k += 1
        await asyncio.sleep(max(0.0, EVERY - (time.monotonic() - at)))


async def look(client: httpx.AsyncClient, figures: Figures, chance: random.Random, seconds: float) -> None:
    """News every few seconds, as the script of the page asks for them."""
    begun, last = time.monotonic(), 0
    await asyncio.sleep(chance.uniform(0, POLL))
    while time.monotonic() - begun < seconds:
        answer = await timed(client, figures, figures.polled, "GET", f"/api/talk/turns?after={last}")
        if answer is not None and (turns := answer.json()["turns"]):
            last = turns[-1]["sequence"]
        await asyncio.sleep(POLL)


def processor(pid: int) -> float:
    """Seconds that a process has used of the processors (Linux; 0 elsewhere)."""
    stat = Path(f"/proc/{pid}/stat")
    fields = stat.read_text().rpartition(")")[2].split() if stat.exists() else []
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


async def measure(base: str, *, pid: int, people: int, seconds: float) -> Figures:
    """Everybody signs in (a few at a time), then all talk."""
    figures, start, ready = Figures(), asyncio.Event(), asyncio.Semaphore(8)
    tasks = [asyncio.create_task(person(base, n, figures, start, ready, seconds)) for n in range(people)]
    begun = time.monotonic()
    while len(figures.signed_in) + sum(figures.errors.values()) < people and not all(t.done() for t in tasks):
        await asyncio.sleep(0.2)
    await asyncio.sleep(2)
    print(f"{people} people signed in within {time.monotonic() - begun - 2:.0f} s", flush=True)
    used, begun = processor(pid), time.monotonic()
    start.set()
    for done in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(done, BaseException):
            figures.errors[f"client {type(done).__name__}"] += 1
    figures.processor, figures.talked = processor(pid) - used, time.monotonic() - begun
    return figures


# ---------------------------------------------------------------------- the cost of each kind


def cost(base: str, *, pid: int, people: int, rounds: int = 6) -> dict[str, float]:
    """Milliseconds of the server's processor for each kind of request, and for a second in which nobody asks."""
    rows: dict[str, float] = {}
    clients = [entered(base, n) for n in range(people)]
    last = [0] * people

    def each(name: str, n: int, work: Callable[[int], None], *, rest: float = 0.0) -> None:
        used = processor(pid)
        for k in range(n):
            work(k)
        time.sleep(rest)
        rows[name] = 1000 * (processor(pid) - used) / n
        print(f"{name:28}{n:>7}{rows[name]:>9.2f} ms of the processor each", flush=True)

    def say(k: int) -> None:
        client, csrf = clients[k % people]
        body = {"client_id": f"cost-{k}", "text": LINES[k % len(LINES)]}
        client.post("/api/talk/turns", json=body, headers={"X-CSRF-Token": csrf}).raise_for_status()

    def news(k: int) -> None:
        answer = clients[k % people][0].get(f"/api/talk/turns?after={last[k % people]}")
        if turns := answer.raise_for_status().json()["turns"]:
            last[k % people] = turns[-1]["sequence"]

    each("first messages", people, say, rest=3.0)
    each("message and draft", rounds * people, lambda k: say(people + k), rest=3.0)
    each("look for news", 30 * people, news)
    each("second without a request", 10, lambda k: time.sleep(1.0))
    rows["200 people, a second"] = 10 * rows["message and draft"] + 50 * rows["look for news"]
    print(f"200 people: {rows['200 people, a second']:.0f} ms of the processor a second; load {os.getloadavg()[0]:.1f}")
    return rows


def entered(base: str, n: int) -> tuple[httpx.Client, str]:
    """Somebody who signed in and began to talk, and their token."""
    client = httpx.Client(base_url=base, timeout=60)
    body = {"name": f"person-{n}", "password": PASSWORD, "csrf": token(client.get("/sign-in").text)}
    client.post("/sign-in", data=body)
    client.post("/talk/begin", data={"csrf": token(client.get("/talk").text)})
    return client, token(client.get("/talk").text)


# ---------------------------------------------------------------------- together


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed; 0 without any."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def report(figures: Figures, *, people: int, seconds: float) -> dict[str, object]:
    """Print the table; its rows."""
    rows: dict[str, object] = {"people": people, "seconds": seconds, "errors": dict(figures.errors)}
    print(f"{'':28}{'n':>7}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for name in ("acknowledged", "polled", "signed_in"):
        times: list[float] = getattr(figures, name)
        shares = {f"p{round(100 * s)}_ms": quantile(times, s) for s in (0.5, 0.95, 0.99, 1.0)}
        rows[name] = {"n": len(times), **shares}
        print(f"{name:28}{len(times):>7}" + "".join(f"{value:>9.1f}" for value in shares.values()))
    rows |= {"processor_seconds": figures.processor, "talked_seconds": figures.talked, "load": os.getloadavg()[0]}
    requests = len(figures.acknowledged) + len(figures.polled)
    print(
        f"processor of the server: {figures.processor:.1f} s in {figures.talked:.0f} s, "
        f"{1000 * figures.processor / max(1, requests):.1f} ms a request; load of the machine {os.getloadavg()[0]:.1f}"
    )
    print(f"errors: {sum(figures.errors.values())} {dict(figures.errors) or ''}")
    p95 = quantile(figures.acknowledged, 0.95)
    print(f"ratio, {GOAL_MS:.0f} ms / p95 of the acknowledgement: {GOAL_MS / p95 if p95 else 0:.2f} (goal: above 1)")
    return rows


def main(*, people: int, seconds: float, database: str, out: Path | None, what: Literal["waiting", "cost"]) -> None:
    """Start the server, measure, stop it."""
    with tempfile.TemporaryDirectory(prefix="heedful-bench") as folder:
        command = [sys.executable, __file__, "--serve", folder, "--people", str(people), "--database", database]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            if not port:
                raise SystemExit("The server did not start.")
            base = f"http://127.0.0.1:{port}"
            rows: dict[str, object] = {}
            if what == "cost":
                rows |= cost(base, pid=server.pid, people=people)
            else:
                figures = asyncio.run(measure(base, pid=server.pid, people=people, seconds=seconds))
                rows |= report(figures, people=people, seconds=seconds)
        finally:
            server.terminate()
            server.wait(60)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--quick", action="store_true", help="40 seconds")
    parser.add_argument("--database", default="", help="another one than an SQLite file in a temporary folder; empty")
    parser.add_argument("--cost", action="store_true", help="what each kind of request costs, with 20 people")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.database, given.people)
    else:
        main(
            people=20 if given.cost else given.people,
            what="cost" if given.cost else "waiting",
            seconds=40.0 if given.quick else given.seconds,
            database=given.database,
            out=given.json,
        )
