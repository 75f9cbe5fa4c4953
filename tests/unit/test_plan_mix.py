"""A mix of predictors: the optimum is one, members that know nothing count for nothing, and a plan is chosen by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from heedful import corpora, taxonomy
from heedful.agents.plan import PlanConfig, settle_plan
from heedful.agents.plan_mix import load_mix
from heedful.errors import ConfigError, DataError, LeakError, NotFoundError
from heedful.evaluation.config import EvalConfig
from heedful.evaluation.run import settle
from heedful.formats import make
from heedful.models.causal import add_markers
from heedful.settings import check
from heedful.testing import tiny_model
from heedful.training.methods import configured
from heedful.training.plan_mix import MixConfig, Opinions, evaluated, fitted, opinions, probabilities

LABELS = ("a", "b", "c")


def made_up(n: int = 600, *, seed: int = 0) -> Opinions:
    """One member that knows something, one that guesses, and a frequent label."""
    draw = np.random.default_rng(seed)
    gold = draw.choice(3, size=n, p=[0.7, 0.2, 0.1])
    knows = draw.normal(size=(n, 3)) + 1.5 * np.eye(3)[gold]
    noise = draw.normal(size=(n, 3))

    def logs(values: Any) -> Any:
        return values - np.log(np.exp(values).sum(axis=1, keepdims=True))

    return Opinions(
        label_set="x", labels=LABELS, own=logs(knows), others=logs(noise)[None], gold=gold,
        clusters=tuple(f"d{i // 10}" for i in range(n)), fingerprints=("f",), names=("noise",),
    )  # fmt: skip


def weighted_loss(found: Opinions, own: float, weight: float, bias: Any, power: float) -> float:
    counts = np.bincount(found.gold, minlength=3)
    each = (len(found.gold) / (3 * counts[found.gold])) ** power
    each = each / each.mean()
    scores = own * found.own + weight * found.others[0] + bias
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    likelihood = float((each * logs[np.arange(len(found.gold)), found.gold]).sum())
    return -likelihood + 1.0 * ((own - 0.5) ** 2 + (weight - 0.5) ** 2 + float((bias**2).sum()))


@pytest.mark.parametrize(("class_weight", "power"), [("none", 0.0), ("sqrt", 0.5), ("balanced", 1.0)])
def test_no_step_away_from_the_fit_is_better(class_weight: str, power: float) -> None:
    found = made_up()
    mix = fitted(found, class_weight=class_weight, l2=1.0)
    bias = np.array(mix.bias)
    best = min(weighted_loss(found, mix.own, mix.weights[0], bias + c, power) for c in np.linspace(-0.5, 0.5, 101))
    draw = np.random.default_rng(1)
    for _ in range(200):
        step = draw.normal(scale=0.05, size=5)
        moved = weighted_loss(found, mix.own + step[0], max(0.0, mix.weights[0] + step[1]), bias + step[2:], power)
        assert moved > best - 1e-3


def test_a_member_that_guesses_counts_for_nothing_and_weights_lift_rare_labels() -> None:
    found = made_up()
    plain, even = (fitted(found, class_weight=kind, l2=1.0) for kind in ("none", "balanced"))
    assert plain.own > 0.8
    assert plain.weights[0] < 0.1
    assert sum(plain.bias) == pytest.approx(0, abs=1e-9)
    share = [np.bincount(probabilities(m, found).argmax(axis=1), minlength=3)[2] for m in (plain, even)]
    assert share[1] > share[0]


def test_figures_are_of_dialogues_that_the_fit_did_not_see() -> None:
    found = made_up(60)
    lucky = Opinions(**{**vars(found), "own": np.log(np.full((60, 3), 1 / 3)), "others": found.others})
    scores = evaluated(lucky, MixConfig(model_name_or_path="m", ask=["s"], dataset="d", folds=3))
    assert set(scores) == {"model", "noise", "mean", "mix"}
    assert scores["mix"]["accuracy"]["low"] <= scores["mix"]["accuracy"]["value"]
    with pytest.raises(DataError, match="6 dialogues cannot be divided into 7 folds; set folds to 6"):
        evaluated(lucky, MixConfig(model_name_or_path="m", ask=["s"], dataset="d", folds=7))


@pytest.mark.parametrize("split", ["train", "test"])
def test_parts_that_cannot_fit_a_mix_are_refused(split: str) -> None:
    with pytest.raises(ConfigError, match=f"split: {split} cannot fit a mix"):
        check(MixConfig, {"model_name_or_path": "m", "ask": ["s"], "dataset": "d", "split": split})


@pytest.mark.slow
def test_from_members_to_a_plan(tmp_path: Path) -> None:
    """Two members, a run of `method: mix`, and the rule of a plan that adds what the file says."""
    causal = tiny_model()
    add_markers(causal, make("strategy").markers)
    causal.model.save_pretrained(str(tmp_path / "joint"))
    causal.tokenizer.save_pretrained(str(tmp_path / "joint"))
    (tmp_path / "joint" / "config.resolved.yaml").write_text("format: {name: strategy}\nmax_length: 900\n", "utf-8")
    common = {"dataset": "commons", "label_set": "esconv_strategy", "roles": ["assistant"], "target": "next"}
    values = {**common, "method": "scorer", "features": "state", "context": 1, "output_dir": str(tmp_path / "state")}
    method, config = configured({**values, "max_train_conversations": 30})
    method.train(config)
    seen = {**values, "train_split": "valid", "eval_split": None, "output_dir": str(tmp_path / "seen")}
    method, config = configured(seen)
    method.train(config)
    values = {
        "method": "mix", "model_name_or_path": str(tmp_path / "joint"), "ask": [str(tmp_path / "state")],
        "dataset": "commons", "dtype": "float32", "max_conversations": 8, "folds": 4,
        "output_dir": str(tmp_path / "mix"),
    }  # fmt: skip
    method, config = configured(values)
    assert method.plan(config) == {"members": 2, "split": "valid", "conversations": 8}
    run = method.train(config)
    assert run.summary["weights"].keys() == {"state"}
    assert run.summary["evaluation"]["mix"]["macro_f1"]["value"] >= 0
    mix, paths = load_mix(str(run.folder))
    assert paths == (str(tmp_path / "state"),)
    joint = str(tmp_path / "joint")
    setting = settle_plan(PlanConfig(mix=str(run.folder)), make("strategy"), model=joint)
    assert setting is not None
    assert setting.mix == mix
    assert (mix.dataset, mix.split) == ("commons", "valid")
    with pytest.raises(ConfigError, match="was fitted with another model than"):
        settle_plan(PlanConfig(mix=str(run.folder)), make("strategy"), model=str(tmp_path / "state"))
    own = {"model_name_or_path": joint, "dataset": "commons", "plan": {"mix": str(run.folder)}}
    with pytest.raises(LeakError, match="asks 'mix', which learned from commons"):
        settle(EvalConfig(**own, split="valid"))
    with pytest.raises(LeakError, match=r"learned from commons \(train\)"):
        settle(EvalConfig(**own, split="train"))
    assert settle(EvalConfig(**own, split="test")).plan is not None
    with pytest.raises(LeakError, match="so it would be trusted too much"):
        opinions(MixConfig(model_name_or_path=joint, ask=[str(tmp_path / "seen")], dataset="commons"))
    conv = make("strategy").prepare(corpora.load("commons", "test")[0])
    at = make("strategy").targets(conv)[1]
    vocabulary = causal.tokenizer.get_vocab()
    rule = setting.rule(vocabulary, {"x": conv.before(at)})
    own = np.log(np.full(8, 1 / 8)) + np.arange(8) / 10
    own = own - np.log(np.exp(own).sum())
    theirs = np.log(setting.readers[0].next_probabilities([conv.before(at)]))[0]
    order = [setting.readers[0].labels.index(label) for label in taxonomy.get("esconv_strategy").names]
    scores = mix.own * own + mix.weights[0] * theirs[order] + np.array(mix.bias)
    wanted = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(rule.probabilities(own, "x"), wanted, atol=1e-9)
    again = configured({**values, "resume_from_checkpoint": True})
    assert again[0].train(again[1]).summary == json.loads((run.folder / "summary.json").read_text("utf-8"))
    with pytest.raises(ConfigError, match=r"had l2: 1\.0, and now it is 2\.0"):
        again[0].train(configured({**values, "resume_from_checkpoint": True, "l2": 2.0})[1])
    with pytest.raises(ConfigError, match="either 'ask' with 'weight' or 'mix'"):
        check(PlanConfig, {"mix": str(run.folder), "ask": ["x"]})
    with pytest.raises(ConfigError, match="either 'ask' with 'weight' or 'mix'"):
        check(PlanConfig, {"mix": str(run.folder), "weight": 0.2})
    with pytest.raises(ConfigError, match="are of choose: sample"):
        check(PlanConfig, {"choose": "argmax", "top_p": 0.5})
    with pytest.raises(NotFoundError, match="make one with method: mix"):
        settle_plan(PlanConfig(mix=str(tmp_path)), make("strategy"))
    broken = json.loads((run.folder / "mix.json").read_text("utf-8"))
    (run.folder / "mix.json").write_text(json.dumps({**broken, "scorers": ["other"]}), "utf-8")
    with pytest.raises(ConfigError, match="was fitted with other scorers"):
        settle_plan(PlanConfig(mix=str(run.folder)), make("strategy"), model=joint)
