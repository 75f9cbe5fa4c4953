"""TokenTree and pack: every prediction sits where the separate sample has it and sees exactly its own path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from format_specs import SPECS, spec_id
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heedful.errors import DataError
from heedful.formats import Packed, Sample, TokenTree, by_conversation, make, pack
from heedful.testing import conversation, conversations, tiny_tokenizer

# A shared machine is slow now and then; equal examples in every run.
steady = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def sample(prompt: list[int], target: list[int], *, name: str = "c/0", plan: int = 0, start: int = 0) -> Sample:
    return Sample(
        id=name,
        conversation_id=name.split("/")[0],
        turn=0,
        prompt=tuple(prompt),
        target=tuple(target),
        plan=plan,
        start=start,
    )


tokens = st.lists(st.integers(min_value=0, max_value=3), min_size=1, max_size=6)


@st.composite
def groups(draw: st.DrawFn) -> list[Sample]:
    """Samples over four tokens, so that shared beginnings are frequent."""
    made = []
    for i in range(draw(st.integers(min_value=1, max_value=6))):
        prompt, target = draw(tokens), draw(tokens)
        plan = draw(st.integers(min_value=0, max_value=len(target)))
        made.append(sample(prompt, target, name=f"c/{i}", plan=plan))
    return made


def path(tree: TokenTree, at: int) -> list[int]:
    """Token indices from the root to `at`."""
    out: list[int] = []
    while at >= 0:
        out.append(at)
        at = int(tree.parent[at])
    return out[::-1]


def check_tree(tree: TokenTree, samples: list[Sample]) -> None:
    assert tree.samples == tuple(s.id for s in samples)
    for number, made in enumerate(samples):
        mine = tree.owner == number
        # The loss covers the target, the whole target and nothing but the target, in order.
        assert tuple(tree.label[mine]) == made.target
        assert list(tree.plan[mine]) == [k < made.plan for k in range(len(made.target))]
        for k, source in enumerate(tree.source[mine]):
            seen = path(tree, int(source))
            assert tuple(tree.input_ids[seen]) == (*made.prompt, *made.target[:k])
            assert list(tree.position[seen]) == list(range(len(seen)))


@steady
@given(groups())
def test_a_tree_holds_every_sample(samples: list[Sample]) -> None:
    tree = TokenTree.merge(samples)
    check_tree(tree, samples)
    assert (tree.parent < np.arange(len(tree))).all()
    # Nothing is stored twice: as many tokens as different beginnings.
    beginnings = {(*s.prompt, *s.target)[: k + 1] for s in samples for k in range(len(s) - 1)}
    assert len(tree) == len(beginnings)


@steady
@given(groups())
def test_ancestors_are_the_path(samples: list[Sample]) -> None:
    tree = TokenTree.merge(samples)
    mask = tree.ancestors()
    for at in range(len(tree)):
        assert list(np.flatnonzero(mask[at])) == sorted(path(tree, at))
    if tree.is_chain:
        assert np.array_equal(mask, np.tri(len(tree), dtype=np.bool_))


@steady
@given(st.lists(groups(), max_size=5))
def test_packing_moves_trees_and_changes_none(many: list[list[Sample]]) -> None:
    trees = [
        TokenTree.merge([sample(list(s.prompt), list(s.target), name=f"{i}/{j}", plan=s.plan) for j, s in enumerate(g)])
        for i, g in enumerate(many)
    ]
    packed = pack(trees, pad_id=9)
    assert packed.filled == sum(map(len, trees))
    assert packed.input_ids.shape == packed.position_ids.shape
    assert packed.input_ids.shape[1] == max(map(len, trees), default=0)
    assert sorted(packed.samples) == sorted(name for t in trees for name in t.samples)
    assert len(packed.label) == sum(len(t.label) for t in trees)
    expected = {
        name: s for i, g in enumerate(many) for name, s in zip([f"{i}/{j}" for j in range(len(g))], g, strict=True)
    }
    for number, name in enumerate(packed.samples):
        mine = packed.owner == number
        made = expected[name]
        assert tuple(packed.label[mine]) == made.target
        assert list(packed.plan[mine]) == [k < made.plan for k in range(len(made.target))]
        for k, (row, source) in enumerate(zip(packed.row[mine], packed.source[mine], strict=True)):
            seen = visible(packed, int(row), int(source))
            # Sorted by position, what is seen is the separate sample's own input: no neighbour, no padding.
            order = seen[np.argsort(packed.position_ids[row, seen], kind="stable")]
            assert tuple(packed.input_ids[row, order]) == (*made.prompt, *made.target[:k])
            assert list(packed.position_ids[row, order]) == list(range(len(order)))


def visible(packed: Packed, row: int, source: int) -> np.ndarray:
    if packed.attention is None:
        return np.arange(source + 1)
    return np.flatnonzero(packed.attention[row, source])


def test_every_row_of_a_mask_sees_something() -> None:
    """A token that sees nothing makes the softmax divide zero by zero, and NaN spreads."""
    trees = [TokenTree.merge([sample([1, 2, 3, 4, 5, 6], [7]), sample([1, 2, 8], [9])])]
    trees += [TokenTree.merge([sample([1, 2], [3], name="d/0")])]
    packed = pack(trees, pad_id=0)
    assert packed.attention is not None
    assert packed.attention.any(axis=-1).all()


def test_short_trees_share_a_row() -> None:
    sizes = [10, 6, 4, 3]
    trees = [TokenTree.merge([sample([i] * n, [5], name=f"{i}/0")]) for i, n in enumerate(sizes)]
    assert pack(trees, pad_id=0).input_ids.shape == (3, 10)
    alone = pack(trees[:1], pad_id=0)
    assert alone.attention is None
    assert alone.filled == 10


def test_chains_of_their_own_rows_need_no_mask_and_positions_run_on() -> None:
    trees = [TokenTree.merge([sample([1] * n, [5], name=f"{n}/0")]) for n in (5, 4)]
    packed = pack(trees, pad_id=7)
    assert packed.attention is None
    # transformers reads a position that falls back to 0 as the start of another text in the same row.
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert packed.input_ids[1, -1] == 7


def test_nothing_packs_to_nothing() -> None:
    packed = pack([], pad_id=0)
    assert packed.input_ids.size == 0
    assert packed.filled == 0
    assert packed.samples == ()


def test_a_sample_without_an_input_is_refused() -> None:
    with pytest.raises(DataError, match=r"'c/0'.*empty"):
        TokenTree.merge([sample([], [1, 2])])


def test_samples_of_one_start_share_a_tree() -> None:
    a, b, c = sample([1], [2], name="a/1"), sample([1], [2], name="b/1"), sample([1], [2], name="a/3")
    d = sample([1], [2], name="a/5", start=2)
    assert by_conversation([a, b, c, d]) == [[a, c], [b], [d]]


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_trees_of_conversations(spec: dict[str, Any]) -> None:
    fmt, tokenizer = make(spec), tiny_tokenizer()
    if fmt.markers:
        tokenizer.add_special_tokens({"additional_special_tokens": list(fmt.markers)})
    for conv in conversations(6, seed=4):
        for group in by_conversation(fmt.samples(conv, tokenizer, max_length=4000)):
            check_tree(TokenTree.merge(group), group)


def test_a_chat_costs_its_length_once() -> None:
    fmt, tokenizer = make({"name": "chat", "system": "Be kind."}), tiny_tokenizer()
    samples = fmt.samples(conversations(1, turns=40)[0], tokenizer, max_length=4000)
    assert len(samples) == 20
    tree = TokenTree.merge(samples)
    assert len(tree) == len(samples[-1]) - 1
    assert sum(map(len, samples)) > 9 * len(tree)


def test_branches_of_per_turn_fields_leave_the_trunk() -> None:
    fmt, tokenizer = make("structured"), tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(fmt.markers)})
    conv = conversation("Hi.", "Yes?", "Noise.", "I see.")
    tree = TokenTree.merge(fmt.samples(conv, tokenizer, max_length=400))
    assert not tree.is_chain
    counts = np.bincount(tree.parent[tree.parent >= 0])
    assert counts.max() == 2
    # Both branches start at the same position: positions are those of the path, not of the row.
    (fork,) = np.flatnonzero(counts == 2)
    assert len(set(tree.position[tree.parent == fork])) == 1
