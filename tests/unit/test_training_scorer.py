"""`method: scorer`: what a run leaves, what it refuses, and the rewards that ask it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from scorer_kit import LABELS, SECRET, SET, config, talks, trained, write

from heedful import classify, corpora
from heedful.classify.tfidf import TfIdf
from heedful.errors import ConfigError, DataError, HeedfulError, LeakError, NotFoundError, RunError, UserError
from heedful.scoring.rewards import REWARDS, Task, make
from heedful.settings import check, read_yaml, write_yaml
from heedful.testing import conversation
from heedful.training import Run
from heedful.training.methods import METHODS, configured
from heedful.training.scorer import SCORER, ScorerConfig, gather
from heedful.types import Label, Trace, Turn


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "talks.jsonl")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    return trained(tmp_path_factory.mktemp("runs") / "emotion", data)


# ------------------------------------------------------------------------------------------- what a run leaves


def test_the_method_is_in_the_table() -> None:
    assert METHODS.get("scorer") is SCORER
    method, settings = configured({"method": "scorer", "features": "tfidf", "label_set": "hope_act"})
    assert method is SCORER
    assert isinstance(settings, ScorerConfig)
    with pytest.raises(ConfigError, match=r"unknown key 'feature'\. Did you mean 'features'"):
        configured({"method": "scorer", "feature": "tfidf"})


def test_a_run_folder_is_whole_and_tells_nothing(run: Run) -> None:
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "README.md", "config.resolved.yaml", "metrics.jsonl", "report.html", "scorer.json", "scorer.npz",
        "summary.json",
    ]  # fmt: skip
    assert json.loads((run.folder / "summary.json").read_text("utf-8")) == run.summary
    for path in run.folder.iterdir():
        assert SECRET.encode() not in path.read_bytes(), path.name
    record = read_yaml(run.folder / "config.resolved.yaml")
    assert record["x_heedful"]["data_hash"] == run.summary["data_hash"]
    assert {**config(run.folder, Path("x")).model_dump(), "dataset": record["dataset"]}.items() <= record.items()
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert rows[-1]["head_steps"] > 1
    assert rows[-1]["head_loss"] < 1.2  # it begins at about log 7 = 1.95


def test_the_summary_has_figures_with_intervals_beside_their_floor(run: Run) -> None:
    found = run.summary["evaluation"]
    assert (run.summary["kind"], run.summary["method"], run.summary["labels"]) == ("train", "scorer", list(LABELS))
    assert (found["turns"], found["dialogues"], found["split"]) == (72, 12, "valid")
    assert sum(map(sum, found["confusion"])) == 72
    for name in ("macro_f1", "accuracy", "weighted_f1"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
        assert found["majority"][name] < found[name]["low"]
    # 10 % of the labels are drawn anew, so no scorer can be much better than this.
    assert 80 < found["accuracy"]["value"] < 100
    assert found["macro_f1_present"] == pytest.approx(found["macro_f1"]["value"] * 7 / 3)
    assert found["nll"] < found["nll_of_shares"]
    hits = [row[k] for k, row in enumerate(found["confusion"])]
    for k, (label, row) in enumerate(found["per_label"].items()):
        assert row["train_turns"] == run.summary["train_labels"][label]
        assert row["recall"] == (pytest.approx(100 * hits[k] / row["turns"]) if row["turns"] else None)
    assert sum(b["n"] for b in found["reliability"]) == 72
    assert run.summary["train_turns"] + run.summary["calibration_turns"] == 180


def test_card_and_page_say_what_it_is(run: Run) -> None:
    card = (run.folder / "README.md").read_text("utf-8")
    assert "no diagnosis" in card
    assert re.search(r"\| macro-F1 \| \d+\.\d \[\d+\.\d, \d+\.\d\] \| \d+\.\d \|", card)
    assert "The training data are under Apache-2.0." in card
    page = (run.folder / "report.html").read_text("utf-8")
    assert page.count("<svg class='curve'") == 1
    assert "calibrated</text>" in page
    assert "<script" not in page
    assert os.stat(run.folder / "report.html").st_mode & 0o077 == 0


def test_data_that_may_not_be_shared_make_a_scorer_that_may_not(tmp_path: Path) -> None:
    parts = [*talks(12, split="train"), *talks(4, split="valid")]
    closed = write(tmp_path / "closed.jsonl", [replace(c, licence="asked for, for research only") for c in parts])
    found = trained(tmp_path / "run", closed)
    assert found.summary["publishable"] is False
    assert "Do not publish these weights" in (found.folder / "README.md").read_text("utf-8")
    assert classify.load(found.folder).record["publishable"] is False


def test_the_scorer_knows_where_it_comes_from(run: Run) -> None:
    model = classify.load(run.folder)
    assert model.fingerprint == run.summary["fingerprint"]
    assert model.record["train_split"] == "train"
    assert (model.record["seed"], model.record["features"], model.record["data_hash"]) == (
        13, "tfidf", run.summary["data_hash"],
    )  # fmt: skip
    assert model.record["labels_seen"] == ["anger", "joy", "neutral"]


def test_fit_temperature_and_figures_are_of_different_dialogues(data: Path, tmp_path: Path) -> None:
    inputs = gather(config(tmp_path, data, calibration_share=0.2))
    assert inputs.evaluation is not None
    groups = [set(part.clusters) for part in (inputs.train, inputs.held, inputs.evaluation)]
    assert [len(g) for g in groups] == [24, 6, 12]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    other = gather(config(tmp_path, data, calibration_share=0.2, seed=14))
    assert set(other.held.clusters) != groups[1]
    assert other.data_hash == inputs.data_hash


def test_units_roles_and_context_choose_what_is_learnt_from(data: Path, tmp_path: Path) -> None:
    def items(**values: Any) -> Any:
        return gather(config(tmp_path, data, calibration="none", **values)).train

    assert len(items()) == 180
    assert len(items(roles=["assistant"])) == 90
    shown = items(context=2)
    assert [len(item.context) for item in shown.items[:4]] == [0, 1, 2, 2]
    assert shown.items[3].context == (shown.items[1].text, shown.items[2].text)
    assert {item.role for item in items(speaker=True).items} == {"user", "assistant"}
    assert {item.role for item in shown.items} == {"assistant"}  # not told who speaks
    twice = replace(conversation("a", "c", labels={0: {SET: "joy"}}), split="train")
    second = Turn(role="user", text="b", labels=(Label(set=SET, value="fear"),))
    twice = replace(twice, turns=(twice.turns[0], second, twice.turns[1]))
    merged = write(tmp_path / "merged.jsonl", [twice, *talks(3, split="train"), *talks(2, split="valid")])
    one = gather(config(tmp_path, merged, unit="turn", calibration="none")).train
    assert (one.items[0].text, one.gold[0]) == ("a b", "fear")


def test_without_calibration_and_without_a_part_to_measure_on(data: Path, tmp_path: Path) -> None:
    found = trained(tmp_path / "run", data, calibration="none", eval_split=None)
    assert (found.summary["temperature"], found.summary["evaluation"]) == (1.0, None)
    assert "Not measured" in (found.folder / "README.md").read_text("utf-8")
    assert "Nothing was measured" in (found.folder / "report.html").read_text("utf-8")


def test_a_dry_run_counts_and_writes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = SCORER.plan(config(tmp_path / "run", data))
    assert (found["train_turns"], found["calibration_turns"], found["eval_turns"]) == (162, 18, 72)
    assert sum(found["train_labels"].values()) == 162
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ continuing, failing


def test_a_finished_run_is_kept_and_not_written_over(run: Run, data: Path) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        trained(run.folder, data)
    said: list[str] = []
    again = SCORER.train(config(run.folder, data, resume_from_checkpoint=True), say=said.append)
    assert again.summary == run.summary
    assert "finished already" in said[-1]
    with pytest.raises(ConfigError, match="had seed: 13, and now it is 14"):
        trained(run.folder, data, resume_from_checkpoint=True, seed=14)


def test_a_run_that_died_is_made_anew(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: Any, lesson: Any) -> None:
        raise RunError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(TfIdf, "fit", dies)
        with pytest.raises(RunError):
            trained(tmp_path / "run", data)
    with pytest.raises(NotFoundError, match="holds no scorer"):
        classify.load(tmp_path / "run")
    assert trained(tmp_path / "run", data, resume_from_checkpoint=True).summary["evaluation"]


REFUSED: dict[str, tuple[dict[str, Any], type[HeedfulError], str]] = {
    "the test part": ({"train_split": "test"}, ConfigError, r"never trained on the test part.*set train_split: train"),
    "its own exam": ({"eval_split": "train"}, ConfigError, "both 'train'.*learnt by heart"),
    "everything": ({"train_split": None, "eval_split": None}, ConfigError, "holds dialogues of its test part"),
    "an unknown set": ({"label_set": "mesc_emotions"}, ConfigError, r"Did you mean 'mesc_emotion'"),
    "unknown features": ({"features": "tfidf+minilmm"}, ConfigError, r"Did you mean 'minilm'"),
    "features twice": ({"features": "tfidf+tfidf"}, ConfigError, "several different ones"),
    "a set of several labels": ({"label_set": "values"}, ConfigError, "allows several labels a turn"),
    "labels that are not there": ({"label_set": "hope_act"}, DataError, "No turn of role user and assistant in"),
    "no roles": ({"roles": []}, ConfigError, "'roles'"),
    "a tuned encoder with context": ({"features": "minilm_tuned", "context": 2}, ConfigError, "reads the turn alone"),
    "a wrong weight": ({"class_weight": "balance"}, ConfigError, "'class_weight'"),
    "a penalty of nothing": ({"l2": 0}, ConfigError, "'l2'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused_in_one_sentence(case: str, data: Path, tmp_path: Path) -> None:
    values, kind, said = REFUSED[case]
    with pytest.raises(kind) as err:
        trained(tmp_path / "run", data, **values)
    assert re.search(said, str(err.value)), str(err.value)
    assert SECRET not in str(err.value)


def test_poor_data_are_refused_by_what_is_missing(tmp_path: Path) -> None:
    valid = talks(2, split="valid")
    one = [replace(conversation("a", "b", labels={0: {SET: "joy"}}), split="train"), *valid]
    with pytest.raises(DataError, match="Only 1 training dialogue carries labels"):
        trained(tmp_path / "run", write(tmp_path / "one.jsonl", one))
    same = [replace(c, turns=tuple(replace(t, labels=(Label(set=SET, value="joy"),)) for t in c.turns))
            for c in talks(3, split="train")]  # fmt: skip
    with pytest.raises(DataError, match="needs at least 2 labels"):
        trained(tmp_path / "run", write(tmp_path / "same.jsonl", [*same, *valid]))
    bare = [replace(c, turns=tuple(replace(t, labels=()) for t in c.turns)) for c in valid]
    with pytest.raises(DataError, match="so nothing could be measured"):
        trained(tmp_path / "run", write(tmp_path / "bare.jsonl", [*talks(3, split="train"), *bare]))
    stray = [
        replace(conversation("a", "b", labels={0: {SET: "bliss"}}), split="train"),
        *talks(3, split="train"),
        *valid,
    ]
    with pytest.raises(DataError, match="has no label 'bliss'"):
        trained(tmp_path / "run", write(tmp_path / "stray.jsonl", stray))


def test_a_dialogue_on_both_sides_is_a_leak(tmp_path: Path) -> None:
    parts = talks(6, split="train")
    copied = write(tmp_path / "leak.jsonl", [*parts, *(replace(c, id=f"{c.id}x", split="valid") for c in parts[:3])])
    with pytest.raises(LeakError):
        trained(tmp_path / "run", copied)
    found = trained(tmp_path / "run", copied, allow_leaks=True)
    assert any("leaks allowed" in note for note in found.summary["notes"])


# ---------------------------------------------------------------------------------------------------- rewards


def trace(reply: str, **fields: Any) -> Trace:
    return Trace(id="t/1", conversation_id="t", turn=1, reply=reply, **fields)


def task(label: str | None = "joy", *, said: str | None = None) -> Task:
    context = conversation("And how was it?", labels={0: {SET: said}} if said else {})
    labels = () if label is None else (Label(set=SET, value=label),)
    return Task(id="t/1", context=context, reference=Turn(role="assistant", text="x", labels=labels))


def test_the_reward_is_the_probability_of_the_gold_label(run: Run) -> None:
    model = classify.load(run.folder)
    replies = ["glad and delighted", "furious, shouting", "glad and delighted"]
    rewards = make([{"name": "emotion", "params": {"scorer": str(run.folder)}}])
    scored = rewards([trace(r) for r in replies], [task("joy"), task("joy"), task("anger")])
    rows = model.probabilities(replies)
    joy, anger = LABELS.index("joy"), LABELS.index("anger")
    assert scored.values[:, 0].tolist() == [rows[0, joy], rows[1, joy], rows[2, anger]]
    assert scored.values[0, 0] > 0.6 > 0.3 > scored.values[1, 0]


def test_options_of_the_reward(run: Run) -> None:
    place = {"scorer": str(run.folder)}
    traces, tasks = [trace("glad and delighted")] * 2, [task("anger", said="joy"), task(None)]
    rewards = make(
        [
            {"name": "emotion", "label": "hard", "params": {**place, "hard": True}},
            {"name": "emotion", "label": "fixed", "params": {**place, "label": "joy", "hard": True}},
            {"name": "emotion", "label": "said", "params": {**place, "of": "said", "hard": True}},
        ]
    )
    scored = rewards(traces, tasks)
    assert scored.values[0].tolist() == [0.0, 1.0, 1.0]
    assert scored.reasons[1] == ("no gold label", None, "no gold label")


def test_silence_is_no_way_out(run: Run) -> None:
    rewards = make([{"name": "emotion", "params": {"scorer": str(run.folder)}}])
    assert rewards([trace(" \n")], [task("neutral")]).values[0, 0] == 0.0
    assert rewards([trace(" \n")], [task(None)]).reasons[0] == ("no gold label",)


def test_a_gold_label_from_elsewhere_is_unscored(run: Run) -> None:
    rewards = make([{"name": "emotion", "params": {"scorer": str(run.folder)}}])
    assert rewards([trace("glad")], [task("bliss")]).reasons[0] == ("the gold label is not in the scorer's set",)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"label": "bliss"}, "has no label 'bliss'. It has: neutral"),
        ({"of": "model"}, "should be 'reference' or 'said'"),
    ],
)
def test_wrong_options_of_the_reward(run: Run, params: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make([{"name": "emotion", "params": {"scorer": str(run.folder), **params}}])([trace("glad")], [task()])


def test_a_scorer_that_saw_the_test_part_is_no_judge(run: Run, tmp_path: Path) -> None:
    model = classify.load(run.folder)
    twin = replace(model, record={**model.record, "train_split": "test"})
    twin.save(tmp_path)
    rewards = make([{"name": "emotion", "params": {"scorer": str(tmp_path)}}])
    with pytest.raises(ConfigError, match="was trained on the test part"):
        rewards([trace("glad")], [task()])
    with pytest.raises(NotFoundError, match="train one with"):
        make([{"name": "act", "params": {"scorer": "nowhere"}}])([trace("glad")], [task()])


def test_a_scorer_with_context_is_shown_what_came_before(data: Path, tmp_path: Path) -> None:
    found = trained(tmp_path / "run", data, context=1)
    model = classify.load(found.folder)
    rewards = make([{"name": "emotion", "params": {"scorer": str(found.folder)}}])
    value = rewards([trace("glad")], [task("joy")]).values[0, 0]
    assert value == model.probabilities(["glad"], [["And how was it?"]])[0, LABELS.index("joy")]


def test_the_tag_is_the_models_own_word() -> None:
    rewards = make([{"name": "tag", "params": {"label_set": SET}}])
    traces = [trace("x", plan={SET: "joy"}), trace("x", plan={SET: "anger"}), trace("x"), trace("x", plan={SET: "joy"})]
    scored = rewards(traces, [task("joy")] * 3 + [task(None)])
    assert scored.values[:3, 0].tolist() == [1.0, 0.0, 0.0]
    assert scored.reasons[3] == ("no gold label",)
    score = REWARDS.get("tag").function(traces[2], task("joy"), label_set=SET)
    assert score.explanation == "no tag was written"


def test_the_three_names_are_one_function() -> None:
    assert {REWARDS.get(name).definition for name in ("emotion", "strategy", "act")} == {
        "Probability that a trained scorer gives, for the reply, to the label that the reference turn carries."
    }
    assert REWARDS.get("emotion").options == ("scorer", "of", "label", "hard")


# ----------------------------------------------------------------------------------------- through the outside


def test_the_resolved_file_repeats_the_run(run: Run, tmp_path: Path) -> None:
    values = read_yaml(run.folder / "config.resolved.yaml")
    values.pop("x_heedful")
    write_yaml(tmp_path / "again.yaml", {**values, "output_dir": str(tmp_path / "again")})
    again = SCORER.train(check(ScorerConfig, read_yaml(tmp_path / "again.yaml")))
    assert again.summary["fingerprint"] == run.summary["fingerprint"]
    assert again.summary["evaluation"] == run.summary["evaluation"]


@pytest.mark.slow
@pytest.mark.data("mesc")
def test_strategies_of_mesc_are_told_apart_better_than_by_the_floor(data_root: Path, tmp_path: Path) -> None:
    """Measured once: macro-F1 33.2 [29.0, 36.7], floor 4.3, 1,001 turns (see docs/scorers.md)."""
    method, settings = configured(
        {"method": "scorer", "dataset": "mesc", "label_set": "mesc_strategy", "roles": ["assistant"],
         "features": "tfidf", "seed": 42, "output_dir": str(tmp_path / "run")}
    )  # fmt: skip
    found = method.train(settings).summary["evaluation"]
    assert found["turns"] == 1001
    assert found["macro_f1"]["value"] == pytest.approx(33.2, abs=1.5)
    assert found["macro_f1"]["low"] > found["majority"]["macro_f1"]
    assert corpora.get("mesc").info.licence_class == "L"
    assert "Do not publish" in (tmp_path / "run" / "README.md").read_text("utf-8")
