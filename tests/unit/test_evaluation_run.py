"""`evaluate` end to end on a tiny run: numbers by other means, resuming, seeds, refusals; no words in any log."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from heedful import corpora, formats
from heedful.cli import main
from heedful.errors import ConfigError, DataError, HeedfulError, NotFoundError, UserError
from heedful.evaluation import EvalConfig, Evaluation, evaluate
from heedful.evaluation.compare import compare_folders
from heedful.evaluation.run import settle
from heedful.models.causal import load
from heedful.settings import check
from heedful.testing import conversations, save_tiny
from heedful.training import TrainConfig, train
from heedful.types import Conversation

METRICS = ["bleu2", "rougeL", "distinct1", "length", "copy_rate"]
SYSTEMS = ["trained", "base", "fixed_reply", "copy_last_turn", "random_reply"]
SENTINEL = "quixotry"


def talks() -> list[Conversation]:
    """Eight to train on, four to test on; one of these opens with the supporter, so nobody spoke before turn 2."""
    found = [replace(c, split="train" if i < 8 else "test") for i, c in enumerate(conversations(12, 5, turns=6))]
    opened = found[-1]
    greeting = replace(opened.turns[1], text="Hello, this line is open.")
    return [*found[:-1], replace(opened, turns=(greeting, opened.turns[1], *opened.turns[2:]))]


def write(path: Path, found: list[Conversation] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    corpora.write_jsonl(path, found if found is not None else talks())
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on a tiny model."""
    root = tmp_path_factory.mktemp("run")
    data = write(root / "data" / "toy.jsonl")
    return train(training(save_tiny(root / "tiny"), data, root / "run")).folder


def training(model: Path, data: Path, folder: Path, **more: Any) -> TrainConfig:
    return TrainConfig(
        model_name_or_path=str(model),
        dataset=str(data),
        eval_split=None,
        max_steps=2,
        precision="fp32",
        learning_rate=0.02,
        warmup_steps=0,
        logging_steps=1,
        output_dir=str(folder),
        **{"format": {"name": "chat", "system": "Be kind."}, "max_length": 600, **more},
    )


def config(run: Path, folder: Path, **more: Any) -> EvalConfig:
    given: dict[str, Any] = {
        "model_name_or_path": str(run),
        "output_dir": str(folder),
        "baselines": ["fixed_reply", "copy_last_turn", "random_reply"],
        "decoding": {"max_new_tokens": 6},
        "metrics": METRICS,
        "bootstrap": 40,
        "branches": 4,
    }
    return EvalConfig.model_validate({**given, **more})


def quick(run: Path, folder: Path, **more: Any) -> EvalConfig:
    """One system, one metric."""
    return config(
        run, folder, **{"compare_base": False, "baselines": [], "metrics": ["length"], "bootstrap": 0, **more}
    )


@pytest.fixture(scope="module")
def done(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluate(config(run, tmp_path_factory.mktemp("eval") / "one"), command="heedful eval run X")


def records(folder: Path, name: str = "trained", part: str = "traces") -> list[dict[str, Any]]:
    lines = (folder / part / f"{name}.jsonl").read_text("utf-8").rstrip("\n").split("\n")
    return [json.loads(line) for line in lines][1:]


def replies(folder: Path, name: str = "trained") -> dict[str, str]:
    found = records(folder, name)
    assert len({r["id"] for r in found}) == len(found), "a reply is stored twice"
    return {r["id"]: r["reply"] for r in found}


TIGHT = 70
"""Tokens: some turns with their answers fit, some do not."""


def due() -> list[str]:
    """Ids of all places of the test part, counted here and not by the library."""
    return [
        f"{c.id}/{i}"
        for c in talks()
        if c.split == "test"
        for i, t in enumerate(c.turns)
        if t.role == "assistant" and i > 0
    ]


# ---------------------------------------------------------------------- 1. end to end


def test_summary_has_every_system_metric_and_interval(done: Evaluation) -> None:
    summary = done.summary
    assert json.loads((done.folder / "summary.json").read_text("utf-8")) == summary
    assert [s["name"] for s in summary["systems"]] == SYSTEMS
    assert [s["kind"] for s in summary["systems"]] == ["model", "model", "baseline", "baseline", "baseline"]
    likelihoods = {"ppl_token", "ppl_word", "ppl_byte", "bits_per_character"}
    assert set(summary["metrics"]) == likelihoods | set(METRICS)
    n = len(due())
    for system in summary["systems"]:
        expected = set(METRICS) | (likelihoods if system["kind"] == "model" else set())
        assert set(system["metrics"]) == expected, system["name"]
        for name, m in system["metrics"].items():
            assert m["value"] is not None, (system["name"], name)
            assert m["low"] is not None, (system["name"], name)
            if name != "distinct1":  # its halves are drawn from smaller texts
                assert m["low"] <= m["value"] <= m["high"], (system["name"], name)
            assert m["n"] + m["unscored"] == n
        assert sum(system["finish"].values()) == n
    assert summary["corpus"]["targets"] == n == summary["systems"][0]["metrics"]["rougeL"]["n"]
    assert summary["corpus"]["conversations"] == 4
    assert (summary["seed"], summary["dtype"], summary["command"]) == (13, "float32", "heedful eval run X")
    assert summary["decoding"]["max_new_tokens"] == 6
    assert len(summary["training"]["loss"]) == 2


def test_comparisons_are_first_minus_other(done: Evaluation) -> None:
    values = {s["name"]: {k: m["value"] for k, m in s["metrics"].items()} for s in done.summary["systems"]}
    pairs = {(c["b"], c["metric"]): c for c in done.summary["comparisons"]}
    assert {c["a"] for c in pairs.values()} == {"trained"}
    assert {name for name, _ in pairs} == set(SYSTEMS[1:])
    assert {m for name, m in pairs if name == "base"} == set(values["base"])
    for (other, metric), c in pairs.items():
        if other == "copy_last_turn":
            continue  # compared on the rows that both answered, see below
        assert c["difference"] == pytest.approx(values["trained"][metric] - values[other][metric]), (other, metric)
        assert c["low"] <= c["high"]
        assert (c["p"] is None) == (metric == "distinct1")  # no sums, so nothing to swap
        assert c["p"] is None or 0 < c["p"] <= 1


def test_p_is_that_of_swapped_replies(done: Evaluation) -> None:
    """Not the share of bootstrap draws beyond zero, which is no probability under a null hypothesis."""
    by_name = {c["metric"]: c for c in done.summary["comparisons"] if c["b"] == "base"}
    found = compare_folders(
        f"{done.folder}:base", f"{done.folder}:trained", system="", metrics=METRICS, bootstrap=40, seed=13
    )
    assert {c.name for c in found} == set(by_name)
    for c in found:
        assert by_name[c.name]["p"] == c.p_randomisation, c.name
        assert by_name[c.name]["difference"] == pytest.approx(c.difference), c.name
    assert any(c.p_bootstrap != c.p_randomisation for c in found)


def test_title_does_not_say_trained_on_the_test_part(done: Evaluation) -> None:
    assert done.summary["title"] == "System 'trained', measured on toy.jsonl (test part)"


def test_ids_are_the_targets_and_replies_are_stored(done: Evaluation) -> None:
    for name in SYSTEMS:
        assert list(replies(done.folder, name)) == due() or sorted(replies(done.folder, name)) == sorted(due()), name
    by_id = {f"{c.id}/{i}": t.text for c in talks() for i, t in enumerate(c.turns)}
    for name in SYSTEMS:
        assert all(r["reference"] == by_id[r["id"]] for r in records(done.folder, name))
    assert {r["tokens"] for r in records(done.folder)} <= set(range(1, 7))


def plain_losses(run: Path, *, adapter: bool) -> dict[str, tuple[float, int, int, int]]:
    """NLL, tokens, words + 1, bytes + 1 of each reply: one prompt at a time, by transformers' own loss."""
    causal = load(str(run), adapter=adapter)
    tokenizer, found = causal.tokenizer, {}
    for conv in talks():
        for i in conv.targets() if conv.split == "test" else ():
            messages = [{"role": "system", "content": "Be kind."}]
            messages += [{"role": t.role, "content": t.text} for t in conv.turns[:i]]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            prompt = tokenizer(text, add_special_tokens=False).input_ids
            target = tokenizer(conv.turns[i].text + "<|im_end|>", add_special_tokens=False).input_ids
            ids = torch.tensor([prompt + target])
            labels = torch.tensor([[-100] * len(prompt) + target])
            assert ids.shape[1] <= 600, "a context was cut; the comparison would not be of the same thing"
            with torch.no_grad():
                mean = float(causal.model(input_ids=ids, labels=labels).loss)
            words = conv.turns[i].text
            sizes = (len(target), len(words.split(" ")) + 1, len(words.encode()) + 1)
            found[f"{conv.id}/{i}"] = (mean * len(target), *sizes)
    return found


@pytest.mark.parametrize(("system", "adapter"), [("trained", True), ("base", False)])
def test_perplexity_by_plain_transformers(run: Path, done: Evaluation, system: str, adapter: bool) -> None:
    found = plain_losses(run, adapter=adapter)
    nll = sum(v[0] for v in found.values())
    metrics = next(s for s in done.summary["systems"] if s["name"] == system)["metrics"]
    for at, name in enumerate(("ppl_token", "ppl_word", "ppl_byte"), start=1):
        by_hand = math.exp(nll / sum(v[at] for v in found.values()))
        assert metrics[name]["value"] == pytest.approx(by_hand, rel=1e-4), name
    for record in records(done.folder, system, "likelihood"):
        assert record["text_nll"] == pytest.approx(found[record["id"]][0], rel=1e-4)
        assert record["plan_tokens"] == 0


def test_trained_and_base_differ(done: Evaluation) -> None:
    trained, base = done.summary["systems"][:2]
    assert trained["model"]["hash"] != base["model"]["hash"]
    assert abs(trained["metrics"]["ppl_token"]["value"] - base["metrics"]["ppl_token"]["value"]) > 1e-3


def test_report_holds_the_values(done: Evaluation) -> None:
    page = done.report.read_text("utf-8")
    for system in done.summary["systems"]:
        assert system["name"] in page
        for name, m in system["metrics"].items():
            assert f'value="{m["value"]!r}"' in page, (system["name"], name)
    for metric in done.summary["metrics"].values():
        assert metric["title"] in page
    assert done.summary["corpus"]["hash"] in page


def test_examples_follow_their_rules(done: Evaluation) -> None:
    examples = done.summary["examples"]
    assert [e["rule"] for e in examples] == ["random"] * 3 + ["best"] * 3 + ["worst"] * 3
    assert len({e["id"].rpartition("/")[0] for e in examples[:3]}) == 3  # of three dialogues
    stored = {name: {r["id"]: r for r in records(done.folder, name)} for name in SYSTEMS}
    for e in examples:
        for name in SYSTEMS:
            record = stored[name][e["id"]]
            assert e["replies"][name] == (None if record["finish"] == "error" else record["reply"])
    again = {e["id"] for e in examples if e["rule"] == "best"} & {e["id"] for e in examples if e["rule"] == "worst"}
    assert len(again) < 3


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_strategy_plan_has_its_own_perplexity(tmp_path: Path) -> None:
    data = write(tmp_path / "toy.jsonl")
    run = train(training(save_tiny(tmp_path / "tiny"), data, tmp_path / "run", format="strategy")).folder
    done = evaluate(quick(run, tmp_path / "eval"))
    (system,) = done.summary["systems"]
    assert system["metrics"]["ppl_plan"]["value"] > 1
    assert "ppl_plan" in done.summary["metrics"]
    plans = records(done.folder, "trained", "likelihood")
    assert all(r["plan_tokens"] == 1 for r in plans)
    by_hand = math.exp(sum(r["plan_nll"] for r in plans) / len(plans))
    assert system["metrics"]["ppl_plan"]["value"] == pytest.approx(by_hand)


def test_without_generation_and_without_intervals(run: Path, tmp_path: Path) -> None:
    done = evaluate(quick(run, tmp_path, generate=False, baselines=["fixed_reply"]))
    model, floor = done.summary["systems"]
    assert set(model["metrics"]) == {"ppl_token", "ppl_word", "ppl_byte", "bits_per_character"}
    assert model["metrics"]["ppl_token"]["low"] is None
    assert set(floor["metrics"]) == {"length"}
    assert done.summary["comparisons"] == done.summary["examples"] == []
    assert not (tmp_path / "traces" / "trained.jsonl").exists()


def test_a_full_run_is_compared_with_its_base(tmp_path: Path) -> None:
    data, tiny = write(tmp_path / "toy.jsonl"), save_tiny(tmp_path / "tiny")
    run = train(training(tiny, data, tmp_path / "run", delta="full")).folder
    done = evaluate(quick(run, tmp_path / "eval", compare_base=True, generate=False))
    alone = evaluate(quick(tiny, tmp_path / "alone", dataset=str(data), generate=False, format="chat"))
    assert [s["name"] for s in done.summary["systems"]] == ["trained", "base"]
    assert [s["name"] for s in alone.summary["systems"]] == ["model"]
    trained, base = (s["model"]["hash"] for s in done.summary["systems"])
    assert base == alone.summary["systems"][0]["model"]["hash"] != trained


def test_options_of_the_data_come_from_the_run(tmp_path: Path) -> None:
    monologue = replace(talks()[9], id="alone", turns=tuple(t for t in talks()[9].turns if t.role == "user"))
    data = write(tmp_path / "toy.jsonl", [*talks(), monologue])
    tiny = save_tiny(tmp_path / "tiny")
    run = train(training(tiny, data, tmp_path / "run", dataset_options={"one_sided": "keep"})).folder
    assert evaluate(quick(run, tmp_path / "eval")).summary["corpus"]["conversations"] == 5
    assert settle(quick(run, tmp_path / "x", dataset="commons")).dataset_options == {}


# ---------------------------------------------------------------------- 2. resuming


class Killed(BaseException):
    """Not an Exception, as a signal would not be either."""


def kill_after(word: str) -> Any:
    def say(text: str) -> None:
        if word in text:
            raise Killed

    return say


def test_in_16_bit_too_a_killed_evaluation_goes_on_with_the_same_words(run: Path, tmp_path: Path) -> None:
    """There the last digits depend on what else is in a batch, so a batch is written as a whole or not at all."""
    more: dict[str, Any] = {
        "dtype": "bfloat16",
        "branches": 6,
        "decoding": {"max_new_tokens": 12, "do_sample": True, "top_p": 0.9},
    }
    whole = evaluate(quick(run, tmp_path / "whole", **more))
    with pytest.raises(Killed):
        evaluate(quick(run, tmp_path / "cut", **more), say=kill_after("trained: replies"))
    for part in ("traces", "likelihood"):
        path = tmp_path / "cut" / part / "trained.jsonl"
        lines = path.read_text("utf-8").splitlines(keepends=True)
        path.write_text("".join([*lines[:1], *lines[2:]]), "utf-8")  # and one reply in the middle is lost
    again = evaluate(quick(run, tmp_path / "cut", **more))
    assert replies(tmp_path / "cut") == replies(tmp_path / "whole")
    assert again.summary["systems"][0]["metrics"] == whole.summary["systems"][0]["metrics"]


def test_turns_that_do_not_fit_are_left_out_for_every_system(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="overlong: skip"):
        evaluate(config(run, tmp_path / "a", max_length=TIGHT))
    found = evaluate(config(run, tmp_path / "b", max_length=TIGHT, overlong="skip")).summary
    assert "replies left out: too long" in found["corpus"]["note"]
    count = found["corpus"]["targets"]
    assert 0 < count < len(due())
    assert {s["metrics"]["length"]["n"] for s in found["systems"]} == {count}


def test_files_that_hold_words_are_for_their_owner(done: Evaluation) -> None:
    files = [p for p in done.folder.rglob("*") if p.is_file()]
    assert len(files) > 5
    assert not [p.name for p in files if p.stat().st_mode & 0o077]


def test_killed_and_cut_evaluation_goes_on_with_the_same_words(run: Path, done: Evaluation, tmp_path: Path) -> None:
    settings = config(run, tmp_path / "two")
    with pytest.raises(Killed):
        evaluate(settings, say=kill_after("trained: replies"))
    path = tmp_path / "two" / "traces" / "trained.jsonl"
    first = records(tmp_path / "two")
    assert 0 < len(first) < len(due())
    whole = path.read_bytes()
    path.write_bytes(whole[: -len(whole.rstrip(b"\n").rsplit(b"\n", 1)[1]) // 2])  # the last line, cut in the middle
    assert not path.read_bytes().endswith(b"\n")
    heard: list[str] = []
    again = evaluate(settings, say=heard.append)
    assert replies(tmp_path / "two") == replies(done.folder)
    counts = [int(t.split("replies ")[1].split("/")[0]) for t in heard if t.startswith("trained: replies")]
    assert counts[0] > len(first) - 1
    assert counts[-1] == len(due())
    for old, new in zip(done.summary["systems"], again.summary["systems"], strict=True):
        assert old["metrics"] == new["metrics"]
    assert again.summary["comparisons"] == done.summary["comparisons"]


def test_killed_in_the_header_and_in_the_perplexity(run: Path, done: Evaluation, tmp_path: Path) -> None:
    settings = config(run, tmp_path)
    with pytest.raises(Killed):
        evaluate(settings, say=kill_after("trained: perplexity"))
    path = tmp_path / "likelihood" / "trained.jsonl"
    path.write_bytes(path.read_bytes()[:7])
    again = evaluate(settings)
    assert again.summary["systems"][0]["metrics"] == done.summary["systems"][0]["metrics"]


def test_nothing_is_made_twice(run: Path, tmp_path: Path) -> None:
    settings = quick(run, tmp_path)
    evaluate(settings)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")}
    heard: list[str] = []
    evaluate(settings, say=heard.append)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")} == before
    assert heard
    assert not [t for t in heard if t.startswith(("trained: replies", "trained: perplexity"))]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decoding": {"max_new_tokens": 7}}, "decoding"),
        ({"seed": 14}, "decoding"),
        ({"max_conversations": 3}, "data"),
        ({"format": "chat"}, "format"),
        ({"max_length": 400}, "max_length"),
        ({"dtype": "bfloat16"}, "dtype"),
    ],
)
def test_other_settings_are_refused_by_name(run: Path, done: Evaluation, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"another experiment \(different: [^)]*\b{named}\b"):
        evaluate(config(run, done.folder, **{"baselines": [], "compare_base": False, **change}))


def test_other_data_is_refused_wherever_it_differs(run: Path, tmp_path: Path) -> None:
    """Also where no reply is due and the help-seeker's last turn is the same: the prompt is another."""
    data = write(tmp_path / "toy.jsonl")
    settings = quick(run, tmp_path / "eval", dataset=str(data))
    evaluate(settings)
    changed = talks()
    opener = changed[-1]
    first = replace(opener.turns[0], text="Hello, this line is closed.")
    write(data, [*changed[:-1], replace(opener, turns=(first, *opener.turns[1:]))])
    with pytest.raises(ConfigError, match="different: data"):
        evaluate(settings)


def test_other_training_part_is_refused_for_baselines_that_read_it(run: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "toy.jsonl")
    evaluate(quick(run, tmp_path / "eval", dataset=str(data), baselines=["random_reply"]))
    first, *rest = talks()
    changed = replace(first, turns=(first.turns[0], replace(first.turns[1], text="Oh."), *first.turns[2:]))
    write(data, [changed, *rest])
    with pytest.raises(ConfigError, match=r"random_reply\.jsonl.*different: train"):
        evaluate(quick(run, tmp_path / "eval", dataset=str(data), baselines=["random_reply"]))
    evaluate(quick(run, tmp_path / "eval", dataset=str(data)))  # the model's replies do not depend on it


def test_a_baseline_can_be_added_later(run: Path, tmp_path: Path) -> None:
    evaluate(quick(run, tmp_path, baselines=["fixed_reply"]))
    more = evaluate(quick(run, tmp_path, baselines=["fixed_reply", "random_reply"]))
    assert [s["name"] for s in more.summary["systems"]] == ["trained", "fixed_reply", "random_reply"]


# ---------------------------------------------------------------------- 3. seeds, sampling, beams


def test_sampling_depends_on_the_seed_and_not_on_the_batch(run: Path, tmp_path: Path) -> None:
    drawn = {"max_new_tokens": 6, "do_sample": True, "temperature": 1.3, "top_p": 0.9, "top_k": 50}
    found = []
    for name, branches, seed in (("a", 64, 13), ("b", 1, 13), ("c", 5, 13), ("d", 64, 14)):
        evaluate(quick(run, tmp_path / name, decoding=drawn, branches=branches, seed=seed))
        found.append(replies(tmp_path / name))
    assert found[0] == found[1] == found[2]
    assert found[0] != found[3]


def test_beams_do_not_depend_on_the_batch_and_are_no_greedy(run: Path, tmp_path: Path) -> None:
    settings = {"max_new_tokens": 6, "num_beams": 4}
    for name, branches in (("a", 64), ("b", 4)):
        evaluate(quick(run, tmp_path / name, decoding=settings, branches=branches))
    assert replies(tmp_path / "a") == replies(tmp_path / "b")
    assert sorted(replies(tmp_path / "a")) == sorted(due())


def test_special_tokens_are_no_words_of_a_reply(run: Path, tmp_path: Path) -> None:
    evaluate(quick(run, tmp_path, decoding={"max_new_tokens": 40, "do_sample": True, "temperature": 3.0}))
    assert not [r for r in replies(tmp_path).values() if "<|" in r and "|>" in r]


# ---------------------------------------------------------------------- 4. baselines and what goes wrong early


def test_nothing_to_copy_is_unscored_and_not_zero(done: Evaluation) -> None:
    silent = f"{talks()[-1].id}/1"
    stored = {r["id"]: r for r in records(done.folder, "copy_last_turn")}
    assert [name for name, r in stored.items() if r["finish"] == "error"] == [silent]
    copy = next(s for s in done.summary["systems"] if s["name"] == "copy_last_turn")
    length = copy["metrics"]["length"]
    assert (length["unscored"], length["reason"]) == (1, "no reply")
    scored = [len(r["reply"].split()) for r in stored.values() if r["finish"] != "error"]
    assert length["value"] == pytest.approx(sum(scored) / len(scored), rel=0.35)  # tokens, not blanks; but no zero row
    assert length["n"] == len(due()) - 1


BEFORE_ANY_MODEL: list[tuple[dict[str, Any], type[HeedfulError], str]] = [
    ({"baselines": ["fixed_replies"]}, NotFoundError, "fixed_reply"),
    ({"baselines": ["fixed_reply", "fixed_reply"]}, ConfigError, "more than once"),
    ({"metrics": ["rougel"]}, NotFoundError, "rougeL"),
    ({"train_split": "training", "baselines": ["random_reply"]}, ConfigError, "random_reply.*train_split"),
    ({"train_split": "training", "baselines": ["nearest_reply"]}, ConfigError, "nearest_reply.*train_split"),
    ({"split": "tset"}, NotFoundError, "Did you mean 'test'"),
    ({"dataset": "/no/such.jsonl"}, NotFoundError, "such.jsonl"),
    ({"format": {"name": "chat", "sytem": "x"}}, ConfigError, "system"),
]


@pytest.mark.parametrize(("change", "kind", "said"), BEFORE_ANY_MODEL)
def test_mistakes_are_said_before_a_model_is_loaded(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    kind: type[HeedfulError],
    said: str,
) -> None:
    monkeypatch.setattr("heedful.evaluation.run.load", lambda *a, **k: pytest.fail("a model was loaded first"))
    with pytest.raises(kind, match=said) as caught:
        evaluate(config(run, tmp_path / "new", **change))
    assert "\n" not in str(caught.value)


def test_other_mistakes(run: Path, tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    with pytest.raises(ConfigError, match="dataset=NAME"):
        evaluate(config(tiny, tmp_path / "a"))
    with pytest.raises(NotFoundError, match="no such folder"):
        evaluate(config(Path("/no/such/model"), tmp_path / "b", dataset=str(write(tmp_path / "t.jsonl"))))
    silent = [replace(c, turns=(c.turns[1], *(t for t in c.turns if t.role == "user"))) for c in talks()]
    data = write(tmp_path / "silent.jsonl", silent)
    with pytest.raises(DataError, match="no supporter turn"):
        evaluate(quick(run, tmp_path / "c", dataset=str(data)))
    with pytest.raises(ConfigError, match="not both"):
        check(EvalConfig, {"model_name_or_path": "x", "decoding": {"do_sample": True, "num_beams": 2}})


# ---------------------------------------------------------------------- 10. no words of a talk in any log


@contextlib.contextmanager
def every_log() -> Iterator[io.StringIO]:
    """All records of all loggers at DEBUG, those of libraries that do not propagate included."""
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    names = ["", *(n for n in logging.root.manager.loggerDict)]
    loggers = [logging.getLogger(n) for n in names]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    try:
        yield sink
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def secret_talks() -> list[Conversation]:
    """Every turn, situation and piece of evidence holds the sentinel."""
    return [
        replace(
            c,
            situation=f"{SENTINEL} at home",
            turns=tuple(replace(t, text=f"{SENTINEL} {t.text} {SENTINEL}") for t in c.turns),
        )
        for c in talks()
    ]


def heard(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and everything that a call of the command line lets be seen: stdout, stderr, logs."""
    with every_log() as sink:
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except HeedfulError as err:  # --debug: what a traceback would print, chain included
            code = 99
            chain: BaseException | None = err
            while chain is not None:
                sink.write(f"{type(chain).__name__}: {chain}\n")
                chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    out, err_text = capfd.readouterr()
    return code, (out + err_text + sink.getvalue()).lower()


def test_no_words_of_a_talk_while_training_and_evaluating(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, tiny = write(tmp_path / "secret.jsonl", secret_talks()), save_tiny(tmp_path / "tiny")
    run, place = tmp_path / "run", tmp_path / "eval"
    keys = [f"model_name_or_path={tiny}", f"dataset={data}", f"output_dir={run}", "max_steps=2", "logging_steps=1"]
    keys += ["eval_split=null", "precision=fp32"]
    code, seen = heard(capfd, "train", *keys)
    assert code == 0, seen
    words = ["baselines=[fixed_reply, copy_last_turn, random_reply]", "decoding.max_new_tokens=6", "bootstrap=20"]
    code, more = heard(capfd, "eval", "run", run, f"output_dir={place}", "metrics=[rougeL]", *words)
    assert code == 0, more
    for verb in (["eval", "view", place], ["eval", "ls", tmp_path, "--json"], ["validate", *keys]):
        code, text = heard(capfd, *verb)
        assert code == 0, text
        more += text
    same = f"{place}:base"
    code, text = heard(capfd, "eval", "compare", place, same, "--metrics", "rougeL", "--bootstrap", "20", "--json")
    assert code == 0, text
    assert "perplexity" in more + seen
    assert SENTINEL not in seen + more + text
    # It is looked for in the right way: replies and report do hold it.
    holders = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file() and holds_it(p)}
    assert holders == {"secret.jsonl", "eval"}
    inside = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file() and holds_it(p)}
    assert inside <= {"summary.json", "report.html", *(f"traces/{name}.jsonl" for name in SYSTEMS)}
    assert {"report.html", "traces/copy_last_turn.jsonl"} <= inside


def holds_it(path: Path) -> bool:
    return SENTINEL.encode() in path.read_bytes().lower()


def broken(name: str) -> bytes:
    """Files that cannot be used, each with the sentinel where the fault is."""
    good = json.dumps(secret_talks()[0].to_dict()).encode()
    record = secret_talks()[0].to_dict()

    def line(**change: Any) -> bytes:
        return json.dumps({**record, **change}).encode() + b"\n"

    return {
        "cut": good[: good.rindex(SENTINEL.encode()) + 3] + b"\n",
        "bytes": good.replace(SENTINEL.encode(), SENTINEL.encode() + b"\xff", 1) + b"\n",
        "nan": good.replace(b'"lang"', f'"{SENTINEL}": NaN, "lang"'.encode(), 1) + b"\n",
        "list": json.dumps([SENTINEL]).encode() + b"\n",
        "text": json.dumps(SENTINEL).encode() + b"\n",
        "messages": line(messages=SENTINEL),
        "content": line(messages=[{"role": "user", "content": [SENTINEL]}]),
        "plain": line(messages=[SENTINEL, SENTINEL]),
        "labels": line(labels=[SENTINEL]),
        "survey": line(survey=SENTINEL),
        "one-sided": line(messages=[{"role": "user", "content": SENTINEL}]),
        "empty": line(messages=[]),
        "twice": good + b"\n" + good + b"\n",
        "long": line(
            messages=[
                {"role": "user", "content": f"{SENTINEL} " * 900},
                {"role": "assistant", "content": f"{SENTINEL} " * 900},
            ],
            labels=[],
        ),
        "leak": line(id="a", split="train") + line(id="b", split="valid"),
    }[name]


BROKEN = ["cut", "bytes", "nan", "list", "text", "messages", "content", "plain", "labels", "survey"]
BROKEN += ["one-sided", "empty", "twice", "long", "leak"]


@pytest.mark.parametrize("name", BROKEN)
def test_no_words_of_a_talk_in_errors(name: str, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / f"{name}.jsonl"
    data.write_bytes(broken(name))
    trained = ["validate", f"model_name_or_path={run.parent / 'tiny'}", f"dataset={data}"]
    evaluated = ["eval", "run", run, f"dataset={data}", "split=null", "train_split=null", "baselines=[fixed_reply]"]
    evaluated += [f"output_dir={tmp_path / 'eval'}", "generate=false", "metrics=[length]"]
    calls: list[list[object]] = [list(trained), ["data", "check", data]]
    if name != "leak":  # only training has two sides
        calls.append(list(evaluated))
    for words in calls:
        for debug in ([], ["--debug"]):
            code, seen = heard(capfd, *debug, *words)
            fine = name == "long" and words[0] == "data"  # nothing wrong with it as a file
            assert (code == 0) == fine, (words, seen)
            assert SENTINEL not in seen, words


def test_no_words_of_a_talk_in_errors_of_stored_files(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trace files that somebody damaged."""
    words = ["eval", "run", run, f"output_dir={tmp_path}", "baselines=[]", "compare_base=false", "metrics=[length]"]
    words += ["decoding.max_new_tokens=3", "bootstrap=0"]
    assert heard(capfd, *words)[0] == 0
    path = tmp_path / "traces" / "trained.jsonl"
    header, *rest = path.read_bytes().split(b"\n")
    for damaged in (f'{{"id": "{SENTINEL}', f'"{SENTINEL}"', f'{{"reply": "{SENTINEL}"}}'):
        path.write_bytes(b"\n".join([header, damaged.encode(), *rest]))
        for verb in (words, ["eval", "compare", tmp_path, tmp_path]):
            for debug in ([], ["--debug"]):
                code, seen = heard(capfd, *debug, *verb)
                assert code in (2, 99), seen
                assert "trace" in seen
                assert SENTINEL not in seen


def test_formats_used_here_have_no_private_words(done: Evaluation) -> None:
    """The page names the format by its fingerprint, not by its options."""
    assert done.summary["format"] == formats.make({"name": "chat", "system": "Be kind."}).fingerprint
