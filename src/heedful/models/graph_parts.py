"""The layers of the graph (glhg.md, steps 5 to 7): additive attention along a band, and gated reading of a memory.

A graph has two kinds of nodes. The tokens of a window see their neighbours within a radius, so their scores form a
band: blocks of tokens are multiplied with their block and its margins, and a matrix of all pairs is never built. The
ends (the global and the local node) see or are seen by many, and there are only two of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, layer_norm, leaky_relu, pad

from heedful.models.graph_layout import BLOCK


class Edges:
    """Who sees whom in n graphs of P places for tokens and E ends; padding is seen by nobody.

    Args:
        valid: [n, P] True where there is a token.
        links: [n, P, E] True where a token and an end see each other.
        radius: how far tokens see.
    """

    def __init__(self, valid: Tensor, links: Tensor, *, radius: int) -> None:
        n, width = valid.shape
        self.valid, self.links, self.radius = valid, links & valid[..., None], radius
        span = BLOCK + 2 * radius
        distance = torch.arange(span, device=valid.device)[None] - torch.arange(BLOCK, device=valid.device)[:, None]
        inside = (distance >= 0) & (distance <= 2 * radius)
        itself = distance == radius  # padding sees itself: a row without any True has no softmax
        near = blocks(valid, radius)[:, :, None, :] & inside | itself
        # [n, blocks, 1, BLOCK, span + E]: for all heads
        self.token_sees = torch.cat([near, self.links.view(n, width // BLOCK, BLOCK, -1)], dim=-1)[:, :, None]
        ends = torch.ones(n, links.shape[2], links.shape[2], dtype=torch.bool, device=valid.device)
        # [n, 1, E, P + E]
        self.end_sees = torch.cat([self.links.transpose(1, 2), ends], dim=-1)[:, None]


def blocks(values: Tensor, radius: int) -> Tensor:
    """[n, P, ...] -> [n, P / BLOCK, ..., BLOCK + 2 radius]: each block with its margins, empty beyond the ends."""
    shape = [0, 0] * (values.dim() - 2) + [radius, radius]
    return pad(values, shape).unfold(1, BLOCK + 2 * radius, BLOCK)


class GraphAttention(nn.Module):
    """One layer: v_i' = norm(v_i + ELU(sum_j alpha_ij W v_j)), alpha_i = softmax_j LeakyReLU(a . [W v_i || W v_j]).

    The vector a is cut into halves, so a score is a sum of two numbers, and pairs are never joined.

    Args:
        width, heads: of nodes; `width / heads` numbers a head.
        slope: of LeakyReLU.
    """

    def __init__(self, width: int, heads: int, *, slope: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.slope = heads, slope
        self.value = nn.Linear(width, width, bias=False)
        self.halves = nn.Parameter(torch.empty(heads, 2, width // heads))
        nn.init.xavier_uniform_(self.halves)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def project(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """[..., d] -> values W v [..., d] and scores [..., 2 heads]: of a node that looks, and of one looked at."""
        weight = self.value.weight.view(self.heads, -1, self.value.in_features)
        halves = torch.einsum("hei,hse->shi", weight, self.halves).flatten(0, 1)
        return self.value(nodes), nn.functional.linear(nodes, halves).float()

    def forward(
        self,
        tokens: Tensor,
        ends: Tensor,
        edges: Edges,
        projected: tuple[Tensor, Tensor],
        kept: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Nodes after this layer.

        Args:
            tokens: [n, P, d]; ends: [n, E, d].
            projected: what `project` says of the tokens.
            kept: gets the weights, of tokens [n, blocks, heads, BLOCK, span + E] and of ends [n, heads, E, P + E].
        """
        (values, scores), (end_values, end_scores) = projected, self.project(ends)
        looks, seen = scores.chunk(2, dim=-1)
        end_looks, end_seen = end_scores.chunk(2, dim=-1)
        weights = self._token_weights(looks, seen, end_seen, edges)
        n, width, size = tokens.shape
        around = blocks(values.view(n, width, self.heads, -1), edges.radius).permute(0, 1, 2, 4, 3)
        far = end_values.view(n, 1, -1, self.heads, size // self.heads).transpose(2, 3)
        far = far.expand(-1, around.shape[1], -1, -1, -1)
        mixed = weights.to(values.dtype) @ torch.cat([around, far], dim=3)
        mixed = mixed.transpose(2, 3).reshape(n, width, size)
        end_weights = leaky_relu(
            end_looks.transpose(1, 2)[..., None] + torch.cat([seen, end_seen], 1).transpose(1, 2)[:, :, None],
            self.slope,
        )
        end_weights = end_weights.masked_fill(~edges.end_sees, -torch.inf).softmax(-1)
        everything = torch.cat([values, end_values], 1).view(n, -1, self.heads, size // self.heads).transpose(1, 2)
        end_mixed = (end_weights.to(values.dtype) @ everything).transpose(1, 2).reshape(ends.shape)
        if kept is not None:
            kept.append((weights, end_weights))
        return self._after(tokens, mixed), self._after(ends, end_mixed)

    def alone(self, node: Tensor) -> Tensor:
        """[n, d] -> [n, d]: a node that sees nobody but itself."""
        return self._after(node, self.value(node))

    def _token_weights(self, looks: Tensor, seen: Tensor, end_seen: Tensor, edges: Edges) -> Tensor:
        looks = looks.view(len(looks), -1, BLOCK, self.heads).transpose(2, 3)[..., None]
        near = looks + blocks(seen, edges.radius)[:, :, :, None]
        far = looks + end_seen.transpose(1, 2)[:, None, :, None]
        scores = leaky_relu(torch.cat([near, far], dim=-1), self.slope)
        return scores.masked_fill(~edges.token_sees, -torch.inf).softmax(-1)

    def _after(self, nodes: Tensor, mixed: Tensor) -> Tensor:
        found: Tensor = self.norm(nodes + self.dropout(elu(mixed)))
        return found


class FeedForward(nn.Module):
    """norm(v + B gelu(A v)), half as wide inside: one for each type of node."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width // 2), nn.GELU(), nn.Dropout(dropout), nn.Linear(width // 2, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        found: Tensor = self.norm(nodes + self.layers(nodes))
        return found


class Adapter(nn.Module):
    """Gated cross-attention after a block: x + tanh(gamma) O attention(Q norm(x), K m, V m), gamma = 0 at the start.

    A memory has hundreds of places and is read by some twenty tokens. So keys and values are never made: K moves to the
    side of the query, (K^T q) . m, and V to the side of the result.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, states: Tensor, memory: Tensor, visible: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """What is added to `states`.

        Args:
            states: [n, L, d] of tokens of replies.
            memory: [n, S, d]; visible: [n, S].
            kept: gets the weights [n, heads, L, S].
        """
        n, length, size = states.shape
        states = states.to(self.norm.weight.dtype)
        asked = self.query(self.norm(states)).view(n, length, self.heads, -1)
        keys = self.key.weight.view(self.heads, -1, size).to(asked.dtype)
        memory = memory.to(asked.dtype)
        asked = torch.einsum("nlhe,hed->nhld", asked, keys).reshape(n, -1, size)
        scores = (asked @ memory.transpose(1, 2)).float() * (size // self.heads) ** -0.5
        weights = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
        read = (weights.to(memory.dtype) @ memory).view(n, self.heads, length, size)
        values = self.value.weight.view(self.heads, -1, size).to(read.dtype)
        mixed = torch.einsum("nhld,hed->nlhe", read, values).reshape(n, length, size)
        if kept is not None:
            kept.append(weights.view(n, self.heads, length, -1))
        found: Tensor = torch.tanh(self.gamma) * self.out(mixed)
        return found


class Monitor(nn.Module):
    """The problem type from the global node (glhg.md, step 8): d -> d, GELU, dropout, d -> classes."""

    def __init__(self, width: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, classes))

    def forward(self, ends: Tensor) -> Tensor:
        """[n, d] -> logits [n, classes]."""
        found: Tensor = self.layers(ends).float()
        return found


def plain_norm(values: Tensor) -> Tensor:
    """Each row with mean 0 and variance 1."""
    return layer_norm(values, values.shape[-1:])
