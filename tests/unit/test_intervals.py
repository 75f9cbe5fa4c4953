"""Resampling: determinism, agreement with obvious loops, coverage, and tests that can tell a difference from none."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.scoring import Rows, compare, score
from heedful.scoring.base import Result
from heedful.scoring.intervals import cluster_sums, draw, interval, paired, percentile, weights
from heedful.scoring.metrics import METRICS

RNG = np.random.default_rng(1)


def rows(n: int = 60, *, seed: int = 2, good: float = 0.5) -> Rows:
    generator = np.random.default_rng(seed)
    vocabulary = [f"w{i}" for i in range(30)]
    references = [" ".join(generator.choice(vocabulary, 10)) for _ in range(n)]
    hypotheses = [
        " ".join(word if generator.random() < good else generator.choice(vocabulary) for word in text.split())
        for text in references
    ]
    return Rows.of(hypotheses, references, clusters=[i // 4 for i in range(n)])


def test_bootstrap_weights_draw_as_many_clusters_as_there_are() -> None:
    blocks = np.concatenate(list(weights("bootstrap", 7, draws=50, seed=1)))
    assert blocks.shape == (50, 7)
    assert (blocks.sum(axis=1) == 7).all()
    halves = np.concatenate(list(weights("halves", 7, draws=50, seed=1)))
    assert (halves.sum(axis=1) == 3).all()
    assert set(np.unique(halves)) == {0.0, 1.0}


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(weights("bootstrap", 9, draws=40, seed=3)))
    monkeypatch.setattr("heedful.scoring.intervals._CELLS", 30)
    blocks = list(weights("bootstrap", 9, draws=40, seed=3))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("name", ["bleu2", "sacrebleu", "rougeL", "length"])
def test_a_draw_equals_scoring_the_resampled_rows(name: str) -> None:
    data = rows(24)
    metric = METRICS.get(name)
    result = metric.compute(data)
    values = draw(result, data.cluster_index, draws=5, seed=9)
    assert values is not None
    for value, counts in zip(values, np.concatenate(list(weights("bootstrap", 6, draws=5, seed=9))), strict=True):
        picked = [i for i, c in enumerate(data.cluster_index) for _ in range(int(counts[c]))]
        assert metric.compute(data.take(picked)).value == pytest.approx(value)


def test_a_half_equals_scoring_half_the_rows() -> None:
    data = rows(24)
    metric = METRICS.get("distinct2")
    result = metric.compute(data)
    values = draw(result, data.cluster_index, draws=6, seed=4)
    halves = np.concatenate(list(weights("halves", 6, draws=6, seed=4)))
    direct = np.array(
        [metric.compute(data.take([i for i, c in enumerate(data.cluster_index) if w[c]])).value for w in halves]
    )
    np.testing.assert_allclose(values, result.value * direct / direct.mean())


def test_same_seed_same_interval() -> None:
    data = rows()
    lines = [score(data, metrics=["bleu2", "distinct2"], seed=seed).lines for seed in (13, 13, 14)]
    assert lines[0] == lines[1]
    assert lines[0] != lines[2]
    for line in lines[0]:
        assert line.low is not None
        assert line.high is not None
        assert line.value is not None
        assert line.low < line.value < line.high


def test_clusters_widen_the_interval() -> None:
    # All replies of a dialogue score alike, so there are 20 independent values, not 200.
    values = np.repeat(RNG.normal(size=20), 10)
    result = Result.mean(values)
    alone = interval(result, np.arange(200))
    together = interval(result, np.repeat(np.arange(20), 10))
    assert alone is not None
    assert together is not None
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_coverage_is_near_95_percent() -> None:
    generator = np.random.default_rng(8)
    inside = 0
    for trial in range(200):
        ends = interval(Result.mean(generator.normal(size=60)), np.arange(60), draws=300, seed=trial)
        assert ends is not None
        inside += ends[0] <= 0 <= ends[1]
    assert 178 <= inside <= 199


def test_no_interval_without_two_clusters() -> None:
    assert interval(Result.mean([1.0, 2.0]), np.zeros(2, dtype=np.int64)) is None
    line = score(Rows.of(["a b", "c d"], ["a b", "c e"], clusters=["x", "x"]), metrics=["rouge1"]).line("rouge1")
    assert (line.low, line.high) == (None, None)


def test_cluster_sums_and_percentile() -> None:
    np.testing.assert_array_equal(
        cluster_sums(np.array([[1.0, 1], [2, 1], [4, 1]]), np.array([1, 0, 1])), [[2, 1], [5, 2]]
    )
    assert percentile(np.arange(101)) == pytest.approx((2.5, 97.5))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        percentile([1.0], level=95)


def test_paired_tests_see_a_difference_and_no_difference() -> None:
    weak, strong = rows(120, good=0.3), rows(120, good=0.7)
    weak = Rows.of(weak.hypotheses, strong.references, clusters=strong.clusters)
    for found in compare(weak, strong, metrics=["bleu1", "rougeL", "distinct1"], bootstrap=400):
        assert found.difference is not None
        if found.name != "distinct1":
            assert found.low is not None
            assert found.low > 0
            assert found.p_bootstrap is not None
            assert found.p_bootstrap < 0.02
            assert found.p_randomisation is not None
            assert found.p_randomisation < 0.02
        else:
            assert found.p_randomisation is None  # not a function of sums
    same = compare(strong, strong, metrics=["bleu1"], bootstrap=200)[0]
    assert (same.difference, same.p_bootstrap, same.p_randomisation) == (0.0, 1.0, 1.0)


def test_randomisation_p_values_are_fair_under_no_difference() -> None:
    generator = np.random.default_rng(6)
    small = 0
    for trial in range(100):
        a, b = (Result.mean(generator.normal(size=40)) for _ in range(2))
        test = paired(a, b, np.arange(40), draws=199, seed=trial)
        assert test is not None
        assert test.p_randomisation is not None
        small += test.p_randomisation <= 0.1
    assert small <= 20


def test_other_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="same rows"):
        compare(rows(8), rows(8, seed=3), metrics=["bleu1"])
