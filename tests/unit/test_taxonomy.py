"""The label registry: sizes, rules every set obeys, HOPE's raw acts, crosswalks, and the labels of the real corpora."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful import taxonomy
from heedful.errors import LabelError, NotFoundError
from heedful.taxonomy._files import parse_crosswalk, parse_set
from heedful.taxonomy.hope import DROPPED, normalise_act, resolve_yna

SIZES = {
    "abc": 3,
    "annomi_behaviour": 4,
    "annomi_subtype": 8,
    "annomi_talk": 3,
    "cognitive_distortion": 10,
    "core_belief": 3,
    "core_belief_fine": 19,
    "dmrs_category": 4,
    "dmrs_level": 9,
    "dmrs_mechanism": 30,
    "empathetic_emotion": 32,
    "empathetic_intents": 41,
    "epitome_er": 3,
    "epitome_ex": 3,
    "epitome_ip": 3,
    "esc_stage": 3,
    "esconv_emotion": 11,
    "esconv_problem": 12,
    "esconv_strategy": 8,
    "feedback": 5,
    "hill_stage": 3,
    "hope_act": 12,
    "hope_act_merged": 11,
    "initiative": 2,
    "mesc_emotion": 7,
    "mesc_strategy": 10,
    "misc_mi": 10,
    "psyqa_strategy": 7,
    "risk": 8,
    "values": 20,
}
ALL_SETS = pytest.mark.parametrize("name", sorted(SIZES))

# ---------------------------------------------------------------------------------------------- every set


def test_the_sets_and_their_sizes() -> None:
    assert {name: len(taxonomy.get(name)) for name in taxonomy.names()} == SIZES


@ALL_SETS
def test_every_set_obeys_the_rules(name: str) -> None:
    labels = taxonomy.get(name)
    assert labels.name == name
    assert [label.id for label in labels.labels] == list(range(len(labels)))
    assert len(set(labels.names)) == len(labels)
    assert labels.title
    assert labels.source
    assert re.fullmatch(r"\d+\.\d+", labels.version)
    assert re.fullmatch(r"[0-9a-f]{16}", labels.hash)
    for label in labels.labels:
        assert label.meaning.strip()
        assert label.title.strip()
        assert labels.id_of(label.name) == label.id
        assert labels.info(label.name) is label


@ALL_SETS
def test_every_spelling_leads_to_one_label(name: str) -> None:
    labels = taxonomy.get(name)
    owners: dict[str, set[str]] = {}
    for label in labels.labels:
        for spelling in (label.name, label.title, *label.aliases, *label.lossy):
            owners.setdefault(taxonomy.normalise(spelling), set()).add(label.name)
            assert labels.resolve(spelling) == label.name
            assert labels.resolve(f"  [{spelling.upper()}]\n") == label.name
    assert [spelling for spelling, names in owners.items() if len(names) > 1] == []
    aliases = [taxonomy.normalise(a) for label in labels.labels for a in (*label.aliases, *label.lossy)]
    assert [a for a, n in Counter(aliases).items() if n > 1] == []


@settings(deadline=None)
@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing_more(raw: str) -> None:
    once = taxonomy.normalise(raw)
    assert once == once.strip()
    assert "[" not in once
    assert taxonomy.get("esconv_strategy").resolve(once) == taxonomy.get("esconv_strategy").resolve(raw)


def test_resolving_is_never_by_similarity() -> None:
    strategies = taxonomy.get("esconv_strategy")
    assert strategies.resolve("Questio") is None
    assert strategies.resolve("") is None
    assert strategies.resolve("\uff31uestion") == "Question"  # a full-width Q, as NFKC folds it
    assert strategies.resolve("Reflection \u00a0of\tfeelings") == "Reflection of feelings"


def test_dmrs_levels_are_digits_with_readable_titles() -> None:
    levels = taxonomy.get("dmrs_level")
    assert levels.names == tuple("012345678")
    assert levels.resolve("7") == levels.resolve("High-Adaptive (Mature) Defenses") == "7"
    assert levels.info("2").title == "Major image-distorting"


def test_an_unknown_label_gets_one_sentence_with_the_nearest_and_all_known() -> None:
    with pytest.raises(LabelError) as caught:
        taxonomy.get("mesc_emotion").require("saddness")
    assert str(caught.value) == (
        "The label set 'mesc_emotion' has no label 'saddness'. Did you mean 'sadness'? "
        "Known: neutral, depression, anger, disgust, joy, sadness, fear."
    )


def test_a_text_in_the_place_of_a_label_is_not_repeated() -> None:
    with pytest.raises(LabelError) as caught:
        taxonomy.get("mesc_emotion").require("a whole turn that ended up in the wrong column of somebody's table")
    assert "column" not in str(caught.value)
    assert "66 characters" in str(caught.value)


def test_an_unknown_set_names_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'mesc_emotion'"):
        taxonomy.get("mesc_emotions")


def test_a_path_is_not_a_set() -> None:
    with pytest.raises(NotFoundError, match="Unknown label set"):
        taxonomy.get("crosswalks/esconv_strategy--esc_stage")


def test_sets_are_frozen_cached_and_hashed_by_content() -> None:
    labels = taxonomy.get("hope_act")
    assert taxonomy.get("hope_act") is labels
    with pytest.raises(FrozenInstanceError):
        labels.name = "other"  # type: ignore[misc]
    assert len({taxonomy.get(name).hash for name in taxonomy.names()}) == len(SIZES)
    record = _record()
    first = parse_set(record, where="toy.toml").hash
    assert parse_set(_record(), where="toy.toml").hash == first
    record["labels"][1]["meaning"] = "goes down a little"
    assert parse_set(record, where="toy.toml").hash != first


def test_importing_reads_no_file_and_no_heavy_library() -> None:
    code = (
        "import sys, heedful.taxonomy as t; from heedful.taxonomy import _files;"
        "heavy = {'torch', 'numpy', 'sklearn', 'nltk', 'tomllib', 'importlib.resources'} & set(sys.modules);"
        "assert not heavy, heavy; assert _files._paths.cache_info().misses == 0"
    )
    # -S -E keep the site's own imports out; the path is handed on instead.
    run = subprocess.run(
        [sys.executable, "-S", "-E", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


# ---------------------------------------------------------------------------------------------- broken files


def _record() -> dict[str, Any]:
    return {
        "name": "toy",
        "version": "1.0",
        "title": "Toy",
        "source": "invented",
        "cardinality": "single",
        "labels": [
            {"id": 0, "name": "up", "meaning": "goes up", "aliases": ["rise"]},
            {"id": 1, "name": "down", "meaning": "goes down"},
        ],
    }


def test_a_new_set_needs_only_its_record() -> None:
    toy = parse_set(_record(), where="toy.toml")
    assert (toy.names, toy.resolve("Rise"), toy.id_of("down")) == (("up", "down"), "up", 1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.pop("source"), "expected exactly the keys"),
        (lambda r: r.update(owner="me"), "expected exactly the keys"),
        (lambda r: r.update(cardinality="both"), "must be single or multi, but it is 'both'"),
        (lambda r: r["labels"][1].update(id=2), "ids must count from 0"),
        (lambda r: r["labels"][1].update(meaning=""), "'meaning' must be a text that is not empty"),
        (lambda r: r["labels"][1].update(color="red"), r"unknown keys \['color'\]"),
        (lambda r: r["labels"][1].update(aliases=["RISE"]), "leads to two labels"),
        (lambda r: r["labels"][1].update(aliases=["Up"]), "leads to two labels"),
        (lambda r: r["labels"][1].update(name="up"), "two labels have the name 'up'"),
    ],
)
def test_a_broken_set_is_refused_with_its_file_name(change: Any, sentence: str) -> None:
    record = _record()
    change(record)
    with pytest.raises(LabelError, match=f"toy.toml.*{sentence}"):
        parse_set(record, where="toy.toml")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"table": {"up": "initiative", "down": "initiative"}}, "expected 'loss'"),
        ({"loss": "all", "table": {"up": "initiative"}}, "must stand exactly once"),
        ({"loss": "all", "table": {"up": "initiative", "down": "initiative"}, "none": ["up"]}, "exactly once"),
        ({"loss": "all", "table": {"up": "initiative", "down": "I"}}, r"\['I'\] are no labels of 'initiative'"),
    ],
)
def test_a_broken_crosswalk_is_refused(record: dict[str, Any], sentence: str) -> None:
    toy = parse_set(_record(), where="toy.toml")
    with pytest.raises(LabelError, match=sentence):
        parse_crosswalk(record, source=toy, target=taxonomy.get("initiative"), where="toy--initiative.toml")


# ---------------------------------------------------------------------------------------------- single sets


def test_the_150_items_of_the_q_sort_each_stand_once_five_per_mechanism() -> None:
    labels = taxonomy.get("dmrs_mechanism").labels
    assert {len(label.items) for label in labels} == {5}
    assert sorted(item for label in labels for item in label.items) == list(range(1, 151))


def test_self_and_other_are_not_swapped_in_the_splitting_items() -> None:
    mechanisms = taxonomy.get("dmrs_mechanism")
    assert mechanisms.info("splitting (self)").items == (3, 6, 98, 142, 145)
    assert mechanisms.info("splitting (other)").items == (35, 61, 92, 94, 114)
    assert mechanisms.resolve("splitting") is None  # does not say whose image is split


def test_the_ids_of_the_categories_are_the_scores_of_the_paper() -> None:
    categories = taxonomy.get("dmrs_category")
    walk = taxonomy.crosswalk("dmrs_level", "dmrs_category")
    scores = [categories.id_of(str(walk.map(level))) for level in taxonomy.get("dmrs_level").names]
    assert scores == [0, 3, 3, 3, 3, 2, 2, 1, 0]


def test_textbook_distortions_are_marked_as_lossy() -> None:
    distortions = taxonomy.get("cognitive_distortion")
    assert distortions.resolve("Disqualifying the positive") == "mental filter"
    assert distortions.is_lossy("Disqualifying the positive")
    assert distortions.is_lossy("jumping to conclusions")
    assert not distortions.is_lossy("Fortune telling")


def test_old_strategy_names_are_known() -> None:
    old = ["Questions", "Other", "Direct Guidance", "Approval and Reassurance", "Restatement"]
    assert [taxonomy.get("esconv_strategy").resolve(name) for name in old] == [
        "Question",
        "Others",
        "Providing Suggestions",
        "Affirmation and Reassurance",
        "Restatement or Paraphrasing",
    ]


def test_groups_of_the_hope_acts() -> None:
    groups = Counter(label.group for label in taxonomy.get("hope_act").labels)
    assert groups == {"speaker initiative": 4, "speaker responsive": 5, "general": 3}


# ---------------------------------------------------------------------------------------------- crosswalks

CROSSWALKS = [
    ("dmrs_level", "dmrs_category"),
    ("dmrs_mechanism", "dmrs_level"),
    ("esconv_strategy", "esc_stage"),
    ("esconv_strategy", "initiative"),
    ("mesc_strategy", "esconv_strategy"),
    ("misc_mi", "initiative"),
]


def test_the_crosswalks() -> None:
    assert taxonomy.crosswalks() == CROSSWALKS


@pytest.mark.parametrize(("source", "target"), CROSSWALKS)
def test_every_crosswalk_is_complete(source: str, target: str) -> None:
    walk = taxonomy.crosswalk(source, target)
    known = taxonomy.get(target).names
    assert tuple(walk.table) == taxonomy.get(source).names
    assert {value for value in walk.table.values() if value is not None} <= set(known)
    assert walk.loss.endswith(".")
    for name, value in walk.table.items():
        assert walk.map(name.upper()) == value


def test_mechanisms_lie_in_the_level_that_groups_them() -> None:
    walk = taxonomy.crosswalk("dmrs_mechanism", "dmrs_level")
    levels = taxonomy.get("dmrs_level")
    for label in walk.source.labels:
        assert levels.info(str(walk.map(label.name))).title == label.group
    assert Counter(walk.table.values()) == {"1": 3, "2": 3, "3": 4, "4": 5, "5": 4, "6": 3, "7": 8}


def test_kemis_initiative_strategies() -> None:
    walk = taxonomy.crosswalk("esconv_strategy", "initiative")
    strategies = taxonomy.get("esconv_strategy")
    assert {strategies.id_of(name) for name, who in walk.table.items() if who == "initiative"} == {0, 1, 5, 6}


def test_a_label_without_counterpart_maps_to_none_and_an_unknown_one_is_an_error() -> None:
    walk = taxonomy.crosswalk("esconv_strategy", "esc_stage")
    assert walk.map("Others") is None
    with pytest.raises(LabelError, match="no label 'Greeting'"):
        walk.map("Greeting")


def test_nothing_is_chained() -> None:
    with pytest.raises(NotFoundError, match="none is chained"):
        taxonomy.crosswalk("mesc_strategy", "esc_stage")


# ---------------------------------------------------------------------------------------------- HOPE

HOPE_ROWS = """
id ID, irq IRQ, ynq YNQ, yq YNQ, crq CRQ, cr CRQ, orq ORQ, cd CD, od OD, op PA, on NA, gt GT, ack ACK, acak ACK, gc GC,
pa PA, na NA
"""


@pytest.mark.parametrize(("raw", "act"), [row.split() for row in HOPE_ROWS.split(",")])
def test_raw_acts_row_by_row(raw: str, act: str) -> None:
    for spelling in (raw, raw.upper(), f" {raw} "):
        assert normalise_act(spelling) == taxonomy.hope.ActResult(value=act)


@pytest.mark.parametrize("raw", ["cv", "ci", "vc", "comp", "com", "ay", "ap", "yp", "", "  "])
def test_strings_without_an_act_are_known_and_none(raw: str) -> None:
    assert normalise_act(raw) == taxonomy.hope.ActResult(value=None)


def test_the_dropped_strings_carry_no_act() -> None:
    assert {taxonomy.get("hope_act").resolve(raw) for raw in DROPPED} == {None}


def test_of_several_acts_the_first_counts() -> None:
    assert normalise_act("CD / ID, xx") == taxonomy.hope.ActResult(value="CD", alternatives=("id", "xx"))
    assert normalise_act("yna, gc").alternatives == ("gc",)


def test_unknown_strings_never_crash() -> None:
    assert normalise_act("zzz") == taxonomy.hope.ActResult(value=None, known=False)


def test_a_user_table_overrides_everything() -> None:
    table = {"CV": "cd", "op": None, "yna": "pa"}
    assert normalise_act("cv", table=table).value == "CD"
    assert normalise_act("OP", table=table) == taxonomy.hope.ActResult(value=None)
    assert normalise_act("yna", text="No.", table=table) == taxonomy.hope.ActResult(value="PA")
    assert normalise_act("id", table=table).value == "ID"
    with pytest.raises(LabelError, match="no label 'nonsense'"):
        normalise_act("cv", table={"cv": "nonsense"})


def test_yna_is_a_rule_and_needs_the_words() -> None:
    assert normalise_act("yna") == taxonomy.hope.ActResult(value=None, source="rule")
    assert normalise_act("YNA", text="Nope.") == taxonomy.hope.ActResult(value="NA", source="rule")


YNA_LINES = [
    # ten plain answers
    ("Yes, twice a week.", "PA"),
    ("Yeah. The blue one.", "PA"),
    ("Um, I mean, right, that was the plan.", "PA"),
    ("Uh-huh.", "PA"),
    ("Of course I can.", "PA"),
    ("No, only on Sundays.", "NA"),
    ("Well, not really.", "NA"),
    ("I didn\u2019t, the bus was late.", "NA"),
    ("Of course not!", "NA"),
    ("The kettle is still on.", None),
    # and where a shorter rule goes wrong
    ("I don't know.", None),
    ("Not sure, maybe.", None),
    ("Right now it is quiet.", None),
    ("Yes and no.", None),
    ("Yeah, no, it rained.", None),
    ("Yeah, no problem at all.", "PA"),
    ("Yes, no one called.", "PA"),
    ("No one called.", None),
    ("No, yeah, it did rain.", None),
    ("No no no.", "NA"),
    ("It was never locked.", "NA"),
    ("It was, yes.", "PA"),
    ("I guess so.", "PA"),
    ("I guess the roof leaks.", None),
    ("Uh, uh, hm.", "NA"),
    ("Well, so...", None),
    ("know it by heart", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "act"), YNA_LINES)
def test_yna_on_invented_lines(text: str, act: str | None) -> None:
    assert resolve_yna(text) == act


# ---------------------------------------------------------------------------------------------- the page


def test_the_page_of_labels_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "labels.md"
    assert page.read_text(encoding="utf-8") == taxonomy.markdown(), (
        'docs/labels.md is old; write it again: python -c "from heedful import taxonomy; '
        "open('docs/labels.md', 'w', encoding='utf-8').write(taxonomy.markdown())\""
    )


def test_the_page_names_every_label_and_crosswalk_in_tables_that_hold_together() -> None:
    page = taxonomy.markdown()
    for name in taxonomy.names():
        assert f"## `{name}`: " in page
        for label in taxonomy.get(name).labels:
            assert label.meaning in page
    for source, target in taxonomy.crosswalks():
        assert f"### `{source}` to `{target}`" in page
    width = 0
    for line in page.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line))
        assert cells == width or not width or not cells
        width = cells


# ---------------------------------------------------------------------------------------------- real corpora
# Labels only; no text of a turn is ever shown.


def _open(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _json(path: Path) -> Any:
    with _open(path) as file:
        return json.load(file)


def _lines(path: Path) -> Iterator[Any]:
    with _open(path) as file:
        for line in file:
            yield json.loads(line)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with _open(path) as file:
        yield from csv.DictReader(file)


def _unresolved(name: str, raws: Counter[str]) -> set[str]:
    assert raws, "no label was read, so nothing was checked"
    return {raw for raw in raws if taxonomy.get(name).resolve(raw) is None}


@pytest.mark.data("esconv")
def test_strategies_of_esconv(data_root: Path) -> None:
    folder = data_root / "esconv"
    tokens = Counter[str](_json(folder / "strategy.json"))
    split = Counter[str](
        turn["strategy"]
        for path in sorted((folder / "zcj_split").glob("*.jsonl.gz"))
        for record in _lines(path)
        for turn in record["dialog"]
        if "strategy" in turn
    )
    failed = Counter[str](
        turn["annotation"]["strategy"]
        for record in _json(folder / "FailedESConv.json.gz")
        for turn in record["dialog"]
        if "strategy" in turn.get("annotation", {})
    )
    assert _unresolved("esconv_strategy", tokens + split + failed) == set()
    strategies = taxonomy.get("esconv_strategy")
    assert [strategies.resolve(token) for token in _json(folder / "strategy.json")] == list(strategies.names)
    counts = [split[name] for name in strategies.names]
    assert counts == [3801, 1089, 1436, 1713, 2827, 2954, 1215, 3341]


@pytest.mark.data("mesc")
def test_emotions_and_strategies_of_mesc(data_root: Path) -> None:
    rows = list(_rows(data_root / "mesc" / "MESC.csv.gz"))
    assert _unresolved("mesc_emotion", Counter(row["Emotion"] for row in rows)) == set()
    # `undefined` is the mark of client rows, which have no strategy.
    assert _unresolved("mesc_strategy", Counter(row["Strategy"] for row in rows)) == {"undefined"}
    turns = [t for part in ("val", "test") for d in _json(data_root / "mesc" / f"{part}.json.gz") for t in d["dialog"]]
    assert _unresolved("mesc_emotion", Counter(turn["emotion"] for turn in turns)) == set()
    assert _unresolved("mesc_strategy", Counter(t["strategy"] for t in turns if t.get("strategy"))) == set()


@pytest.mark.data("hope_samples")
def test_acts_of_the_hope_samples(data_root: Path) -> None:
    rows = [row for path in sorted((data_root / "hope_samples").glob("*.csv")) for row in _rows(path)]
    results = [normalise_act(row["Dialog_Act"], text=row["Utterance"]) for row in rows]
    assert len(results) == 479
    assert [at for at, result in enumerate(results) if not result.known] == []
    counts = Counter(result.value for result in results if result.source == "gold")
    assert counts == {"ID": 156, "IRQ": 140, "GC": 69, "YNQ": 41, "ACK": 28, "GT": 14}
    assert sum(result.source == "rule" for result in results) == 31


@pytest.mark.data("psydef")
def test_levels_and_items_of_psydef(data_root: Path) -> None:
    folder = data_root / "psydef"
    rows = _lines(folder / "psydefconv_train_labelled_partial.jsonl")
    assert _unresolved("dmrs_level", Counter(str(row["label"]) for row in rows)) == set()
    mechanisms = taxonomy.get("dmrs_mechanism")
    walk = taxonomy.crosswalk("dmrs_mechanism", "dmrs_level")
    for item in _json(folder / "dmrsq_items.json"):
        target = f" ({item['target']})" if item["target"] else ""
        name = mechanisms.require(item["mechanism"] + target)
        assert item["item"] in mechanisms.info(name).items
        assert walk.map(name) == str(item["level"])
        assert taxonomy.get("dmrs_level").require(item["level_name"]) == str(item["level"])


@pytest.mark.data("cbt_bench")
def test_distortions_and_beliefs_of_cbt_bench(data_root: Path) -> None:
    for part in ("seed", "test"):
        folder = data_root / "cbt_bench"
        found = Counter[str](v for r in _json(folder / f"distortions_{part}.json") for v in r["distortions"])
        assert _unresolved("cognitive_distortion", found) == set()
        found = Counter[str](v for r in _json(folder / f"core_major_{part}.json") for v in r["core_belief_major"])
        assert _unresolved("core_belief", found) == set()


@pytest.mark.data("therapist_qa_distortions")
def test_distortions_of_therapist_qa(data_root: Path) -> None:
    rows = list(_rows(data_root / "therapist_qa_distortions" / "Annotated_data.csv.gz"))
    dominant = Counter(row["Dominant Distortion"] for row in rows)
    second = Counter(row["Secondary Distortion (Optional)"] for row in rows)
    # Both mean that there is no distortion to name, which is no label.
    assert _unresolved("cognitive_distortion", dominant) == {"No Distortion"}
    assert _unresolved("cognitive_distortion", second) == {""}


@pytest.mark.data("kemi")
def test_codes_of_kemi(data_root: Path) -> None:
    folder = data_root / "kemi"
    codes = taxonomy.get("misc_mi")
    assert [codes.resolve(token) for token in _json(folder / "mi_strategy.json")] == list(codes.names)
    found = Counter[str](
        row["strategy"] for part in ("valid", "test") for row in _lines(folder / f"mi_sbert/{part}.jsonl.gz")
    )
    assert _unresolved("misc_mi", found) == set()


@pytest.mark.data("epitome")
def test_levels_of_epitome(data_root: Path) -> None:
    paths = sorted((data_root / "epitome").glob("*.csv*"))
    assert len(paths) == 3
    for path in paths:
        assert _unresolved("epitome_er", Counter(row["level"] for row in _rows(path))) == set()
