"""`heedful train`, `validate` and `config`: what is refused and in which words, what is planned, what a run leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from training_kit import Bench, assert_same_run, corpus, losses, metrics
from transformers import AutoModelForCausalLM, AutoTokenizer

from heedful import corpora
from heedful.cli import main
from heedful.models import DELTAS
from heedful.settings import check, read_yaml
from heedful.testing import CHATML, save_tiny
from heedful.training import TrainConfig
from heedful.training.checkpoints import is_complete
from heedful.training.sharing import is_free

Call = Callable[..., tuple[int, str, str]]
SECRET = "zebra lantern"
"""Said in every broken file; no message may repeat it."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("cli"))


def words(values: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def assert_refused(found: tuple[int, str, str], said: str, *, late: bool = False) -> None:
    """Exit code 2 and one sentence; what only the weights can tell (`late`) comes after lines of progress."""
    code, out, err = found
    *before, sentence = err.splitlines()
    assert (code, out) == (2, ""), err
    assert all(late and line.startswith(("data ", "model ")) for line in before), err
    assert sentence.startswith("heedful: ")
    assert re.search(said, sentence), sentence
    assert sentence[-1] in ".?"
    assert "Traceback" not in err
    assert SECRET not in err


# ---------------------------------------------------------------- bad settings

SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (
        {"learning_rat": 1},
        r"unknown key 'learning_rat'\. Did you mean 'learning_rate'\? `heedful config schema` with the method's name "
        "lists all",
    ),
    "text for a number": ({"seed": "many"}, r"'seed': Input should be a valid integer.*but got 'many'\.$"),
    "list for a number": ({"seed": [1]}, r"'seed': Input should be a valid integer\.$"),
    "section for a number": ({"seed.x": 1}, r"'seed': Input should be a valid integer\.$"),
    "out of range": ({"learning_rate": -1}, r"'learning_rate': Input should be greater than 0, but got -1\.$"),
    "no number": ({"learning_rate": float("nan")}, r"'learning_rate': "),
    "none of the choices": ({"precision": "fp8"}, r"'precision': Input should be 'auto', 'fp32', .*but got 'fp8'\.$"),
    "no steps": ({"max_steps": 0}, r"'max_steps': expected -1 \(.*\) or at least 1, but got 0\.$"),
    "patience without evaluation": (
        {"early_stopping_patience": 2},
        r"early_stopping_patience needs eval_steps and eval_split\.$",
    ),
    "unknown delta": (
        {"delta": "lroa"},
        r"'delta': Unknown delta method 'lroa'\. Did you mean 'lora'\? Known: .*, vera\.$",
    ),
    "no such folder": ({"model_name_or_path": "/no/such/model"}, r"is '/no/such/model', but there is no such folder;"),
    "hub name offline": ({"model_name_or_path": "someone/nothing"}, r"'someone/nothing' \(offline: HF_HUB_OFFLINE is"),
    "nearly an embedded model": (
        {"model_name_or_path": "smollm2-135m-instrct"},
        r"Did you mean 'smollm2-135m-instruct'\?$",
    ),
    "unknown corpus": ({"dataset": "esconf"}, r"Unknown corpus 'esconf'\. Did you mean 'esconv'\? Known: annomi, "),
    "corpus elsewhere": ({"dataset": "hope"}, r"The corpus 'hope' is not here\."),
    "no file": ({"dataset": "nowhere.jsonl"}, r"There is no file 'nowhere\.jsonl'\.$"),
    "unknown option of a file": (
        {"dataset_options": {"one_sidd": "keep"}},
        r"no option 'one_sidd'\. Did you mean 'one_sided'\?",
    ),
    "unknown split": ({"train_split": "trian"}, r"no conversation with split 'trian'\. Did you mean 'train'\?"),
    "split that is not there": ({"eval_split": "test"}, r"with split 'test'\..*: 'train', 'valid'\. Give"),
    "turn longer than max_length": ({"max_length": 20}, r"'toy-1-0', turn 1: .*max_length = 20 tokens; raise max_len"),
    "all turns longer than max_length": (
        {"max_length": 20, "overlong": "skip"},
        r"All \d+ supporter turns were left out as longer than max_length = 20; raise max_length\.$",
    ),
    "unknown format": ({"format": "chta"}, r"Unknown format 'chta'\. Did you mean 'chat'\?"),
    "unknown format option": (
        {"format.sistem": "x"},
        r"The format 'chat' has no option 'sistem'\. Did you mean 'system'\?",
    ),
    "format without a name": ({"format": {"system": "x"}}, r"A format needs a 'name'"),
}


@pytest.mark.parametrize("verb", ["train", "validate"])
@pytest.mark.parametrize("case", SETTINGS)
def test_bad_settings(
    bench: Bench, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, case: str
) -> None:
    monkeypatch.delenv("HEEDFUL_DATA", raising=False)
    bad, said = SETTINGS[case]
    values = bench.values(str(tmp_path / "run"))
    values = {**values, **bad} if "format.sistem" not in bad else {**values, "format": "chat", **bad}
    assert_refused(call(verb, *words(values)), said)
    assert not (tmp_path / "run").exists()


YAML: dict[str, tuple[bytes | None, str]] = {
    "syntax": (b"seed: 1\nformat: {name: chat\n", r"c\.yaml, line 3, column 1: not valid YAML \("),
    "not UTF-8": (b"seed: 1\n# caf\xe9\n", r"c\.yaml is not UTF-8 \(byte 13\); save it as UTF-8\.$"),
    "a list": (b"- seed\n- 1\n", r"c\.yaml: expected 'key: value' lines, but it holds a list\.$"),
    "unknown key": (b"sed: 1\n", r"c\.yaml: unknown key 'sed'\. Did you mean 'seed'\?"),
    "not there": (None, r"There is no configuration file '.*c\.yaml'\.$"),
}


@pytest.mark.parametrize("verb", [("train",), ("train", "--dry-run"), ("validate",), ("config", "show")], ids=" ".join)
@pytest.mark.parametrize("case", YAML)
def test_bad_files_of_settings(call: Call, tmp_path: Path, verb: tuple[str, ...], case: str) -> None:
    content, said = YAML[case]
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    assert_refused(call(*verb, path), said)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed", r"'seed' is no override; write key=value"),
        ("lora_target=[1", r"'lora_target=\.\.\.' is not valid YAML"),
    ],
)
def test_bad_overrides(call: Call, tmp_path: Path, word: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text("seed: 1\n")
    assert_refused(call("train", tmp_path / "c.yaml", word), said)


# ---------------------------------------------------------------- bad data


def talk(id: str = "t1", *, labels: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"My {SECRET} went out last night."},
        {"role": "assistant", "content": f"Tell me about the {SECRET}."},
    ]
    return {"id": id, "split": "train", "messages": messages, "labels": labels or [], **more}


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in records).encode()


def strategy(value: str, turn: int = 1) -> list[dict[str, Any]]:
    return [{"turn": turn, "set": "esconv_strategy", "value": value}]


GOOD = lines(talk())
DATA: dict[str, tuple[bytes, str]] = {
    "malformed JSON": (
        GOOD + b'{"id": "x", "messages": [}\n',
        r"d\.jsonl, line 2, column 26: not valid JSON \(Expecting value\)",
    ),
    "JSON cut short": (GOOD + GOOD[:-20], r"d\.jsonl, line 2, column \d+: not valid JSON"),
    "not UTF-8": (GOOD + GOOD.replace(b"went", b"w\xe9nt"), r"d\.jsonl, line 2, byte \d+: not UTF-8\. Save the file"),
    "no object": (lines(SECRET), r"line 1, column 1: expected one JSON object, but it is a text\.$"),
    "empty": (b"", r"d\.jsonl: expected one conversation a line, but the file is empty\.$"),
    "unknown label": (
        lines(talk(), talk("t2", labels=strategy("Reflection of feelngs"))),
        r"line 2, label of message 1: .* no label like a text of 21 characters\. Did you mean 'Reflection of f",
    ),
    "label of no turn": (lines(talk(labels=strategy("Question", turn=7))), r"points to turn 7, but .* 0 to 1\.$"),
    "one-sided": (lines(talk(messages=talk()["messages"][:1])), r"line 1: the conversation 't1' has no 'assistant'"),
    "unknown role": (
        lines(talk(messages=[{"role": "coach", "content": SECRET}, *talk()["messages"]])),
        r"message 0: 'role' must be one of system, user, assistant, but it is 'coach'\.$",
    ),
    "no content": (
        lines(talk(messages=[{"role": "user"}, *talk()["messages"]])),
        r"message 0: expected an object with",
    ),
    "no messages": (lines({"id": "t1", "split": "train"}), r"Conversation 't1': 'messages' must be a list"),
    "id used twice": (lines(talk(), talk()), r"line 2: the id 't1' was used before, in line 1\."),
    "supporter speaks first only": (
        lines(talk(messages=talk()["messages"][::-1])),
        r"No supporter turn to learn from in 1 conversations; format 'chat' needs turns of role 'assistant'",
    ),
}


@pytest.mark.parametrize("verb", ["train", "validate"])
@pytest.mark.parametrize("case", DATA)
def test_bad_data(bench: Bench, call: Call, tmp_path: Path, verb: str, case: str) -> None:
    content, said = DATA[case]
    (tmp_path / "d.jsonl").write_bytes(content)
    values = bench.values(str(tmp_path / "run"), dataset=str(tmp_path / "d.jsonl"))
    assert_refused(call(verb, *words(values)), said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["train", "validate"])
def test_files_of_another_kind(bench: Bench, call: Call, tmp_path: Path, verb: str) -> None:
    for name, said in (("d.txt", r"is a file, but conversations are read from"), ("d.jsonl.gz", r"it is damaged\.")):
        (tmp_path / name).write_text(SECRET)
        values = bench.values(str(tmp_path / "run"), dataset=str(tmp_path / name))
        assert_refused(call(verb, *words(values)), said)


@pytest.mark.parametrize("verb", ["train", "validate"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "copy", "split": "valid"}, r"near-equal conversations in both train and valid: 1, such as t1 / copy\."),
        ({"id": "other", "split": "valid", "group": "person 1"}, r"groups .* in both train and valid: 1"),
    ],
    ids=["copy", "person"],
)
def test_a_leaking_split(
    bench: Bench, call: Call, tmp_path: Path, verb: str, change: dict[str, Any], said: str
) -> None:
    other = [{"role": "user", "content": "No."}, {"role": "assistant", "content": "Yes."}]
    long = [{**m, "content": m["content"] * 4} for m in talk()["messages"]]
    held = {"messages": other if "group" in change else long, **change}
    (tmp_path / "d.jsonl").write_bytes(lines(talk(messages=long, group="person 1"), talk(**held)))
    values = bench.values(str(tmp_path / "run"), dataset=str(tmp_path / "d.jsonl"), eval_split="valid")
    assert_refused(call(verb, *words(values)), said + r".*Divide the data anew before training\.$")
    code, out, _ = call("validate", *words({**values, "allow_leaks": True}))
    assert (code, out[:4]) == (0, "ok: ")


# ---------------------------------------------------------------- bad places


def test_nothing_to_resume_from(bench: Bench, call: Call, tmp_path: Path) -> None:
    values = bench.values(str(tmp_path / "run"))
    for more in (["--resume"], ["resume_from_checkpoint=true"]):
        assert_refused(call("train", *words(values), *more), r"There is no complete checkpoint in .*; start without")
    said = r"names '/no/such', which is no folder\.$"
    assert_refused(call("train", *words(values), "resume_from_checkpoint=/no/such"), said)
    (tmp_path / "checkpoint-3").mkdir()
    said = r"checkpoint-3 was not written to its end; set resume_from_checkpoint: true instead\.$"
    assert_refused(call("train", *words(values), f"resume_from_checkpoint={tmp_path}/checkpoint-3"), said)


def test_output_dir_that_is_taken(bench: Bench, call: Call, tmp_path: Path) -> None:
    values = bench.values(str(bench.run("taken", max_steps=1).folder))
    assert_refused(call("train", *words(values)), r"taken holds a run already; continue it with --resume, or choose")
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/deeper/run"):
        values["output_dir"] = str(tmp_path / place)
        assert_refused(call("train", *words(values)), r"output_dir is '.*', but .*file is a file; choose another\.$")
    assert (tmp_path / "file").read_text() == "mine"


LATE: dict[str, tuple[dict[str, Any], str]] = {
    "delta of no module": (
        {"delta": "nowhere:fn"},
        r"names the module 'nowhere', which cannot be imported; nowhere\.py is looked for in",
    ),
    "delta without work": (
        {"delta": "bias", "lora_rank": 16, "lora_alpha": 32},
        r"delta: bias trains bias terms, but this model has none; use lora, ",
    ),
    "delta and new tokens": (
        {"delta": "ia3", "format": "strategy"},
        r"delta: ia3 cannot train the \d tokens that this format adds",
    ),
    "layers that are not there": ({"lora_target": "nolayer"}, r"delta: lora does not fit this model: .*nolayer"),
}


@pytest.mark.parametrize("case", LATE)
def test_what_only_the_model_can_tell(bench: Bench, call: Call, tmp_path: Path, case: str) -> None:
    bad, said = LATE[case]
    values = bench.values(str(tmp_path / "run"), **bad)
    assert_refused(call("train", *words(values)), said, late=True)


def test_a_model_that_is_not_whole(bench: Bench, call: Call, tmp_path: Path) -> None:
    """A tokenizer without weights, and weights for fewer positions than a conversation has."""
    folder = save_tiny(tmp_path / "model")
    values = {**bench.values(str(tmp_path / "run")), "model_name_or_path": str(folder)}
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**shape, "max_position_embeddings": 64}))
    said = r"A conversation has \d{3} tokens, but .* was built for 64; set max_length: 64 or less\.$"
    assert_refused(call("train", *words(values)), said, late=True)
    (folder / "model.safetensors").unlink()
    assert_refused(call("train", *words(values)), r"Cannot load the model '.*model'", late=True)


# ---------------------------------------------------------------- plans


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("no model may be loaded here")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)


@pytest.mark.usefixtures("no_weights")
def test_a_dry_run_shows_settings_and_sizes_and_does_nothing(bench: Bench, call: Call, tmp_path: Path) -> None:
    values = bench.values(str(tmp_path / "run"), eval_split="valid", gradient_accumulation_steps=2)
    code, out, err = call("train", *words(values), "--dry-run")
    assert (code, err) == (0, "")
    shown, _, sizes = out.partition("\n\n")
    assert yaml.safe_load(shown) == TrainConfig(**values).model_dump()
    found = json.loads(call("train", *words(values), "--dry-run", "--json")[1])
    assert found["config"] == TrainConfig(**values).model_dump()
    plan = found["plan"]
    assert plan["steps"] == 4  # 12 conversations, 4 x 2 a step, 2 epochs
    assert plan["conversations"] == 12
    for text in (
        f"{plan['targets']:,} supporter turns in 12 passes, {plan['tokens']:,} tokens",
        "4 steps",
        f"tokens in all steps: {plan['tokens_in_all']:,}; longest pass: {plan['longest']:,} tokens",
        "estimated memory at the peak: 0.5 GiB",
        plan["data_hash"],
    ):
        assert text in sizes
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_weights")
def test_validate_says_the_sizes(bench: Bench, call: Call, tmp_path: Path) -> None:
    values = bench.values(str(tmp_path / "run"), max_length=150, overlong="skip")
    code, out, err = call("validate", *words(values))
    assert (code, err) == (0, "")
    plan = json.loads(call("validate", *words(values), "--json")[1])
    assert plan == json.loads(call("train", *words(values), "--dry-run", "--json")[1])["plan"]
    assert out == (
        f"ok: {plan['targets']:,} supporter turns in {plan['conversations']:,} passes, {plan['tokens']:,} tokens "
        f"(one by one: {plan['separate_tokens']:,}), {plan['steps']:,} steps\n"
    )
    assert plan["skipped"] > 0
    shown = call("train", *words(values), "--dry-run")[1]
    assert f"# left out as longer than max_length: {plan['skipped']:,}\n" in shown


def test_the_dry_run_of_a_command_is_its_run(bench: Bench, call: Call, tmp_path: Path) -> None:
    values = bench.values(str(tmp_path / "run"), per_device_train_batch_size=5, eval_split="valid")
    plan = json.loads(call("validate", *words(values), "--json")[1])
    code, out, _ = call("train", *words(values), "--json")
    done = json.loads(out)
    assert code == 0
    assert (done["folder"], done["steps"]) == (str(tmp_path / "run"), plan["steps"])
    assert done["data_hash"] == plan["data_hash"]
    assert read_yaml(tmp_path / "run" / "config.resolved.yaml")["x_heedful"]["plan"] == plan


# ---------------------------------------------------------------- settings, shown


def test_config_show_is_the_whole_configuration(call: Call, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("seed: 7\nformat:\n  name: chat\n  merge_turns: true\nlearning_rate: 1e-3\n")
    code, out, err = call("config", "show", tmp_path / "c.yaml", "delta=dora", "format.system=Be kind.")
    assert (code, err) == (0, "")
    found = yaml.safe_load(out)
    assert list(found) == list(TrainConfig.model_fields)
    changed = {k: v for k, v in found.items() if v != TrainConfig().model_dump()[k]}
    assert changed == {
        "seed": 7,
        "format": {"name": "chat", "merge_turns": True, "system": "Be kind."},
        "learning_rate": 0.001,
        "delta": "dora",
    }
    (tmp_path / "again.yaml").write_text(out)
    assert call("config", "show", tmp_path / "again.yaml")[1] == out
    assert yaml.safe_load(call("config", "show")[1]) == TrainConfig().model_dump()
    assert_refused(call("config", "show", tmp_path / "c.yaml", "sed=1"), r"Did you mean 'seed'\?")


def test_config_schema_lets_editors_complete(call: Call) -> None:
    code, out, err = call("config", "schema")
    assert (code, err) == (0, "")
    schema = json.loads(out)
    assert set(schema["properties"]) == set(TrainConfig.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["learning_rate"]["exclusiveMinimum"] == 0
    assert schema["properties"]["precision"]["enum"] == ["auto", "fp32", "bf16", "fp16"]
    assert schema["properties"]["seed"]["default"] == TrainConfig().seed
    assert all(name in schema["properties"]["delta"]["description"] for name in DELTAS.names())
    assert set(json.loads(call("config", "schema", "eval")[1])["properties"]) != set(schema["properties"])


# ---------------------------------------------------------------- what a run leaves

RUN = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "checkpoints",
    "config.resolved.yaml",
    "metrics.jsonl",
    "summary.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def finished(bench: Bench) -> Path:
    """A run of the command line whose settings come from a file and from words."""
    folder = bench.root / "finished"
    values = bench.values(str(folder), eval_split="valid", eval_steps=2, save_steps=2, lora_dropout=0.1)
    values |= {"format": {"name": "strategy"}, "seed": 3}
    (bench.root / "run.yaml").write_text(yaml.safe_dump(values))
    main(["train", str(bench.root / "run.yaml"), "seed=5", "learning_rate=5e-3"])
    return folder


def test_the_folder_of_a_run(finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} == RUN
    kept = sorted((finished / "checkpoints").iterdir())
    assert 1 <= len(kept) <= 3  # the newest two and the best
    assert kept[-1].name == "checkpoint-6"
    assert all(is_complete(p) for p in kept)
    steps = [int(r["step"]) for r in metrics(finished)]
    assert steps == sorted(steps)
    assert [int(r["step"]) for r in metrics(finished) if "loss" in r] == [1, 2, 3, 4, 5, 6]
    assert [int(r["step"]) for r in metrics(finished) if "eval_loss" in r] == [2, 4, 6]


def test_the_folder_of_a_run_of_all_weights(bench: Bench) -> None:
    run = bench.run("all weights", delta="full", max_steps=1).folder
    own = {"adapter_config.json", "adapter_model.safetensors"}
    assert {p.name for p in run.iterdir()} == RUN - own | {"model.safetensors", "config.json", "generation_config.json"}
    assert AutoModelForCausalLM.from_pretrained(run).num_parameters() > 0
    assert "library_name: transformers" in (run / "README.md").read_text("utf-8")


def test_the_tokenizer_of_a_run_has_its_markers(finished: Path, bench: Bench) -> None:
    base, own = AutoTokenizer.from_pretrained(bench.model), AutoTokenizer.from_pretrained(finished)
    assert own.chat_template == base.chat_template == CHATML
    fresh = set(own.get_vocab()) - set(base.get_vocab())
    assert "[Question]" in fresh
    assert all(len(own(marker, add_special_tokens=False).input_ids) == 1 for marker in fresh)


def test_the_resolved_file_has_every_value_and_what_it_depends_on(finished: Path, bench: Bench) -> None:
    found = read_yaml(finished / "config.resolved.yaml")
    record = found.pop("x_heedful")
    assert list(found) == list(TrainConfig.model_fields)
    assert (found["seed"], found["learning_rate"], found["lora_dropout"]) == (5, 0.005, 0.1)
    assert check(TrainConfig, found).output_dir == str(finished)
    assert {"heedful", "python", "torch", "transformers", "peft"} <= set(record["versions"])
    assert "missing" not in record["versions"].values()
    assert record["format_fingerprint"].startswith("strategy/v")
    summary = json.loads((finished / "summary.json").read_text())
    assert record["data_hash"] == summary["data_hash"]
    assert summary["versions"] == record["versions"]


def test_the_summary_of_a_run(finished: Path, bench: Bench) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["kind"], summary["method"], summary["delta"], summary["stopped"]) == (
        "train",
        "sft",
        "lora",
        "done",
    )
    assert summary["steps"] == summary["planned_steps"] == 6
    assert summary["seed"] == 5
    assert summary["licence"] == "Apache-2.0"
    assert 0 < summary["trainable_parameters"] < summary["parameters"]
    assert summary["best_eval_loss"] == min(r["eval_loss"] for r in metrics(finished) if "eval_loss" in r)


def test_the_resolved_file_reruns(finished: Path, bench: Bench, call: Call) -> None:
    code, _, err = call("train", finished / "config.resolved.yaml", f"output_dir={bench.root / 'rerun'}")
    assert code == 0, err
    assert_same_run(bench.root / "rerun", finished)
    assert len(losses(finished)) == 6


def test_a_resumed_run_is_recorded_as_the_run_that_it_continues(bench: Bench, call: Call) -> None:
    run = bench.crash("crashed", 4, save_steps=2)
    assert call("train", run / "config.resolved.yaml", "--resume")[0] == 0
    assert read_yaml(run / "config.resolved.yaml")["resume_from_checkpoint"] is False
    code, _, err = call("train", run / "config.resolved.yaml", f"output_dir={bench.root / 'crashed rerun'}")
    assert code == 0, err
    assert_same_run(bench.root / "crashed rerun", run)


# ---------------------------------------------------------------- model card


def card(bench: Bench, name: str, licences: list[str | None]) -> tuple[str, Any]:
    """The model card of a run on conversations under these licences, and the licence of its summary."""
    path = bench.root / f"{name}.jsonl"
    talks = [c for c in corpus() if c.split == "train"][: len(licences)]
    corpora.write_jsonl(path, [replace(c, licence=x) for c, x in zip(talks, licences, strict=True)])
    run = bench.run(name, dataset=str(path), max_steps=1)
    return (run.folder / "README.md").read_text("utf-8"), run.summary["licence"]


def test_the_model_card(finished: Path, bench: Bench) -> None:
    text = (finished / "README.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == str(bench.model)
    assert yaml.safe_load(front)["library_name"] == "peft"
    summary = json.loads((finished / "summary.json").read_text())
    for said in (
        "**It is not a therapist, not a crisis service and not\na medical device.**",
        "| licence of the data | Apache-2.0 |",
        "The training data are under Apache-2.0.\n",
        f"| method | sft, lora: {summary['trainable_parameters']:,} of {summary['parameters']:,} parameters trained |",
        f"hash `{summary['data_hash']}`",
        "| steps | 6 of 6 planned (all), ",
        f"| best validation loss | {summary['best_eval_loss']:.4f} nats per token |",
        "## Limits",
        "## Intended use",
    ):
        assert said in body, said
    assert "Do not publish" not in body


@pytest.mark.parametrize(
    ("licences", "stated", "free"),
    [
        (["CC0-1.0", "CC0-1.0"], "CC0-1.0", True),
        (["CC-BY-4.0", "Apache-2.0"], "Apache-2.0 + CC-BY-4.0", True),
        (["CC-BY-NC-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0", False),
        (["CC0-1.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0 + CC0-1.0", False),
        (["CC0-1.0", None], "CC0-1.0 + not stated", False),
        (["LIMITED, local use only", "LIMITED, local use only"], "LIMITED, local use only", False),
        ([None, None], None, False),
        (["MIT (stated by the scraper)"] * 2, "MIT (stated by the scraper)", False),
        (["MITRE-internal"] * 2, "MITRE-internal", False),
        (["CC-BY-4.0-NC"] * 2, "CC-BY-4.0-NC", False),
        (["CC-BY-SA-4.0"] * 2, "CC-BY-SA-4.0", False),
        (["Apache-2.0", "MIT"], "Apache-2.0 + MIT", True),
    ],
)
def test_what_the_card_says_about_sharing(
    bench: Bench, request: pytest.FixtureRequest, licences: list[str | None], stated: str | None, free: bool
) -> None:
    text, found = card(bench, f"card {request.node.callspec.id}".replace("/", "_"), licences)
    assert found == stated
    assert f"| licence of the data | {stated or 'not stated'} |" in text
    assert ("**Do not publish these weights**" in text) is not free
    assert (f"The training data are under {stated}.\n" in text) is free


@pytest.mark.parametrize("name", corpora.names())
def test_a_corpus_of_the_table_is_free_by_its_class(name: str) -> None:
    """The class is somebody's judgement; `counsel_chat` says MIT and has no right to."""
    info = corpora.get(name).info
    assert is_free(name, "CC0-1.0") is (info.licence_class in ("CC0", "R"))
    assert is_free(name, info.licence) is (name == "commons")
