"""Recipes: how a file becomes stages, what is refused before anything runs, and which words say so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("peft")

from heedful.errors import HeedfulError, UserError
from heedful.pipeline import Pipeline, read
from heedful.pipeline.changes import first_change, settings_as_now
from heedful.pipeline.record import Entry, Record, claim, digest
from heedful.pipeline.words import headline
from heedful.settings import read_yaml
from heedful.training.config import TrainConfig

Call = Callable[..., tuple[int, str, str]]
SFT: dict[str, Any] = {"method": "sft", "dataset": "commons"}


def recipe(folder: Path, **values: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"stages": {"sft": SFT}, **values}, sort_keys=False))
    return path


def refused(folder: Path, *words: str, **values: Any) -> str:
    with pytest.raises(UserError) as err:
        read(recipe(folder, **values), words)
    return str(err.value)


def config(pipeline: Pipeline, stage: str) -> Any:
    return pipeline.step(stage).config


# ---------------------------------------------------------------- recipes that come with heedful

SHIPPED = Path(__file__).parents[2] / "recipes" / "context-emotion-rl.yaml"


@pytest.mark.parametrize("reward", read_yaml(SHIPPED)["options"]["reward"]["choices"])
def test_every_reward_of_the_shipped_recipe_can_be_chosen(reward: str) -> None:
    words = [f"reward={reward}", *(["heldout=scorers"] if reward == "lexical" else [])]
    found = read(SHIPPED, words)
    assert [s.label or s.name for s in config(found, "rl").heldout][:2] == ["emotion_heldout", "strategy_heldout"]
    assert config(found, "rl").heldout == config(found, "test").heldout


# ---------------------------------------------------------------- options and references

OPTIONS = {
    "rate": {"default": 0.001},
    "size": {"default": "small", "choices": {"small": 2, "large": 16}},
    "loader": {"default": "v1", "choices": ["v1", "v2"]},
    "fmt": {"default": "bare", "choices": {"bare": {"name": "chat"}, "kind": {"name": "chat", "system": "Be kind."}}},
    "half": {"default": False, "choices": [True, False]},
}


def test_a_whole_value_keeps_its_type_and_text_gets_text(tmp_path: Path) -> None:
    stage = {
        **SFT,
        "learning_rate": "${options.rate}",
        "lora_rank": "${options.size}",
        "format": "${options.fmt}",
        "gradient_checkpointing": "${options.half}",
        "lora_target": ["${options.loader}", "x-${options.size}-${options.half}"],
    }
    file = recipe(tmp_path, options=OPTIONS, stages={"sft": stage})
    first = config(read(file), "sft")
    assert (first.learning_rate, first.lora_rank, first.format) == (0.001, 2, {"name": "chat"})
    assert first.gradient_checkpointing is False
    assert first.lora_target == ["v1", "x-2-false"]
    changed = read(file, ["rate=1e-2", "size=large", "fmt=kind", "half=true", "loader=v2"])
    found = config(changed, "sft")
    assert (found.learning_rate, found.lora_rank) == (0.01, 16)
    assert found.format == {"name": "chat", "system": "Be kind."}
    assert found.gradient_checkpointing is True
    assert found.lora_target == ["v2", "x-16-true"]
    assert changed.options == {"rate": 0.01, "size": "large", "loader": "v2", "fmt": "kind", "half": True}


def test_a_choice_can_refer_to_stages_and_options(tmp_path: Path) -> None:
    """Only what is chosen counts: the other choice refers to a stage that is left out."""
    options = {
        "method": {"default": "short", "choices": ["short", "long"]},
        "start": {"default": "first", "choices": {"first": "${stages.a}", "both": "${stages.b}"}},
        "seed": {"default": 5},
        "name": {"default": "run-${options.seed}"},
    }
    stages = {
        "a": SFT,
        "b": {**SFT, "when": {"method": "long"}, "model_name_or_path": "${stages.a}"},
        "c": {**SFT, "model_name_or_path": "${options.start}", "seed": "${options.seed}"},
    }
    file = recipe(tmp_path, output_dir="runs/${options.name}", options=options, stages=stages)
    short = read(file, ["seed=7"])
    assert [step.name for step in short.steps] == ["a", "c"]
    assert short.folder == Path("runs/run-7")
    assert short.left_out == {"b": "method is short and it runs for long"}
    assert (config(short, "c").model_name_or_path, config(short, "c").seed) == ("runs/run-7/a", 7)
    assert short.step("c").needs == ("a",)
    assert short.step("c").settings["model_name_or_path"] == "${stages.a}"
    long = read(file, ["method=long", "start=both"])
    assert long.step("c").needs == ("b",)
    assert long.dependents(["a"]) == ("a", "b", "c")
    said = refused(tmp_path, "start=both", options=options, stages=stages)
    assert "stage 'c': it refers to the stage 'b', which is left out: method is short and it runs for long." in said


def test_a_named_choice_can_name_the_folder(tmp_path: Path) -> None:
    file = recipe(tmp_path, output_dir="runs/x-${options.fmt}", options=OPTIONS, title="Format ${options.fmt}")
    found = read(file, ["fmt=kind"])
    assert (found.folder, found.title) == (Path("runs/x-kind"), "Format kind")
    assert read(recipe(tmp_path)).folder == Path("runs/mine")
    assert read(recipe(tmp_path), ["output_dir=elsewhere"]).folder == Path("elsewhere")


def test_two_dollars_are_one(tmp_path: Path) -> None:
    file = recipe(tmp_path, stages={"sft": {**SFT, "format": {"name": "chat", "system": "Say $${name}, $5."}}})
    step = read(file).step("sft")
    assert step.config.model_dump()["format"]["system"] == "Say ${name}, $5."
    assert step.settings["format"]["system"] == "Say $${name}, $5."  # what the resolved recipe has to hold


def test_shared_settings_lie_under_the_stages_that_have_them(tmp_path: Path) -> None:
    shared = {
        "dataset": "commons",
        "num_train_epochs": 3,
        "split": "valid",
        "format": {"name": "chat", "merge_turns": True},
    }
    stages = {
        "a": {"method": "sft"},
        "b": {"method": "sft", "num_train_epochs": 1, "format": "strategy"},
        "test": {"method": "eval", "model_name_or_path": "${stages.b}"},
    }
    found = read(recipe(tmp_path, shared=shared, stages=stages))
    assert [config(found, s).num_train_epochs for s in "ab"] == [3, 1]
    assert [config(found, s).format for s in "ab"] == [shared["format"], "strategy"]
    assert (config(found, "test").split, config(found, "test").dataset) == ("valid", "commons")
    words = ["a.format.system=Be brief.", "stages.test.split=test", "seed=3"]
    changed = read(recipe(tmp_path, shared=shared, stages=stages), words)
    assert config(changed, "a").format == {**shared["format"], "system": "Be brief."}
    assert config(changed, "test").split == "test"
    assert [config(changed, s).seed for s in ("a", "b", "test")] == [3, 3, 3]


def test_an_override_finds_what_an_option_stands_for(tmp_path: Path) -> None:
    file = recipe(tmp_path, options=OPTIONS, stages={"sft": {**SFT, "format": "${options.fmt}"}})
    found = config(read(file, ["fmt=kind", "sft.format.merge_turns=true"]), "sft")
    assert found.format == {"name": "chat", "system": "Be kind.", "merge_turns": True}
    assert config(read(file, ["sft.lora_rank=${options.size}", "size=large"]), "sft").lora_rank == 16


def test_an_option_can_choose_the_method(tmp_path: Path) -> None:
    options = {"kind": {"default": "sft", "choices": ["sft", "eval"]}}
    stages = {"a": {"method": "${options.kind}", "model_name_or_path": "x"}}
    file = recipe(tmp_path, options=options, stages=stages, shared={"max_steps": 4, "split": "test"})
    assert config(read(file), "a").max_steps == 4
    assert config(read(file, ["kind=eval"]), "a").split == "test"


# ---------------------------------------------------------------- refused

TWO = {"a": SFT, "b": {**SFT, "model_name_or_path": "${stages.a}"}}
CASES: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "no stages": ({"stages": {}}, [], r"'stages': Dictionary should have at least 1 item"),
    "unknown key": ({"option": {}}, [], r"mine\.yaml: unknown key 'option'\. Did you mean 'options'\?"),
    "key of an option": (
        {"options": {"a": {"default": 1, "choice": [1]}}},
        [],
        r"unknown key 'options\.a\.choice'",
    ),
    "default is no choice": (
        {"options": {"a": {"default": 3, "choices": [1, 2]}}},
        [],
        r"'default' is one of 1, 2, but got 3",
    ),
    "a name that is a path": ({"stages": {"a/b": SFT}}, [], r"'a/b' cannot be a name here; use letters"),
    "no method": ({"stages": {"a": {"dataset": "commons"}}}, [], r"stage 'a': expected 'method' .* it is null\.$"),
    "unknown method": ({"stages": {"a": {"method": "sftt"}}}, [], r"stage 'a': Unknown stage method 'sftt'\. Did you"),
    "unknown setting": (
        {"stages": {"a": {**SFT, "max_step": 3}}},
        [],
        r"stage 'a': unknown key 'max_step'\. Did you mean 'max_steps'\?",
    ),
    "wrong value": ({"stages": {"a": {**SFT, "seed": "x"}}}, [], r"mine\.yaml, stage 'a': 'seed': .*but got 'x'\.$"),
    "unknown corpus": ({"stages": {"a": {"method": "sft", "dataset": "esconf"}}}, [], r"stage 'a': Unknown corpus"),
    "unknown metric": (
        {"stages": {"a": {"method": "eval", "model_name_or_path": "x", "metrics": ["bleuu"]}}},
        [],
        r"stage 'a': .*bleuu",
    ),
    "own folder": ({"stages": {"a": {**SFT, "output_dir": "x"}}}, [], r"'output_dir' cannot be set here; a stage's f"),
    "own resume": ({"stages": {"a": {**SFT, "resume_from_checkpoint": True}}}, [], r"stages resume by themselves\.$"),
    "shared by nobody": ({"shared": {"datasett": "x"}}, [], r"no stage has the key 'shared\.datasett'\. Did you mean"),
    "unknown option in a value": (
        {"options": {"rate": {"default": 1}}, "stages": {"a": {**SFT, "learning_rate": "${options.rat}"}}},
        [],
        r"stage 'a': unknown reference \$\{options\.rat\}\. Did you mean 'options\.rate'\? Known: options\.rate, stag",
    ),
    "unknown kind of reference": (
        {"stages": {**TWO, "c": {**SFT, "model_name_or_path": "${stage.a}/x"}}},
        [],
        r"stage 'c': unknown reference \$\{stage\.a\}\. Did you mean 'stages\.a'\?",
    ),
    "later stage": (
        {"stages": {"b": {**SFT, "model_name_or_path": "${stages.a}"}, "a": SFT}},
        [],
        r"stage 'b': it refers to the stage 'a', which comes after it; a stage can only use earlier ones\.$",
    ),
    "itself": ({"stages": {"a": {**SFT, "model_name_or_path": "${stages.a}"}}}, [], r"it refers to itself;"),
    "options in a circle": (
        {
            "options": {"x": {"default": "${options.y}"}, "y": {"default": "${options.x}"}},
            "stages": {"a": {**SFT, "format": "${options.x}"}},
        },
        [],
        r"the option 'x' leads to itself \(x -> y -> x\)",
    ),
    "a list in a text": (
        {"options": {"x": {"default": [1]}}, "stages": {"a": {**SFT, "format": "a ${options.x}"}}},
        [],
        r"\$\{options\.x\} is a list and cannot be part of a text; use it as a whole value\.$",
    ),
    "when of no option": ({"stages": {"a": {**SFT, "when": {"x": [1]}}}}, [], r"names the option 'x', which is not"),
    "when of no choice": (
        {"options": OPTIONS, "stages": {"a": {**SFT, "when": {"loader": ["v3"]}}}},
        [],
        r"'loader' is one of v1, v2, but got v3\.$",
    ),
    "nothing left": (
        {"options": OPTIONS, "stages": {"a": {**SFT, "when": {"loader": ["v2"]}}}},
        [],
        r"every stage is left out; loader is v1 and it runs for v2\.$",
    ),
    "word that is no override": ({}, ["fast"], r"'fast' is no override; write key=value"),
    "unknown option": (
        {"options": OPTIONS},
        ["lodaer=v2"],
        r"has no option 'lodaer'\. Did you mean 'loader'\? Options: rate, .*; .* STAGE\.lodaer=VALUE \(stages: sft\)",
    ),
    "unknown choice": ({"options": OPTIONS}, ["loader=v3"], r"'loader' is one of v1, v2, but got v3\.$"),
    "misspelt choice": ({"options": OPTIONS}, ["size=smal"], r"small, large, but got smal\. Did you mean 'small'\?$"),
    "true is not 1": ({"options": {"n": {"default": 1, "choices": [1, 2]}}}, ["n=true"], r"one of 1, 2, but got true"),
    "unknown stage": ({}, ["sfd.seed=1"], r"has no stage 'sfd'\. Did you mean 'sft'\? Stages: sft\.$"),
    "unknown stage, long": ({}, ["stages.rl.seed=1"], r"has no stage 'rl'\. Stages: sft\.$"),
    "condition from outside": ({}, ["sft.when=1"], r"'when' cannot be set here; change it in the file\.$"),
    "override of what is left out": (
        {"options": OPTIONS, "stages": {"a": {**SFT, "when": {"loader": ["v2"]}}, "b": SFT}},
        ["a.seed=1"],
        r"'a\.seed=1' would change nothing: the stage is left out, as loader is v1",
    ),
    "seed that nobody takes": (
        {"stages": {"a": {**SFT, "seed": 1}}},
        ["seed=2"],
        r"seed=2 would change nothing: every stage of .* has a seed of its own; write STAGE\.seed=VALUE\.$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    values, words, said = CASES[case]
    assert re.search(said, refused(tmp_path, *words, **values))


def test_the_command_says_it_in_one_sentence_and_makes_nothing(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = recipe(tmp_path)
    for words in (["train", file, "x=1"], ["train", file, "--dry-run", "x=1"], ["validate", file, "x=1"]):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"heedful: .*has no option 'x'\..*\n", err)
    for words, said in (
        (["train", file, "--only", "rl"], r"has no stage 'rl'\. Stages: sft\."),
        (["train", file, "--only", "sft", "--until", "sft"], r"--only and --until contradict each other"),
        (["train", "dataset=commons", "--only", "sft"], r"--only is for recipes, and dataset=commons has no stages"),
        (["config", "show", file], r"mine\.yaml is a recipe of stages; see it with heedful train"),
    ):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert re.search(said, err)
    assert not (tmp_path / "runs" / "mine" / "pipeline.json").exists()


def test_a_dry_run_shows_every_setting_and_writes_nothing(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages = {**TWO, "test": {"method": "eval", "model_name_or_path": "${stages.b}", "when": {"loader": "v2"}}}
    file = recipe(tmp_path, options=OPTIONS, stages=stages)
    code, out, err = call("train", file, "a.seed=4", "--dry-run")
    assert (code, err) == (0, "")
    for line in (
        "# mine -> runs/mine",
        "# a (sft): to do",
        "# b (sft, after a): to do",
        "a.seed: 4",
        'b.model_name_or_path: "${stages.a}"',
        "# test: left out, as loader is v1 and it runs for v2",
    ):
        assert line in out.splitlines()
    assert not (tmp_path / "runs").exists()
    found = json.loads(call("train", file, "a.seed=4", "--dry-run", "--json")[1])
    assert [(s["stage"], s["state"], s["needs"]) for s in found["stages"]] == [
        ("a", "to do", []),
        ("b", "to do", ["a"]),
    ]
    assert found["stages"][0]["settings"]["seed"] == 4


# ---------------------------------------------------------------- parts


def test_the_first_change_is_named_by_its_path() -> None:
    old = {"format": "chat", "rewards": [{"name": "a", "weight": 1.0}], "seed": 1, "extra": 0}
    assert first_change(old, {**old, "format": {"name": "chat"}}) is None
    assert first_change(old, {"seed": 2}) == ("seed", "1", "2")
    assert first_change(old, {"rewards": [{"name": "a", "weight": 0.5}]}) == ("rewards.0.weight", "1.0", "0.5")
    assert first_change(old, {"rewards": []}) == ("rewards", "a list of 1", "a list of 0")
    assert first_change(old, {"seed": 2, "format": "x" * 70}, but=frozenset({"seed"})) == (
        "format",
        '"chat"',
        "a text of 70 characters",
    )


def test_a_key_that_is_younger_than_the_record_had_its_default() -> None:
    now = TrainConfig().model_dump(mode="json")
    old = {k: v for k, v in now.items() if k != "overlong"}
    assert first_change(settings_as_now(TrainConfig, old), now) is None
    assert first_change(settings_as_now(TrainConfig, {**old, "gone": 1}), {**now, "seed": 5}) == ("seed", "13", "5")


def test_a_record_that_is_none(tmp_path: Path) -> None:
    for content, said in (
        ("{", "damaged"),
        ("[1]", "damaged"),
        ('{"version": 1, "stages": {"a": {}}}', "damaged"),
        ('{"version": 9}', "of version 9"),
    ):
        (tmp_path / "pipeline.json").write_text(content)
        with pytest.raises(HeedfulError, match=said):
            Record.read(tmp_path)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    entry = Entry(hash="h", method="sft", settings={"a": [1]}, needs={"b": "g"}, started="now", seconds=2.5)
    Record.read(tmp_path).with_entry("a", entry).save({"recipe": "x.yaml"})
    found = Record.read(tmp_path)
    assert found.entries == {"a": entry}
    assert found.without(("a",)).entries == {}
    assert [p.name for p in tmp_path.iterdir()] == ["pipeline.json"]


def test_the_digest_is_of_settings_and_of_what_was_needed() -> None:
    one = digest("sft", {"a": 1, "b": 2}, {"x": "h"})
    assert one == digest("sft", {"b": 2, "a": 1}, {"x": "h"})
    others = (digest("dpo", {"a": 1, "b": 2}, {"x": "h"}), digest("sft", {"a": 1, "b": 3}, {"x": "h"}))
    assert len({one, *others, digest("sft", {"a": 1, "b": 2}, {"x": "i"})}) == 4


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    said = r"run is in use by process \d+ on .*; wait for it, or choose another output_dir\.$"
    with claim(tmp_path / "run"), pytest.raises(UserError, match=said), claim(tmp_path / "run"):
        raise AssertionError("held twice")
    with claim(tmp_path / "run"):
        pass


def test_one_line_per_summary() -> None:
    figures = {"macro_f1": {"value": 45.25, "low": 40.0, "high": 50.0}, "majority": {"label": "calm", "macro_f1": 8.1}}
    assert headline({"kind": "train", "evaluation": figures}) == "macro-F1 45.2 (40.0 to 50.0); always calm: 8.1"
    assert headline({"kind": "train", "steps": 40, "stopped": "kl", "stop_reason": "KL passed 20."}) == (
        "40 steps, KL passed 20"
    )
    assert headline({"kind": "train", "steps": 1234, "stopped": "done", "best_eval_loss": None}) == "1,234 steps"
    findings = [{"status": "better", "text": "The second beats the first."}, {"status": "chance", "text": "More."}]
    assert headline({"kind": "study", "findings": findings}) == "The second beats the first."
    assert headline({"headline": "as it says"}) == "as it says"
    assert headline(None) == ""
    systems = [
        {"name": "trained", "kind": "model", "metrics": {"bleu": {"value": 3.456}}},
        {"name": "base", "kind": "model", "metrics": {"bleu": {"value": None}}},
        {"name": "fixed_reply", "kind": "baseline", "metrics": {"bleu": {"value": 1.0}}},
    ]
    metrics = {"perplexity": {"title": "Perplexity"}, "bleu": {"title": "BLEU"}}
    assert headline({"kind": "eval", "systems": systems, "metrics": metrics}) == "BLEU: trained 3.46, base —"


def test_a_file_of_one_run_is_no_recipe(tmp_path: Path, call: Call) -> None:
    (tmp_path / "study.yaml").write_text("kind: study\nsystems: {}\n")
    code, _, err = call("train", tmp_path / "study.yaml")
    assert (code, "use it with heedful eval study" in err) == (2, True)
    (tmp_path / "old.yaml").write_text("method: nothing\n")
    code, _, err = call("train", tmp_path / "old.yaml")
    assert code == 2
    assert "Unknown training method 'nothing'" in err
    assert read_yaml(tmp_path / "old.yaml") == {"method": "nothing"}
