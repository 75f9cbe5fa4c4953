"""Where everything lies that a graph needs: token trees and their guides as arrays.

A tree of the format `glhg` has a trunk, the words of the conversation, and one branch for each reply that is due after
a beginning of it. The three kinds of text are laid out apart: conversations, the short texts behind the global and the
local nodes (each once), and branches. The graph of a reply holds the last `context` tokens before it.

    trunk    [R, T]  hello <eos> hello, what brings you here <eos> I cannot sleep
    texts    [Q, S]  <eos> I cannot sleep         <eos> to rest
    branches [R, B]       <|decide|> hello, what...             <|decide|> since when
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from heedful.errors import ConfigError, DataError
from heedful.formats import Guide, Packed, Sample, TokenTree, by_conversation, pack
from heedful.formats.tree import Bools, Ints

if TYPE_CHECKING:
    import torch

NOTHING = -1
BLOCK = 16
"""Windows are cut into blocks of so many tokens, and their lengths rounded up to it."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A batch for a model with a graph; n replies that are due (targets), M predictions.

    Args:
        trunk: the conversations.
        texts: what is read for the nodes, each text once; texts with a common beginning share it.
        cause_path, intention_path: [U, L] and [V, L] places of a text's tokens in `texts`, flat; NOTHING fills.
        branch_ids, branch_places: [R, B] tokens and positions; `branch_sees`: [R, B, T + B].
        window, size: [n] flat place in `trunk` of the first token of a graph, and how many it has; longest first.
        local: [n, 2] begin and end within the window of the tokens that the local node is linked to.
        cause, intention: [n] which text of either kind.
        query: [n, L] flat places in the branches of the tokens that read this graph; NOTHING fills.
        parts: [P, 4] targets that are computed together: begin, end, tokens of a window, tokens of a branch.
        row, source, label, owner, plan: [M] as in `Packed`, places in the branches.
        samples: ids of all samples; `target`: the graph of each.
        guides: of the targets.
        filled: tokens of trunk and branches that are not padding.
    """

    trunk: Packed = field(repr=False)
    texts: Packed = field(repr=False)
    cause_path: Ints = field(repr=False)
    intention_path: Ints = field(repr=False)
    branch_ids: Ints = field(repr=False)
    branch_places: Ints = field(repr=False)
    branch_sees: Bools = field(repr=False)
    window: Ints = field(repr=False)
    size: Ints = field(repr=False)
    local: Ints = field(repr=False)
    cause: Ints = field(repr=False)
    intention: Ints = field(repr=False)
    query: Ints = field(repr=False)
    parts: Ints = field(repr=False)
    row: Ints = field(repr=False)
    source: Ints = field(repr=False)
    label: Ints = field(repr=False)
    owner: Ints = field(repr=False)
    plan: Bools = field(repr=False)
    samples: tuple[str, ...] = field(repr=False)
    target: Ints = field(repr=False)
    guides: tuple[Guide, ...] = field(repr=False)
    filled: int

    def tensors(self) -> dict[str, torch.Tensor]:
        """The arrays as torch tensors, under the names that `heedful.models.graph` reads."""
        import torch

        own = (
            "cause_path", "intention_path", "branch_ids", "branch_places", "branch_sees", "window", "size", "local",
            "cause", "intention", "query", "parts", "row", "source", "label",
        )  # fmt: skip
        found = {name: getattr(self, name) for name in own}
        for name, packed in (("trunk", self.trunk), ("text", self.texts)):
            found |= {f"{name}_ids": packed.input_ids, f"{name}_places": packed.position_ids}
            if packed.attention is not None:
                found[f"{name}_sees"] = packed.attention
        return {name: torch.from_numpy(value) for name, value in found.items()}


@dataclass(frozen=True, kw_only=True)
class _Target:
    """One reply that is due: the node that begins its branch, how much was said before, what branches off there."""

    size: int
    guide: Guide
    nodes: Ints


@dataclass(frozen=True, kw_only=True)
class _Parted:
    """A tree as trunk and branches; `of_sample` says which target a sample belongs to."""

    tree: TokenTree
    trunk: Ints
    targets: list[_Target]
    of_sample: Ints


def lay_out(trees: Sequence[TokenTree], *, pad_id: int, context: int, together: bool = False) -> Layout:
    """The layout of trees that a format with guides made.

    Args:
        context: most tokens of a graph.
        together: put all targets into one part: few large steps, where padding matters less than their number.

    Raises:
        ConfigError: the format has no guides.
        DataError: the contexts of a tree are no beginnings of one another (see `with_trunks`).
    """
    parted = [_part(tree) for tree in trees]
    trunks = [p.tree.input_ids[p.trunk].tolist() or [pad_id] for p in parted]
    trunk = pack([_chain(f"{i}", ids) for i, ids in enumerate(trunks)], pad_id=pad_id)
    rows, begins = np.zeros(len(parted), dtype=np.int64), np.zeros(len(parted), dtype=np.int64)
    for k, owner in enumerate(trunk.owner):
        i = int(trunk.samples[owner])
        rows[i], begins[i] = trunk.row[k], trunk.source[k] - len(trunks[i]) + 1
    texts, paths = _texts(parted, pad_id=pad_id)
    targets = [(i, t) for i, p in enumerate(parted) for t in p.targets]
    branches = _branches(parted, rows, begins, trunk.input_ids.shape[1], pad_id=pad_id)
    sizes = np.array([min(t.size, context) for _, t in targets], dtype=np.int64)
    first = np.array([t.size for _, t in targets], dtype=np.int64) - sizes
    local = np.array([t.guide.local for _, t in targets], dtype=np.int64).reshape(-1, 2)
    order = np.argsort(-sizes, kind="stable")
    rank = np.argsort(order, kind="stable")
    home = np.array([rows[i] * trunk.input_ids.shape[1] + begins[i] for i, _ in targets], dtype=np.int64)
    starts = np.cumsum([0, *(len(p.targets) for p in parted)])
    query = branches["query"][order]
    return Layout(
        trunk=trunk,
        texts=texts,
        cause_path=paths[0],
        intention_path=paths[1],
        window=(home + first)[order],
        size=sizes[order],
        local=np.clip(local - first[:, None], 0, sizes[:, None])[order],
        cause=paths[2][order],
        intention=paths[3][order],
        query=query,
        parts=_parts(sizes[order], (query >= 0).sum(1), together=together),
        samples=tuple(name for p in parted for name in p.tree.samples),
        target=np.concatenate([rank[s + p.of_sample] for s, p in zip(starts, parted, strict=False)])
        if parted
        else np.zeros(0, dtype=np.int64),
        guides=tuple(targets[i][1].guide for i in order),
        filled=sum(len(p.tree) for p in parted),
        **{k: v for k, v in branches.items() if k != "query"},
    )


def with_trunks(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples in groups that can be laid out as one tree: of one conversation, each context a beginning of the longest.

    Two conversations that happen to have one name come into groups of their own, and so do guides that differ.

    Raises:
        ConfigError: the format has no guides.
    """
    found: list[list[Sample]] = []
    for group in by_conversation(samples):
        chains: list[tuple[list[Sample], dict[tuple[int, ...], Guide]]] = []
        for sample in sorted(group, key=lambda s: len(s.prompt)):
            guide = guide_of(sample.guide, sample.id)
            for chain, known in chains:
                last = chain[-1]
                said = last.prompt[: guide_of(last.guide, last.id).context]
                same = known.get(sample.prompt, guide) == guide
                if same and sample.prompt[: guide.context][: len(said)] == said:
                    break
            else:
                chain, known = [], {}
                chains.append((chain, known))
            chain.append(sample)
            known[sample.prompt] = guide
        found += [chain for chain, _ in chains]
    return found


def guide_of(guide: Guide | None, name: str) -> Guide:
    """The guide of a sample.

    Raises:
        ConfigError: it has none.
    """
    if guide is None:
        raise ConfigError(
            f"A model with a graph needs a format that says what the graph reads, but the input of '{name}' has no "
            "guide; set format: glhg."
        )
    return guide


def adjacency(size: int, local: tuple[int, int], *, radius: int, width: int | None = None) -> Bools:
    """[width + 2, width + 2] which node looks at which: g, the tokens, l (glhg.md, step 4); the dense form, for eyes.

    Args:
        size: tokens of the window; `width` has room for padding after them, which nobody sees and which sees nothing.
        local: begin and end of the seeker's last utterance.
        radius: how far a token sees along the window.
    """
    width = size if width is None else width
    found = np.zeros((width + 2, width + 2), dtype=np.bool_)
    at = np.arange(size)
    found[1 : size + 1, 1 : size + 1] = np.abs(at[:, None] - at[None]) <= radius
    ends = [0, width + 1]
    found[0, [0, *range(1, size + 1), width + 1]] = True
    found[1 : size + 1, 0] = True
    span = slice(local[0] + 1, local[1] + 1)
    found[width + 1, span] = found[span, width + 1] = True
    found[np.ix_(ends, ends)] = True
    return found


# ---------------------------------------------------------------------- trees


def _part(tree: TokenTree) -> _Parted:
    firsts = np.searchsorted(tree.owner, np.arange(len(tree.samples)))
    decides = tree.source[firsts]
    number = {int(node): k for k, node in enumerate(dict.fromkeys(decides.tolist()))}
    below = np.full(len(tree), NOTHING, dtype=np.int64)
    for node, parent in enumerate(tree.parent.tolist()):
        below[node] = number[node] if node in number else below[parent] if parent >= 0 else NOTHING
    sizes = tree.position[decides]
    trunk = _path(tree, int(tree.parent[decides[int(sizes.argmax())]]))
    guides: dict[int, Guide] = {}
    for name, node, size, guide in zip(tree.samples, decides.tolist(), sizes.tolist(), tree.guides, strict=True):
        guide, end = guide_of(guide, name), int(tree.parent[node])
        if guide.context != size or guides.setdefault(number[node], guide) != guide:
            raise DataError(f"Sample '{name}' has another guide than its input needs; see with_trunks.")
        if end != (trunk[size - 1] if size else NOTHING):
            raise DataError(f"The context of sample '{name}' is no beginning of the others'; see with_trunks.")
    order = np.argsort(below, kind="stable")
    targets = [
        _Target(size=int(tree.position[node]), guide=guides[k], nodes=order[below[order] == k])
        for node, k in number.items()
    ]
    return _Parted(
        tree=tree, trunk=trunk, targets=targets, of_sample=np.array([number[n] for n in decides.tolist()], np.int64)
    )


def _path(tree: TokenTree, end: int) -> Ints:
    nodes = []
    while end >= 0:
        nodes.append(end)
        end = int(tree.parent[end])
    return np.array(nodes[::-1], dtype=np.int64)


def _chain(name: str, ids: Sequence[int]) -> TokenTree:
    return TokenTree.merge([Sample(id=name, conversation_id=name, turn=0, prompt=tuple(ids), target=(0,))])


def _texts(parted: Sequence[_Parted], *, pad_id: int) -> tuple[Packed, tuple[Ints, Ints, Ints, Ints]]:
    """All texts packed; paths of causes and intentions, and which of them each target has."""
    kinds: tuple[dict[tuple[int, ...], int], dict[tuple[int, ...], int]] = ({}, {})
    chosen: tuple[list[int], list[int]] = ([], [])
    tries: list[list[Sample]] = []
    seen: set[tuple[int, ...]] = set()
    for p in parted:
        fresh: list[Sample] = []
        for target in p.targets:
            for kind, ids in enumerate((target.guide.cause, target.guide.intention)):
                chosen[kind].append(kinds[kind].setdefault(ids, len(kinds[kind])))
                if ids not in seen:
                    seen.add(ids)
                    fresh.append(Sample(id="", conversation_id="", turn=0, prompt=ids, target=(0,)))
        if fresh:
            tries.append(fresh)
    trees = [
        TokenTree.merge([_renamed(s, f"{i}/{k}") for k, s in enumerate(samples)]) for i, samples in enumerate(tries)
    ]
    packed = pack(trees, pad_id=pad_id)
    places: dict[tuple[int, ...], Ints] = {}
    for k, owner in enumerate(packed.owner):
        i, j = map(int, packed.samples[owner].split("/"))
        nodes = _path(trees[i], int(trees[i].source[j]))
        flat = int(packed.row[k]) * packed.input_ids.shape[1] + int(packed.source[k]) - int(trees[i].source[j])
        places[tries[i][j].prompt] = flat + nodes
    # The first token only opens the text.
    paths = [_filled([places[ids][1:] for ids in kind]) for kind in kinds]
    return packed, (paths[0], paths[1], np.array(chosen[0], np.int64), np.array(chosen[1], np.int64))


def _renamed(sample: Sample, name: str) -> Sample:
    return Sample(id=name, conversation_id="", turn=0, prompt=sample.prompt, target=sample.target)


def _filled(rows: Sequence[Ints]) -> Ints:
    out = np.full((len(rows), max((len(row) for row in rows), default=0)), NOTHING, dtype=np.int64)
    for k, row in enumerate(rows):
        out[k, : len(row)] = row
    return out


def _branches(parted: Sequence[_Parted], rows: Ints, begins: Ints, seen: int, *, pad_id: int) -> dict[str, Any]:
    """Branches in rows beside their trunks; `seen` is the width of the trunks."""
    used = np.zeros(int(rows.max()) + 1 if len(rows) else 0, dtype=np.int64)
    columns: list[Ints] = []
    for p, row in zip(parted, rows, strict=True):
        column = np.full(len(p.tree), NOTHING, dtype=np.int64)
        for target in p.targets:
            column[target.nodes] = used[row] + np.arange(len(target.nodes))
            used[row] += len(target.nodes)
        columns.append(column)
    width = int(used.max()) if len(used) else 0
    ids = np.full((len(used), width), pad_id, dtype=np.int64)
    places = np.zeros((len(used), width), dtype=np.int64)
    sees = np.zeros((len(used), width, seen + width), dtype=np.bool_)
    sees[:, :, seen:] = np.eye(width, dtype=np.bool_)  # every place, used or not, sees at least itself
    query: list[Ints] = []
    parts: dict[str, list[Any]] = {name: [] for name in ("row", "source", "label", "owner", "plan")}
    samples = 0
    for p, row, begin, column in zip(parted, rows, begins, columns, strict=True):
        for target in p.targets:
            at = column[target.nodes]
            ids[row, at], places[row, at] = p.tree.input_ids[target.nodes], p.tree.position[target.nodes]
            sees[row, at, begin : begin + target.size] = True
            for node, place in zip(target.nodes.tolist(), at.tolist(), strict=True):
                parent = column[p.tree.parent[node]] if p.tree.parent[node] >= 0 else NOTHING
                if parent >= 0:
                    sees[row, place, seen : seen + place] |= sees[row, parent, seen : seen + place]
            query.append(row * width + at)
        parts["row"].append(np.full(len(p.tree.label), row, dtype=np.int64))
        parts["source"].append(column[p.tree.source])
        parts["label"].append(p.tree.label)
        parts["owner"].append(p.tree.owner + samples)
        parts["plan"].append(p.tree.plan)
        samples += len(p.tree.samples)
    joined = {name: np.concatenate(found) for name, found in parts.items()}
    return {"branch_ids": ids, "branch_places": places, "branch_sees": sees, "query": _filled(query), **joined}


def _parts(sizes: Ints, lengths: Ints, *, together: bool) -> Ints:
    """Targets, longest window first, cut where padding would be more than a quarter of a window."""
    wide = np.maximum(-(-sizes // BLOCK) * BLOCK, BLOCK)
    cuts = [0]
    for i in range(1, len(wide)):
        if not together and wide[i] < 0.75 * wide[cuts[-1]]:
            cuts.append(i)
    bounds = zip(cuts, [*cuts[1:], len(wide)], strict=True) if len(wide) else ()
    found = [(begin, end, wide[begin], lengths[begin:end].max()) for begin, end in bounds]
    return np.array(found, dtype=np.int64).reshape(-1, 4)
