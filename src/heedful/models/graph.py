"""A graph beside a language model: what a reply is written from, worked out before its first word (glhg.md).

Peng et al., *Control Globally, Understand Locally*, IJCAI 2022, on a decoder-only host and for whole conversations:

    1  trunk and texts through the language model               -> states H, keys and values
    2  g, l = linear(max over the states of a text); per reply a graph over g, the tokens before it, and l
    3  layers of attention along the edges, feed-forward per type of node, gated fusion   -> memory [g; h'; l]
    4  branches through the language model, with gated reading of the memory after some of its blocks

Adapters touch branches alone and begin at zero, so an untrained graph changes no word. All replies of a conversation
are computed at once, and each number is the one that its reply alone would have (`tests/unit/test_graph.py`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heedful.errors import ConfigError
from heedful.formats import TokenTree
from heedful.models.architecture import attention_masks, decoder_layers, only_at, text_config
from heedful.models.graph_layout import Layout, lay_out
from heedful.models.graph_parts import Adapter, Edges, FeedForward, GraphAttention, Monitor, plain_norm

Batch = dict[str, Tensor]
WEIGHTS, RECORD, VERSION = "graph.safetensors", "graph.json", 1
"""In a run's folder: the graph's weights, and what it is."""


@dataclass(frozen=True, kw_only=True)
class GraphShape:
    """What a graph is; all that its weights fit to, and all that its numbers depend on.

    Args:
        width, blocks: hidden size and number of blocks of the language model.
        layers, heads, radius, slope, dropout: of the attention along the edges; 0 layers: no graph, only its nodes.
        adapters: how many blocks the memory is read after, spread evenly, the last one included.
        context: most tokens of a conversation in a graph.
        global_node, local_node: whether they are there.
        pooling: how a text becomes a node: the maximum of its states, number by number (Eq. 2 and 3), or their mean.
        problems: classes of the monitor; empty without one.
    """

    width: int
    blocks: int
    layers: int = 2
    heads: int = 4
    radius: int = 5
    slope: float = 0.2
    dropout: float = 0.1
    adapters: int = 3
    context: int = 384
    global_node: bool = True
    local_node: bool = True
    problems: tuple[str, ...] = ()
    pooling: str = "max"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                f"graph.heads must divide the model's hidden size {self.width:,}, but it is {self.heads}; "
                f"{math.gcd(self.width, 4)} would do."
            )
        if self.problems and not self.global_node:
            raise ConfigError("graph.monitor reads the global node; with global_node: false set monitor: 0.")

    @property
    def places(self) -> tuple[int, ...]:
        """Numbers of the blocks, from 1, that an adapter stands after: 10, 20 and 30 of SmolLM2's thirty."""
        return tuple(sorted({math.ceil(self.blocks * (i + 1) / self.adapters) for i in range(self.adapters)}))


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some targets of a batch: their memory and who reads it."""

    memory: Tensor = field(repr=False)
    visible: Tensor = field(repr=False)
    ends: Tensor = field(repr=False)
    begin: int
    length: int


@dataclass(kw_only=True)
class Look:
    """Collects weights on their way (see `heedful.models.graph_view`)."""

    edges: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    reading: list[Tensor] = field(default_factory=list)


class Graph(nn.Module):
    """All trained parts of the graph, in fp32 whatever the language model is stored in."""

    def __init__(self, shape: GraphShape) -> None:
        super().__init__()
        self.shape = shape
        d, drop = shape.width, shape.dropout
        names = [name for name, on in (("global", shape.global_node), ("local", shape.local_node)) if on]
        self.project = nn.ModuleDict({name: nn.Linear(d, d) for name in names})
        self.layers = nn.ModuleList(
            GraphAttention(d, shape.heads, slope=shape.slope, dropout=drop) for _ in range(shape.layers)
        )
        kinds = [*names, "token"] if shape.layers else []
        self.feed = nn.ModuleDict({name: FeedForward(d, dropout=drop) for name in kinds})
        if shape.layers:
            self.gate_before, self.gate_after = nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.adapters = nn.ModuleList(Adapter(d, shape.heads) for _ in shape.places)
        self.monitor = Monitor(d, len(shape.problems), dropout=drop) if shape.problems else None

    # ------------------------------------------------------------------ reasoning

    def reason(self, trunk: Tensor, texts: Tensor, batch: Batch, look: Look | None = None) -> list[Part]:
        """Memories of all targets, and the ends of their graphs after the last layer.

        Args:
            trunk: [R, T, d] states of the conversations; texts: [Q, S, d] of the short texts.
        """
        trunk, texts = trunk.flatten(0, 1).float(), texts.flatten(0, 1).float()
        ends = self._ends(texts, batch)
        before = self.gate_before(trunk) if self.shape.layers else None
        first = self.layers[0].project(trunk) if self.shape.layers else None
        found = []
        for begin, end, width, length in batch["parts"].tolist():
            at = batch["window"][begin:end, None] + torch.arange(width, device=trunk.device)
            valid = torch.arange(width, device=trunk.device) < batch["size"][begin:end, None]
            at = torch.where(valid, at, batch["window"][begin:end, None]).flatten()
            mine, links = ends[begin:end], self._links(valid, batch["local"][begin:end])

            def here(values: Tensor, at: Tensor = at, shape: torch.Size = valid.shape) -> Tensor:
                # Not values[at]: the gradient of that adds up one row after the other.
                return values.index_select(0, at).view(*shape, -1)

            tokens = here(trunk)
            if before is not None and first is not None:
                edges = Edges(valid, links, radius=self.shape.radius)
                tokens, mine = self._mix(tokens, mine, edges, (here(first[0]), here(first[1])), here(before), look)
            memory, visible = self._memory(tokens, mine, valid)
            found.append(Part(memory=memory, visible=visible, ends=mine, begin=begin, length=length))
        return found

    def _ends(self, texts: Tensor, batch: Batch) -> Tensor:
        """[n, E, d]: the global and the local node of each target before the first layer."""
        found = []
        for name, key in (("global", "cause"), ("local", "intention")):
            if name in self.project:
                path = batch[f"{key}_path"]
                found.append(self.project[name](self._pool(texts[path.clamp(min=0)], path < 0))[batch[key]])
        if not found:
            return texts.new_zeros(len(batch["cause"]), 0, self.shape.width)
        return torch.stack(found, dim=1)

    def _pool(self, states: Tensor, filling: Tensor) -> Tensor:
        """[n, L, d] -> [n, d]."""
        if self.shape.pooling == "mean":
            states = states.masked_fill(filling[..., None], 0.0)
            return states.sum(1) / (~filling).sum(1, keepdim=True).clamp(min=1)
        return states.masked_fill(filling[..., None], -torch.inf).amax(1)

    def pooled(self, model: Any, texts: Sequence[Sequence[int]]) -> Tensor:
        """[n, d]: what is pooled of texts (token ids, the opening one first and not pooled), before its projection."""
        device = next(model.parameters()).device
        length = max(len(ids) for ids in texts)
        ids = torch.tensor([[*text, *([text[-1]] * (length - len(text)))] for text in texts], device=device)
        places = torch.arange(length, device=device).expand(len(texts), -1)
        states = _states(model, {"text_ids": ids, "text_places": places}, "text", None)
        filling = places >= torch.tensor([len(text) for text in texts], device=device)[:, None]
        return self._pool(states[:, 1:].float(), filling[:, 1:])

    def said_of_cause(self, pooled: Tensor) -> Tensor:
        """Logits [n, classes] of the monitor for causes alone: a graph whose one node is the global one."""
        if self.monitor is None:
            raise ConfigError("This graph was trained without a monitor; train with graph.monitor above 0.")
        node = self.project["global"](pooled)
        for layer in self.layers:
            node = layer.alone(node)
        found: Tensor = self.monitor(self.feed["global"](node) if self.shape.layers else node)
        return found

    def _links(self, valid: Tensor, local: Tensor) -> Tensor:
        """[n, P, E]: the global node sees all tokens, the local one those of the seeker's last utterance."""
        at = torch.arange(valid.shape[1], device=valid.device)
        kinds = []
        if self.shape.global_node:
            kinds.append(valid)
        if self.shape.local_node:
            kinds.append((at >= local[:, :1]) & (at < local[:, 1:]))
        return torch.stack(kinds, dim=-1) if kinds else valid.new_zeros(*valid.shape, 0)

    def _mix(
        self,
        own: Tensor,
        ends: Tensor,
        edges: Edges,
        projected: tuple[Tensor, Tensor],
        before: Tensor,
        look: Look | None,
    ) -> tuple[Tensor, Tensor]:
        tokens = own
        for k, layer in enumerate(self.layers):
            now = projected if k == 0 else layer.project(tokens)
            tokens, ends = layer(tokens, ends, edges, now, look.edges if look else None)
        tokens = self.feed["token"](tokens)
        if ends.shape[1]:
            ends = torch.stack([self.feed[name](ends[:, i]) for i, name in enumerate(self.project)], dim=1)
        gate = torch.sigmoid(before + self.gate_after(tokens))
        return torch.lerp(own, tokens.to(own.dtype), gate.to(own.dtype)), ends

    def _memory(self, tokens: Tensor, ends: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """[n, E + P, d], rows of one size, since final states of a language model and trained nodes differ widely."""
        memory = plain_norm(torch.cat([ends.to(tokens.dtype), tokens], dim=1))
        return memory, torch.cat([valid.new_ones(ends.shape[:2]), valid], dim=1)

    def said(self, parts: Sequence[Part]) -> Tensor:
        """Logits [n, classes] of the monitor, targets in the order of the layout."""
        if self.monitor is None:
            raise ConfigError("This graph was trained without a monitor; train with graph.monitor above 0.")
        found: Tensor = self.monitor(torch.cat([part.ends[:, 0] for part in parts]))
        return found

    # ------------------------------------------------------------------ with the language model

    @contextmanager
    def reading(self, model: Any, parts: Sequence[Part], query: Tensor, look: Look | None = None) -> Iterator[None]:
        """Within this block a pass of `model` reads the memories.

        Args:
            query: [n, L] flat places of the tokens that read each target's memory; below 0: filling.
        """
        layers = decoder_layers(model)
        jobs, found = [], []
        for part in parts:
            mine = query[part.begin : part.begin + len(part.memory), : part.length]
            real = (mine.flatten() >= 0).nonzero()[:, 0]
            jobs.append((part, mine.clamp(min=0), real))
            found.append(mine.flatten()[real])
        targets = torch.cat(found)

        def after(adapter: Any) -> Any:
            def hook(_: Any, args: Any, output: Any) -> Any:
                states = output[0] if isinstance(output, tuple) else output
                flat = states.flatten(0, 1)
                new = []
                for part, places, real in jobs:
                    mine = flat.index_select(0, places.flatten()).view(*places.shape, -1)
                    mine = adapter(mine, part.memory, part.visible, look.reading if look else None)
                    new.append(mine.flatten(0, 1).index_select(0, real))
                states = flat.index_add(0, targets, torch.cat(new).to(flat.dtype)).view_as(states)
                return (states, *output[1:]) if isinstance(output, tuple) else states

            return hook

        pairs = zip(self.shape.places, self.adapters, strict=True)
        hooks = [layers[place - 1].register_forward_hook(after(adapter)) for place, adapter in pairs]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def open(self, model: Any, batch: Batch, cache: Any, look: Look | None = None) -> list[Part]:
        """Read trunk and texts; `cache` holds the trunk's keys and values afterwards."""
        texts = _states(model, batch, "text", None)
        return self.reason(_states(model, batch, "trunk", cache), texts, batch, look)

    def finish(self, model: Any, batch: Batch, cache: Any, parts: Sequence[Part], look: Look | None = None) -> Tensor:
        """Logits [M, V] where branches predict something."""
        places = batch["branch_places"]
        seen = torch.cat([batch["trunk_places"], places], dim=1)
        mask = attention_masks(model, batch["branch_sees"], places, seen)
        with only_at(model, batch["row"], batch["source"]), self.reading(model, parts, batch["query"], look):
            outputs = model(
                input_ids=batch["branch_ids"], position_ids=places, attention_mask=mask, past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
        logits: Tensor = outputs.logits[0]
        return logits

    def logits(self, model: Any, batch: Batch, look: Look | None = None) -> tuple[Tensor, list[Part]]:
        """Both passes: logits [M, V] of a batch, and what the graphs became."""
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache()  # of whole layers, also where the model has windows: those are in the masks
        parts = self.open(model, batch, cache, look)
        return self.finish(model, batch, cache, parts, look), parts

    def lay_out(self, trees: Sequence[TokenTree], *, pad_id: int, together: bool = False) -> Layout:
        """See `heedful.models.graph_layout.lay_out`."""
        return lay_out(trees, pad_id=pad_id, context=self.shape.context, together=together)

    def log_likelihoods(self, model: Any, layout: Layout) -> Tensor:
        """Log-probabilities [M] of the labels of a layout."""
        device = next(model.parameters()).device
        batch = {name: value.to(device) for name, value in layout.tensors().items()}
        logits, _ = self.logits(model, batch)
        return -nn.functional.cross_entropy(logits.float(), batch["label"], reduction="none")

    # ------------------------------------------------------------------ on disk

    def save(self, folder: Path) -> None:
        """Write weights and record."""
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, str(folder / WEIGHTS))
        scratch = folder / f"{RECORD}.part"
        scratch.write_text(json.dumps({"version": VERSION, **asdict(self.shape)}, indent=2) + "\n", "utf-8")
        os.replace(scratch, folder / RECORD)

    def take(self, folder: Path) -> None:
        """Take the weights of the graph in `folder`.

        Raises:
            ConfigError: its shape is another one.
        """
        _fill(self, folder)


def new_graph(shape: GraphShape, *, seed: int) -> Graph:
    """A graph with first values drawn by `seed`; torch's global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Graph(shape)


def shape_for(model: Any, **options: Any) -> GraphShape:
    """The shape of a graph that fits a language model; `options` are those of `GraphShape`."""
    config = text_config(model)
    return GraphShape(width=int(config.hidden_size), blocks=int(config.num_hidden_layers), **options)


def load_graph(folder: Path) -> Graph:
    """The graph of a finished run or a checkpoint, ready to be used.

    Raises:
        ConfigError: it is another version's, or broken.
    """
    try:
        found = json.loads((folder / RECORD).read_text("utf-8"))
        version = found.pop("version")
        shape = GraphShape(**{**found, "problems": tuple(found["problems"])})
    except (OSError, ValueError, TypeError, KeyError) as err:
        raise ConfigError(f"The graph in {folder} cannot be read: {RECORD} is broken; train it again.") from err
    if version != VERSION:
        raise ConfigError(f"The graph in {folder} has version {version}, and this heedful reads version {VERSION}.")
    graph = Graph(shape)
    _fill(graph, folder)
    graph.eval()
    return graph


def _fill(graph: Graph, folder: Path) -> None:
    try:
        graph.load_state_dict(load_file(str(folder / WEIGHTS)))
    except (OSError, SafetensorError) as err:
        raise ConfigError(f"The graph in {folder} cannot be read: {WEIGHTS} is broken or missing.") from err
    except RuntimeError as err:
        raise ConfigError(
            f"The graph in {folder} has another shape than the one that is asked for; take the same graph settings."
        ) from err


def _states(model: Any, batch: Batch, kind: str, cache: Any) -> Tensor:
    """Final states [R, T, d] of a pass that predicts nothing."""
    places = batch[f"{kind}_places"]
    mask = attention_masks(model, batch.get(f"{kind}_sees"), places, places)
    nowhere = places.new_zeros(0)
    with only_at(model, nowhere, nowhere) as seen:
        model(
            input_ids=batch[f"{kind}_ids"], position_ids=places, attention_mask=mask, past_key_values=cache,
            use_cache=cache is not None,
        )  # fmt: skip
    return seen[0]
