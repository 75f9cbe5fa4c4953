"""What a reply was written from: the weights of its graph, for a picture.

A weight says where a layer looked, not why a word was written; heads and layers can undo each other. So a picture of
these numbers is an illustration, never an explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from heedful.errors import ConfigError, DataError
from heedful.formats import Format, TokenTree
from heedful.models.causal import CausalModel
from heedful.models.graph import Graph, Look
from heedful.models.graph_layout import BLOCK, guide_of
from heedful.types import Conversation

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Weights of one reply. Nodes are the ends that the graph has (`global`, `local`), then T tokens; N in all.

    Args:
        ends: names of the ends.
        texts: what each of them read.
        tokens: the T tokens of the conversation in the graph, as text.
        local: begin and end of the tokens that the local node is linked to.
        edges: [heads, N, N] of the last layer: a row looks at columns and sums to 1; None without layers.
        reply: the tokens that were written, as text.
        reading: block -> [heads, tokens of the reply, N]: what each saw of the memory as it was about to be written.
        problems: type -> probability that the monitor gives it; empty without one.
    """

    ends: tuple[str, ...]
    texts: tuple[str, ...] = field(repr=False)
    tokens: tuple[str, ...] = field(repr=False)
    local: tuple[int, int]
    edges: Floats | None = field(repr=False)
    reply: tuple[str, ...] = field(repr=False)
    reading: dict[int, Floats] = field(repr=False)
    problems: dict[str, float] = field(repr=False)


def attention(
    causal: CausalModel, fmt: Format, conversation: Conversation, turn: int, *, max_length: int = 1024
) -> Attention:
    """The weights behind the reply at `turn` of `conversation`, as if the model had written it.

    Args:
        fmt: the format that the model was trained with.
        conversation: with what planners added to it.
        turn: index of a reply; the turns after it are not looked at.

    Raises:
        ConfigError: a model without a graph.
        DataError: no reply stands at this place, or it does not fit.
    """
    graph: Graph | None = causal.graph
    if graph is None:
        raise ConfigError(f"'{causal.name}' has no graph to look at; take a run of method: sft with graph: {{...}}.")
    made = fmt.samples(conversation, causal.tokenizer, max_length=max_length)
    sample = next((s for s in made if s.turn == turn), None)
    if sample is None:
        raise DataError(
            f"There is no reply at turn {turn} of conversation '{conversation.id}'; those are at "
            f"{', '.join(str(s.turn) for s in made) or 'no turn'}."
        )
    guide = guide_of(sample.guide, sample.id)
    layout = graph.lay_out([TokenTree.merge([sample])], pad_id=causal.pad_id)
    batch = {name: value.to(causal.device) for name, value in layout.tensors().items()}
    look = Look()
    with torch.no_grad():
        _, parts = graph.logits(causal.model, batch, look)
        said = graph.said(parts)[0].double().softmax(-1).tolist() if graph.monitor is not None else []
    size, names = int(layout.size[0]), tuple(graph.project)
    window = sample.prompt[guide.context - size : guide.context]

    def text(ids: tuple[int, ...]) -> str:
        return str(causal.tokenizer.decode(ids, skip_special_tokens=False))

    return Attention(
        ends=names,
        texts=tuple(text((guide.cause if name == "global" else guide.intention)[1:]) for name in names),
        tokens=_pieces(window, text),
        local=(int(layout.local[0, 0]), int(layout.local[0, 1])),
        edges=_dense(*look.edges[-1], size=size, radius=graph.shape.radius) if look.edges else None,
        reply=_pieces(sample.target, text),
        reading={
            place: weights[0, :, :, : len(names) + size].double().cpu().numpy()
            for place, weights in zip(graph.shape.places, look.reading, strict=True)
        },
        problems=dict(zip(graph.shape.problems, said, strict=True)),
    )


def _pieces(ids: Sequence[int], text: Callable[[tuple[int, ...]], str]) -> tuple[str, ...]:
    """What each token adds to the text; a character of several tokens stands at the last of them."""
    found: list[str] = []
    before = ""
    for k in range(1, len(ids) + 1):
        now = text(tuple(ids[:k]))
        now = now if k == len(ids) else now.rstrip("\ufffd")
        found.append(now[len(before) :])
        before = now
    return tuple(found)


def _dense(band: torch.Tensor, far: torch.Tensor, *, size: int, radius: int) -> Floats:
    """[heads, N, N] from the weights of tokens [1, blocks, heads, BLOCK, span + E] and of ends [1, heads, E, P + E]."""
    tokens, ends = band[0].double().cpu().numpy(), far[0].double().cpu().numpy()
    heads, count = ends.shape[:2]
    span = BLOCK + 2 * radius
    found = np.zeros((heads, count + size, count + size))
    found[:, :count, :count], found[:, :count, count:] = ends[:, :, ends.shape[2] - count :], ends[:, :, :size]
    for i in range(size):
        block, at = divmod(i, BLOCK)
        row = tokens[block, :, at]
        found[:, count + i, :count] = row[:, span:]
        first = block * BLOCK - radius
        low, high = max(0, first), min(size, first + span)
        found[:, count + i, count + low : count + high] = row[:, low - first : high - first]
    return found
