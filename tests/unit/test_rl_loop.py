"""Runs from start to end on a tiny model: what they learn, log, correct for and survive."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

import itertools

from rl_kit import ALL, Bench, assert_same_run, rows, weights

from heedful.models.causal import CausalModel, load
from heedful.models.decoding import Decoding, Written
from heedful.models.engine import TransformersEngine
from heedful.settings import read_yaml
from heedful.training import TrainConfig
from heedful.training import train as sft
from heedful.training.rl import improve, loop
from heedful.training.rl.algorithms import PPO

CLUMSY = [{"name": "rl_kit:letters"}, {"name": "rl_kit:clumsy", "weight": 0.5}]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("loop"))


class Off:
    """An engine that draws as the policy and is wrong about log-probabilities: by `by` nats a token."""

    exact = False

    def __init__(self, causal: CausalModel, by: float = 0.0, empty: int = 0) -> None:
        self.inner, self.by, self.empty, self.calls = TransformersEngine(causal), by, empty, 0

    def sample(
        self, prompts: Sequence[tuple[int, ...]], *, n: int, settings: Decoding, names: Sequence[str]
    ) -> list[list[Written]]:
        made = self.inner.sample(prompts, n=n, settings=settings, names=names)
        self.calls += 1
        if self.calls <= self.empty:
            return [[] for _ in made]  # as where a server gave no answer that can be used
        return [[replace(w, logprobs=tuple(v - self.by for v in w.logprobs)) for w in some] for some in made]

    def sync(self, causal: CausalModel) -> None:
        self.inner.sync(causal)

    def close(self) -> None:
        self.inner.close()


# ------------------------------------------------------------------ a whole run


@pytest.mark.parametrize("method", ALL)
def test_every_method_leaves_a_run_folder(bench: Bench, method: str) -> None:
    said: list[str] = []
    run = bench.run(f"whole {method}", method, say=said.append, max_steps=3)
    folder = run.folder
    for name in (
        "config.resolved.yaml", "metrics.jsonl", "validation.jsonl", "probes.jsonl", "traces.jsonl", "summary.json",
        "README.md", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "checkpoints",
    ):  # fmt: skip
        assert (folder / name).exists(), name
    assert (folder / "heads.safetensors").exists() == (method == "ppo")
    assert (run.summary["kind"], run.summary["method"], run.summary["stopped"]) == ("train", method, "done")
    assert run.summary["stop_reason"] == "all 3 steps were done"
    assert run.summary["replies"] == sum(1 for _ in rows(folder, "traces"))
    metrics = rows(folder)
    assert [row["step"] for row in metrics] == [1, 2, 3]
    for row in metrics:
        wanted = {"reward", "reward/std", "reward/letters", "reward/brief/std", "reward/brief/unscored"}
        wanted |= {"reward/corr/letters/brief", "reward/brief/length_corr"} if method in ("grpo", "rloo") else set()
        wanted |= {"kl", "entropy", "length", "truncated", "unscored", "empty", "clip_fraction", "policy_loss"}
        wanted |= {"kl_coefficient", "learning_rate", "grad_norm", "tokens"}
        wanted |= {"explained_variance", "value_loss"} if method == "ppo" else set()
        assert wanted <= set(row), wanted - set(row)
        assert row["reward"] == pytest.approx(row["reward/letters"] + 0.3 * row["reward/brief"])
        assert 0 < row["entropy"] < np.log(500)
    assert [row["step"] for row in rows(folder, "validation")] == [0, 2, 3]
    probes = rows(folder, "probes")
    assert [row["step"] for row in probes] == [0, 0, 2, 2, 3, 3]
    assert len({row["id"] for row in probes}) == 2
    assert set(probes[0]["scores"]) == {"letters", "brief", "repetition", "reward"}
    for name in ("probes.jsonl", "traces.jsonl"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    # Nothing of what people or the policy said is in the progress.
    words = {row["said"] for row in probes} | {row["reply"] for row in probes if row["reply"]}
    assert not any(word in line for word in words for line in said)
    # The policy at the start is the reference, and the sampler the policy, to rounding.
    assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert abs(metrics[2]["kl"]) > 1e-3  # an estimate that can be negative


@pytest.mark.parametrize("method", ALL)
def test_every_method_learns(bench: Bench, method: str) -> None:
    """Replies become shorter where only that is paid for."""
    more: dict[str, Any] = {"num_generations": 4, "kl_coef": 0.0, "max_steps": 12, "eval_steps": None}
    more |= {"kl_target": None} if method == "ppo" else {}
    run = bench.run(f"learn {method}", method, rewards=["rl_kit:brief"], heldout=[], save_steps=50, **more)
    lengths = [row["length"] for row in rows(run.folder)]
    assert np.mean(lengths[-3:]) < np.mean(lengths[:3]) - 1, lengths
    first, last = rows(run.folder, "validation")
    assert np.mean(last["total"]) > np.mean(first["total"])


def test_passes_and_mini_batches_are_only_a_matter_of_memory(bench: Bench) -> None:
    one = bench.run("passes of 1", per_device_train_batch_size=1, max_steps=2, num_generations=3)
    two = bench.run("passes of 2", per_device_train_batch_size=2, max_steps=2, num_generations=3)
    assert_same_run(two.folder, one.folder, tolerance=1e-4)


# ------------------------------------------------------------------ rewards with bad habits


def test_a_reward_out_of_its_range_is_clipped_and_counted(bench: Bench) -> None:
    run = bench.run("wild", rewards=[{"name": "rl_kit:wild", "range": [-1, 1]}], max_steps=1, num_generations=4)
    (row,) = rows(run.folder)
    assert row["reward/wild/clipped"] == 12  # all but the first of four, for four prompts
    assert row["reward/wild"] == pytest.approx((0.5 + 3 * 1.0) / 4)


def test_a_reward_that_raises_leaves_one_reply_unscored(bench: Bench) -> None:
    run = bench.run("clumsy", rewards=CLUMSY, max_steps=2, num_generations=4)
    for row in rows(run.folder):
        assert row["reward/clumsy/raised"] == 4
        assert row["unscored"] == row["reward/clumsy/unscored"] == 0.25
        assert row["reward/letters/unscored"] == 0
    for path in run.folder.iterdir():
        if path.suffix in (".jsonl", ".json", ".md", ".yaml"):
            assert "secret" not in path.read_text("utf-8"), path.name
    trace = next(row for row in rows(run.folder, "traces") if row["id"].endswith("#0"))
    (bad,) = [s for s in trace["scores"] if s["name"] == "clumsy"]
    assert bad.get("value") is None
    assert bad["reason"] == "raised ValueError"


def test_unscored_replies_have_no_part_in_the_update(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tokens the loss sees: those of scored replies only."""
    sizes: list[int] = []
    real = improve.lay_out
    monkeypatch.setattr(
        improve, "lay_out", lambda c, p, r, **k: (sizes.append(sum(map(len, r))), real(c, p, r, **k))[1]
    )
    bench.run("choosy", rewards=["rl_kit:choosy"], max_steps=1, num_generations=4, eval_steps=None)
    assert sum(sizes) == 4 * 2  # of four replies the first and the last are unscored


@pytest.mark.parametrize("method", ALL)
def test_a_round_without_any_total_is_passed_over(bench: Bench, method: str) -> None:
    said: list[str] = []
    rewards = [{"name": "rl_kit:letters", "weight": 0.5}, {"name": "rl_kit:silent"}]
    run = bench.run(f"silent {method}", method, rewards=rewards, max_steps=2, say=said.append)
    found = rows(run.folder)
    assert [row["unscored"] for row in found] == [1, 1]
    assert "reward" not in found[0]
    assert found[0]["reward/letters"] > 0
    assert "step 2: no reply has a total reward, so nothing was learnt" in said
    for name, value in weights(run.folder).items():
        if "lora_B" in name:
            assert not bool(value.any())


def test_empty_replies_are_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the end token, from every prompt."""

    class Mute(Off):
        def sample(self, prompts: Any, *, n: int, settings: Any, names: Any) -> list[list[Written]]:
            return [[Written(tokens=(2,), logprobs=(-3.0,), finish="stop")] * n for _ in prompts]

    monkeypatch.setattr("rl_kit.Mute", Mute, raising=False)
    run = bench.run("mute", "ppo", engine="rl_kit:Mute", rewards=["rl_kit:nothing_written"], max_steps=2)
    for row in rows(run.folder):
        assert (row["empty"], row["length"], row["reward"], row["truncated"]) == (1, 1, 1, 0)


def test_a_round_without_any_reply_is_passed_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers nothing usable at validation and in round 1."""
    monkeypatch.setattr("rl_kit.Off", Off, raising=False)
    run = bench.run("no replies", engine="rl_kit:Off", engine_options={"empty": 2}, max_steps=2)
    before, after = rows(run.folder, "validation")
    assert before["ids"] == after["ids"]  # prompts stay in their places, so changes can be paired
    assert before["total"] == [None] * 4
    assert None not in after["total"]
    first, second = rows(run.folder)
    assert "reward" not in first
    assert "reward" in second
    assert run.summary["stopped"] == "done"


# ------------------------------------------------------------------ samplers


def fixed(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, method: str = "grpo", **more: Any) -> Path:
    monkeypatch.setattr("rl_kit.Off", Off, raising=False)
    more = {"max_steps": 1, "eval_split": None, "save_steps": 9, "heldout": [], "kl_coef": 0.0, **more}
    return bench.run(name, method, **more).folder


def test_rollout_logprobs_are_taken_where_they_are_exact(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32 nothing is computed anew, and it would have come out the same."""
    collected: list[Any] = []
    real = loop.Loop._collect
    monkeypatch.setattr(loop.Loop, "_collect", lambda self, step: collected.append(real(self, step)) or collected[-1])
    auto = fixed(bench, monkeypatch, "auto")
    again = fixed(bench, monkeypatch, "recompute", old_logprobs="recompute")
    assert np.array_equal(collected[0].old, collected[0].sampler)
    assert not np.array_equal(collected[1].old, collected[1].sampler)
    assert collected[0].old == pytest.approx(collected[1].old, abs=1e-4)
    assert_same_run(again, auto, tolerance=1e-4)
    assert_same_run(fixed(bench, monkeypatch, "rollout", old_logprobs="rollout"), auto, tolerance=1e-7)


@pytest.mark.parametrize("method", ALL)
def test_a_sampler_that_is_off_is_corrected_for_and_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It claims log-probabilities 0.1 too low, so each token would count e^0.1 times: seen, logged, and weighed."""
    factors: list[float] = []
    made: list[Any] = []
    for by in (0.0, 0.1, 5.0):
        folder = fixed(
            bench, monkeypatch, f"off {method} {by}", method, engine="rl_kit:Off", engine_options={"by": by},
            mini_batch_size=4, num_iterations=1, num_generations=2, max_grad_norm=0,
            **({"kl_target": None} if method == "ppo" else {}),
        )  # fmt: skip
        (row,) = rows(folder)
        made.append(row)
        assert row["mismatch"] == pytest.approx(by, abs=1e-4)
        factors.append(row["grad_norm"])
    assert all(row["clip_fraction"] == 0 for row in made)  # the ratio is to the trainer's own numbers
    if method == "ppo":
        assert factors[0] < factors[1] < factors[2]  # the value loss has no such weight
    elif method != "rloo":  # in RLOO the weight is of a whole reply and differs from reply to reply
        assert factors[1] / factors[0] == pytest.approx(np.exp(0.1), rel=1e-3)
        assert factors[2] / factors[0] == pytest.approx(2.0, rel=1e-3)  # importance_cap
    else:
        assert factors[2] / factors[0] == pytest.approx(2.0, rel=1e-3)


def test_an_exact_sampler_has_no_mismatch_to_show(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mismatch" not in rows(fixed(bench, monkeypatch, "exact"))[0]


def test_several_updates_on_an_inexact_sampler_start_from_the_trainers_numbers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = fixed(bench, monkeypatch, "off twice", engine="rl_kit:Off", engine_options={"by": 1.0}, num_iterations=2)
    (row,) = rows(off)
    assert row["mismatch"] == pytest.approx(1.0, abs=1e-4)
    assert row["clip_fraction"] < 0.9  # of e^1 against 1.2 every paid token would be held


# ------------------------------------------------------------------ the KL


@pytest.mark.parametrize(
    ("target", "gain", "factor"), [(6.0, 0.016, 1 - 0.0032), (1e-9, 0.016, 1 + 0.0032), (1e-9, 0.1, 1.02)]
)
def test_the_kl_controller_by_hand(bench: Bench, target: float, gain: float, factor: float) -> None:
    """The error is cut at 20 %; 16 replies a round over a horizon of 1000 are a gain of 0.016 (reader.md)."""
    run = bench.run(
        f"controller {target} {gain}", "ppo", kl_target=target, kl_gain=gain, kl_coef=0.2, max_steps=3, eval_split=None,
        heldout=[],
    )  # fmt: skip
    found = rows(run.folder)
    assert found[0]["kl_coefficient"] == 0.2
    for before, after in itertools.pairwise(found):
        error = np.clip(before["kl"] / target - 1, -0.2, 0.2)
        assert after["kl_coefficient"] == pytest.approx(before["kl_coefficient"] * (1 + gain * error))
    assert found[2]["kl_coefficient"] / found[1]["kl_coefficient"] == pytest.approx(factor)


def test_the_leash_holds(bench: Bench) -> None:
    more: dict[str, Any] = {"rewards": ["rl_kit:brief"], "max_steps": 6, "eval_steps": None, "num_generations": 4}
    loose = rows(bench.run("loose", "rloo", kl_coef=0.0, stop_kl=1e9, **more).folder)[-1]["kl"]
    tight = rows(bench.run("tight", "rloo", kl_coef=1.0, **more).folder)[-1]["kl"]
    assert tight < loose / 2


def test_a_rounds_updates_end_early_when_the_policy_has_moved_far(bench: Bench) -> None:
    free = rows(bench.run("free", num_iterations=4, max_steps=1, eval_split=None, heldout=[]).folder)[0]
    held = rows(
        bench.run("held", num_iterations=4, max_steps=1, iteration_kl=1e-6, eval_split=None, heldout=[]).folder
    )[0]
    assert (free["updates"], "early_stop" in free) == (8, False)
    assert held["early_stop"] == 1
    assert held["updates"] < 8


# ------------------------------------------------------------------ ends


def test_stop_kl(bench: Bench) -> None:
    run = bench.run("stop kl", stop_kl=1e-6, kl_coef=0.0, max_steps=9)
    assert (run.summary["stopped"], run.summary["steps"]) == ("kl", 2)
    assert run.summary["stop_reason"].startswith("the KL to the reference reached")
    assert [row["step"] for row in rows(run.folder, "validation")] == [0, 2]  # the last one is always validated
    assert (run.folder / "checkpoints" / "checkpoint-2").is_dir()


def test_stop_repetition(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.training.rl import watch

    real = watch._measured
    monkeypatch.setattr(watch, "_measured", lambda name, *a: {name: 0.4} if name == "repetition" else real(name, *a))
    run = bench.run("stop repetition", stop_repetition=0.3)
    assert (run.summary["stopped"], run.summary["steps"]) == ("repetition", 1)
    assert run.summary["stop_reason"] == "40 % of 3-grams repeat within replies; stop_repetition is 30 %"


def test_max_seconds(bench: Bench) -> None:
    run = bench.run("time", max_seconds=1e-6)
    assert (run.summary["stopped"], run.summary["steps"], run.summary["weights_step"]) == ("time", 1, 1)


def declining(monkeypatch: pytest.MonkeyPatch, levels: dict[int, float]) -> None:
    """Held-out scores that go as `levels` say, whatever the policy does."""
    real = loop.validation_row

    def row(step: int, *args: Any) -> dict[str, Any]:
        found = real(step, *args)
        n = found["n"]
        return {**found, "heldout": {"copy": [levels[step] + i / n for i in range(n)]}, "lower_is_better": []}

    monkeypatch.setattr(loop, "validation_row", row)


def test_stop_heldout_and_the_best_weights(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """save_steps is far away, and only one checkpoint is kept besides the best."""
    declining(monkeypatch, {0: 0.0, 1: 0.1, 2: 0.5, 3: 0.4, 4: 0.3, 5: 0.2, 6: 0.1})
    run = bench.run(
        "best", max_steps=6, stop_heldout=3, load_best_model_at_end=True, heldout=["copy"], eval_steps=1, save_steps=50,
        save_total_limit=1,
    )  # fmt: skip
    assert (run.summary["stopped"], run.summary["steps"], run.summary["weights_step"]) == ("heldout", 5, 2)
    assert "3 validations in a row had held-out scores below those of step 2" in run.summary["stop_reason"]
    assert {p.name for p in (run.folder / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-5"}
    from safetensors.torch import load_file

    found = load_file(str(run.folder / "checkpoints" / "checkpoint-2" / "trainable.safetensors"))
    saved = weights(run.folder)
    for name, value in found.items():
        assert torch.equal(saved[name.replace(".default", "")], value), name


# ------------------------------------------------------------------ starts


@pytest.fixture(scope="module")
def first(bench: Bench) -> Path:
    """A supervised run with a format of its own."""
    config = TrainConfig(
        model_name_or_path=str(bench.model), dataset=str(bench.data), precision="fp32", lora_rank=4, max_steps=3,
        learning_rate=0.02, warmup_steps=0, eval_split=None, format={"name": "chat", "system": "Be brief."},
        output_dir=str(bench.root / "sft"),
    )  # fmt: skip
    return sft(config).folder


def test_reinforcement_goes_on_from_a_supervised_run(bench: Bench, first: Path) -> None:
    """Its adapter becomes the base, which is the reference; its format is taken over."""
    run = bench.run("from sft", "ppo", model_name_or_path=str(first), format=None, max_steps=2)
    resolved = read_yaml(run.folder / "config.resolved.yaml")
    assert resolved["format"] == read_yaml(first / "config.resolved.yaml")["format"]
    assert resolved["format"]["system"] == "Be brief."
    start, end = rows(run.folder)
    assert start["kl"] == pytest.approx(0, abs=1e-3)
    assert end["kl"] > 1e-3
    base = load(str(run.folder / "base"), dtype="float32", device="cpu")
    earlier = load(str(first), dtype="float32", device="cpu")
    plain = load(str(bench.model), dtype="float32", device="cpu")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = earlier.model(input_ids=ids).logits
        torch.testing.assert_close(base.model(input_ids=ids).logits, expected, atol=1e-4, rtol=0)
        assert float((plain.model(input_ids=ids).logits - expected).abs().max()) > 0.05
        assert float((load(str(run.folder), device="cpu").model(input_ids=ids).logits - expected).abs().max()) > 1e-3
    assert run.summary["base_run"]
    # The prompts have the earlier run's words in them.
    assert all("Be brief." in trace["prompt"] for trace in rows(run.folder, "traces"))


def test_a_run_that_was_merged_and_killed_goes_on(bench: Bench, first: Path) -> None:
    from rl_kit import Killed, trap

    more: dict[str, Any] = {"model_name_or_path": str(first), "format": None, "max_steps": 3, "num_generations": 2}
    expected = bench.run("sft whole", **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*trap("update", 10))
        with pytest.raises(Killed):
            bench.run("sft killed", **more)
    assert_same_run(bench.run("sft killed", resume_from_checkpoint=True, **more).folder, expected.folder)


@pytest.mark.parametrize("delta", ["full", "bias"])
def test_methods_that_change_the_base_keep_a_copy_of_it(bench: Bench, tmp_path: Path, delta: str) -> None:
    where = bench if delta == "full" else Bench(tmp_path, kind="gpt2")
    more: dict[str, Any] = {"lora_rank": 16, "lora_alpha": 32} if delta == "bias" else {}
    run = where.run(f"delta {delta}", delta=delta, learning_rate=0.003, max_steps=3, **more)
    kls = [row["kl"] for row in rows(run.folder)]
    assert kls[0] == pytest.approx(0, abs=1e-4)
    assert kls[2] > 1e-3  # the reference has not moved with the policy


def test_no_reference_where_nothing_needs_one(bench: Bench) -> None:
    more: dict[str, Any] = {"kl_coef": 0.0, "max_steps": 1, "eval_split": None, "heldout": []}
    assert "kl" not in rows(bench.run("no reference", log_kl=False, **more).folder)[0]
    assert "kl" in rows(bench.run("only to see", **more).folder)[0]


def test_equal_seeds_give_equal_runs(bench: Bench) -> None:
    more: dict[str, Any] = {"max_steps": 2, "num_generations": 2}
    one, two, other = (bench.run(f"seed {i}", seed=s, **more).folder for i, s in enumerate((5, 5, 6)))
    assert_same_run(two, one, tolerance=0)
    assert [t["reply"] for t in rows(other, "traces")] != [t["reply"] for t in rows(one, "traces")]


def test_the_value_head_learns(bench: Bench) -> None:
    """The value head learns what a reply is worth on average: its loss falls."""
    run = bench.run(
        "values", "ppo", rewards=["rl_kit:brief"], heldout=[], num_generations=4, max_steps=8, eval_split=None,
        value_learning_rate=0.05, learning_rate=1e-6, whiten_advantages="none", value_clip=100.0, kl_coef=0.0,
        kl_target=None,
    )  # fmt: skip
    losses = [row["value_loss"] for row in rows(run.folder)]
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3]), losses
    assert PPO.uses_values
    assert json.loads((run.folder / "summary.json").read_text())["method"] == "ppo"


def test_a_prompt_has_its_place_whatever_was_asked_before() -> None:
    """A run that is resumed begins in the middle of a pass; the pass before it must not get that pass' order."""

    def asked(*numbers: int) -> list[str]:
        names: Any = [f"p{i}" for i in range(7)]
        fake: Any = SimpleNamespace(prompts=names, config=SimpleNamespace(seed=3), orders={})
        return [str(loop.Loop._prompt(fake, n)) for n in numbers]

    whole = asked(*range(28))
    assert all(sorted(whole[at : at + 7]) == sorted(whole[:7]) for at in range(0, 28, 7))
    assert len({tuple(whole[at : at + 7]) for at in range(0, 28, 7)}) > 1
    assert asked(20, 12, 21, 3) == [whole[20], whole[12], whole[21], whole[3]]
