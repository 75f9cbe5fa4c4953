"""Decoding on token trees: all replies of a conversation at once, over one copy of its context.

The usual way gives every prompt a row of its own, so a conversation with 14 replies is read 14 times and its keys and
values are copied and re-read 14 times at every step. Here the prompts of a conversation are merged (`TokenTree`), read
once, and each step appends one token per unfinished branch to the same row; the mask lets a branch see its own path
only. A beam that moves is a changed mask, not a copied cache. Results equal `transformers.generate` (tested, greedy
and beams). An encoder-decoder has a row for each reply (`heedful.models.pairs`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heedful.errors import DataError
from heedful.formats import Packed, Sample, TokenTree, by_conversation, pack
from heedful.models.architecture import attention_masks, growing_cache, only_at
from heedful.models.causal import CausalModel
from heedful.models.decoding import Chooser, Decoding, Written, advance
from heedful.models.forward import tensors
from heedful.models.graph_layout import Layout, with_trunks
from heedful.models.pairs import Pairs
from heedful.models.plan import PlanRule, planned

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One reply as tokens, for the sample with this id."""

    id: str
    written: Written


def prompt_only(name: str, conversation_id: str, turn: int, prompt: tuple[int, ...]) -> Sample:
    """A sample that has a prompt and nothing to predict yet; the one target token stands for the unknown reply."""
    return Sample(id=name, conversation_id=conversation_id, turn=turn, prompt=prompt, target=(0,))


def generate(
    causal: CausalModel,
    samples: Sequence[Sample],
    settings: Decoding,
    *,
    branches: int = 64,
    banned: Sequence[int] = (),
    plan: PlanRule | None = None,
    written: Container[str] = (),
    on_token: Callable[[str, int], None] | None = None,
) -> Iterator[list[Generated]]:
    """Replies for `samples` (their targets are not read), a batch of conversations at a time.

    Args:
        branches: about how many replies (times beams, candidates, or labels under guidance) are decoded in one batch.
        banned: token ids that are never written.
        plan: how the first token of each reply is chosen, if it is a plan; None: like any other token.
        written: ids that are stored already. A batch of nothing else is passed over; any other is written whole, since
            in 16 bit the last digits of a reply's probabilities, and so its words, depend on the rows beside it.
        on_token: called with sample id and token as each is written (not for beams and candidates), for streaming.

    Yields:
        The replies of one batch, so that a caller can store them before the next one starts.

    Raises:
        DataError: two samples have the same id.
    """
    for name, count in Counter(s.id for s in samples).most_common(1):
        if count > 1:  # the id keys a reply's random stream and its branches
            raise DataError(f"Every reply needs a sample id of its own, but '{name}' is there {count} times.")
    grouped = _grouped(causal, samples)
    groups = [[replace(s, target=(0,), plan=0, start=0, text="") for s in g] for g in grouped]
    # Similar lengths side by side waste the least; the order has no influence on the words.
    groups.sort(key=lambda g: (-max(len(s) for s in g), g[0].id))
    batches: list[list[list[Sample]]] = [[]]
    room = max(1, branches // (settings.width * (1 if plan is None else plan.width)))
    for group in groups:
        if batches[-1] and sum(map(len, batches[-1])) + len(group) > room:
            batches.append([])
        batches[-1].append(group)
    for batch in batches:
        if any(s.id not in written for group in batch for s in group):
            yield _write(causal, batch, settings, banned, plan, on_token)


def _grouped(causal: CausalModel, samples: Sequence[Sample]) -> list[list[Sample]]:
    """What is read together: the replies of a conversation, or each for itself where an encoder reads."""
    if causal.encodes:
        return [[sample] for sample in samples]
    return by_conversation(samples) if causal.graph is None else with_trunks(samples)


def _write(
    causal: CausalModel,
    batch: list[list[Sample]],
    settings: Decoding,
    banned: Sequence[int],
    plan: PlanRule | None,
    on_token: Callable[[str, int], None] | None,
) -> list[Generated]:
    if not causal.encodes:
        return _Tree(causal, batch, settings, banned, plan, on_token).run()
    samples = [sample for group in batch for sample in group]
    made = Pairs(
        causal, samples, settings, end=end_ids(causal), banned=banned, plan=plan, on_token=on_token
    ).run()  # fmt: skip
    return [Generated(id=s.id, written=made[s.id]) for s in samples]


def end_ids(causal: CausalModel) -> frozenset[int]:
    """Tokens that end a reply: the tokenizer's end token and those of the model's generation config."""
    found: set[int] = set()
    for value in (causal.tokenizer.eos_token_id, getattr(causal.model.generation_config, "eos_token_id", None)):
        found.update([value] if isinstance(value, int) else value or ())
    return frozenset(found)


class _Tree:
    """A batch in the making. R rows of packed conversations, S cached tokens a row; a branch is one live hypothesis."""

    def __init__(
        self,
        causal: CausalModel,
        groups: list[list[Sample]],
        settings: Decoding,
        banned: Sequence[int],
        plan: PlanRule | None,
        on_token: Callable[[str, int], None] | None,
    ) -> None:
        self.causal, self.on_token = causal, on_token if settings.width == 1 else None
        self.samples = [s for g in groups for s in g]
        ends = end_ids(causal)
        self.choosers: dict[str, Chooser] = {
            s.id: planned(plan, settings, name=s.id, prompt=s.prompt, end=ends, banned=banned) for s in self.samples
        }
        self.cache = growing_cache(causal.model)
        self.logits: torch.Tensor
        self.memory: Memory | None = None
        if causal.graph is None:
            self._begin(pack([TokenTree.merge(g) for g in groups], pad_id=causal.pad_id))
        else:
            self._begin_with_graph([TokenTree.merge(g) for g in groups])

    def run(self) -> list[Generated]:
        import torch

        with torch.no_grad():
            while self._choose():
                self.logits = self._forward()
        results = {name: c.done for name, c in self.choosers.items()}
        return [Generated(id=s.id, written=w) for s in self.samples if (w := results[s.id]) is not None]

    def _begin(self, packed: Packed) -> None:
        """Read the prompts."""
        import torch

        batch = {k: v.to(self.causal.device) for k, v in tensors(packed).items()}
        places = batch["position_ids"]
        mask = attention_masks(self.causal.model, batch.get("attention"), places, places)
        with torch.no_grad(), only_at(self.causal.model, batch["row"], batch["source"]):
            outputs = self.causal.model(
                input_ids=batch["input_ids"],
                position_ids=places,
                attention_mask=mask,
                past_key_values=self.cache,
                use_cache=True,
            )
        attention = packed.attention
        if attention is None:
            attention = np.broadcast_to(
                np.tri(packed.input_ids.shape[1], dtype=np.bool_),
                (len(packed.input_ids), *[packed.input_ids.shape[1]] * 2),
            )
        # What lies in the cache, by row: [R, S] positions, which windows need.
        self.cached = places
        # One entry per branch: its sample, its row, what it may see, its next position.
        self.names = [packed.samples[o] for o in packed.owner]
        self.rows = packed.row.copy()
        self.visible = attention[packed.row, packed.source]
        self.positions = packed.position_ids[packed.row, packed.source] + 1
        self.logits = outputs.logits[0]

    def _begin_with_graph(self, trees: Sequence[TokenTree]) -> None:
        """Read the conversations, work out what each reply is written from, and read the ends of the prompts."""
        import torch

        graph = self.causal.graph
        layout: Layout = graph.lay_out(trees, pad_id=self.causal.pad_id, together=True)
        batch = {k: v.to(self.causal.device) for k, v in layout.tensors().items()}
        with torch.no_grad():
            parts = graph.open(self.causal.model, batch, self.cache)
            self.logits = graph.finish(self.causal.model, batch, self.cache, parts)
        self.memory = Memory(graph, parts[0], layout.target[layout.owner])
        self.cached = torch.cat([batch["trunk_places"], batch["branch_places"]], dim=1)
        self.names = [layout.samples[o] for o in layout.owner]
        self.rows = layout.row.copy()
        self.visible = layout.branch_sees[layout.row, layout.source]
        self.positions = layout.branch_places[layout.row, layout.source] + 1

    def _choose(self) -> bool:
        """Ask every unfinished reply for its next tokens and rebuild the branches; False when all are finished."""
        kept, tokens = advance(self.choosers, self.names, self.logits, self.on_token)
        self.names = [self.names[i] for i in kept]
        self.rows, self.visible, self.positions = self.rows[kept], self.visible[kept], self.positions[kept]
        if self.memory is not None and kept:
            self.memory.keep(kept)
        self.tokens = np.array(tokens, dtype=np.int64)
        return bool(kept)

    def _forward(self) -> torch.Tensor:
        """Feed one token per branch; returns logits [branches, V]."""
        import torch

        count, n_rows = len(self.names), int(self.cache.get_batch())
        order = np.argsort(self.rows, kind="stable")
        starts = np.searchsorted(self.rows[order], np.arange(n_rows))
        column = np.empty(count, dtype=np.int64)
        column[order] = np.arange(count) - starts[self.rows[order]]
        width, seen = int(column.max()) + 1, self.visible.shape[1]
        ids = np.full((n_rows, width), self.causal.pad_id, dtype=np.int64)
        positions = np.zeros((n_rows, width), dtype=np.int64)
        mask = np.zeros((n_rows, width, seen + width), dtype=np.bool_)
        mask[:, :, seen:] = np.eye(width, dtype=np.bool_)  # every slot, used or not, sees at least itself
        ids[self.rows, column], positions[self.rows, column] = self.tokens, self.positions
        mask[self.rows, column, :seen] = self.visible
        device = self.causal.device
        places = torch.from_numpy(positions).to(device)
        self.cached = torch.cat([self.cached, places], dim=1)
        visible = torch.from_numpy(mask).to(device)
        reads: AbstractContextManager[None] = nullcontext()
        if self.memory is not None:
            reads = self.memory.reading(self.causal.model, self.rows * width + column)
        with reads, only_at(self.causal.model, torch.from_numpy(self.rows), torch.from_numpy(column)):
            outputs = self.causal.model(
                input_ids=torch.from_numpy(ids).to(device),
                position_ids=places,
                attention_mask=attention_masks(self.causal.model, visible, places, self.cached),
                past_key_values=self.cache,
                use_cache=True,
            )
        self.visible = mask[self.rows, column]
        self.positions = self.positions + 1
        logits: torch.Tensor = outputs.logits[0]
        return logits


class Memory:
    """What the branches of a batch read at every step: one memory per target, shared by all its branches.

    Args:
        graph: a `heedful.models.graph.Graph`.
        part: the memories of all targets.
        targets: the target of each branch.
    """

    def __init__(self, graph: Any, part: Any, targets: NDArray[np.int64]) -> None:
        self.graph, self.part, self.targets = graph, part, targets

    def keep(self, branches: Sequence[int]) -> None:
        """Go on with these branches, in this order; memories that nobody reads any more are dropped in time."""
        import torch

        self.targets = self.targets[branches]
        live = np.unique(self.targets)
        if 2 * len(live) <= len(self.part.memory):
            at = torch.from_numpy(live).to(self.part.memory.device)
            self.part = replace(self.part, memory=self.part.memory[at], visible=self.part.visible[at])
            self.targets = np.searchsorted(live, self.targets)

    def reading(self, model: Any, places: NDArray[np.int64]) -> AbstractContextManager[None]:
        """Within this block `model` reads the memories, branch k at the flat place `places[k]`."""
        import torch

        order = np.argsort(self.targets, kind="stable")
        mine = self.targets[order]
        rank = np.arange(len(mine)) - np.searchsorted(mine, mine)
        query = np.full((len(self.part.memory), int(rank.max()) + 1), -1, dtype=np.int64)
        query[mine, rank] = places[order]
        part = replace(self.part, length=query.shape[1])
        found: AbstractContextManager[None] = self.graph.reading(
            model, [part], torch.from_numpy(query).to(part.memory.device)
        )
        return found
