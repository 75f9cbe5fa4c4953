"""`heedful eval run|view|ls|compare` on a tiny model: tables, JSON that parses, refusals; `heedful demo` whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from heedful import corpora
from heedful.cli import demo, main
from heedful.cli.evaluate import summary_table
from heedful.testing import conversations, save_tiny
from heedful.training.checkpoints import newest

Call = Callable[..., tuple[int, str, str]]
SYSTEMS = ["model", "fixed_reply", "copy_last_turn", "random_reply"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of an untrained model, and a second one with another seed of the weights."""
    root = tmp_path_factory.mktemp("[runs]")  # brackets, as rich would read them
    talks = [replace(c, split="train" if i < 4 else "test") for i, c in enumerate(conversations(8, 3, turns=4))]
    corpora.write_jsonl(root / "toy.jsonl", talks)
    for seed, name in enumerate(("one", "two")):
        words = ["eval", "run", save_tiny(root / f"tiny{seed}", seed=seed), f"dataset={root / 'toy.jsonl'}"]
        words += [f"output_dir={root / name}", "decoding.max_new_tokens=5", "metrics=[bleu2, length]", "bootstrap=30"]
        main([str(w) for w in [*words, "baselines=[fixed_reply, copy_last_turn, random_reply]"]])
    return root


def test_run_prints_the_table_and_the_path(place: Path, call: Call) -> None:
    words = ["eval", "run", place / "tiny0", f"dataset={place / 'toy.jsonl'}", f"output_dir={place / 'one'}"]
    words += ["decoding.max_new_tokens=5", "metrics=[bleu2, length]", "bootstrap=30"]
    words += ["baselines=[fixed_reply, copy_last_turn, random_reply]"]
    code, out, err = call(*words)
    assert code == 0, err
    assert out.rstrip().endswith(f"report: {place / 'one' / 'report.html'}")
    assert all(name in out for name in SYSTEMS)
    code, text, err = call(*words, "--json")
    assert code == 0, err
    summary = json.loads(text)
    assert [s["name"] for s in summary["systems"]] == SYSTEMS
    stored = json.loads((place / "one" / "summary.json").read_text("utf-8"))
    assert stored["examples"]
    assert summary == {k: v for k, v in stored.items() if k != "examples"}
    _, text, _ = call(*words, "--json", "--show-text")
    assert json.loads(text)["examples"] == stored["examples"]


def test_a_yaml_file_with_words_on_top(place: Path, call: Call, tmp_path: Path) -> None:
    file = tmp_path / "eval.yaml"
    file.write_text(f"dataset: '{place / 'toy.jsonl'}'\nsplit: train\nbaselines: []\ngenerate: false\nbootstrap: 5\n")
    words = ["eval", "run", place / "tiny0", "--config", file, f"output_dir={tmp_path / 'out'}", "split=test", "--json"]
    code, out, err = call(*words)
    assert code == 0, err
    assert json.loads(out)["corpus"]["split"] == "test"
    file.write_text("datset: x\n")
    code, _, err = call("eval", "run", place / "tiny0", "--config", file)
    assert code == 2
    assert "Did you mean 'dataset'" in err


def test_view_prints_every_value_whole_although_piped(place: Path, call: Call) -> None:
    code, out, _ = call("eval", "view", place / "one")
    assert code == 0
    summary = json.loads((place / "one" / "summary.json").read_text("utf-8"))
    assert "…" not in out
    for system in summary["systems"]:
        assert system["name"] in out
        for name, m in system["metrics"].items():
            row = next(line for line in out.splitlines() if summary["metrics"][name]["title"] in line)
            assert f"{m['value']:,.2f} {m['low']:,.2f}–{m['high']:,.2f}" in row, (system["name"], name)
    assert out.count("—") >= 3 * 3  # baselines have no perplexity, and that is no zero
    assert "report:" in out


def test_view_as_markdown(place: Path, call: Call) -> None:
    code, out, err = call("eval", "view", place / "one", "--markdown")
    assert (code, err) == (0, "")
    summary = json.loads((place / "one" / "summary.json").read_text("utf-8"))
    head, _, columns, rule, *rows = out.rstrip().split("\n")
    assert summary["corpus"]["hash"] in head
    assert summary["command"] in head
    assert columns.count("|") == rule.count("|") == len(SYSTEMS) + 2
    assert all(row.count("|") == len(SYSTEMS) + 2 for row in rows)
    bleu = summary["systems"][0]["metrics"]["bleu2"]
    assert f"| BLEU-2 | {bleu['value']:.2f} ({bleu['low']:.2f}–{bleu['high']:.2f}) |" in out


def test_words_in_brackets_are_words_and_not_markup(place: Path) -> None:
    summary = json.loads((place / "one" / "summary.json").read_text("utf-8"))
    table = summary_table({**summary, "title": "[red]x[/red]"})
    assert str(table.title).startswith("\\[red]x")


def test_view_opens_a_browser_only_when_asked(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    call("eval", "view", place / "one")
    assert opened == []
    call("eval", "view", place / "one", "--open")
    assert opened == [(place / "one" / "report.html").resolve().as_uri()]


def test_ls(place: Path, call: Call) -> None:
    code, out, _ = call("eval", "ls", place)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == [str(place / "one"), str(place / "two")]
    code, out, _ = call("eval", "ls", place, "--json")
    rows = json.loads(out)
    assert [Path(r["folder"]).name for r in rows] == ["one", "two"]
    assert all(r["title"] and r["created"] for r in rows)


def test_a_run_is_no_evaluation(call: Call, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"kind": "train"}')
    code, _, err = call("eval", "view", tmp_path)
    assert code == 2
    assert "is no evaluation" in err


def test_compare(place: Path, call: Call) -> None:
    words = ["eval", "compare", place / "one", place / "two", "--system", "model", "--metrics", "length,bleu2"]
    code, out, _ = call(*words, "--bootstrap", "30")
    assert code == 0
    assert "…" not in out
    code, text, _ = call(*words, "--bootstrap", "30", "--json")
    rows = {r["name"]: r for r in json.loads(text)}
    assert {"ppl_token", "ppl_word", "ppl_byte", "bits_per_character", "length", "bleu2"} == set(rows)
    values = []
    for name in ("one", "two"):
        systems = json.loads((place / name / "summary.json").read_text("utf-8"))["systems"]
        values.append(systems[0]["metrics"]["ppl_token"]["value"])
    assert (rows["ppl_token"]["first"], rows["ppl_token"]["second"]) == tuple(map(pytest.approx, values))
    assert rows["ppl_token"]["difference"] == pytest.approx(values[1] - values[0]) != 0
    for name in rows:
        assert re.search(rf"\b{name}\b", out)
    code, text, _ = call("eval", "compare", f"{place / 'one'}:model", f"{place / 'one'}:fixed_reply", "--json")
    assert code == 0
    assert "ppl_token" not in {r["name"] for r in json.loads(text)}


def test_compare_refuses_other_data(place: Path, call: Call, tmp_path: Path) -> None:
    words = ["eval", "run", place / "tiny0", f"dataset={place / 'toy.jsonl'}", f"output_dir={tmp_path}", "bootstrap=0"]
    assert call(*words, "split=train", "baselines=[]", "decoding.max_new_tokens=2", "metrics=[length]")[0] == 0
    code, out, err = call("eval", "compare", place / "one", tmp_path, "--system", "model")
    assert (code, out) == (2, "")
    assert "different data" in err
    code, _, err = call("eval", "compare", place / "one", place / "two", "--system", "model", "--bootstrap", "0")
    assert code == 2
    assert "at least one draw" in err


def test_json_everywhere_parses(place: Path, call: Call) -> None:
    for words in (
        ["eval", "ls", place, "--json"],
        ["eval", "compare", place / "one", place / "two", "--system", "model", "--metrics", "length", "--json"],
        ["doctor", "--json"],
        ["data", "ls", "--json"],
        ["data", "show", "commons", "--json"],
        ["data", "stats", "commons", "--json"],
        ["config", "schema"],
        ["config", "schema", "eval"],
    ):
        code, out, err = call(*words)
        assert code == 0, err
        json.loads(out, parse_constant=lambda name, words=words: pytest.fail(f"{name} is no JSON ({words})"))


# ---------------------------------------------------------------------- demo


def quick_demo(call: Call, output: Path, *more: str) -> tuple[int, str, str]:
    keys = ["max_steps=2", "precision=fp32", "logging_steps=1", *more]
    return call("demo", f"model_name_or_path={output.parent / 'tiny'}", *keys, "--output", output)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The demo on a tiny model with fewer, shorter replies and one metric, so that it takes seconds."""
    save_tiny(tmp_path / "tiny")
    real = demo.read_yaml

    def fewer(path: str) -> dict[str, object]:
        small = {"max_conversations": 4, "baselines": ["fixed_reply"], "metrics": ["rougeL"], "bootstrap": 20}
        return {**real(path), **small, "decoding": {"max_new_tokens": 4}}

    monkeypatch.setattr(demo, "read_yaml", fewer)
    return tmp_path / "run"


def samples(out: str) -> list[str]:
    return re.findall(r"^sample \d \(drawn at random\), (\S+)$", out, re.MULTILINE)


def test_demo_ends_with_report_and_samples_and_goes_on(
    short: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # stopped after the first checkpoint, while the evaluation begins
        patch.setattr(demo, "evaluate", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        code, _, err = quick_demo(call, short)
        assert code == 130
        assert "what was finished is kept" in err
    trained = (short / "adapter_model.safetensors").read_bytes()
    code, out, err = quick_demo(call, short)
    assert code == 0, err
    assert "is trained already" in err
    assert (short / "adapter_model.safetensors").read_bytes() == trained
    report = short / "eval" / "commons-test" / "report.html"
    assert report.is_file()
    assert f"report: {report.resolve()}" in out
    assert f"talk with it: heedful chat {short}" in out
    assert len(samples(out)) == 3
    for line in ("  person   ", "  before   ", "  after    ", "  human    "):
        assert out.count(line) == 3
    talks = {c.id for c in corpora.load("commons", "test")}
    assert {name.rsplit("/", 1)[0] for name in samples(out)} <= talks
    table = out[: out.index("sample 1")]
    assert "trained" in table
    assert "base" in table
    code, again, _ = quick_demo(call, short)
    assert code == 0
    assert samples(again) == samples(out)
    summary = json.loads((short / "eval" / "commons-test" / "summary.json").read_text("utf-8"))
    assert summary["training"]["summary"].startswith("lora, 2 of 2")


def test_demo_goes_on_from_a_checkpoint(short: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(BaseException):
        pass

    def stop(*args: object, **kwargs: object) -> None:
        raise Stop

    monkeypatch.setattr(demo, "evaluate", stop)
    with monkeypatch.context() as patch:
        patch.setattr("heedful.training.run.finish", stop)  # killed between the last checkpoint and the end
        with pytest.raises(Stop):
            quick_demo(call, short, "save_steps=1", "max_steps=3")
    assert not (short / "summary.json").exists()
    found = newest(short / "checkpoints")
    assert found is not None
    assert found.name == "checkpoint-3"
    losses = (short / "metrics.jsonl").read_text()
    with pytest.raises(Stop):  # trains nothing anew, finishes, and stops at the evaluation
        quick_demo(call, short, "save_steps=1", "max_steps=3")
    assert json.loads((short / "summary.json").read_text())["steps"] == 3
    assert [json.loads(x)["step"] for x in (short / "metrics.jsonl").read_text().splitlines() if "loss" in x] == [
        json.loads(x)["step"] for x in losses.splitlines() if "loss" in x
    ]


def test_demo_fresh_takes_another_folder(short: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    short.mkdir()
    (short / "summary.json").write_text("{}")
    (short.parent / "run-2").mkdir()
    seen: list[str] = []
    monkeypatch.setattr(demo, "train", lambda config, **k: seen.append(config.output_dir))
    monkeypatch.setattr(demo, "evaluate", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    assert quick_demo(call, short, "--fresh")[0] == 130
    assert seen == [str(short.parent / "run-3")]
