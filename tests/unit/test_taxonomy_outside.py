"""Label sets from outside, the sets that loaders emit, and messages that repeat no words of a person."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import heedful
from heedful import taxonomy
from heedful.errors import ConfigError, LabelError, NotFoundError
from heedful.taxonomy import _files

TOY = taxonomy.parse_set(
    {
        "name": "toy",
        "version": "1.0",
        "title": "Toy",
        "source": "invented",
        "cardinality": "single",
        "labels": [{"id": 0, "name": "up", "meaning": "goes up", "aliases": ["rise"]}],
    },
    where="toy",
)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModuleType("their_labels")
    made.TOY, made.NOTHING = TOY, 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_labels", made)


@pytest.fixture
def fresh() -> Iterator[None]:
    """The tables are kept; they are read anew around a test that changes what is installed."""
    kept = (_files._registry, _files._names, _files.get)
    for table in kept:
        table.cache_clear()
    yield
    for table in kept:
        table.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    point = metadata.EntryPoint(name=name, value="their_labels:TOY", group="heedful.label_set")
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: [point] if group == point.group else [])


@pytest.mark.usefixtures("module", "fresh")
def test_module_and_attribute() -> None:
    assert taxonomy.get("their_labels:TOY") is TOY
    assert heedful.label_set("their_labels:TOY").resolve("Rise") == "up"
    with pytest.raises(LabelError, match=r"'their_labels:NOTHING' is no label set: expected .*LabelSet, got int"):
        taxonomy.get("their_labels:NOTHING")
    with pytest.raises(NotFoundError, match="'no_such_module'"):
        taxonomy.get("no_such_module:TOY")


@pytest.mark.usefixtures("module", "fresh")
def test_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "toy")
    assert taxonomy.get("toy") is TOY
    assert "toy" in taxonomy.names()
    with pytest.raises(NotFoundError, match="Did you mean 'toy'"):
        taxonomy.get("toyy")


@pytest.mark.usefixtures("module", "fresh")
def test_an_entry_point_cannot_take_the_name_of_a_set_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "hope_act")
    assert len(taxonomy.get("hope_act")) == 12
    with pytest.raises(ConfigError, match="Two packages offer the label set 'hope_act'"):
        taxonomy.names()


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ("saddness", "no label 'saddness'. Did you mean 'sadness'?"),
        ("I cannot sleep at all", "no label like a text of 21 characters."),
        ("deeply sad", "no label like a text of 10 characters."),
        ("", "no label like an empty text."),
    ],
)
def test_an_unknown_label_is_named_only_if_it_is_one_word(raw: str, named: str) -> None:
    with pytest.raises(LabelError) as caught:
        taxonomy.get("mesc_emotion").require(raw)
    assert named in str(caught.value)


# ------------------------------------------------------------------------------------------------- single sets


def test_psyqa_has_its_seven_strategies() -> None:
    strategies = taxonomy.get("psyqa_strategy")
    assert strategies.names == (
        "Information",
        "Direct Guidance",
        "Approval and Reassurance",
        "Restatement",
        "Interpretation",
        "Self-disclosure",
        "Others",
    )


def test_merged_acts_are_the_twelve_with_yes_and_no_in_one() -> None:
    twelve, merged = taxonomy.get("hope_act"), taxonomy.get("hope_act_merged")
    joined = dict.fromkeys("YNA" if act in ("PA", "NA") else act for act in twelve.names)
    assert merged.names == tuple(joined)
    assert merged.resolve("NA") == merged.resolve("pa") == "YNA"
    assert merged.is_lossy("NA")


def test_intents_begin_with_the_emotions() -> None:
    emotions, intents = taxonomy.get("empathetic_emotion"), taxonomy.get("empathetic_intents")
    assert intents.names[:32] == emotions.names
    assert [label.group for label in intents.labels[32:]] == ["intent"] * 8 + ["neutral"]


def test_fine_beliefs_stand_under_the_three() -> None:
    groups = {label.group for label in taxonomy.get("core_belief_fine").labels}
    assert groups == set(taxonomy.get("core_belief").names)
    assert taxonomy.get("core_belief_fine").resolve("I don't deserve to live") == "I don\u2019t deserve to live"


def test_subtypes_stand_under_the_behaviours() -> None:
    behaviours = taxonomy.get("annomi_behaviour")
    for label in taxonomy.get("annomi_subtype").labels:
        assert label.name.startswith(f"{label.group} ")
        assert behaviours.resolve(label.group) is not None


@pytest.mark.data("psyqa_example", "cbt_bench")
def test_sets_without_a_loader_hold_every_label_of_their_data(data_root: Path) -> None:
    answers = [
        answer
        for question in json.loads((data_root / "psyqa_example" / "PsyQA_example.json").read_text("utf-8"))
        for answer in question["answers"]
    ]
    strategies = {span["type"] for answer in answers for span in answer.get("labels_sequence") or ()}
    assert strategies == set(taxonomy.get("psyqa_strategy").names)
    beliefs = {
        belief
        for part in ("seed", "test")
        for row in json.loads((data_root / "cbt_bench" / f"core_fine_{part}.json").read_text("utf-8"))
        for belief in row["core_belief_fine_grained"]
    }
    assert beliefs == set(taxonomy.get("core_belief_fine").names)
