"""DPO: inputs, the reference, what is learnt, what is kept, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("trl")

from preference_kit import Kit, kind_and_cold
from training_kit import Crash, Killed, Poison, assert_same_run, metrics, weights

from heedful import corpora, formats
from heedful.errors import ConfigError, DataError, MissingExtraError, RunError
from heedful.formats import encode
from heedful.models import causal
from heedful.testing import conversations, tiny_tokenizer
from heedful.training import dpo
from heedful.training.methods import configured
from heedful.training.preferences import gather


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("dpo"), "dpo")


@pytest.fixture(scope="module")
def learnt(kit: Kit) -> Any:
    return kit.run("learnt", max_steps=12, save_steps=12, per_device_eval_batch_size=20, eval_steps=12)


def settings(kit: Kit, **more: Any) -> Any:
    return configured(kit.values("none", **more))[1]


# ------------------------------------------------------------------------------------------------------- inputs


def test_a_policy_reads_what_it_reads_in_sft(tmp_path: Path, kit: Kit) -> None:
    """Prompt and better reply of every pair are the prompt and target of the format's samples."""
    path = tmp_path / "talks.jsonl"
    talks = conversations(5, seed=1)
    corpora.write_jsonl(path, talks)
    fmt, tokenizer = formats.make("chat"), tiny_tokenizer()
    config = settings(kit, dataset=str(path), train_split=None, eval_split=None)
    data = gather(config, seed=1, cut=dpo._cut(config, fmt))
    pairs, skipped = dpo.token_pairs(config, data.pairs("train"), fmt, tokenizer)
    samples = {s.id: s for c in talks for s in fmt.samples(c, tokenizer, max_length=1024)}
    assert skipped == 0
    assert len(pairs) == len(samples)
    for pair in pairs:
        assert (pair.prompt, pair.chosen) == (samples[pair.id].prompt, samples[pair.id].target)
        assert pair.rejected[-1] == tokenizer.eos_token_id


def test_long_pairs_are_refused_or_left_out(kit: Kit) -> None:
    fmt, tokenizer = formats.make("chat"), tiny_tokenizer()
    pairs = gather(settings(kit), seed=1).pairs("train")
    sizes = sorted(len(encode(fmt.prompt(p.context, tokenizer), tokenizer)) for p in pairs)
    limit = sizes[len(sizes) // 2] + 30
    with pytest.raises(DataError, match=rf"need more than max_length = {limit} tokens; raise max_length, or set"):
        dpo.token_pairs(settings(kit, max_length=limit), pairs, fmt, tokenizer)
    found, skipped = dpo.token_pairs(settings(kit, max_length=limit, overlong="skip"), pairs, fmt, tokenizer)
    assert 0 < skipped < len(pairs)
    assert len(found) + skipped == len(pairs)
    with pytest.raises(DataError, match="All 60 pairs are longer than max_length = 8"):
        dpo.token_pairs(settings(kit, max_length=8, overlong="skip"), pairs, fmt, tokenizer)


# ------------------------------------------------------------------------------------------------------ learning


def test_it_begins_at_the_reference_and_learns(learnt: Any) -> None:
    rows = [row for row in metrics(learnt.folder) if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert rows[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    held = learnt.summary["held"]["pairs"]
    assert held["accuracy"] >= 0.9
    assert held["margin_interval"][0] > 0
    assert 0 <= held["reference_prefers_chosen"] <= 1


@pytest.mark.parametrize("delta", ["lora", "full"])
def test_our_rewards_of_held_out_pairs_are_trls(kit: Kit, learnt: Any, delta: str) -> None:
    """Two ways to the same number: one pass over shared prompts, and TRL's padded rows. In `full` with a copy."""
    run = learnt
    if delta == "full":
        run = kit.run("full", delta="full", max_steps=3, eval_steps=3, per_device_eval_batch_size=20)
    (row,) = [row for row in metrics(run.folder) if "eval_loss" in row]
    assert run.summary["held"]["pairs"]["margin"] == pytest.approx(row["eval_rewards/margins"], rel=1e-3, abs=1e-5)
    assert run.summary["held"]["pairs"]["accuracy"] == pytest.approx(row["eval_rewards/accuracies"])


def test_the_reference_is_the_adapter_switched_off(kit: Kit, learnt: Any) -> None:
    policy, base = causal.load(str(learnt.folder)), causal.load(str(kit.model))
    ids = torch.tensor([policy.tokenizer("I slept badly.").input_ids])
    with torch.no_grad():
        with policy.model.disable_adapter():
            off = policy.model(input_ids=ids).logits
        torch.testing.assert_close(off, base.model(input_ids=ids).logits)
        assert not torch.allclose(policy.model(input_ids=ids).logits, off, atol=1e-3)
    assert set(policy.model.peft_config) == {"default"}
    assert not [name for name in weights(learnt.folder) if "ref" in name.split(".")]


@pytest.mark.parametrize("loss", ["ipo", "exo_pair"])
def test_other_losses(kit: Kit, loss: str) -> None:
    smoothing = {"label_smoothing": 1e-3} if loss == "exo_pair" else {}
    run = kit.run(f"loss-{loss}", loss_type=loss, max_steps=1, **smoothing)
    assert run.summary["loss_type"] == loss


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_it_starts_from_an_sft_run_with_its_markers(kit: Kit) -> None:
    """New tokens are learnt in `sft`; DPO, whose loss reads the output layer itself, only goes on with them."""
    from training_kit import Bench

    with pytest.raises(ConfigError, match=r"adds \d+ tokens that this model has never seen.*train method: sft"):
        kit.run("markers", format={"name": "strategy", "predict": False, "context_strategies": False})
    (kit.root / "sft").mkdir()
    before = Bench(kit.root / "sft").run("before", format="strategy", max_steps=1)
    run = kit.run("after", model_name_or_path=str(before.folder), dataset=str(kit.root / "sft" / "talks.jsonl"),
                  format="strategy", max_steps=1)  # fmt: skip
    assert (run.folder / "base" / "config.json").is_file()
    assert run.summary["held"]["pairs"]["pairs"] > 0


# ------------------------------------------------------------------------------------------------ going on, or not


def test_a_killed_run_goes_on_as_the_same_run(kit: Kit) -> None:
    more = {"max_steps": 6, "num_train_epochs": 5}
    whole = kit.run("whole", **more)
    with pytest.raises(Killed):
        kit.run("killed", Crash(4), **more)
    resumed = kit.run("killed", **more, resume_from_checkpoint=True)
    timing = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    assert_same_run(resumed.folder, whole.folder, without=("num_tokens", *timing))
    assert resumed.summary["held"] == whole.summary["held"]
    assert resumed.summary["tokens"] == whole.summary["tokens"]


def test_a_loss_that_is_no_number_ends_the_run(kit: Kit) -> None:
    with pytest.raises(RunError, match="The loss became nan at step 3; lower learning_rate"):
        kit.run("nan", Poison(3))
    assert (kit.root / "nan" / "checkpoints" / "checkpoint-2").is_dir()
    assert not (kit.root / "nan" / "checkpoints" / "README.md").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dropout": ({"lora_dropout": 0.1}, "lora_dropout has no effect"),
    "bias": ({"delta": "bias"}, "delta: bias changes the base itself"),
    "smoothing": ({"loss_type": "exo_pair"}, "exo_pair needs a label_smoothing above 0"),
    "loss": ({"loss_type": "sigmoyd"}, "'loss_type': Input should be 'sigmoid'"),
    "test": ({"train_split": "test"}, "train_split is test"),
    "key": ({"betta": 1}, "unknown key 'betta'. Did you mean 'beta'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_cannot_be(kit: Kit, case: str) -> None:
    values, said = REFUSED[case]
    with pytest.raises(ConfigError) as err:
        settings(kit, **values)
    assert said in str(err.value)


def test_single_replies_are_refused(kit: Kit) -> None:
    data = kind_and_cold(kit.root / "single.jsonl", single=True)
    with pytest.raises(ConfigError, match=r"method: dpo compares two replies, but .* holds single ones"):
        kit.run("single", dataset=str(data))


def test_a_missing_trl_is_named(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    find = dpo.importlib.util.find_spec
    monkeypatch.setattr(dpo.importlib.util, "find_spec", lambda name, *a: None if name == "trl" else find(name, *a))
    with pytest.raises(MissingExtraError, match=r"pip install torch==2\.13\.0 'heedful\[dpo\]'"):
        kit.run("none")


def test_a_plan_loads_no_weights(kit: Kit) -> None:
    method, config = configured(kit.values("plan"))
    found = method.plan(config)
    assert (found["pairs"], found["held_out"], found["steps"]) == (60, 20, 4)
    assert found["longest"] <= 1024
