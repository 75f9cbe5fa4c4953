"""`study` end to end on a tiny run: numbers by other means, seeds, rewards, predicted labels, resuming, refusals."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from study_kit import EMOTIONS, Reader, config, of_text, prepare, talks, values

from heedful import classify, corpora
from heedful.classify import LabelModel
from heedful.errors import ConfigError, DataError, LeakError, NotFoundError, UserError
from heedful.evaluation._study_scores import averaged, with_constants
from heedful.evaluation._study_setup import _kinship
from heedful.evaluation.study import Study, study
from heedful.evaluation.study_config import StudyConfig
from heedful.scoring.base import Result, Rows
from heedful.scoring.intervals import interval
from heedful.scoring.rewards import RewardConfig, Task
from heedful.scoring.suite import score
from heedful.settings import check
from heedful.testing import conversation
from heedful.training.scorer import ScorerConfig
from heedful.training.scorer import train as train_scorer
from heedful.types import Label, Turn

load_scorer = classify.load  # the fixtures put another one in its place
Call = Callable[..., tuple[int, str, str]]
SYSTEMS = ["base", "sft", "fixed_reply", "copy_last_turn"]
SEEDS = [13, 21, 42]


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as found:
        yield found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    found = tmp_path_factory.mktemp("studies")
    prepare(found)
    patch.setattr(classify, "load", lambda path: Reader(name=Path(path).name))
    return found


@pytest.fixture(scope="module")
def done(root: Path) -> Study:
    return study(config(root), command="heedful eval study x.yaml")


def records(folder: Path, name: str, part: str = "traces") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / part / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return [line for line in lines if "header" not in line]


def quick(root: Path, name: str, **more: Any) -> StudyConfig:
    """One greedy decoding, one metric, nothing else."""
    few: dict[str, Any] = {
        "decodings": {"greedy": {"max_new_tokens": 3}},
        "metrics": ["length"],
        "baselines": [],
        "rewards": [],
        "heldout": [],
        "labels": {},
        "perplexity": False,
        "bootstrap": 5,
        "examples": 0,
    }
    return config(root, name, **{**few, **more})


def due() -> list[str]:
    """Places of the test part, counted here: structured joins runs, and the talks alternate."""
    return [
        f"{c.id}/{i}"
        for c in talks()
        if c.split == "test"
        for i, t in enumerate(c.turns)
        if t.role == "assistant" and i > 0 and c.turns[i - 1].role == "user"
    ]


# ---------------------------------------------------------------------- numbers


def test_every_system_under_every_decoding(done: Study) -> None:
    summary = done.summary
    assert json.loads((done.folder / "summary.json").read_text("utf-8")) == summary
    assert [s["name"] for s in summary["systems"]] == SYSTEMS
    assert list(summary["scores"]) == ["greedy", "sampled"]
    rewards = {"reward", "reward/words", "reward/late", "heldout/heard"}
    lexical = {"bleu2", "rougeL", "distinct1", "length", "copy_rate"}
    likelihoods = {"ppl_token", "ppl_word", "ppl_byte", "bits_per_character", "ppl_plan"}
    assert set(summary["metrics"]) == rewards | lexical | likelihoods
    for decoding, systems in summary["scores"].items():
        assert list(systems) == SYSTEMS
        for name, scores in systems.items():
            model = name in ("base", "sft")
            assert set(scores) == rewards | lexical | (likelihoods if model else set()), (decoding, name)
    assert summary["corpus"]["targets"] == len(due())
    assert summary["decodings"]["sampled"]["seeds"] == SEEDS
    assert summary["decodings"]["greedy"]["seeds"] == []
    assert summary["command"] == "heedful eval study x.yaml"
    assert {"hash", "licence"} <= set(summary["corpus"])
    assert all(m["signature"] for m in summary["metrics"].values())


def test_value_of_three_seeds_is_their_mean(done: Study) -> None:
    contexts = {f"{c.id}/{i}": c.turns[i - 1].text for c in talks() for i in range(1, len(c.turns))}
    found = done.summary["scores"]["sampled"]["sft"]
    by_seed: dict[str, list[float]] = {}
    for seed in SEEDS:
        part = records(done.folder, f"sft.sampled.{seed}")
        part.sort(key=lambda r: due().index(r["id"]))
        rows = Rows.of(
            [r["reply"] for r in part],
            [r["reference"] for r in part],
            contexts=[contexts[r["id"]] for r in part],
            clusters=[r["conversation_id"] for r in part],
        )
        for line in score(rows, metrics=["bleu2", "rougeL", "distinct1", "length"], bootstrap=0).lines:
            assert line.value is not None
            by_seed.setdefault(line.name, []).append(line.value)
    assert len({tuple(r["reply"] for r in records(done.folder, f"sft.sampled.{s}")) for s in SEEDS}) == 3
    for name, seen in by_seed.items():
        assert found[name]["value"] == pytest.approx(np.mean(seen)), name
        assert list(found[name]["seeds"].values()) == pytest.approx(seen), name
        assert found[name]["n"] == 3 * len(due())
    assert done.summary["scores"]["greedy"]["sft"]["length"]["seeds"] == {}
    assert done.summary["scores"]["greedy"]["sft"]["length"]["n"] == len(due())


def test_rewards_are_means_of_replies_and_unscored_is_counted(done: Study) -> None:
    found = done.summary["scores"]["sampled"]["sft"]
    rows = [records(done.folder, f"sft.sampled.{seed}", "scores") for seed in SEEDS]
    replies = [{r["id"]: r["reply"] for r in records(done.folder, f"sft.sampled.{seed}")} for seed in SEEDS]
    for part, words in zip(rows, replies, strict=True):
        for record in part:
            assert record["scores"]["reward/words"] == len(words[record["id"]].split())
            first = record["id"].endswith("/1")
            assert (record["scores"]["reward/late"] is None) == first
            assert (record["scores"]["reward"] is None) == first
    for name in ("reward", "reward/words", "reward/late", "heldout/heard"):
        seen = [[v for r in part if (v := r["scores"][name]) is not None] for part in rows]
        assert found[name]["value"] == pytest.approx(np.mean([np.mean(s) for s in seen])), name
        assert found[name]["n"] == sum(map(len, seen))
        assert found[name]["n"] + found[name]["unscored"] == 3 * len(due())
    assert found["reward"]["unscored"] == 3 * sum(i.endswith("/1") for i in due()) > 0
    assert "late" in found["reward"]["reason"]
    expected = 0.5 * np.mean([r["scores"]["reward/words"] for p in rows for r in p if not r["id"].endswith("/1")]) + 1
    assert found["reward"]["value"] == pytest.approx(expected)


def test_compare_is_second_minus_first_for_each_decoding(done: Study) -> None:
    compared = done.summary["comparisons"]
    assert {(c["a"], c["b"]) for c in compared} == {("sft", "base")}
    assert {c["decoding"] for c in compared} == {"greedy", "sampled"}
    for c in compared:
        scores = done.summary["scores"][c["decoding"]]
        a, b = scores["sft"][c["metric"]], scores["base"][c["metric"]]
        if c["metric"] == "copy_rate":
            continue  # short replies have none
        assert c["difference"] == pytest.approx(a["value"] - b["value"]), c["metric"]
        assert (c["p"] is None) == (c["metric"] == "distinct1")


def test_seeds_of_a_dialogue_are_resampled_together() -> None:
    """Three equal seeds know no more than one: the interval is the same, not narrower by the root of three."""
    clusters = np.repeat(np.arange(6), 3)
    one = Result.mean(np.arange(18.0) ** 1.5)
    three = averaged([Result.mean(np.arange(18.0) ** 1.5) for _ in range(3)])
    assert three.value == pytest.approx(one.value)
    assert interval(three, clusters, draws=200) == pytest.approx(interval(one, clusters, draws=200))


def test_a_seed_without_a_value_is_left_out() -> None:
    none = Result.mean([np.nan, np.nan])
    two = averaged([Result.mean([1.0, 3.0]), none])
    assert two.value == 2.0
    ends = interval(two, np.array([0, 1]), draws=50)
    assert ends is not None
    assert not np.isnan(ends).any()


def test_labels_stand_behind_the_constant(done: Study) -> None:
    gold = [
        c.turns[i].label("mesc_emotion")
        for c in talks()
        if c.split == "test"
        for i, t in enumerate(c.turns)
        if f"{c.id}/{i}" in due()
    ]
    most = max(EMOTIONS, key=gold.count)
    for decoding, reports in done.summary["labels"]["mesc_emotion"].items():
        seeds = SEEDS if decoding == "sampled" else [13]
        for report in reports:
            constant = report["constant"]["scores"]["accuracy"]
            assert report["constant_label"] == most
            assert constant["value"] == pytest.approx(100 * gold.count(most) / len(gold))
            if report["system"] == "sft" and report["source"] == "classifier: judge":
                hits = []
                for seed in seeds:
                    by_id = {r["id"]: r["reply"] for r in records(done.folder, f"sft.{decoding}.{seed}")}
                    hits.append(np.mean([of_text(by_id[i]) == g for i, g in zip(due(), gold, strict=True)]))
                assert report["predicted"]["scores"]["accuracy"]["value"] == pytest.approx(100 * np.mean(hits))


def test_a_tag_that_was_due_and_not_written_is_wrong(done: Study) -> None:
    """The format asks for one; the tiny model babbles."""
    found = [r for r in done.summary["labels"]["mesc_emotion"]["sampled"] if r["source"] == "tag"]
    assert [r["system"] for r in found] == ["base", "sft"]
    for r in found:
        written = [x for s in SEEDS for x in records(done.folder, f"{r['system']}.sampled.{s}") if x.get("plan")]
        assert r["silent"] == 3 * len(due()) - len(written)
        assert sum(map(sum, r["predicted"]["confusion"])) == 3 * len(due())


def test_files_are_private_and_prompts_are_kept(done: Study) -> None:
    for path in done.folder.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    for record in records(done.folder, "sft.greedy.13"):
        assert record["prompt"].count("<|user|>") == 1
        assert record["finish"] in ("stop", "length")
        assert record["system"] == "sft"


def test_examples_are_drawn_and_show_every_decoding(done: Study) -> None:
    examples = done.summary["examples"]
    assert len({e["id"].rsplit("/")[0] for e in examples}) == len(examples) == 2
    names = ["base, greedy", "base, sampled", "sft, greedy", "sft, sampled", "fixed_reply", "copy_last_turn"]
    for e in examples:
        assert list(e["replies"]) == names
        by_id = {r["id"]: r["reply"] for r in records(done.folder, "sft.sampled.13")}
        assert e["replies"]["sft, sampled"] == by_id[e["id"]]


# ---------------------------------------------------------------------- variants


def test_format_of_a_run_can_be_changed_by_option(root: Path) -> None:
    sft = str(root / "sft")
    systems = {
        "sft": {"model_name_or_path": sft},
        "blind": {"model_name_or_path": sft, "format": {"use_emotion": False}},
    }
    done = study(quick(root, "blind", systems=systems))
    with_field = records(done.folder, "sft.greedy.13")
    without = {r["id"]: r["prompt"] for r in records(done.folder, "blind.greedy.13")}
    for record in with_field:
        assert "<|emotion|>" in record["prompt"]
        assert "<|emotion|>" not in without[record["id"]]


def test_predicted_client_labels_stand_in_the_prompt_and_in_the_trace(root: Path) -> None:
    sft = str(root / "sft")
    systems = {
        "gold": {"model_name_or_path": sft, "predicted_labels": {}},
        "predicted": {"model_name_or_path": sft},
    }
    done = study(quick(root, "predicted", systems=systems, predicted_labels={"mesc_emotion": "phi2"}))
    by_id = {f"{c.id}/{i}": c.turns[i - 1] for c in talks() for i in range(1, len(c.turns))}
    changed = 0
    gold = {r["id"]: r for r in records(done.folder, "gold.greedy.13")}
    for record in records(done.folder, "predicted.greedy.13"):
        read = of_text(by_id[record["id"]].text)
        assert f"<|emotion|> {read}<|user|>" in record["prompt"]
        assert record["info"]["predicted_labels"] == {"mesc_emotion": {"value": read, "scorer": "0123456789abcdef"}}
        own = by_id[record["id"]].label("mesc_emotion")
        assert f"<|emotion|> {own}<|user|>" in gold[record["id"]]["prompt"]
        assert "predicted_labels" not in gold[record["id"]]["info"]
        changed += read != own
    assert changed
    about = {s["name"]: s for s in done.summary["systems"]}
    assert "phi2" in about["predicted"]["client_labels"]["mesc_emotion"]
    assert about["gold"]["client_labels"] == {}


def test_scorers_get_the_context_and_who_speaks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    monkeypatch.setattr(classify, "load", lambda path: reader)
    study(quick(root, "asked", labels={"mesc_emotion": {"scorers": {"judge": "phi"}}}))
    replies = [a for a in reader.asked if a[2] == "assistant"]
    assert sorted({n for _, n, _ in replies}) == sorted({int(i.rsplit("/")[-1]) for i in due()})


def test_client_as_target(root: Path) -> None:
    labels = {"mesc_emotion": {"scorers": {"judge": "phi"}, "target": "client"}}
    done = study(quick(root, "client", labels=labels))
    report = done.summary["labels"]["mesc_emotion"]["greedy"][0]
    by_id = {f"{c.id}/{i}": c.turns[i - 1].label("mesc_emotion") for c in talks() for i in range(1, len(c.turns))}
    gold = [by_id[i] for i in due()]
    assert {k: v for k, v in report["gold"].items() if v} == {g: gold.count(g) for g in set(gold)}


def test_beams_and_a_baseline_in_a_comparison(root: Path) -> None:
    decodings = {f"beams{n}": {"max_new_tokens": 3, "num_beams": n} for n in (1, 2, 4)}
    done = study(quick(root, "beams", decodings=decodings, baselines=["fixed_reply"], compare=[["fixed_reply", "sft"]]))
    assert [c["decoding"] for c in done.summary["comparisons"]] == list(decodings)
    fixed = [done.summary["scores"][d]["fixed_reply"]["length"]["value"] for d in decodings]
    assert len(set(fixed)) == 1
    for c in done.summary["comparisons"]:
        scores = done.summary["scores"][c["decoding"]]
        assert c["difference"] == pytest.approx(scores["sft"]["length"]["value"] - fixed[0])


# ---------------------------------------------------------------------- resuming


class Killed(BaseException):
    """Nothing in the library may catch it."""


def test_a_killed_study_goes_on_with_the_same_words(root: Path, done: Study) -> None:
    def say(text: str) -> None:
        if text.startswith("sft.sampled.21: replies 6/"):
            raise Killed

    with pytest.raises(Killed):
        study(config(root, "killed"), say=say)
    written = (root / "killed" / "traces" / "base.greedy.13.jsonl").read_bytes()
    begun = records(root / "killed", "sft.sampled.21")
    assert 0 < len(begun) < len(due())
    again = study(config(root, "killed"))
    assert (root / "killed" / "traces" / "base.greedy.13.jsonl").read_bytes() == written
    for name in ("sft.sampled.21", "sft.sampled.42", "base.sampled.13"):
        assert {r["id"]: r["reply"] for r in records(again.folder, name)} == {
            r["id"]: r["reply"] for r in records(done.folder, name)
        }
    assert again.summary["scores"] == done.summary["scores"]
    assert again.summary["labels"] == done.summary["labels"]


def test_another_decoding_in_the_same_folder_is_refused(root: Path, done: Study) -> None:
    changed = {**values(root)["decodings"], "greedy": {"max_new_tokens": 5}}
    with pytest.raises(ConfigError, match="decoding"):
        study(config(root, decodings=changed))


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"systms": {}}, "Did you mean 'systems'"),
        ({"decodings": {"greedy": {"seeds": [1, 2]}}}, "do_sample"),
        ({"decodings": {"s": {"do_sample": True, "seeds": [1, 1]}}}, "different"),
        ({"decodings": {"a.b": {}}}, "file name"),
        ({"compare": [["sft", "rl"]]}, "'rl', which is not there"),
        ({"compare": [["sft", "sft"]]}, "beside itself"),
        ({"systems": {"fixed_reply": {"model_name_or_path": "x"}}}, "rename one"),
        ({"labels": {"mesc_emotion": {}}}, "nothing reads"),
        ({"rewards": [{"name": "study_kit:words"}], "heldout": [{"name": "study_kit:words"}]}, "another 'label'"),
        ({"rewards": [{"name": "study_kit:words", "weight": "much"}]}, "weight"),
    ],
)
def test_a_configuration_that_cannot_be(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as err:
        config(tmp_path, **more)
    assert words in str(err.value)


def test_a_recipe_stage_may_say_method(root: Path) -> None:
    given = values(root)
    assert check(StudyConfig, {**given, "method": "study"}).kind == "study"
    with pytest.raises(ConfigError):
        check(StudyConfig, {**given, "kind": "sft"})


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        ({"metrics": ["blue"]}, NotFoundError, "Unknown metric"),
        ({"rewards": [{"name": "wordz"}]}, NotFoundError, "Unknown reward"),
        ({"labels": {"mesc_emotions": {"tag": True}}}, NotFoundError, "mesc_emotion"),
        ({"labels": {"esconv_strategy": {"scorers": {"judge": "phi"}}}}, ConfigError, "named for 'esconv_strategy'"),
        ({"heldout": [{"name": "study_kit:words", "label": "again"}]}, ConfigError, "not held out"),
    ],
)
def test_refused_before_a_model_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], kind: type[UserError], words: str
) -> None:
    monkeypatch.setattr("heedful.evaluation.study.load", lambda *a, **k: pytest.fail("a model was loaded first"))
    with pytest.raises(kind) as err:
        study(config(root, "refused", **more))
    assert words in str(err.value)
    assert not (root / "refused").exists()


@pytest.mark.parametrize("learned", ["test", None])
def test_a_judge_that_saw_the_answers_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, learned: str | None
) -> None:
    record = {"dataset": str(root / "toy.jsonl"), "train_split": learned, "seed": 1, "features": "minilm"}
    monkeypatch.setattr(classify, "load", lambda path: Reader(record=record))
    with pytest.raises(LeakError, match="learned from"):
        study(config(root, "leak"))


def test_a_judge_that_saw_the_answers_under_another_name_of_the_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {
        "dataset": str(root / "." / ".." / root.name / "toy.jsonl"),
        "train_split": "test",
        "seed": 1,
        "features": "tfidf",
    }
    monkeypatch.setattr(classify, "load", lambda path: Reader(record=record))
    with pytest.raises(LeakError, match="learned from"):
        study(config(root, "leak"))


@pytest.mark.parametrize(
    ("reward", "heldout", "why"),
    [
        ({"name": "similarity"}, {"name": "emotion", "params": {"scorer": "minilm"}}, "both use the features minilm"),
        ({"name": "relevance"}, {"name": "similarity"}, "both use the features minilm"),
        ({"name": "rouge1"}, {"name": "rougeL"}, "both count words in common"),
        ({"name": "similarity"}, {"name": "emotion", "params": {"scorer": "tfidf"}}, None),
        ({"name": "similarity", "params": {"encoder": "other"}}, {"name": "relevance"}, None),
    ],
)
def test_a_held_out_score_that_sees_what_the_reward_sees_is_named(
    monkeypatch: pytest.MonkeyPatch, reward: dict[str, Any], heldout: dict[str, Any], why: str | None
) -> None:
    monkeypatch.setattr(classify, "load", lambda path: Reader(record={"features": path, "seed": 1}))
    notes = _kinship([RewardConfig.model_validate(reward)], [RewardConfig.model_validate(heldout)])
    assert [why in note for note in notes] == [True] if why else not notes


def test_a_score_that_is_an_accuracy_has_the_constant_in_its_name() -> None:
    gold = [*["neutral"] * 3, "sadness"]
    tasks = [
        Task(
            id=str(i),
            context=conversation("Hello."),
            reference=Turn(role="assistant", text="Hm.", labels=(Label(set="mesc_emotion", value=e),)),
        )
        for i, e in enumerate(gold)
    ]
    specs = [
        RewardConfig(name="tag", params={"label_set": "mesc_emotion"}),
        RewardConfig(name="emotion", label="read", params={"scorer": "phi", "hard": True}),
        RewardConfig(name="emotion", label="soft", params={"scorer": "phi"}),
    ]
    infos = {f"reward/{name}": {"title": name} for name in ("tag", "read", "soft")}
    found = with_constants(infos, {"reward": specs}, tasks, {"phi": cast(LabelModel, Reader())})
    titles = [info["title"] for info in found.values()]
    assert titles == ["tag (always “neutral”: 0.7500)", "read (always “neutral”: 0.7500)", "soft"]


def test_a_model_that_is_no_run_has_no_adapter(root: Path) -> None:
    systems = {"base": {"model_name_or_path": str(root / "tiny"), "adapter": False}}
    with pytest.raises(ConfigError, match="adapter"):
        study(quick(root, "tiny", systems=systems, dataset=str(root / "toy.jsonl")))
    systems = {"base": {"model_name_or_path": str(root / "tiny"), "format": {"use_emotion": False}}}
    with pytest.raises(ConfigError, match=r"format\.name"):
        study(quick(root, "tiny", systems=systems, dataset=str(root / "toy.jsonl")))


def test_systems_that_reply_at_different_places(root: Path, tmp_path: Path) -> None:
    double = [
        c if c.split == "train" else c.__class__(**{**fields(c), "turns": (*c.turns, c.turns[-1])}) for c in talks()
    ]
    corpora.write_jsonl(tmp_path / "double.jsonl", double)
    sft = str(root / "sft")
    systems = {
        "one": {"model_name_or_path": sft},
        "two": {"model_name_or_path": sft, "format": {"name": "chat"}, "max_length": 600},
    }
    more = {"systems": systems, "dataset": str(tmp_path / "double.jsonl")}
    with pytest.raises(ConfigError, match="merge_turns"):
        study(quick(tmp_path, "apart", **more))
    study(quick(tmp_path, "joined", merge_turns=True, **more))


def fields(conv: Any) -> dict[str, Any]:
    return {name: getattr(conv, name) for name in conv.__dataclass_fields__}


def test_labels_that_nobody_gave(root: Path) -> None:
    with pytest.raises(ConfigError, match="nothing but tags"):
        study(quick(root, "notags", labels={"hope_act": {"tag": True}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify, "load", lambda path: Reader(label_set="hope_act", labels=("ack",)))
        with pytest.raises(DataError, match="hope_act"):
            study(quick(root, "nolabels", labels={"hope_act": {"scorers": {"judge": "phi"}}}))


# ---------------------------------------------------------------------- command line


def test_command_line(root: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "study.yaml"
    given = values(root, "cli", bootstrap=10)
    file.write_text(json.dumps({**given, "output_dir": str(tmp_path / "out" / "cli")}))
    code, out, err = call("eval", "study", file)
    assert code == 0, err
    report = tmp_path / "out" / "cli" / "report.html"
    assert out.rstrip().endswith(f"report: {report}")
    assert "always" in out
    texts = {t.text for c in talks() for t in c.turns}
    replies = {r["reply"] for r in records(report.parent, "sft.greedy.13") if len(r["reply"]) > 8}
    assert not any(text in out + err for text in texts | replies)
    code, text, _ = call("eval", "study", file, "--json")
    assert code == 0
    assert "examples" not in json.loads(text)
    code, text, _ = call("eval", "study", file, "--json", "--show-text")
    assert json.loads(text)["examples"]
    code, out, _ = call("eval", "ls", tmp_path / "out")
    assert code == 0
    assert str(report.parent) in out
    code, out, _ = call("eval", "view", report.parent)
    assert code == 0
    assert "constant" in out
    code, out, _ = call("eval", "view", report.parent, "--markdown")
    assert code == 0
    assert out.count("| always ") == 2
    code, _, err = call("eval", "study", file, "metric=[length]")
    assert code == 2
    assert "Did you mean 'metrics'" in err


# ---------------------------------------------------------------------- with real scorers


def test_with_trained_scorers(root: Path, tmp_path: Path) -> None:
    """Two scorers as `heedful train` makes them: one in the reward, one held out and reading labels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify, "load", load_scorer)
        paths = []
        for seed in (13, 42):
            given = {"dataset": str(root / "toy.jsonl"), "features": "tfidf", "seed": seed, "calibration": "none"}
            made = train_scorer(ScorerConfig(**given, eval_split=None, output_dir=str(tmp_path / f"phi{seed}")))
            paths.append(str(made.folder))
        done = study(
            quick(
                root,
                "scorers",
                rewards=[{"name": "emotion", "label": "emotion_reward", "params": {"scorer": paths[0]}}],
                heldout=[{"name": "emotion", "label": "emotion_heldout", "params": {"scorer": paths[1]}}],
                labels={"mesc_emotion": {"scorers": {"reward": paths[0], "heldout": paths[1]}}},
                predicted_labels={"mesc_emotion": paths[1]},
            )
        )
    scores = done.summary["scores"]["greedy"]["sft"]
    assert 0 < scores["reward/emotion_reward"]["value"] < 1
    assert 0 < scores["heldout/emotion_heldout"]["value"] < 1
    assert any("close to the reward's" in limit for limit in done.summary["limits"])  # both read tf-idf
    assert load_scorer(paths[1]).fingerprint in done.summary["metrics"]["heldout/emotion_heldout"]["signature"]
    assert {r["source"] for r in done.summary["labels"]["mesc_emotion"]["greedy"]} == {
        "classifier: reward",
        "classifier: heldout",
    }
