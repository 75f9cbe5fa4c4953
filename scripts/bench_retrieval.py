"""Retrieval beside `bm25s` and a plain NumPy scan, on one core: milliseconds a query (median, p95), and to open.

    python scripts/bench_retrieval.py                # HEAL and ATOMIC under $HEEDFUL_DATA, with MiniLM vectors
    python scripts/bench_retrieval.py --rows 50000   # invented items, where the data are not at hand

All sides search the same items (all stressors of HEAL, flagged ones too, expectations and feelings, and all events of
ATOMIC dev and tst; nothing is printed but figures) for the same queries, one after the other in one process and one
thread. Where the machine is shared, the clock also counts other people's work: the "core" columns are this process's
own seconds, and the limit is set on them. Rankings are compared: a difference above rounding, and a p95 above
`--limit`, end with exit code 1. Encoding a query is timed apart: every system that uses vectors pays for it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import bm25s
import numpy as np

from heedful.knowledge import READERS, Index
from heedful.knowledge.bm25 import words
from heedful.knowledge.build import hash_of, store
from heedful.knowledge.item import Draft, Edge, Item
from heedful.knowledge.triples import triples
from heedful.models.encoder import SentenceEncoder

K = 10
COMMON = str.split(
    "i you my the a to and of it is was that they me work sleep boss friend sister exam night town move hours tired "
    "quarrel phone walk tea money home school week alone angry call plan money letter door train music rain table"
)


def collected() -> tuple[list[Draft], list[Edge]]:
    """HEAL's stressors, expectations and their feelings, and ATOMIC's events, unscreened: for timing alone."""
    heal, atomic = READERS.get("heal"), READERS.get("atomic")
    graph = heal.read(heal.require(), None)
    kinds = {draft.item.id: draft.item.kind for draft in graph.drafts}
    events = [replace(d, item=replace(d.item, extra={})) for d in atomic.read(atomic.require(), None).drafts]
    edges = [edge for edge in graph.edges if "feedback" not in (kinds[edge.one], kinds[edge.other])]
    return [d for d in graph.drafts if d.item.kind != "feedback"] + events, edges


def invented(n: int) -> tuple[list[Draft], list[Edge]]:
    """Random sentences as stressors, each with an expectation and a feeling."""
    draw = random.Random(13)
    pool = [*COMMON, *(f"word{i}" for i in range(5000))]
    drafts, edges = [], []
    for i in range(n // 3):
        for kind, size in (("stressor", 40), ("expectation", 8), ("affect", 1)):
            text = " ".join(draw.choices(COMMON, k=size // 2 + 1) + draw.choices(pool, k=size // 2))
            drafts.append(Draft(item=Item(id=f"{kind[0]}{i}", kind=kind, text=text, source="invented")))
        edges += [Edge(f"s{i}", f"e{i}", 1.0), Edge(f"s{i}", f"a{i}", 1.0)]
    return drafts, edges


def queries(n: int) -> list[str]:
    """Invented turns of a help-seeker, 5 to 40 words."""
    draw = random.Random(7)
    return [" ".join(draw.choices(COMMON, k=draw.randint(5, 40))) for _ in range(n)]


def stored(folder: Path, drafts: Sequence[Draft], edges: Sequence[Edge], encoder: SentenceEncoder) -> Index:
    """The index, as `build` would have written it without the screen."""
    kept = sorted(drafts, key=lambda d: d.item.id)
    about = {"reader": "heal", "data": {}}

    def say(text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    return store(folder, kept, edges, encoder=encoder, about=about, place=folder, say=say)


def times(run: Callable[[int], Any], n: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each of `n` calls, after a few that do not count: by the clock, and of this core's own work."""
    for i in range(min(5, n)):
        run(i)
    wall, core = [], []
    for i in range(n):
        begun = time.perf_counter(), time.process_time()
        run(i)
        wall.append(1000 * (time.perf_counter() - begun[0]))
        core.append(1000 * (time.process_time() - begun[1]))
    return wall, core


def line(name: str, found: tuple[Sequence[float], Sequence[float]]) -> dict[str, float]:
    """Print one row."""
    wall, core = found
    row = {
        "median": float(np.median(wall)), "p95": float(np.percentile(wall, 95)),
        "core median": float(np.median(core)), "core p95": float(np.percentile(core, 95)),
    }  # fmt: skip
    print(f"  {name:44}" + "".join(f"{value:12.2f}" for value in row.values()))
    return row


def heading(name: str) -> None:
    """Print the head of a table."""
    print(f"{name:46}" + "".join(f"{head:>12}" for head in ("median", "p95", "core median", "core p95")))


def opening(index: Index, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """How long both sides take to open what lies on disk (in the page cache), ready for a query."""
    heading("to open (ms)")

    def peer(i: int) -> None:
        made = bm25s.BM25.load(str(folder / "bm25s"), mmap=True)
        made.get_scores(["sleep"])

    def ours(i: int) -> None:
        Index.open(index.folder).search("sleep", method="bm25", k=1)

    return {
        "heedful": line("heedful, with vectors, first BM25 search", times(ours, rounds)),
        "bm25s": line("bm25s (mmap), first search", times(peer, rounds)),
    }


def searching(index: Index, peer: Any, asked: Sequence[str], vectors: Any) -> dict[str, dict[str, float]]:
    """Every method of ours, and the two others."""
    matrix = np.array(index.vectors)
    n = len(asked)

    def scan(i: int) -> Any:
        scores = matrix @ vectors[i]
        return np.argsort(-scores)[:K]

    def peer_top(i: int) -> Any:
        return peer.retrieve([words(asked[i])], k=K, show_progress=False)

    def hybrid(i: int) -> Any:
        return index.search(asked[i], method="hybrid", k=K)

    heading(f"a query, {K} results (ms)")
    return {
        "bm25": line("heedful bm25", times(lambda i: index.search(asked[i], method="bm25", k=K), n)),
        "bm25s": line("bm25s", times(peer_top, n)),
        "embedding": line("heedful embedding, vector given", times(lambda i: index.nearest(vectors[[i]], K), n)),
        "numpy": line("NumPy scan (dot, argsort), vector given", times(scan, n)),
        "hybrid": line("heedful hybrid, vector remembered", times(hybrid, n)),
        "support": line("heedful support triple, vector given", times(lambda i: triples(index, vectors[[i]]), n)),
    }


def encoding(index: Index, encoder: Any, asked: Sequence[str]) -> dict[str, dict[str, float]]:
    """The encoder by itself, and the whole way from words to items."""

    def encode(i: int) -> Any:
        encoder.forget()
        return encoder.encode([asked[i]])

    def whole(i: int) -> Any:
        encoder.forget()
        return index.search(asked[i], method="hybrid", k=K)

    def support(i: int) -> Any:
        encoder.forget()
        return triples(index, index.encode([asked[i]]))

    return {
        "encode": line("MiniLM, one query", times(encode, len(asked))),
        "hybrid with encoding": line("heedful hybrid with encoding", times(whole, len(asked))),
        "support with encoding": line("heedful support triple with encoding", times(support, len(asked))),
    }


def differences(index: Index, peer: Any, asked: Sequence[str], vectors: Any) -> list[str]:
    """Where rankings differ by more than rounding."""
    wrong = []
    matrix = np.array(index.vectors, dtype=np.float64)
    for i, query in enumerate(asked):
        ours = np.array([hit.score for hit in index.search(query, method="bm25", k=K)])
        theirs = np.sort(peer.get_scores(words(query)))[::-1][: len(ours)]
        if not np.allclose(ours, theirs, rtol=1e-4):
            wrong.append(f"bm25, query {i}")
        near = np.array([score for _, score in index.nearest(vectors[[i]], K)[0]])
        if not np.allclose(near, np.sort(matrix @ vectors[i].astype(np.float64))[::-1][:K], atol=1e-9):
            wrong.append(f"embedding, query {i}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Retrieval beside bm25s and NumPy.")
    parser.add_argument("--rows", type=int, help="so many invented items instead of HEAL and ATOMIC")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--limit", type=float, default=20.0, help="most milliseconds of a p95 without encoding")
    parser.add_argument("--keep", type=Path, help="folder that the index is kept in, for the next run")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    encoder = SentenceEncoder.load("minilm", device="cpu")
    drafts, edges = invented(options.rows) if options.rows else collected()
    asked = queries(options.queries)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        kept = folder / "bench"
        index = Index.open(kept, encoder=encoder) if kept.is_dir() else stored(kept, drafts, edges, encoder)
        by_id = {draft.item.id: draft.search or draft.item.text for draft in drafts}
        texts = [by_id[index.hit(row, 0.0).id] for row in range(len(index))]
        peer = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        peer.index([words(text) for text in texts], show_progress=False)
        peer.save(str(folder / "bm25s"), show_progress=False)
        size = sum(path.stat().st_size for path in index.folder.iterdir()) / 1e6
        counts = ", ".join(f"{index.count(kind):,} {kind}s" for kind in index.kinds)
        print(f"{len(index):,} items ({counts}), {index.manifest['edges']:,} edges, {size:.0f} MB, one thread")
        vectors = index.encode(asked)
        figures: dict[str, Any] = {"open": opening(index, folder, 30)}
        figures["query"] = searching(index, peer, asked, vectors)
        figures["query"] |= encoding(index, encoder, asked[:100])
        wrong = differences(index, peer, asked, vectors)
        figures["items"], figures["index"] = len(index), hash_of(index.folder / "manifest.json")[:16]
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    slow = [n for n in ("bm25", "embedding", "hybrid", "support") if figures["query"][n]["core p95"] > options.limit]
    print(f"rankings equal bm25s and NumPy: {'yes' if not wrong else 'NO: ' + ', '.join(wrong[:5])}")
    print(f"p95 of one core under {options.limit:g} ms: {'yes' if not slow else 'NO: ' + ', '.join(slow)}")
    return 1 if wrong or slow else 0


if __name__ == "__main__":
    sys.exit(main())
