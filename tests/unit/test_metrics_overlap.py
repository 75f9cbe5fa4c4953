"""Length, copy rate, repetition, unigram F1: values that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.scoring import Rows, score


def test_copy_rate_counts_4_grams_of_the_client() -> None:
    client = "my boss shouts at me all day"
    rows = Rows.of(
        ["my boss shouts at you", "my boss shouts at me all day", "nothing in common here at all", "too short"],
        contexts=[client] * 4,
    )
    line = score(rows, metrics=["copy_rate"], bootstrap=0).line("copy_rate")
    np.testing.assert_allclose(line.per_sample, [50.0, 100.0, 0.0, np.nan])
    assert line.value == pytest.approx(50.0)
    assert (line.n, line.unscored, line.reason) == (3, 1, "reply shorter than 4 tokens")


def test_repetition() -> None:
    rows = Rows.of(["a b c a b c", "a b c d", "a b", "so so so so so"])
    line = score(rows, metrics=["repetition"], bootstrap=0).line("repetition")
    # abc bca cab abc: 3 different of 4; then 2 of 2; too short; one of three.
    np.testing.assert_allclose(line.per_sample, [25.0, 0.0, np.nan, 100 * 2 / 3])


def test_length_and_f1() -> None:
    rows = Rows.of(["You are not alone.", ""], ["you are loved", "so are you"])
    table = score(rows, metrics=["length", "f1"], bootstrap=0)
    assert table.value("length") == 2.0
    # Tokens: you are not alone . / you are loved: 2 shared of 5 and of 3.
    f1 = 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3)
    np.testing.assert_allclose(table.line("f1").per_sample, [100 * f1, 0.0])


def test_rows_without_context_are_unscored_not_zero() -> None:
    rows = Rows.of(["a b c d e", "a b c d e"], contexts=["a b c d", None])
    line = score(rows, metrics=["copy_rate"], bootstrap=0).line("copy_rate")
    assert (line.value, line.n, line.unscored) == (50.0, 1, 1)
    assert line.reason == "no client turn before the reply"


def test_per_1000_needs_1000_replies() -> None:
    few = score(Rows.of(["one two"] * 10), metrics=["distinct1_per1000"], bootstrap=0).line("distinct1_per1000")
    assert (few.value, few.reason) == (None, "needs at least 1000 replies")
    many = Rows.of([f"word{i}" for i in range(1200)])
    assert score(many, metrics=["distinct1_per1000"], bootstrap=0).value("distinct1_per1000") == 100.0
