"""Advantages by hand; what is unscored is left out and never counted as 0."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heedful.training.rl.advantages import gae, grouped, leave_one_out, normalised_sum, spans, to_go, whiten

NAN = float("nan")


def array(*values: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(values, dtype=np.float64)


def ints(*values: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(values, dtype=np.int64)


# ------------------------------------------------------------------ groups

GROUP = ints(0, 0, 0, 0, 1, 1, 1, 1)


def test_grouped_by_hand() -> None:
    rewards = array(1, 2, 3, 6, 0, 0, 0, 4)
    # Means 3 and 1; sums of squares 14 and 12, over n - 1 = 3.
    first, second = math.sqrt(14 / 3) + 1e-4, 2 + 1e-4
    expected = [-2 / first, -1 / first, 0, 3 / first, -1 / second, -1 / second, -1 / second, 3 / second]
    assert grouped(rewards, GROUP) == pytest.approx(expected, abs=1e-12)
    assert grouped(rewards, GROUP, scale="none") == pytest.approx([-2, -1, 0, 3, -1, -1, -1, 3])
    whole = float(rewards.std(ddof=1)) + 1e-4
    assert grouped(rewards, GROUP, scale="batch") == pytest.approx(array(-2, -1, 0, 3, -1, -1, -1, 3) / whole)


def test_grouped_leaves_unscored_out() -> None:
    rewards = array(1, NAN, 3, NAN, NAN, NAN, NAN, 4)
    one = math.sqrt(2) + 1e-4  # of 1 and 3
    assert grouped(rewards, GROUP) == pytest.approx([-1 / one, 0, 1 / one, 0, 0, 0, 0, 0])
    # As 0, the first group's mean would be 1 and the scored reply of the second would have an advantage.
    assert not grouped(np.full(8, NAN), GROUP).any()
    spread = float(np.std([1, 3, 4], ddof=1)) + 1e-4
    assert grouped(rewards, GROUP, scale="batch") == pytest.approx(array(-1, 0, 1, 0, 0, 0, 0, 0) / spread)


def test_a_group_without_spread_teaches_nothing() -> None:
    assert not grouped(np.full(8, 0.7), GROUP).any()
    assert not grouped(array(1, 1, 1, 1, 5, 5, 5, 5), GROUP, scale="none").any()
    assert leave_one_out(np.full(8, 0.7), GROUP) == pytest.approx(np.zeros(8), abs=1e-12)


def test_leave_one_out_by_hand() -> None:
    rewards = array(1, 2, 3, 6, 0, NAN, 0, 4)
    expected = [1 - 11 / 3, 2 - 10 / 3, 3 - 3, 6 - 2, 0 - 2, 0, 0 - 2, 4 - 0]
    assert leave_one_out(rewards, GROUP) == pytest.approx(expected)
    # Scaled by (n - 1) / n it is the distance to the group's mean.
    assert leave_one_out(rewards[:4], GROUP[:4]) * 3 / 4 == pytest.approx(rewards[:4] - 3)
    alone = array(1, NAN, NAN, NAN, 2, 2, NAN, NAN)
    assert leave_one_out(alone, GROUP).tolist() == [0] * 8
    assert leave_one_out(array(5.0, 3.0), ints(0, 1)).tolist() == [0, 0]


def test_normalised_sum_by_hand() -> None:
    """The small component counts as much as the large one, which would drown it in a plain sum."""
    values = np.array([[0, 100], [1, 100], [0, 300], [1, 300]], dtype=float)
    one = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    other = 100 / (math.sqrt(40000 / 3) + 1e-4)
    total = array(-one - other, one - other, -one + other, one + other)
    expected = total / (total.std(ddof=1) + 1e-4)
    none = np.zeros(4, dtype=np.bool_)
    found = normalised_sum(values, array(1, 1), ints(0, 0, 0, 0), unscored=none)
    assert found == pytest.approx(expected, abs=1e-9)
    assert found[1] == pytest.approx(0, abs=1e-3)
    # A component of weight 0 is a metric, even where it is unscored.
    values[:, 1] = NAN
    only = normalised_sum(values, array(2, 0), ints(0, 0, 0, 0), unscored=none)
    assert only == pytest.approx(array(-1, 1, -1, 1) * one * 2 / (2 * one * math.sqrt(4 / 3) + 1e-4))
    assert not normalised_sum(values, array(0, 0), ints(0, 0, 0, 0), unscored=none).any()


def test_normalised_sum_of_unscored_and_gated() -> None:
    values = np.array([[0.0], [1.0], [NAN], [0.5]])
    unscored, gated = np.array([False, False, True, False]), np.array([False, False, False, True])
    found = normalised_sum(values, array(1.0), ints(0, 0, 0, 0), unscored=unscored, gated=gated)
    spread = math.sqrt(0.25) + 1e-4  # of 0, 1, 0.5 about 0.5
    total = array(-0.5 / spread, 0.5 / spread, -0.5 / spread - 1)
    expected = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
    assert found == pytest.approx([expected[0], expected[1], 0, expected[2]])


def test_values_of_a_reply_without_a_total_count_nowhere() -> None:
    """Its other component would shift mean and spread of its group."""
    values = np.array([[0.0, 1], [1.0, 0], [9.0, NAN], [0.5, 1]])
    unscored, group = np.array([False, False, True, False]), ints(0, 0, 0, 0)
    found = normalised_sum(values, array(1, 1), group, unscored=unscored)
    without = normalised_sum(values[~unscored], array(1, 1), group[~unscored], unscored=unscored[~unscored])
    assert found[~unscored] == pytest.approx(without)
    assert found[2] == 0


def test_a_failed_gate_is_the_worst_of_its_batch() -> None:
    """However good the rest of it is, and however bad others are."""
    values = np.array([[9.0], [1.0], [2.0], [0.0], [-50.0], [0.0], [0.0], [0.0]])
    gated = np.arange(8) == 0
    none = np.zeros(8, dtype=np.bool_)
    found = normalised_sum(values, array(3), GROUP, unscored=none, gated=gated)
    assert found.argmin() == 0
    assert found[0] < found[4]
    # Judged where nothing else could be, and where all of them failed.
    assert normalised_sum(np.array([[NAN], [1.0]]), array(1), ints(0, 0), unscored=none[:2], gated=gated[:2])[0] < 0
    assert not normalised_sum(values, array(3), GROUP, unscored=none, gated=~none).any()


# ------------------------------------------------------------------ tokens


def test_gae_on_three_tokens_by_hand() -> None:
    """reader.md asks for this one: gamma 0.99, lambda 0.95."""
    rewards, values = array(-0.1, 0.2, 1.0), array(0.5, 0.4, 0.3)
    d2 = 1.0 - 0.3
    d1 = 0.2 + 0.99 * 0.3 - 0.4
    d0 = -0.1 + 0.99 * 0.4 - 0.5
    a2 = d2
    a1 = d1 + 0.99 * 0.95 * a2
    a0 = d0 + 0.99 * 0.95 * a1
    advantages, returns = gae(rewards, values, ints(3), gamma=0.99, lam=0.95)
    assert advantages == pytest.approx([a0, a1, a2], abs=1e-12)
    assert a1 == pytest.approx(0.75535)  # 0.097 + 0.9405 * 0.7
    assert returns == pytest.approx([a0 + 0.5, a1 + 0.4, a2 + 0.3])


def test_gae_does_not_look_into_the_next_reply() -> None:
    rewards, values = array(1, 2, 3, 40, 50), array(0.1, 0.2, 0.3, 0.4, 0.5)
    both = gae(rewards, values, ints(3, 2), gamma=0.9, lam=0.8)
    for part, (begin, end) in enumerate(((0, 3), (3, 5))):
        alone = gae(rewards[begin:end], values[begin:end], ints(end - begin), gamma=0.9, lam=0.8)
        for found, expected in zip(both, alone, strict=True):
            assert found[begin:end] == pytest.approx(expected), part


def test_gae_with_lambda_1_is_the_return_less_the_value() -> None:
    rewards, values, lengths = array(1, 2, 3, 4), array(9, 8, 7, 6), ints(3, 1)
    advantages, returns = gae(rewards, values, lengths, gamma=0.5, lam=1.0)
    assert returns == pytest.approx([2.75, 3.5, 3, 4])
    assert to_go(rewards, lengths, gamma=0.5) == pytest.approx([2.75, 3.5, 3, 4])
    assert advantages == pytest.approx(returns - values)
    one_step, _ = gae(rewards, values, lengths, gamma=0.5, lam=0.0)
    assert one_step == pytest.approx([1 + 4 - 9, 2 + 3.5 - 8, 3 - 7, 4 - 6])


def test_whitening_by_hand() -> None:
    keep = np.array([True, True, False, True])
    found = whiten(array(1, 2, 100, 3), keep)
    spread = math.sqrt(2 / 3)
    assert found == pytest.approx([-1 / spread, 0, 0, 1 / spread], abs=1e-6)
    # One number has no spread, and equal numbers none to divide by.
    assert whiten(array(5, 7), np.array([True, False])).tolist() == [5, 0]
    assert whiten(array(5, 5, 5), np.ones(3, dtype=np.bool_)).tolist() == [0, 0, 0]


def test_spans() -> None:
    assert spans(ints(2, 0, 3)) == [(0, 2), (2, 2), (2, 5)]
