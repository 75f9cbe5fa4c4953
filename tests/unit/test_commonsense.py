"""Commonsense: first-person events, the rule for tails, retrieval, the head, the release, the planner, the scores."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful import agents, corpora
from heedful.agents.commonsense import CommonsensePlanner
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.formats import make as make_format
from heedful.knowledge import commonsense_atomic as atomic
from heedful.knowledge import commonsense_scores
from heedful.knowledge.commonsense import RELATIONS, Found, check_relations, make, none_shares
from heedful.knowledge.commonsense_atomic import Answer, AtomicRetrieval, best, first_person, head_pairs
from heedful.knowledge.commonsense_head import AtomicHead
from heedful.knowledge.commonsense_released import Precomputed, released
from heedful.knowledge.commonsense_scores import against_atomic, against_released
from heedful.testing import conversation
from heedful.types import Conversation, Turn

COLUMNS = (
    "event", "oEffect", "oReact", "oWant", "xAttr", "xEffect", "xIntent", "xNeed", "xReact", "xWant", "prefix", "split",
)  # fmt: skip
TST: tuple[dict[str, Any], ...] = (
    {"event": "PersonX misses the bus", "xReact": ["Annoyed. "], "xIntent": ["none"], "xWant": ["to run"]},
    {"event": "PersonX misses the bus", "xReact": ["late", "annoyed"], "xIntent": ["none"], "xEffect": ["none"]},
    {"event": "PersonX bakes ___", "xReact": ["proud"], "xIntent": ["to eat"], "xNeed": []},
    {"event": "PersonX bakes ___", "xReact": ["happy"], "xIntent": ["none"]},
    {"event": "PersonX calls PersonY", "xReact": ["happy"]},
    {"event": "PersonX cuts PersonX's wrists", "xReact": ["hurt"]},
)
DEV: tuple[dict[str, Any], ...] = (
    {"event": "PersonX bakes bread", "xReact": ["happy"], "xIntent": ["to share"]},
    {"event": "PersonX swims far", "xReact": ["tired"], "xIntent": ["none"]},
)


def write(root: Path, part: str, rows: Sequence[dict[str, Any]]) -> None:
    (root / "atomic").mkdir(exist_ok=True)
    with gzip.open(root / "atomic" / f"v4_atomic_{part}.csv.gz", "wt", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, COLUMNS)
        out.writeheader()
        for row in rows:
            cells = {name: json.dumps(row.get(name, [])) for name in COLUMNS[1:-1]}
            out.writerow({**cells, "event": row["event"], "split": part})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path))
    monkeypatch.setenv("HEEDFUL_CACHE", str(tmp_path / "cache"))
    write(tmp_path, "tst", TST)
    write(tmp_path, "dev", DEV)
    return tmp_path


def bag(texts: Sequence[str]) -> Any:
    """Unit vectors of words, so that a cosine can be worked out by hand."""
    out = np.zeros((len(texts), 4096), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            out[row, int.from_bytes(word.encode()[:6], "little") % 4093] += 1.0
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


# ---------------------------------------------------------------- ATOMIC


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ("PersonX brings ___ to the people", "I bring something to the people"),
        ("PersonX is tired of PersonX's job", "I am tired of my job"),
        ("PersonX carries PersonY's bag", "I carry someone's bag"),
        ("PersonX lies to PersonZ", "I lie to someone"),
        ("PersonX watches PersonX sleep", "I watch I sleep"),
        ("PersonX loses ___", "I lose something"),
        ("PersonX passes ___ on", "I pass something on"),
        ("PersonX has a cold", "I have a cold"),
    ],
)
def test_events_in_the_first_person(event: str, told: str) -> None:
    assert first_person(event) == told


def test_reading_keeps_every_answer_and_leaves_out_what_the_screen_stops(root: Path) -> None:
    found = atomic.read("tst")
    assert [(e.text, e.row) for e in found.events] == [
        ("PersonX misses the bus", 0), ("PersonX bakes ___", 2), ("PersonX calls PersonY", 4),
    ]  # fmt: skip
    assert found.screened == (1, 0)
    assert [(a.row, a.tail) for a in found.events[0].answers["xReact"]] == [(0, "annoyed"), (1, "late"), (1, "annoyed")]
    assert found.events[0].answers["xNeed"] == ()
    kept = list((root / "cache" / "commonsense").glob("atomic-*.json"))
    assert len(kept) == 1
    atomic._read.cache_clear()
    assert atomic.read("tst") == found  # from the cache
    kept[0].write_text('{"events": [[1')
    atomic._read.cache_clear()
    assert atomic.read("tst") == found  # torn: made anew


def test_another_file_is_another_hash(root: Path) -> None:
    before = make("atomic-retrieval").fingerprint
    write(root, "tst", TST[:-1])
    assert make("atomic-retrieval").fingerprint != before
    assert make("atomic-retrieval", floor=0.4).fingerprint != make("atomic-retrieval").fingerprint
    assert make("atomic-retrieval", split="dev").fingerprint != make("atomic-retrieval").fingerprint


def test_damaged_files_are_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = root / "atomic" / "v4_atomic_tst.csv"
    (root / "atomic" / "v4_atomic_tst.csv.gz").unlink()
    place.write_text("event,xReact,xIntent,xWant,xNeed,xEffect\nPersonX goes,[],happy,[],[],[]\n")
    with pytest.raises(DataError, match="line 2, xIntent: expected a JSON list of texts, but it is not valid JSON"):
        atomic.read("tst")
    place.write_text("event,xReact,xIntent,xWant,xNeed,xEffect\nPersonX goes,[],[1],[],[],[]\n")
    with pytest.raises(DataError, match="expected a JSON list of texts, but it is a list"):
        atomic.read("tst")
    monkeypatch.setenv("HEEDFUL_DATA", str(root / "nowhere"))
    with pytest.raises(NotFoundError, match=r"v4_atomic_dev\.csv .*set HEEDFUL_DATA"):
        atomic.read("dev")


def answers(*tails: str) -> list[Answer]:
    return [Answer(row=i, tail=tail) for i, tail in enumerate(tails)]


@pytest.mark.parametrize(
    ("tails", "expected"),
    [
        ((), None),
        (("none",), None),
        (("none", "none", "to run"), None),  # more than half
        (("none", "to run"), "to run"),
        (("to run", "to eat", "to eat"), "to eat"),  # the most annotators
        (("to run", "to eat"), "to eat"),  # among equals the one that is usual elsewhere
        (("to swim", "to run"), "to swim"),  # then the first of the file
    ],
)
def test_the_best_tail(tails: Sequence[str], expected: str | None) -> None:
    found = best(answers(*tails), {"to eat": 5})
    assert (found.tail if found else None) == expected


# ---------------------------------------------------------------- retrieval


def test_retrieval_takes_the_nearest_event_and_its_answers(root: Path) -> None:
    provider = AtomicRetrieval(encode=bag)
    found = provider.infer(["I miss the bus today", "Unlike anything else"], RELATIONS)
    cosine = round(4 / (4**0.5 * 5**0.5), 4)
    assert found[0] == {
        "xReact": Found(text="annoyed", event="PersonX misses the bus", id="tst/0", score=pytest.approx(cosine)),
        "xWant": Found(text="to run", event="PersonX misses the bus", id="tst/0", score=pytest.approx(cosine)),
    }
    assert found[1] == {}
    assert provider.infer([], RELATIONS) == []
    assert "annoyed" not in repr(found[0])


def test_an_event_that_says_none_does_not_hand_over_to_the_next(root: Path) -> None:
    write(root, "tst", [{"event": "PersonX bakes bread", "xIntent": ["none"]}, *TST])
    found = AtomicRetrieval(encode=bag, floor=0.2).infer(["I bake bread"], ["xIntent"])
    assert found == [{}]  # although "I bake something" is near and has an intent


def test_floor_and_split(root: Path) -> None:
    said = ["I miss the bus today and all"]
    cosine = 4 / (4**0.5 * 7**0.5)
    assert AtomicRetrieval(encode=bag, floor=cosine + 0.01).infer(said, ["xReact"]) == [{}]
    assert AtomicRetrieval(encode=bag, floor=cosine - 0.01).infer(said, ["xReact"])[0]["xReact"].text == "annoyed"
    swim = ["I swim far"]
    assert AtomicRetrieval(encode=bag).infer(swim, ["xReact"]) == [{}]
    for split in ("dev", "both"):
        found = AtomicRetrieval(encode=bag, split=split).infer(swim, ["xReact"])[0]["xReact"]
        assert (found.text, found.id) == ("tired", "dev/1")


def test_wrong_options_are_said() -> None:
    with pytest.raises(ConfigError, match="split of ATOMIC must be tst, dev or both, but it is 'train'"):
        make("atomic-retrieval", split="train")
    with pytest.raises(ConfigError, match="floor is a cosine between -1 and 1, but it is 2"):
        make("atomic-retrieval", floor=2)
    with pytest.raises(ConfigError, match="cannot be made from these options"):
        make("none", floor=0.5)
    with pytest.raises(NotFoundError, match="Did you mean 'atomic-head'"):
        make("atomic-heads")
    with pytest.raises(ConfigError, match="Did you mean 'xReact'"):
        check_relations(["xreact"])
    with pytest.raises(ConfigError, match="at least one"):
        check_relations([])
    assert check_relations(["xWant", "xReact", "xWant"]) == ("xReact", "xWant")


# ---------------------------------------------------------------- the head


def test_pairs_for_the_head_hold_every_answer_and_divide_by_file(root: Path) -> None:
    pairs = list(head_pairs(["xReact", "xIntent"]))
    assert len({p.id for p in pairs}) == len(pairs)
    assert [(p.split, p.turns[0].text, p.turns[1].text) for p in pairs][:5] == [
        ("train", "I miss the bus [xReact]", "annoyed"),
        ("train", "I miss the bus [xReact]", "late"),
        ("train", "I miss the bus [xReact]", "annoyed"),
        ("train", "I miss the bus [xIntent]", "none"),
        ("train", "I miss the bus [xIntent]", "none"),
    ]
    assert [p.turns[1].text for p in pairs if p.split == "valid"] == ["happy", "to share", "tired", "none"]
    assert corpora.write_jsonl(root / "pairs.jsonl", pairs) == len(pairs)
    assert corpora.load(str(root / "pairs.jsonl"), "valid") == [p for p in pairs if p.split == "valid"]


@pytest.fixture(scope="module")
def head_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has learnt two answers by heart."""
    pytest.importorskip("torch")
    from training_kit import Bench

    bench = Bench(tmp_path_factory.mktemp("head"))
    talks = [
        Conversation(
            id=f"p{i}-{k}",
            split="train",
            turns=(Turn(role="user", text=f"{said} [{relation}]"), Turn(role="assistant", text=tail)),
        )
        for i, (said, relation, tail) in enumerate(
            [("I slept badly", "xReact", "sad. Or so"), ("I slept badly", "xWant", "none"), ("No", "xReact", "angry")]
        )
        for k in range(2)
    ]
    corpora.write_jsonl(bench.data, talks)
    fmt = {"name": "strategy", "predict": False, "context_strategies": False}
    return bench.run("head", format=fmt, num_train_epochs=16, delta="full").folder


def test_the_head_writes_tails_cut_at_the_full_stop(head_run: Path, root: Path) -> None:
    provider = make("atomic-head", run=str(head_run))
    found = provider.infer(["I slept badly", "No", "I slept badly"], ["xReact", "xWant"])
    assert found[0]["xReact"].text == "sad"
    assert 0.5 < (found[0]["xReact"].score or 0) <= 1.0
    assert "xWant" not in found[0]  # it wrote "none"
    assert found[1]["xReact"].text == "angry"
    assert found[2] == found[0]
    assert provider.infer(["No"], ["xReact"])[0]["xReact"] == found[1]["xReact"]
    assert not (root / "cache" / "commonsense").exists()  # a talk leaves nothing on disk
    assert provider.fingerprint == make("atomic-head", run=str(head_run)).fingerprint


def test_the_head_keeps_the_answers_for_a_corpus(head_run: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.knowledge.commonsense_head.KEPT", 2)
    provider = AtomicHead(run=str(head_run))
    first = provider.infer(["I slept badly", "No"], ["xReact"])
    (kept,) = (root / "cache" / "commonsense").glob("head-*.jsonl")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "slept" not in kept.read_text()
    kept.write_text(kept.read_text() + '{"key": "torn')
    monkeypatch.setattr(AtomicHead, "_written", lambda self, keys: pytest.fail("asked again"))
    assert AtomicHead(run=str(head_run)).infer(["No", "I slept badly"], ["xReact"]) == first[::-1]


def test_the_head_reads_the_end_of_what_is_too_long(head_run: Path, root: Path) -> None:
    assert make("atomic-head", run=str(head_run)).infer(["word " * 4000 + "No"], ["xReact"])


def test_the_head_needs_a_run(root: Path) -> None:
    for run, what in ((str(root), "is no run of heedful"), (str(root / "x"), "is no folder")):
        with pytest.raises(NotFoundError, match=what):
            make("atomic-head", run=run).fingerprint
    with pytest.raises(ConfigError, match="needs the folder of a run"):
        make("atomic-head", run="")


# ---------------------------------------------------------------- the release

SAID = {"Exams begin.": "nervous|to pass|to study|none|", "Thanks.": "happy|none|to leave|none|none"}


@pytest.fixture
def kemi(root: Path) -> Path:
    folder = root / "kemi" / "esconv_sbert"
    folder.mkdir(parents=True)

    def string(said: str) -> str:
        tails = dict(zip(RELATIONS, SAID[said].split("|"), strict=True))
        return " ".join(f"[{relation}] {tails[relation]}" for relation in RELATIONS)

    def line(*texts: str) -> dict[str, Any]:
        return {
            "dialog": [
                {"speaker": "usr", "text": text, "knowledge": string(text)}
                if text in SAID
                else {"speaker": "sys", "text": text, "strategy": "Others", "heal": ""}
                for text in texts
            ]
        }

    corpora.jsonl.write_objects(folder / "valid.jsonl", [line("Hello.", "Exams begin.", "When?", "Thanks.")])
    corpora.jsonl.write_objects(folder / "test.jsonl.gz", [line("Exams begin.", "Oh."), line("Thanks.", "Bye.")])
    return folder


def test_the_release_serves_its_own_conversations(kemi: Path) -> None:
    provider = Precomputed()
    found = provider.infer(["Thanks.", "Exams begin."], RELATIONS)
    assert {r: f.text for r, f in found[0].items()} == {"xReact": "happy", "xWant": "to leave"}
    assert {r: f.text for r, f in found[1].items()} == {"xReact": "nervous", "xIntent": "to pass", "xWant": "to study"}
    assert found[1]["xReact"].id == "valid/0/1"
    assert found[1]["xReact"].source("xReact") == {"name": "atomic.xReact", "text": "nervous", "id": "valid/0/1"}
    provider.check([conversation("Hello.", "Exams begin.", "When?", first="assistant"), conversation("Thanks.")])


def test_the_release_refuses_other_conversations(kemi: Path) -> None:
    provider = Precomputed()
    for other in (conversation("Thanks.", "Exams begin."), conversation("Exams begin.", "Ok."), conversation("Exams")):
        with pytest.raises(DataError, match=r"1 of 2 conversations are others; take atomic-retrieval"):
            provider.check([conversation("Thanks."), other])
    with pytest.raises(DataError, match="1 of 1 turns are not in it"):
        provider.infer(["Something else"], RELATIONS)
    with pytest.raises(DataError, match="knows KEMI's release for ESConv valid and test alone"):
        CommonsensePlanner(provider="precomputed").plan([conversation("Else.")])


def test_a_damaged_release_is_said(kemi: Path) -> None:
    (kemi / "valid.jsonl").write_text('{"dialog": [{"speaker": "usr", "text": "x", "knowledge": "[xReact] sad"}]}\n')
    with pytest.raises(DataError, match="line 1: 'knowledge' must be"):
        released("valid")
    (kemi / "valid.jsonl").write_text('{"dialog": [{"speaker": "usr", "text": "x"}]}\n')
    with pytest.raises(DataError, match="not a dialogue of KEMI's release"):
        released("valid")


# ---------------------------------------------------------------- scores


def test_scores_against_the_release(kemi: Path) -> None:
    found = {s.relation: s for s in against_released(make("none"), "valid")}
    assert (found["xIntent"].exact, found["xIntent"].none, found["xIntent"].expected_none) == (0.5, 1.0, 0.5)
    assert found["xEffect"].exact == found["xEffect"].floor == 1.0  # an empty string is none
    assert not found["xEffect"].beats_floor
    assert found["xReact"].exact_answered is None
    same = {s.relation: s for s in against_released(Precomputed(), "valid")}
    assert all(score.exact == 1.0 for score in same.values())
    assert same["xReact"].beats_floor
    assert same["xReact"].floor == 0.5
    assert len(against_released(make("none"), "test", most=1)) == 5
    assert same["xReact"].to_dict()["beats_floor"] is True


def test_scores_on_held_out_events(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = AtomicRetrieval(encode=bag)
    found = {s.relation: s for s in against_atomic(provider, relations=["xReact", "xIntent", "xNeed"])}
    # "I bake bread" finds "I bake something" ("happy" is more usual than "proud"); "I swim far" finds nothing
    assert (found["xReact"].n, found["xReact"].exact, found["xReact"].answered) == (2, 0.5, 1)
    assert found["xReact"].exact_answered == 1.0
    assert found["xIntent"].exact == 0.5  # "to eat" is not what was said, none is
    assert "xNeed" not in found  # nobody was asked
    with pytest.raises(ConfigError, match="this provider searches them"):
        against_atomic(AtomicRetrieval(encode=bag, split="both"))


def test_the_script_prints_a_table(kemi: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, root: Path) -> None:
    path = Path(__file__).parents[2] / "scripts" / "score_commonsense.py"
    spec = importlib.util.spec_from_file_location("score_commonsense", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    class Store:
        encode = staticmethod(bag)

        def keep(self, texts: Sequence[str]) -> None:
            pass

    monkeypatch.setattr(atomic, "shared_vectors", lambda: Store())
    script.main(["--part", "valid"])
    out = capsys.readouterr().out
    assert "| xReact | 2 | 0.0 | 50.0 |" in out
    assert "Exams" not in out
    script.main(["--pairs", str(root / "pairs.jsonl")])
    assert "pairs in" in capsys.readouterr().out
    monkeypatch.setenv("HEEDFUL_DATA", str(root / "x"))
    with pytest.raises(SystemExit, match="set HEEDFUL_DATA"):
        script.main([])


# ---------------------------------------------------------------- the planner

TALK = conversation("I miss the bus", "Oh.", "Something else here", "I see.", "I bake things", id="t")


@pytest.fixture
def planner(root: Path, monkeypatch: pytest.MonkeyPatch) -> CommonsensePlanner:
    class Store:
        encode = staticmethod(bag)

        def keep(self, texts: Sequence[str]) -> None:
            pass

    monkeypatch.setattr(atomic, "shared_vectors", lambda: Store())
    return CommonsensePlanner()


def test_the_planner_writes_sources_on_the_seekers_turns(planner: CommonsensePlanner) -> None:
    planned = planner.plan([TALK])[0]
    assert [len(turn.sources) for turn in planned.turns] == [2, 0, 0, 0, 2]
    assert dict(planned.turns[0].sources[0]) == {
        "name": "atomic.xReact", "text": "annoyed", "event": "PersonX misses the bus", "id": "tst/0",
        "score": pytest.approx(1.0),
    }  # fmt: skip
    assert [s["name"] for s in planned.sources("atomic")] == ["atomic.xReact", "atomic.xIntent"]
    for i in range(len(TALK)):
        assert planner.plan([TALK.before(i)])[0] == planned.before(i)  # nothing looks ahead
    assert none_shares([planned]) == pytest.approx(
        {"xReact": 1 / 3, "xIntent": 2 / 3, "xWant": 2 / 3, "xNeed": 1.0, "xEffect": 1.0}
    )


def test_planning_again_replaces_its_own_sources_and_no_others(planner: CommonsensePlanner) -> None:
    case = {"name": "case", "text": "vetted"}
    first = replace(TALK, turns=(replace(TALK.turns[0], sources=(case,)), *TALK.turns[1:]))
    once = planner.plan([first])[0]
    assert planner.plan([once])[0] == once
    assert once.turns[0].sources[0]["name"] == "case"
    fewer = CommonsensePlanner(relations=["xReact"]).plan([once])[0]
    assert [s["name"] for s in fewer.turns[0].sources] == ["case", "atomic.xReact"]
    gone = CommonsensePlanner(provider="none").plan([once])[0]
    assert gone == first


def test_nothing_is_looked_up_for_a_disclosure(planner: CommonsensePlanner) -> None:
    risk = conversation("I miss the bus", "Oh.", "I want to kill myself", "I hear you.", "I miss the bus")
    assert [bool(turn.sources) for turn in planner.plan([risk])[0].turns] == [True, False, False, False, False]


def test_what_is_planned_enters_the_input(planner: CommonsensePlanner) -> None:
    from heedful.testing import tiny_tokenizer

    fmt = make_format({"name": "kemi", "knowledge": "basic"})
    planned = planner.plan([TALK])[0]
    fmt.check([planned]) if any(t.label("esconv_strategy") for t in planned) else None
    assert "[xReact] annoyed [xIntent] none [xWant] to run" in fmt.prompt(planned.before(1), tiny_tokenizer())


def test_options_of_the_planner(root: Path) -> None:
    chain = agents.make([{"name": "commonsense", "provider": "none"}])
    assert chain.fingerprint == f"commonsense(none; {','.join(RELATIONS)})"
    one = {"name": "commonsense", "relations": ["xIntent"], "split": "both", "floor": 0.4}
    assert agents.make([one]).fingerprint.startswith("commonsense(atomic-retrieval/v1#both,0.4,")
    assert agents.make([one]).fingerprint.endswith("; xIntent)")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"provider": "none", "floor": 0.5}, "'none' takes no options, but floor was given"),
        ({"provider": "atomic-head", "split": "tst", "run": "x"}, "takes run, but split was given"),
        ({"provider": "atomic-head"}, "needs run"),
        ({"provider": "atomic-retrieval", "split": "train"}, "tst, dev or both"),
        ({"relations": "xReact"}, "must be a list"),
        ({"relations": ["xRaect"]}, "Did you mean 'xReact'"),
        ({"colour": "red"}, "cannot be made from these options"),
    ]
    for options, said in wrong:
        with pytest.raises(ConfigError, match=said):
            agents.make([{"name": "commonsense", **options}])
    with pytest.raises(NotFoundError, match="Unknown commonsense provider"):
        CommonsensePlanner(provider="comet")


# ---------------------------------------------------------------- simulated seekers


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_a_run_of_format_seeker_answers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from training_kit import Bench

    from heedful.agents.seeker import RunSeeker

    bench = Bench(tmp_path)
    simulator = RunSeeker(run=str(bench.run("seeker", format="seeker").folder))
    talk = conversation("I slept badly.", "Since when?", situation="I moved.")
    found = simulator.next([talk, talk.before(0)])
    assert found == simulator.next([talk, talk.before(0)])
    assert all(isinstance(text, str) for text in found)
    assert simulator.fingerprint.startswith("seeker/")
    supporter = bench.run("supporter", format="strategy").folder
    with pytest.raises(ConfigError, match="writes the supporter's turns"):
        RunSeeker(run=str(supporter))
    with pytest.raises(NotFoundError, match="is no folder; train one"):
        RunSeeker(run=str(tmp_path / "x"))


# ---------------------------------------------------------------- real data


@pytest.mark.data("atomic")
def test_counts_of_the_files() -> None:
    """kemi.md: usable tails of dev and tst, less what the screen stops (under 2 %)."""
    expected = {
        "dev": {"xReact": 7_239, "xIntent": 5_411, "xWant": 11_783, "xNeed": 8_859, "xEffect": 9_287},
        "tst": {"xReact": 7_906, "xIntent": 5_851, "xWant": 13_014, "xNeed": 9_650, "xEffect": 10_050},
    }
    for part, wanted in expected.items():
        counts = atomic.usual(atomic.read(part).events)  # type: ignore[arg-type]
        for relation, count in wanted.items():
            kept = sum(n for tail, n in counts[relation].items() if tail != "none")
            assert 0.95 * count < kept < count


@pytest.mark.data("kemi")
def test_floors_of_the_release() -> None:
    """kemi.md: the commonest value of each relation on test, 3,144 turns."""
    found = {s.relation: s for s in commonsense_scores.against_released(make("none"), "test")}
    assert {s.n for s in found.values()} == {3_144}
    floors = {relation: (score.constant, round(100 * score.floor, 1)) for relation, score in found.items()}
    del floors["xEffect"]  # 83.2 there; here empty strings are none too, which adds 0.3
    assert floors == {
        "xReact": ("happy", 42.3), "xIntent": ("none", 60.2), "xNeed": ("none", 84.0),
        "xWant": ("to be successful", 8.3),
    }  # fmt: skip


@pytest.mark.data("kemi", "esconv")
def test_the_release_fits_esconv_turn_for_turn() -> None:
    for part in ("valid", "test"):
        Precomputed().check(corpora.load("esconv", part))
    with pytest.raises(DataError, match="910 of 910 conversations are others"):
        Precomputed().check(corpora.load("esconv", "train"))
