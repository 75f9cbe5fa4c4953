"""Readers: what they take, what they leave out, and what is wrong with a file, by file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from knowledge_kit import CASES, EXPECTATIONS, LINKS, STRESSORS, WordVectors, write_cases, write_heal

from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.knowledge import build
from heedful.knowledge.atomic import RELATIONS
from heedful.knowledge.esc_graph import graph
from heedful.testing import conversation
from heedful.types import Conversation, Label

# ------------------------------------------------------------------------------------------------------- cases


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "c-1"}, r"cases.jsonl, line 2: the id 'c-1' stands twice, first in .*cases.jsonl, line 1"),
        ({"id": None}, r"line 2: 'id' must be a text of 1 to 200"),
        ({"id": "a\nb"}, r"line 2: 'id' must be a text"),
        ({"text": None}, r"line 2: a case needs 'situation'"),
        ({"text": 5}, r"line 2: 'text' must be a text, but it is 5"),
        ({"situation": "Both."}, r"line 2: 'situation' and 'text' mean the same"),
        ({"vetted_by": None}, r"line 2: a case needs 'vetted_by'"),
        ({"vetted_by": "  "}, r"line 2: a case needs 'vetted_by'"),
        ({"date": "last week"}, r"line 2: 'date' must be the day of the vetting as YYYY-MM-DD, but it is a text of 9"),
        ({"date": None}, r"line 2: 'date' must be"),
        ({"tags": "sleep"}, r"line 2: 'tags' must be a list of texts"),
        ({"advise": "x"}, r"line 2: the key 'advise' is not known. Did you mean 'advice'"),
    ],
)
def test_a_broken_case_is_named_by_its_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    cases = [CASES[0], {**CASES[1], **change}]
    with pytest.raises(DataError, match=words) as caught:
        build(str(write_cases(tmp_path / "cases.jsonl", cases)))
    assert "new town" not in str(caught.value)


def test_a_line_that_is_no_json(tmp_path: Path) -> None:
    place = write_cases(tmp_path / "cases.jsonl")
    place.write_text(place.read_text() + '{"id": "c-4", \n')
    with pytest.raises(DataError, match=r"cases.jsonl, line 4, column \d+: not valid JSON"):
        build(str(place))
    with pytest.raises(NotFoundError, match=r"none.jsonl"):
        build(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="the file is empty"):
        build(str(write_cases(tmp_path / "empty.jsonl", [])))
    with pytest.raises(NotFoundError, match=r"Unknown kind of knowledge 'haal'. Did you mean 'heal'"):
        build("haal")


@pytest.mark.parametrize("key", ["situation", "advice", "tags", "author"])
def test_a_case_is_left_out_whole_if_one_of_its_texts_is_stopped(tmp_path: Path, key: str) -> None:
    value: Any = "Call www.example.org"
    bad = {**CASES[0], "id": "bad", key: [value] if key == "tags" else value}
    made = build(str(write_cases(tmp_path / "cases.jsonl", [*CASES, bad])))
    assert made.stopped == {"case": {"contact": 1}}
    assert made.unmarked == 1
    item = made.index.item("bad")
    assert (item.safe, item.why, item.text, dict(item.extra)) == (False, "contact", "", {})
    stored = b"".join(path.read_bytes() for path in made.index.folder.iterdir() if path.name != "place.json")
    assert b"example.org" not in stored


def test_nothing_left_is_said(tmp_path: Path) -> None:
    bad = [{**CASES[0], "situation": "www.example.org"}]
    with pytest.raises(DataError, match="the screen stopped all of its 1 items"):
        build(str(write_cases(tmp_path / "cases.jsonl", bad)))


# -------------------------------------------------------------------------------------------------------- HEAL


def heal(tmp_path: Path, **options: Any) -> Any:
    return build("heal", path=write_heal(tmp_path / "heal", **options), out=tmp_path / "out")


def test_heal_keeps_nodes_and_edges_and_no_story(tmp_path: Path) -> None:
    made = heal(tmp_path)
    index = made.index
    assert {kind: index.count(kind) for kind in index.kinds} == {
        "affect": 8, "expectation": 3, "feedback": 1, "stressor": 4,
    }  # fmt: skip
    item = index.item("t3")
    assert [(link.to, link.weight) for link in item.links] == [("i3", 2), ("e1-t3", 1), ("i1", 1)]
    assert item.weight == 5
    assert made.left_out == {"edges of responses, whose texts were not released": 4, "affective states of responses": 1}
    stored = b"".join(path.read_bytes() for path in index.folder.iterdir())
    assert b"lie awake" not in stored, "a story helps to find a node and is not kept"
    assert [hit.id for hit in index.search("awake", method="bm25")] == ["t1"]


def test_flagged_and_unmarked_nodes_go_with_their_edges(tmp_path: Path) -> None:
    stressors = {**STRESSORS, "t5": ("night, bed, wall, dark, quiet", "I bought a rope.", 2)}
    made = heal(tmp_path, stressors=stressors, flags={"stressors": ["t1"]}, links=[*LINKS, ("t5", "i1", 8)])
    assert made.stopped == {"affect": {"parent": 2}, "stressor": {"flagged": 1, "means": 1}}
    assert made.unmarked == 1
    assert made.cut == 4
    assert made.index.item("t1").why == "flagged"
    assert made.index.item("t5").why == "means"
    assert [link.to for link in made.index.item("i1").links] == ["e1-i1", "t3"]


@pytest.mark.parametrize("flags", [{"stressors": [{"id": "t1"}]}, {"stressors": 3}])
def test_flags_of_another_form_are_one_sentence(tmp_path: Path, flags: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"self_harm_flagged_nodes.json: 'stressors' must be a list of ids"):
        heal(tmp_path, flags=flags)


def test_heal_without_its_flags_is_refused(tmp_path: Path) -> None:
    place = write_heal(tmp_path / "heal")
    (place / "self_harm_flagged_nodes.json").unlink()
    with pytest.raises(
        NotFoundError, match=r"no 'self_harm_flagged_nodes.json'. Without the list of flagged nodes HEAL"
    ):
        build("heal", path=place)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"links": [("t1", "i9", 1)]}, r"expectations-stressors.json, edge 1: the edge leads to 'i9', .*dangling"),
        ({"links": [*LINKS, ("t9", "i1", 1)]}, r"edge 6: the edge leads to 't9'"),
        ({"links": [("t1", "i1", -1)]}, r"edge 1: 'value' must be a number from 0 up"),
        ({"flags": {"stressors": ["t77"]}}, r"it flags the stressor 't77', which the graph does not have"),
        ({"flags": {"stressors": ["i1"]}}, r"it flags the stressor 'i1'"),
        ({"expectations": {**EXPECTATIONS, "t1": ("again", 1)}}, r"expectations.json.gz, node 4: the id 't1' stands"),
    ],
)  # fmt: skip
def test_a_damaged_graph_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        heal(tmp_path, **options)


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_other_damage(tmp_path: Path) -> None:
    place = write_heal(tmp_path / "heal")
    edges = place / "edges" / "affective_states.json"
    rewrite(edges, lambda c: {"edges": [e for e in c["edges"] if e["to"] != "e1-t2"]})
    with pytest.raises(DataError, match="the affective state 'e1-t2' belongs to no node"):
        build("heal", path=place)
    edges.write_text("[]")
    with pytest.raises(DataError, match="expected an object with a list 'edges'"):
        build("heal", path=place)
    edges.unlink()
    with pytest.raises(NotFoundError, match=r"edges/affective_states.json"):
        build("heal", path=place)


# ------------------------------------------------------------------------------------------------------ ATOMIC


def write_atomic(folder: Path, rows: list[dict[str, list[str]]]) -> Path:
    folder.mkdir()
    with (folder / "v4_atomic_dev.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["event", *RELATIONS])
        writer.writeheader()
        for row in rows:
            event = row["event"][0]
            writer.writerow({"event": event, **{name: json.dumps(row.get(name, [])) for name in RELATIONS}})
    return folder


def test_atomic_gathers_the_answers_of_an_event(tmp_path: Path) -> None:
    place = write_atomic(
        tmp_path / "atomic",
        [
            {"event": ["PersonX bakes ___"], "xReact": ["happy", "none"], "xWant": ["to eat"]},
            {"event": ["PersonX loses PersonX's keys"], "xReact": ["upset"], "xNeed": ["to buy a rope"]},
            {"event": ["PersonX bakes ___"], "xReact": ["proud", "happy"]},
            {"event": ["PersonX stabs PersonY"], "xReact": ["angry"]},
        ],
    )
    made = build("atomic", path=place, out=tmp_path / "out")
    item = made.index.item("dev/0")
    assert item.text == "I bake something"
    assert dict(item.extra) == {"event": "PersonX bakes ___", "xReact": ["happy", "proud"], "xWant": ["to eat"]}
    assert item.weight == 2
    assert dict(made.index.item("dev/1").extra) == {"event": "PersonX loses PersonX's keys", "xReact": ["upset"]}
    assert made.left_out == {"answers that the screen stops": 1}
    assert made.index.item("dev/3").why == "violence"
    (place / "v4_atomic_tst.csv").write_text("event,xReact\nx,y\n")
    with pytest.raises(DataError, match=r"v4_atomic_tst.csv"):
        build("atomic", path=place)


def test_atomic_cells_are_lists(tmp_path: Path) -> None:
    place = write_atomic(tmp_path / "atomic", [{"event": ["PersonX sleeps"], "xReact": ["rested"]}])
    path = place / "v4_atomic_dev.csv"
    path.write_text(path.read_text().replace('"[""rested""]"', "rested"))
    with pytest.raises(DataError, match=r"v4_atomic_dev.csv, line 2: 'xReact' must be a JSON list of texts"):
        build("atomic", path=place)


# --------------------------------------------------------------------------------------------------- esc-graph


def talks() -> list[Conversation]:
    """Three dialogues about exams and three about a move, each with its own advice."""
    made = []
    for n, (topic, feeling, advice) in enumerate(
        [("exams sleep night", "anxiety", "Try to write a list before you go to bed."),
         ("friends town move", "sadness", "There is a choir in most towns that takes everybody.")] * 3
    ):  # fmt: skip
        made.append(
            conversation(
                f"I think about {topic}, number {n}.",
                "How long has it been like that?",
                f"Since spring, {topic} again.",
                f"{advice} You said so yourself in talk {n}.",
                id=f"d{n}",
                labels={1: {"esconv_strategy": "Question"}, 3: {"esconv_strategy": "Providing Suggestions"}},
                split="train",
                situation=f"My {topic} keep me busy.",
            )
        )
        made[-1] = replace(made[-1], source="esconv", labels=(Label(set="esconv_emotion", value=feeling),))
    return made


def test_a_support_graph_out_of_dialogues() -> None:
    source = graph(talks(), WordVectors(), clusters=2)
    kinds: dict[str, list[Any]] = {}
    for draft in source.drafts:
        kinds.setdefault(draft.item.kind, []).append(draft)
    assert len(kinds["stressor"]) == 2
    assert {draft.item.text for draft in kinds["affect"]} == {"anxiety", "sadness"}
    texts = {draft.item.text: draft for draft in kinds["response"]}
    # Questions are no responses; each sentence is a node of its own, equal ones are one.
    assert len(texts) == 2 + 6
    shared = texts["Try to write a list before you go to bed."]
    assert shared.item.origins == ("esconv/d0", "esconv/d2", "esconv/d4")
    assert shared.item.weight == 3
    keywords = [set(draft.item.text.split(", ")) for draft in kinds["stressor"]]
    assert any({"exams", "sleep", "night"} <= found for found in keywords)
    assert all(np.linalg.norm(draft.vector) == pytest.approx(1, abs=1e-5) for draft in kinds["stressor"])
    # Clusters follow topics, so advice about exams and the feeling of moving never meet.
    edges = {(edge.one, edge.other): edge.weight for edge in source.edges}
    exams = next(draft.item.id for draft in kinds["stressor"] if "exams" in draft.item.text)
    assert edges[exams, shared.item.id] == 3
    assert (shared.item.id, "a-sadness") not in edges
    assert edges[shared.item.id, "a-anxiety"] == 3
    # Three situations and two turns in each of three talks.
    assert sum(n for (one, other), n in edges.items() if one.startswith("s") and other == "a-anxiety") == 9


def test_the_same_dialogues_give_the_same_graph() -> None:
    one, two = (graph(talks(), WordVectors(), clusters=3) for _ in range(2))
    assert [d.item for d in one.drafts] == [d.item for d in two.drafts]
    assert one.edges == two.edges


def test_unsafe_turns_and_sentences_enter_no_node() -> None:
    unsafe = talks()
    first = unsafe[0]
    turns = list(first.turns)
    turns[0] = replace(turns[0], text="I bought a rope.")
    turns[3] = replace(turns[3], text="Write to me at www.example.org please. Take a slow walk in the evening.")
    unsafe[0] = replace(first, turns=tuple(turns))
    source = graph(unsafe, WordVectors(), clusters=2)
    everything = " ".join(f"{d.item.text} {d.search}" for d in source.drafts)
    assert "rope" not in everything
    assert "example" not in everything
    assert "Take a slow walk in the evening." in everything
    assert source.left_out["seekers' turns that the screen stops"] == 1
    assert source.left_out["supporters' sentences that the screen stops"] == 1


def test_a_support_graph_reads_train_alone() -> None:
    with pytest.raises(DataError, match="made of the split train alone, but 'd0' is of 'valid'"):
        graph([replace(talks()[0], split="valid")], WordVectors())
    with pytest.raises(DataError, match="no label of the set 'esconv_emotion'"):
        graph([replace(talks()[0], labels=())], WordVectors())
    with pytest.raises(DataError, match="no seeker's turn"):
        graph([], WordVectors())


@pytest.mark.data("esconv")
def test_esc_graph_needs_an_encoder(data_root: Path) -> None:
    with pytest.raises(ConfigError, match="made of sentence vectors"):
        build("esc-graph")
