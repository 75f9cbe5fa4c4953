"""What the log says of a round, and the rules that end a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rl_kit import experience, scored

from heedful.training.rl.config import GRPOConfig
from heedful.training.rl.watch import Watch, correlation, explained_variance, heldout_level, round_numbers

NAN = float("nan")


def test_the_numbers_of_a_round_by_hand() -> None:
    judged = scored([1.0, 2.0, NAN, 3.0], columns={"one": [1, 2, NAN, 3], "two": [-2, -4, -1, -6]})
    judged.clipped[:] = [0, 2]
    judged.raised[:] = [1, 0]
    seen = experience([1.0, 2.0, NAN, 3.0], [1, 2, 9, 3], judged=judged, old=[-1.0] * 15, reference=[-1.5] * 15)
    found = round_numbers(seen)
    assert found["reward"] == pytest.approx(2.0)
    assert found["reward/std"] == pytest.approx(np.std([1, 2, 3]))
    assert found["unscored"] == found["reward/one/unscored"] == 0.25
    assert found["reward/two/unscored"] == 0
    assert found["reward/one"] == pytest.approx(2.0)
    assert found["reward/two"] == pytest.approx(-13 / 4)
    assert found["length"] == 15 / 4
    assert found["reward/one/length_corr"] == pytest.approx(1.0)  # 1, 2, 3 on lengths 1, 2, 3; the unscored one is out
    assert found["reward/corr/one/two"] == pytest.approx(-1.0)
    assert (found["reward/one/raised"], found["reward/two/clipped"]) == (1, 2)
    assert found["kl"] == pytest.approx(0.5 * 15 / 4)
    assert (found["truncated"], found["empty"]) == (0, 0)


def test_what_was_not_measured_is_absent() -> None:
    found = round_numbers(experience([NAN, NAN], [1, 1]))
    assert found["unscored"] == 1
    assert {"reward", "reward/std", "reward/only", "kl", "reward/only/length_corr"}.isdisjoint(found)


def test_correlation() -> None:
    x = np.array([1.0, 2.0, 3.0, NAN, 5.0])
    assert correlation(x, np.array([2.0, 1.0, 0.0, 9.0, NAN])) == pytest.approx(-1)
    assert correlation(x, np.array([NAN, NAN, 1.0, 2.0, 3.0])) is None  # two in common
    assert correlation(x, np.ones(5)) is None


def test_explained_variance() -> None:
    returns = np.array([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(np.zeros(3), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(returns, np.ones(3)) is None


# ------------------------------------------------------------------ stopping


def watch(**more: Any) -> Watch:
    return Watch(config=GRPOConfig(rewards=["length"], heldout=["copy"], **more))  # type: ignore[list-item]


def row(step: int, lower: bool = False, **heldout: Any) -> dict[str, Any]:
    return {"step": step, "heldout": heldout, "lower_is_better": list(heldout) if lower else []}


def test_rules_of_a_round() -> None:
    rules = watch(stop_kl=5.0, stop_repetition=0.5)
    assert rules.after_round({"kl": 5.0, "repetition": 0.5}) is None
    assert rules.after_round({}) is None
    found = rules.after_round({"kl": 5.01})
    assert found is not None
    assert (found.kind, found.sentence) == ("kl", "the KL to the reference reached 5.0 nats per reply; stop_kl is 5")
    found = rules.after_round({"repetition": 0.51})
    assert found is not None
    assert found.kind == "repetition"
    assert "51 %" in found.sentence
    assert watch().after_round({"kl": 1e9, "repetition": 1.0}) is None


def test_held_out_level_by_hand() -> None:
    start = row(0, copy=[0.0, 2.0], other=[1.0, 3.0])
    # One reply alone has no spread to measure its change in, so the score with the unscored reply does not count.
    assert heldout_level(row(1, copy=[0.5, 2.5], other=[2.0, None]), start) == pytest.approx(0.5)
    # Changes of 0.5 and 1 in spreads of 1.
    assert heldout_level(row(1, copy=[0.5, 2.5], other=[2.0, 4.0]), start) == pytest.approx(0.75)
    assert heldout_level(row(1, lower=True, copy=[0.5, 2.5], other=[2.0, 4.0]), start) == pytest.approx(-0.75)
    assert heldout_level(row(1, copy=[None, None]), start) is None


def test_held_out_decline_ends_a_run() -> None:
    rules = watch(stop_heldout=2)
    levels = [0.0, 0.3, 0.2, 0.4, 0.1, 0.3]
    stops = [rules.after_validation(row(step, copy=[level, level + 1])) for step, level in enumerate(levels)]
    assert stops[:5] == [None] * 5
    assert stops[5] is not None
    assert stops[5].kind == "heldout"
    assert stops[5].sentence == "2 validations in a row had held-out scores below those of step 3"
    assert (rules.best_step, rules.worse) == (3, 2)
    # A score of which less is better declines when it rises.
    rules = watch(stop_heldout=1)
    assert rules.after_validation(row(0, lower=True, copy=[0.0, 1.0])) is None
    found = rules.after_validation(row(1, lower=True, copy=[0.1, 1.1]))
    assert found is not None
    assert found.sentence.startswith("1 validation in a row")
