"""TokenTree: all samples of a conversation merged along their common beginnings, so that one pass trains them all.

n replies of a conversation are n samples that repeat the context n times. Laid over each other from the left they
form a tree: shared context once, and a branch wherever samples differ (a per-turn emotion field, a strategy token, a
decision marker). A token sees exactly its own path to the root, at the position it has on that path, so the model
computes for every target the same numbers as for the separate sample: the loss is equal, not approximated
(`tests/unit/test_equivalence.py`, fp32, 1e-4).

With a plain chat template the tree is a chain and needs no mask. The same structure carries one prompt with G sampled
replies (GRPO) and decoding (`heedful.models.generate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from heedful.errors import DataError
from heedful.formats.sample import Guide, Sample

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IGNORE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTree:
    """Tokens of merged samples; N tokens, M predictions.

    Args:
        input_ids: [N] token ids; a parent always stands before its children.
        parent: [N] index of the token before this one on its path, -1 for a root.
        position: [N] place on the path, 0 for a root.
        source: [M] which token's output predicts.
        label: [M] the token id that it should predict.
        owner: [M] index into `samples` of the sample that the prediction belongs to.
        plan: [M] True where the predicted token is part of a plan rather than of the text.
        samples: ids of the merged samples.
        guides: what a graph reads beside the prompt of each.
    """

    input_ids: Ints = field(repr=False)
    parent: Ints = field(repr=False)
    position: Ints = field(repr=False)
    source: Ints = field(repr=False)
    label: Ints = field(repr=False)
    owner: Ints = field(repr=False)
    plan: Bools = field(repr=False)
    samples: tuple[str, ...] = field(repr=False)
    guides: tuple[Guide | None, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def is_chain(self) -> bool:
        """True if no token has two children: plain causal attention is then exact."""
        return bool(np.array_equal(self.parent, np.arange(-1, len(self) - 1)))

    @classmethod
    def merge(cls, samples: Sequence[Sample]) -> TokenTree:
        """Lay `samples` over each other. The last target token predicts nothing, so it is no input (unless shared).

        Cost: linear in the total length of the samples.

        Raises:
            DataError: a sample has an empty prompt.
        """
        ids: list[int] = []
        parent: list[int] = []
        position: list[int] = []
        children: list[dict[int, int]] = []
        roots: dict[int, int] = {}
        source: list[int] = []
        label: list[int] = []
        owner: list[int] = []
        plan: list[bool] = []
        for number, sample in enumerate(samples):
            if not sample.prompt:
                raise DataError(f"Sample '{sample.id}' has an empty input, so nothing can predict its first token.")
            at, first = IGNORE, len(sample.prompt)
            sequence = (*sample.prompt, *sample.target)
            for depth, token in enumerate(sequence):
                if depth >= first:
                    source.append(at)
                    label.append(token)
                    owner.append(number)
                    plan.append(depth - first < sample.plan)
                if depth == len(sequence) - 1:
                    break
                level = children[at] if at >= 0 else roots
                following = level.get(token)
                if following is None:
                    following = level[token] = len(ids)
                    ids.append(token)
                    parent.append(at)
                    position.append(depth)
                    children.append({})
                at = following
        return cls(
            input_ids=np.array(ids, dtype=np.int64),
            parent=np.array(parent, dtype=np.int64),
            position=np.array(position, dtype=np.int64),
            source=np.array(source, dtype=np.int64),
            label=np.array(label, dtype=np.int64),
            owner=np.array(owner, dtype=np.int64),
            plan=np.array(plan, dtype=np.bool_),
            samples=tuple(s.id for s in samples),
            guides=tuple(s.guide for s in samples),
        )

    def ancestors(self) -> Bools:
        """[N, N], True where the column's token lies on the path of the row's token (itself included)."""
        n = len(self)
        out = np.zeros((n, n), dtype=np.bool_)
        # Runs of tokens that simply follow each other are filled at once; a tree has few more runs than samples.
        starts = np.flatnonzero(self.parent != np.arange(-1, n - 1))
        starts = np.union1d(starts, [0]) if n else starts
        for begin, end in zip(starts, [*starts[1:], n], strict=True):
            size = end - begin
            out[begin:end, begin:end] = np.tri(size, dtype=np.bool_)
            if self.parent[begin] >= 0:
                out[begin:end, :begin] = out[self.parent[begin], :begin]
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Trees laid into rows of equal length; R rows, T tokens a row, M predictions in all.

    Args:
        input_ids, position_ids: [R, T].
        attention: [R, T, T], True where the column may be seen; None if plain causal attention is exact.
        row, source: [M] where the predicting token stands.
        label, plan: [M] as in `TokenTree`.
        owner: [M] index into `samples`.
        samples: ids of all samples.
        filled: number of tokens that are not padding.
    """

    input_ids: Ints = field(repr=False)
    position_ids: Ints = field(repr=False)
    attention: Bools | None = field(repr=False)
    row: Ints = field(repr=False)
    source: Ints = field(repr=False)
    label: Ints = field(repr=False)
    plan: Bools = field(repr=False)
    owner: Ints = field(repr=False)
    samples: tuple[str, ...] = field(repr=False)
    filled: int


def pack(trees: Sequence[TokenTree], *, pad_id: int) -> Packed:
    """Lay trees into as few rows as the longest one allows (first fit, longest first).

    Short conversations share a row with a long one's leftover; each still sees only itself. Rows that hold one chain
    need no mask: padding stands on the right, where causal attention never looks.
    """
    rows = _rows(trees)
    width = max((sum(len(trees[i]) for i in row) for row in rows), default=0)
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    position_ids = np.zeros((len(rows), width), dtype=np.int64)
    masked = any(len(row) > 1 or not trees[row[0]].is_chain for row in rows)
    attention = np.zeros((len(rows), width, width), dtype=np.bool_) if masked else None
    parts: dict[str, list[Ints]] = {"row": [], "source": [], "label": [], "owner": []}
    plans: list[Bools] = []
    names: list[str] = []
    for r, row in enumerate(rows):
        offset = 0
        for tree in (trees[i] for i in row):
            span = slice(offset, offset + len(tree))
            input_ids[r, span] = tree.input_ids
            position_ids[r, span] = tree.position
            if attention is not None:
                attention[r, span, span] = tree.ancestors()
            parts["row"].append(np.full(len(tree.label), r, dtype=np.int64))
            parts["source"].append(tree.source + offset)
            parts["label"].append(tree.label)
            parts["owner"].append(tree.owner + len(names))
            plans.append(tree.plan)
            names.extend(tree.samples)
            offset += len(tree)
        if attention is not None:
            # A row of the mask without any True would make softmax divide by zero; padding looks at itself.
            padding = np.arange(offset, width)
            attention[r, padding, padding] = True
        elif offset < width:
            position_ids[r, offset:] = np.arange(offset, width)
    return Packed(
        input_ids=input_ids,
        position_ids=position_ids,
        attention=attention,
        plan=np.concatenate(plans) if plans else np.zeros(0, dtype=np.bool_),
        samples=tuple(names),
        filled=sum(len(t) for t in trees),
        **{k: np.concatenate(v) if v else np.zeros(0, dtype=np.int64) for k, v in parts.items()},
    )


def _rows(trees: Sequence[TokenTree]) -> list[list[int]]:
    order = sorted(range(len(trees)), key=lambda i: (-len(trees[i]), i))
    capacity = max((len(t) for t in trees), default=0)
    rows: list[list[int]] = []
    free: list[int] = []
    for i in order:
        size = len(trees[i])
        for r, space in enumerate(free):
            if size <= space:
                rows[r].append(i)
                free[r] -= size
                break
        else:
            rows.append([i])
            free.append(capacity - size)
    return rows


def by_conversation(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples grouped by conversation and by the start of their context, in order: what `TokenTree.merge` takes.

    Samples whose context starts elsewhere share nothing, so they become a tree of their own.
    """
    groups: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.conversation_id, sample.start), []).append(sample)
    return list(groups.values())
