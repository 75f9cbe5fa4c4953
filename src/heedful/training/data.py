"""What enters a training loop: conversations as token trees, batched by length, in an order that a seed fixes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from typing import overload

import numpy as np

from heedful import corpora
from heedful.errors import DataError
from heedful.formats import Format, Overlong, Sample, Tokenizer, TokenTree, by_conversation
from heedful.types import Conversation

MEGA = 16
"""Batches that are sorted by length together: enough to save padding, few enough to keep the order random."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One split, ready for training.

    Args:
        trees: one per conversation (more where its context had to be cut).
        samples: number of targets.
        separate_tokens: tokens that the samples would have one by one.
        tokens: tokens of the trees, that is, what is really computed.
        target_tokens: tokens that carry loss.
        skipped: targets left out as too long (`overlong: skip`).
        hash: 16 hex digits over all token ids and guides, the data hash of results.
    """

    trees: list[TokenTree] = field(repr=False)
    samples: int
    separate_tokens: int
    tokens: int
    target_tokens: int
    skipped: int
    hash: str

    @property
    def lengths(self) -> list[int]:
        """Tokens of each tree."""
        return [len(tree) for tree in self.trees]


def prepare(
    conversations: Sequence[Conversation],
    fmt: Format,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    keep: float = 0.5,
    overlong: Overlong = "error",
) -> Prepared:
    """Render, merge and count conversations.

    Raises:
        DataError: not one target, not one label that the format needs, or a turn that does not fit
            (`overlong: error`).
    """
    fmt.check(conversations)
    samples: list[Sample] = []
    wanted = 0
    for conv in conversations:
        wanted += len(fmt.targets(fmt.prepare(conv)))
        samples += fmt.samples(conv, tokenizer, max_length=max_length, keep=keep, overlong=overlong)
    if wanted and not samples:
        raise DataError(
            f"All {wanted:,} supporter turns were left out as longer than max_length = {max_length}; raise max_length."
        )
    if not samples:
        raise DataError(
            f"No supporter turn to learn from in {len(conversations)} conversations; format '{fmt.name}' needs "
            "turns of role 'assistant' after a turn of role 'user'."
        )
    trees = [TokenTree.merge(group) for group in by_conversation(samples)]
    digest = hashlib.sha256()
    for tree in trees:
        digest.update(tree.input_ids.tobytes() + tree.label.tobytes())
        for guide in tree.guides:
            if guide is not None:
                digest.update(repr(astuple(guide)).encode())
    return Prepared(
        trees=trees,
        samples=len(samples),
        separate_tokens=sum(len(s) for s in samples),
        tokens=sum(len(t) for t in trees),
        target_tokens=sum(len(t.label) for t in trees),
        skipped=wanted - len(samples),
        hash=digest.hexdigest()[:16],
    )


def refuse_leaks(dataset: str, train: Sequence[Conversation], evaluation: Sequence[Conversation]) -> list[str]:
    """Compare two splits; returns what they share without harm, or by the known nature of a published split.

    Raises:
        LeakError: a conversation, person or near-copy stands on both sides.
    """
    report = corpora.find_leaks([*train, *evaluation])
    known = {} if corpora.is_file(dataset) else corpora.get(dataset).info.known_leaks
    report.refuse(known=known)
    return [finding.sentence() for finding in report.findings]


class Filled(Sequence[TokenTree]):
    """Trees, and at the index one beyond them a token that predicts nothing: the filler of `LengthBatches`."""

    def __init__(self, trees: Sequence[TokenTree], *, pad_id: int) -> None:
        none = np.zeros(0, dtype=np.int64)
        self.trees = trees
        self.filler = TokenTree(
            input_ids=np.array([pad_id], dtype=np.int64),
            parent=np.array([-1], dtype=np.int64),
            position=np.zeros(1, dtype=np.int64),
            source=none,
            label=none,
            owner=none,
            plan=none.astype(np.bool_),
            samples=(),
        )

    def __len__(self) -> int:
        return len(self.trees)

    @overload
    def __getitem__(self, at: int) -> TokenTree: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[TokenTree]: ...
    def __getitem__(self, at: int | slice) -> TokenTree | Sequence[TokenTree]:
        return self.filler if at == len(self.trees) else self.trees[at]


class LengthBatches:
    """Sampler: every index once, in batches of similar length, batches in random order.

    The order depends on seed, epoch and the *global* batch (devices x accumulation x device batch), so one process and
    two see the same global batches, and a resumed run continues where it stopped.

    Args:
        fill: what an epoch's length must be a multiple of: the conversations of one pass on all devices. The rest is
            filled with the index `len(lengths)` (see `Filled`); accelerate would repeat conversations instead.
    """

    def __init__(self, lengths: Sequence[int], *, global_batch: int, seed: int, fill: int = 1) -> None:
        self.lengths, self.global_batch, self.seed, self.epoch = list(lengths), global_batch, seed, 0
        self.fill = fill

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.fill) * self.fill

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((self.seed, self.epoch))
        order = draw.permutation(len(self.lengths))
        size = self.global_batch
        batches: list[list[int]] = []
        for begin in range(0, len(order), MEGA * size):
            part = sorted(order[begin : begin + MEGA * size].tolist(), key=lambda i: -self.lengths[i])
            batches += [part[i : i + size] for i in range(0, len(part), size)]
        # The one short batch stays last, as a sampler of plain indices cannot say where it ends.
        whole = [b for b in batches if len(b) == size]
        rest = [i for b in batches if len(b) < size for i in b]
        for at in draw.permutation(len(whole)):
            yield from whole[at]
        yield from rest
        yield from [len(self.lengths)] * (len(self) - len(self.lengths))
