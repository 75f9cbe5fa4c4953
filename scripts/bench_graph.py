"""What a graph costs in training, both sides in one run: `python scripts/bench_graph.py`.

A step is forward, backward and AdamW over the same ESConv dialogues, embedded model, LoRA on all linear layers, four
dialogues a pass. `host` is one pass over each conversation in the plain format; `graph` is the same with GLHG's graph,
its adapters, its texts and its monitor. The two take turns, so that a busy machine disturbs both.

    python scripts/bench_graph.py                        8 dialogues, 3 rounds
    python scripts/bench_graph.py --pyg                  also one layer of attention against torch-geometric's GATConv

Intentions are stand-ins of five words for three seeker turns in five, as often as COMET has one (glhg.md): their length
costs, what they say does not. Without ESConv under HEEDFUL_DATA the embedded corpus `commons` takes its place.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from heedful import corpora, formats
from heedful.formats import TokenTree, pack
from heedful.models.causal import CausalModel, add_markers, load, use_bf16
from heedful.models.delta import DeltaSettings, attach, lora
from heedful.models.forward import predictions, tensors
from heedful.models.graph_layout import Layout, adjacency, lay_out
from heedful.models.graph_parts import Edges, GraphAttention
from heedful.models.memory import keep_freed_memory
from heedful.training.config import TrainConfig
from heedful.training.data import Prepared, prepare
from heedful.training.graph import GraphPart, graph_for
from heedful.types import Conversation


def dialogues(count: int) -> tuple[str, list[Conversation]]:
    """What is read, with stand-ins for intentions."""
    here = corpora.get("esconv").locate() is not None
    talks = corpora.load("esconv" if here else "commons", "train")[:count]
    found = []
    for talk in talks:
        turns = [
            replace(turn, sources=({"name": "atomic.xIntent", "text": " ".join(turn.text.split()[:5])},))
            if turn.role == "user" and i % 5 < 3
            else turn
            for i, turn in enumerate(talk.turns)
        ]
        found.append(replace(talk, turns=tuple(turns)))
    return "esconv" if here else "commons (ESConv is not here)", found


def step(parts: Sequence[Any], loss: Callable[[Any], torch.Tensor], optimiser: Any) -> float:
    """Seconds of one step over `parts`: of the processor where there is no GPU, since other work shares a machine."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    begun = clock()
    for part in parts:
        loss(part).backward()
    optimiser.step()
    optimiser.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - begun


def compare(count: int, rounds: int, together: int, settings: dict[str, Any]) -> None:
    """Print seconds of both sides and their ratio."""
    name, talks = dialogues(count)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = use_bf16("auto", on_cpu=device == "cpu")
    causal = load(dtype="bfloat16" if half else "float32", device=device)
    fmt = formats.make({"name": "glhg", "cause": settings.pop("cause")})
    fresh = add_markers(causal, fmt.markers)
    ready = prepare(talks, fmt, causal.tokenizer, max_length=1024)
    causal.model = attach(causal.model, lora(DeltaSettings(new_tokens=fresh)), name="lora")
    config = TrainConfig(graph=settings, format="glhg", eval_split=None)
    causal.model.train()
    host = [p for p in causal.model.parameters() if p.requires_grad]
    part = graph_for(config, causal, ready, None)
    assert part is not None
    if device == "cpu":
        keep_freed_memory()
    found = _rounds(causal, part, ready, host, rounds, together, half=half)
    plain, graph = (statistics.median(times) for times in found)
    own = sum(p.numel() for p in part.graph.parameters())
    print(
        f"{name}: {len(talks)} dialogues, {ready.samples} replies, {ready.tokens:,} tokens in trees; {device}, "
        f"{torch.get_num_threads()} threads, bf16 autocast {half}; graph of {own:,} weights"
    )
    print(f"host  {plain:8.3f} s a step   {[round(t, 3) for t in found[0]]}")
    print(f"graph {graph:8.3f} s a step   {[round(t, 3) for t in found[1]]}")
    print(f"whole step, graph / host: {graph / plain:.3f}   the graph's own share: {graph / plain - 1:.3f} of the host")


def _rounds(
    causal: CausalModel, part: GraphPart, ready: Prepared, host: list[Any], rounds: int, together: int, *, half: bool
) -> tuple[list[float], list[float]]:
    ordered = sorted(ready.trees, key=lambda t: -len(t))
    groups = [ordered[i : i + together] for i in range(0, len(ordered), together)]
    total = sum(len(t.label) for t in ready.trees)
    precise = {"device_type": causal.device.type, "dtype": torch.bfloat16, "enabled": half}
    optimisers = [torch.optim.AdamW(host, lr=1e-6), torch.optim.AdamW([*host, *part.graph.parameters()], lr=1e-6)]

    def to(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: v.to(causal.device) for k, v in batch.items()}

    def plain(trees: list[TokenTree]) -> torch.Tensor:
        with torch.autocast(**precise):
            return -predictions(causal.model, to(tensors(pack(trees, pad_id=causal.pad_id)))).sum() / total

    def graph(trees: list[TokenTree]) -> torch.Tensor:
        batch = to(part.lay_out(trees, pad_id=causal.pad_id))
        with torch.autocast(**precise):
            tokens, types = part.losses(causal.model, batch)
        return 0.5 * tokens / total + 0.5 * types / ready.samples

    times: tuple[list[float], list[float]] = ([], [])
    for k in range(rounds + 1):
        for side, loss in enumerate((plain, graph)):
            spent = step(groups, loss, optimisers[side])
            if k:  # the first round warms up
                times[side].append(spent)
    return times


def pyg(count: int) -> None:
    """One layer, forward and backward, over the graphs of `count` dialogues: ours against GATConv, fp32."""
    from torch_geometric.nn import GATConv

    causal = load(dtype="float32", device="cpu")
    fmt = formats.make("glhg")
    add_markers(causal, fmt.markers)
    ready = prepare(dialogues(count)[1], fmt, causal.tokenizer, max_length=1024)
    layout = lay_out(ready.trees, pad_id=causal.pad_id, context=384)
    d = 576
    ours, theirs = (
        GraphAttention(d, 4, slope=0.2, dropout=0.0),
        GATConv(d, d // 4, heads=4, negative_slope=0.2, bias=False, add_self_loops=False),
    )
    with torch.no_grad():
        theirs.lin.weight.copy_(ours.value.weight)
        theirs.att_dst[0].copy_(ours.halves[:, 0])
        theirs.att_src[0].copy_(ours.halves[:, 1])
    batches = _graphs(layout, d)
    edges = [torch.cat([e + o for e, o in zip(b["edges"], b["offsets"], strict=True)], 1) for b in batches]
    flat = [
        torch.cat(
            [
                torch.cat([b["ends"][i, :1], b["tokens"][i, :size], b["ends"][i, 1:]])
                for i, size in enumerate(b["sizes"])
            ]
        )
        for b in batches
    ]

    def run_ours() -> float:
        begun = time.process_time()
        for b in batches:
            tokens = b["tokens"].clone().requires_grad_()
            edges = Edges(b["valid"], b["links"], radius=5)
            out, ends = ours(tokens, b["ends"], edges, ours.project(tokens))
            (out.sum() + ends.sum()).backward()
        return time.process_time() - begun

    def run_theirs() -> float:
        begun = time.process_time()
        for nodes, pairs in zip(flat, edges, strict=True):
            own = nodes.clone().requires_grad_()
            mixed = torch.nn.functional.elu(theirs(own, pairs))
            torch.nn.functional.layer_norm(own + mixed, (d,)).sum().backward()
        return time.process_time() - begun

    first = ours(
        batches[0]["tokens"],
        batches[0]["ends"],
        Edges(batches[0]["valid"], batches[0]["links"], radius=5),
        ours.project(batches[0]["tokens"]),
    )[0]
    size = batches[0]["sizes"][0]
    same = torch.nn.functional.layer_norm(flat[0] + torch.nn.functional.elu(theirs(flat[0], edges[0])), (d,))
    print(f"largest difference: {(first[0, :size] - same[1 : size + 1]).abs().max():.1e}")
    times = [(run_ours(), run_theirs()) for _ in range(4)][1:]
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    nodes = sum(len(n) for n in flat)
    print(
        f"one layer over {len(layout.size)} graphs, {nodes:,} nodes, {sum(e.shape[1] for e in edges):,} edges: "
        f"ours {a:.3f} s, GATConv {b:.3f} s, ratio {b / a:.2f}"
    )


def _graphs(layout: Layout, d: int) -> list[dict[str, Any]]:
    found = []
    for begin, end, width, _ in layout.parts.tolist():
        sizes = layout.size[begin:end]
        valid = torch.arange(width)[None] < torch.from_numpy(sizes)[:, None]
        at, local = torch.arange(width), torch.from_numpy(layout.local[begin:end])
        links = torch.stack([valid, (at >= local[:, :1]) & (at < local[:, 1:])], dim=-1)
        pairs = [
            torch.from_numpy(adjacency(int(s), tuple(w), radius=5)).nonzero().T.flip(0)  # type: ignore[arg-type]
            for s, w in zip(sizes, layout.local[begin:end].tolist(), strict=True)
        ]
        offsets = [0, *(sizes + 2).cumsum()[:-1].tolist()]
        found.append(
            {
                "tokens": torch.randn(len(sizes), width, d),
                "ends": torch.randn(len(sizes), 2, d),
                "valid": valid,
                "links": links,
                "edges": pairs,
                "offsets": offsets,
                "sizes": sizes.tolist(),
            }
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, default=4, help="dialogues in one pass")
    parser.add_argument("--cause", choices=["history", "situation"], default="situation")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--pyg", action="store_true")
    args = parser.parse_args()
    if args.pyg:
        pyg(args.dialogues)
    else:
        monitor = 0.5 if corpora.get("esconv").locate() is not None else 0.0
        compare(
            args.dialogues, args.rounds, args.together, {"cause": args.cause, "layers": args.layers, "monitor": monitor}
        )
