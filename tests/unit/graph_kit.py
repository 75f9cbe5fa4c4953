"""The graph the slow and plain way, one reply at a time: what the fast code is compared with.

Nothing here is batched, banded, packed or shared: a dense adjacency, scores of joined pairs, keys and values made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import elu, leaky_relu

from heedful.formats import Sample, make
from heedful.models.architecture import decoder_layers
from heedful.models.causal import CausalModel, add_markers
from heedful.models.graph import Graph, new_graph, shape_for
from heedful.models.graph_layout import adjacency, guide_of
from heedful.models.graph_parts import plain_norm
from heedful.testing import conversation, conversations, tiny_model
from heedful.types import Conversation

INTENTS = ("to rest", "to be heard", "to find a new flat", "none of it")
PROBLEMS = ("job crisis", "academic pressure", "Sleep Problems")


def with_intents(conv: Conversation, *, every: int = 2) -> Conversation:
    """Sources of a planner on some of the seeker's turns."""
    turns = []
    for i, turn in enumerate(conv.turns):
        found = turn.role == "user" and i % (2 * every) == 0
        sources = ({"name": "atomic.xIntent", "text": INTENTS[i // 4 % len(INTENTS)]},) if found else ()
        turns.append(replace(turn, sources=sources))
    return replace(conv, turns=tuple(turns))


def talks(n: int = 3, *, seed: int = 7) -> list[Conversation]:
    """Random talks; some open with the supporter, some seekers write twice, some intentions are known."""
    opening = conversation(
        "It rains.", "Hi, what brings you here?", "I could not sleep.", "Since when?", first="user", id="opens",
        situation="It is quiet here.",
    )  # fmt: skip
    opening = replace(opening, turns=(replace(opening.turns[0], role="assistant"), *opening.turns[1:]))
    kinds = [replace(c, problem_type=PROBLEMS[i % 3]) for i, c in enumerate(conversations(n, seed=seed))]
    return [*(with_intents(c) for c in kinds), opening]


def graph_model(
    kind: Any = "llama", *, blocks: int = 2, seed: int = 3, open_gates: bool = True, **shape: Any
) -> CausalModel:
    """A tiny model with an untrained graph; `open_gates`: whose adapters already say something."""
    causal = tiny_model(kind=kind, layers=blocks)
    add_markers(causal, make("glhg").markers)
    causal.graph = new_graph(
        shape_for(causal.model, **{"problems": PROBLEMS, "dropout": 0.0, **shape}), seed=seed
    ).eval()
    if open_gates:
        with torch.no_grad():
            for k, adapter in enumerate(causal.graph.adapters):
                adapter.gamma.fill_(0.7 - 0.2 * k)
    return causal


def samples_of(
    causal: CausalModel, convs: Sequence[Conversation], *, max_length: int = 4000, **options: Any
) -> list[Sample]:
    fmt = make({"name": "glhg", **options})
    return [s for c in convs for s in fmt.samples(c, causal.tokenizer, max_length=max_length)]


def pooled(causal: CausalModel, ids: tuple[int, ...]) -> Any:
    """[1, d] maximum over the states of a text but the first."""
    found = states(causal, ids)[0, 1:]
    if causal.graph.shape.pooling == "mean":
        return found.mean(0, keepdim=True)
    return found.amax(0, keepdim=True)


def states(causal: CausalModel, ids: Sequence[int]) -> Any:
    """[1, T, d] what the output layer reads."""
    seen = []
    hook = causal.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    causal.model(**one_row(ids))
    hook.remove()
    return seen[0]


def one_row(ids: Sequence[int]) -> dict[str, Any]:
    return {"input_ids": torch.tensor([list(ids)]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}


def memory(causal: CausalModel, sample: Sample) -> tuple[Any, Any]:
    """([g, l, tokens], d) memory of one reply, and the ends after the last layer."""
    graph: Graph = causal.graph
    shape, guide = graph.shape, guide_of(sample.guide, sample.id)
    size = min(guide.context, shape.context)
    begin = guide.context - size
    own = states(causal, sample.prompt[: guide.context])[0, begin:]
    local = tuple(min(max(k - begin, 0), size) for k in guide.local)
    names = list(graph.project)
    ends = {n: graph.project[n](pooled(causal, guide.cause if n == "global" else guide.intention)) for n in names}
    nodes = torch.cat(
        [*([ends["global"]] if "global" in ends else []), own, *([ends["local"]] if "local" in ends else [])]
    )
    keep = [*([0] if "global" in ends else []), *range(1, size + 1), *([size + 1] if "local" in ends else [])]
    edges = torch.from_numpy(adjacency(size, local, radius=shape.radius))[keep][:, keep]
    for layer in graph.layers:
        nodes = attend(layer, nodes, edges)
    first = 1 if "global" in ends else 0
    tokens, last = nodes[first : first + size], []
    if "global" in ends:
        last.append(nodes[:1])
    if "local" in ends:
        last.append(nodes[-1:])
    if shape.layers:
        tokens = graph.feed["token"](tokens)
        last = [graph.feed[n](v) for n, v in zip(names, last, strict=True)]
        gate = torch.sigmoid(own @ graph.gate_before.weight.T + graph.gate_before.bias + graph.gate_after(tokens))
        tokens = gate * tokens + (1 - gate) * own
    return plain_norm(torch.cat([*last, tokens])), last


def last_weights(causal: CausalModel, sample: Sample) -> Any:
    """[heads, N, N] of the last layer, nodes in the order g, l, tokens."""
    graph: Graph = causal.graph
    guide = guide_of(sample.guide, sample.id)
    own = states(causal, sample.prompt[: guide.context])[0]
    first, last = (
        graph.project[n](pooled(causal, t)) for n, t in (("global", guide.cause), ("local", guide.intention))
    )
    nodes = torch.cat([first, own, last])
    edges = torch.from_numpy(adjacency(guide.context, guide.local, radius=graph.shape.radius))
    for layer in graph.layers[:-1]:
        nodes = attend(layer, nodes, edges)
    weights = pairwise(graph.layers[-1], nodes, edges)[0]
    order = [0, len(nodes) - 1, *range(1, len(nodes) - 1)]
    return weights[:, order][:, :, order].numpy()


def attend(layer: Any, nodes: Any, edges: Any) -> Any:
    """One layer with scores of joined pairs."""
    return layer.norm(nodes + elu(pairwise(layer, nodes, edges)[1]))


def pairwise(layer: Any, nodes: Any, edges: Any) -> tuple[Any, Any]:
    """(weights [heads, N, N], mixed [N, d])."""
    values = layer.value(nodes).view(len(nodes), layer.heads, -1)
    n, d = len(nodes), values.shape[-1]
    joined = torch.cat(
        [values[:, None].expand(n, n, -1, d), values[None].expand(n, n, -1, d)], dim=-1
    )  # [N, N, heads, 2 d_h]
    scores = leaky_relu(torch.einsum("ijhd,hd->hij", joined, layer.halves.flatten(1)), layer.slope)
    weights = scores.masked_fill(~edges, -torch.inf).softmax(-1)
    return weights, torch.einsum("hij,jhd->ihd", weights, values).flatten(1)


def read(adapter: Any, states: Any, held: Any) -> Any:
    """[L, d] what an adapter adds, with keys and values."""
    heads = adapter.heads
    q = adapter.query(adapter.norm(states)).view(len(states), heads, -1).transpose(0, 1)
    k, v = (f(held).view(len(held), heads, -1).transpose(0, 1) for f in (adapter.key, adapter.value))
    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
    return torch.tanh(adapter.gamma) * adapter.out((weights @ v).transpose(0, 1).flatten(1))


def logits(causal: CausalModel, sample: Sample, written: Sequence[int], held: Any) -> Any:
    """[1 + written, V] after the prompt and each written token, of the model with its adapters; nothing is cached."""
    begin = guide_of(sample.guide, sample.id).context
    hooks = []
    for place, adapter in zip(causal.graph.shape.places, causal.graph.adapters, strict=True):

        def hook(_: Any, args: Any, output: Any, adapter: Any = adapter) -> Any:
            found = output[0] if isinstance(output, tuple) else output
            added = torch.cat([torch.zeros_like(found[0, :begin]), read(adapter, found[0, begin:], held)])
            found = found + added[None]
            return (found, *output[1:]) if isinstance(output, tuple) else found

        hooks.append(decoder_layers(causal.model)[place - 1].register_forward_hook(hook))
    out = causal.model(**one_row([*sample.prompt, *written])).logits[0, len(sample.prompt) - 1 :]
    for h in hooks:
        h.remove()
    return out


def log_likelihood(causal: CausalModel, sample: Sample) -> tuple[Any, Any]:
    """(log-probabilities of the target, logits of the monitor or None)."""
    held, ends = memory(causal, sample)
    table = logits(causal, sample, sample.target[:-1], held).log_softmax(-1)
    said = causal.graph.monitor(ends[0]) if causal.graph.monitor is not None else None
    return table.gather(1, torch.tensor(sample.target)[:, None])[:, 0], said
