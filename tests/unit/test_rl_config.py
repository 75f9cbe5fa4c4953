"""What cannot be a run says so in one sentence, before a model is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rl_kit import ALL, Bench, go

from conftest import Call
from heedful.errors import ConfigError, MissingExtraError, NotFoundError, UserError
from heedful.training.methods import METHODS, configured
from heedful.training.rl.config import GRPOConfig, PPOConfig, ReinforceConfig, RLOOConfig


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("config"))


LENGTH = [{"name": "length"}]
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("unknown reward", {"rewards": ["repetitio"]}, "repetition"),
    ("unknown held-out scorer", {"heldout": ["copi"]}, "copy"),
    ("weight in words", {"rewards": [{"name": "length", "weight": "much"}]}, "weight"),
    ("weight nan", {"rewards": [{"name": "length", "weight": float("nan")}]}, "weight"),
    ("weight infinite", {"rewards": [{"name": "length", "weight": float("inf")}]}, "weight"),
    ("no weight", {"rewards": [{"name": "length", "weight": 0}]}, "no reward has a weight other than 0"),
    ("no rewards", {"rewards": []}, "rewards"),
    ("rollouts do not divide", {"rollout_batch_size": 5}, r"rollout_batch_size \(5\) must be a multiple of mini_batch"),
    (
        "batches do not divide",
        {"mini_batch_size": 4, "per_device_train_batch_size": 3},
        r"mini_batch_size \(4\) must be",
    ),
    ("accumulation", {"gradient_accumulation_steps": 2}, "follows from mini_batch_size"),
    ("nothing held out", {"heldout": [], "stop_heldout": 2}, "need heldout scorers"),
    ("nothing to choose by", {"heldout": [], "load_best_model_at_end": True}, "need heldout scorers"),
    ("dropout", {"lora_dropout": 0.1}, "another one than the policy that wrote; remove it"),
    ("a target for nothing", {"kl_coef": 0.0, "kl_target": 6.0}, "kl_target adapts kl_coef, which is 0"),
    ("no steps", {"max_steps": 0}, "at least 1, but got 0"),
    ("one reply", {"num_generations": 1}, "greater than or equal to 2"),
    ("two scales", {"aggregation": "normalize_then_sum", "scale_rewards": "batch"}, "remove scale_rewards"),
    ("another method's setting", {"value_coef": 0.1}, "value_coef"),
    ("unknown loss", {"loss_type": "gspo"}, "loss_type"),
    ("unknown option", {"rewards": [{"name": "length", "params": {"mintokens": 2}}]}, "min_tokens"),
    ("range upside down", {"rewards": [{"name": "length", "range": [1, 0]}]}, "from low to high"),
    ("one name twice", {"rewards": ["length", "length"]}, "Two rewards are called 'length'"),
    ("unknown engine", {"engine": "vlm"}, "rollout engine 'vlm'"),
    ("engine options", {"engine_options": {"brances": 3}}, "engine_options"),
    ("prompt and reply too long", {"max_new_tokens": 4090}, r"A prompt and its reply can have 4,\d\d\d tokens, but"),
]


@pytest.mark.parametrize(("values", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_settings(bench: Bench, values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        bench.run("bad", **values)
    assert str(caught.value).strip().endswith((".", "?"))
    assert not (bench.root / "bad" / "checkpoints").exists()


def test_missing_rewards_and_an_unknown_reward_on_the_command_line(bench: Bench, call: Call) -> None:
    values = bench.values("cli")
    del values["rewards"]
    words = [f"{k}={json.dumps(v)}" for k, v in values.items()]
    code, _, err = call("train", *words)
    assert code != 0
    assert "rewards" in err
    assert "Traceback" not in err
    code, _, err = call("train", *words, 'rewards=["questions"]')
    assert code != 0
    assert "question" in err
    assert "Traceback" not in err


def test_reinforce_group_baseline_needs_a_group() -> None:
    with pytest.raises(ConfigError, match="baseline: group needs num_generations of at least 2"):
        configured({"method": "reinforce++", "rewards": ["length"], "baseline": "group"})


def test_a_sharded_launch_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="runs data-parallel"):
        bench.run("sharded")


def test_processes_must_share_a_mini_batch_evenly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.training.rl import run

    class Three:
        rank, count, first = 0, 3, True

    monkeypatch.setattr(run, "Processes", Three)
    with pytest.raises(ConfigError, match="mini_batch_size is 2, which 3 processes cannot share evenly; choose a mul"):
        bench.run("three")


# ------------------------------------------------------------------ scorers


def scorer(folder: Path, *, seed: int, features: str = "bag") -> str:
    """A trained scorer's folder, as the reward and the held-out set name it."""
    return f"{folder}-{features}-{seed}"


def test_a_held_out_scorer_of_the_rewards_family_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of `classify.same_family` is asked about each pair, and its reason is passed on."""
    from heedful import classify

    asked: list[tuple[str, str]] = []

    def same(one: str, other: str) -> str | None:
        asked.append((one, other))
        return "both use bag" if one.split("-")[1] == other.split("-")[1] else None

    monkeypatch.setattr(classify, "load", str)
    monkeypatch.setattr(classify, "same_family", same)
    values = bench.values("family")
    used, other = scorer(Path("a"), seed=1), scorer(Path("a"), seed=2)
    label = {"label_set": "mesc_emotion"}
    values["rewards"] = [{"name": "emotion", "params": {"scorer": used, **label}}]
    values["heldout"] = [{"name": "emotion", "label": "held", "params": {"scorer": other, **label}}]
    from heedful.training.rl.run import refuse_shared_scorers

    config: Any = configured({**values, "rewards": _plain(values["rewards"]), "heldout": _plain(values["heldout"])})[1]
    with pytest.raises(ConfigError, match=r"held-out scorer a-bag-2 is not independent of the reward's a-bag-1: both"):
        refuse_shared_scorers(config)
    assert asked == [("a-bag-1", "a-bag-2")]


def _plain(rewards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**r, "params": {"scorer": r["params"]["scorer"]}} for r in rewards]


def test_a_method_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking a method up imports its module, and some of those import torch at the top."""

    def gone(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(METHODS, "get", gone)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="pip install torch"):
        configured({"method": "grpo"})


def test_a_broken_module_is_not_blamed_on_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'heedful.nothing'", name="heedful.nothing")

    monkeypatch.setattr(METHODS, "get", gone)
    with pytest.raises(ModuleNotFoundError, match=r"heedful\.nothing"):
        configured({"method": "grpo"})


# ------------------------------------------------------------------ what is configured


@pytest.mark.parametrize("method", ALL)
def test_every_method_is_in_the_table_and_plans_without_weights(bench: Bench, method: str) -> None:
    values = bench.values("planned", method)
    found, config = configured(values)
    plan = found.plan(config)
    assert plan["steps"] == 4
    assert plan["eval_targets"] == 4
    assert plan["targets"] == 36
    assert not (bench.root / "planned").exists()
    epochs = found.plan(configured({**values, "max_steps": -1, "num_train_epochs": 2})[1])
    assert epochs["steps"] == int(np.ceil(2 * 36 / 4))


def test_algorithms_are_configured_as_their_papers_have_them() -> None:
    def grpo(**more: Any) -> Any:
        return GRPOConfig(rewards=["length"], **more).algorithm()  # type: ignore[list-item]

    assert (grpo().scale, grpo().epsilon, grpo().epsilon_high) == ("group", 0.2, 0.2)
    assert (grpo(loss_type="dr_grpo").scale, grpo(loss_type="dapo").epsilon_high) == ("none", 0.28)
    assert grpo(loss_type="cispo").epsilon_high == 5.0
    assert grpo(loss_type="dr_grpo", scale_rewards="batch").scale == "batch"
    assert grpo(epsilon=0.1).epsilon_high == 0.1
    made: Any = PPOConfig(rewards=["length"], gamma=0.9, lam=0.8, epsilon=0.3, whiten_advantages="reply").algorithm()  # type: ignore[list-item]
    assert (made.gamma, made.lam, made.epsilon, made.whiten) == (0.9, 0.8, 0.3, "reply")
    assert made.uses_values
    assert not made.kl_in_loss
    loo: Any = RLOOConfig(rewards=["length"], epsilon=0.4).algorithm()  # type: ignore[list-item]
    assert (loo.epsilon, loo.uses_values, loo.kl_in_loss) == (0.4, False, False)
    plus: Any = ReinforceConfig(rewards=["length"], baseline="group", num_generations=2, gamma=0.9).algorithm()  # type: ignore[list-item]
    assert (plus.baseline, plus.gamma) == ("group", 0.9)


def test_a_folder_that_holds_a_run_is_not_written_over(bench: Bench) -> None:
    bench.run("once", max_steps=1)
    with pytest.raises(UserError, match="holds a run already"):
        bench.run("once", max_steps=1)
    with pytest.raises(ConfigError, match="--resume cannot change kl_coef"):
        bench.run("once", max_steps=2, kl_coef=0.5, resume_from_checkpoint=True)


def test_no_dataset_and_no_model(bench: Bench) -> None:
    with pytest.raises(UserError):
        bench.run("none", dataset=str(bench.root / "nowhere.jsonl"))
    with pytest.raises(NotFoundError, match="no such folder"):
        go(bench.values("none", model_name_or_path=str(bench.root / "nobody")))
