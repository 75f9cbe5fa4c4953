"""The planners `support` and `cases`, and the red team: what a rule stops reaches no search, source or prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from knowledge_kit import CASES, EXPECTATIONS, LINKS, STRESSORS, WordVectors, write_cases, write_heal

from heedful import agents, formats
from heedful.agents.support import CasesPlanner, SupportPlanner
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.knowledge import Index, build, triples
from heedful.knowledge.build import store
from heedful.knowledge.item import Draft, Edge, Item
from heedful.safety import load_screen
from heedful.testing import conversation, tiny_tokenizer
from heedful.types import Conversation

TALK = conversation(
    "The exams and no sleep at night worry me.", "Since when?", "All week, and my boss adds work and hours."
)


@pytest.fixture(autouse=True)
def _no_corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of invented graphs are not compared with real data that happen to be here."""
    monkeypatch.delenv("HEEDFUL_DATA", raising=False)


@pytest.fixture
def heal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    write_heal(tmp_path / "data" / "kemi" / "heal_kg")
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path / "data"))
    return build("heal", encoder=WordVectors()).index


def support(**options: Any) -> SupportPlanner:
    return SupportPlanner(**{"index": "heal", "encoder": WordVectors(), "floor": 0.0, **options})


def names(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(source["name"]) for source in sources]


# ----------------------------------------------------------------------------------------------------- triples


def slow_triple(index: Index, query: np.ndarray[Any, Any]) -> tuple[str, str, str] | None:
    """All triples, one after the other, as the rule says it."""
    ids = {item: index.item(item) for item in [*STRESSORS, *EXPECTATIONS]}
    cosine = {id: float(np.dot(index.vectors[index.row(id)].astype(float), query.astype(float))) for id in ids}
    scored = []
    for stressor in STRESSORS:
        for link in ids[stressor].links:
            if link.to not in EXPECTATIONS:
                continue
            for node in (ids[stressor], ids[link.to]):
                for end in node.links:
                    if end.to.startswith("e1-"):
                        felt = float(np.dot(index.vectors[index.row(end.to)].astype(float), query.astype(float)))
                        scored.append((-(cosine[stressor] + cosine[link.to] + felt), link.to, stressor, end.to))
    return min(scored)[1:] if scored else None


def test_the_best_triple_is_found(heal: Index) -> None:
    texts = ["exams sleep night", "friends in town", "hours with my boss", "sister quarrel", "afraid of my boss"]
    vectors = WordVectors().encode(texts)
    for query, found in zip(vectors, triples(heal, vectors, floor=-1), strict=True):
        assert tuple(hit.id for hit in found[0].hits) == slow_triple(heal, query)


def test_a_floor_and_several_triples(heal: Index) -> None:
    vectors = WordVectors().encode(["exams sleep night"])
    several = triples(heal, vectors, k=9, floor=-1)[0]
    assert len({t.answer.id for t in several}) == len(several) == 3
    assert [t.mean for t in several] == sorted((t.mean for t in several), reverse=True)
    between = (several[0].mean + several[1].mean) / 2
    assert len(triples(heal, vectors, k=9, floor=between)[0]) == 1
    assert triples(heal, vectors, floor=0.99)[0] == []


def test_the_beam_is_by_cosine_and_by_weight(heal: Index) -> None:
    """t3 has a heavy edge to i3 and a light one to i1; with one answer a stressor, i1 is out of reach from it."""
    vectors = WordVectors().encode(["boss work hours tired shift how to sleep"])
    assert heal.hit(*heal.nearest(vectors, 1, kinds=("stressor",))[0][0]).id == "t3"
    reached = {t.answer.id for t in triples(heal, vectors, floor=-1, k=9, stressors=1)[0]}
    narrow = {t.answer.id for t in triples(heal, vectors, floor=-1, k=9, stressors=1, answers=1)[0]}
    assert (reached, narrow) == ({"i1", "i3"}, {"i3"})
    assert {t.answer.id for t in triples(heal, vectors, floor=-1, k=9)[0]} == {"i1", "i2", "i3"}


def test_an_index_of_cases_is_no_graph(tmp_path: Path) -> None:
    write = build(str(write_cases(tmp_path / "cases.jsonl")), encoder=WordVectors())
    with pytest.raises(ConfigError, match="is no support graph: it needs stressors, affects and one of"):
        triples(write.index, WordVectors().encode(["x"]))


# ----------------------------------------------------------------------------------------------------- planner


def test_sources_of_each_turn_of_the_seeker(heal: Index) -> None:
    planned = support().plan([TALK])[0]
    first = planned.before(1).sources("support")
    assert names(first) == ["support.expectation", "support.stressor", "support.affect"]
    assert [s["id"] for s in first] == ["i1", "t1", "e1-i1"]
    assert first[1]["text"] == STRESSORS["t1"][0]
    assert 0 < first[1]["score"] <= 1
    assert {s["index"] for s in first} == {heal.fingerprint}
    assert planned.turns[1].sources == ()
    assert [s["id"] for s in planned.sources("support")][1] == "t3"
    assert Conversation.from_dict(planned.to_dict()) == planned


def test_nothing_is_read_from_later_turns(heal: Index) -> None:
    whole, part = support().plan([TALK, TALK.before(1)])
    assert whole.turns[0].sources == part.turns[0].sources


def test_commonsense_is_part_of_the_query(heal: Index) -> None:
    talk = conversation("exams")
    sources = (
        {"name": "atomic.xWant", "text": "where to find friends in town"},
        {"name": "atomic.xReact", "text": "alone at the weekend"},
    )
    plain, helped = support().plan([talk, replace(talk, turns=(replace(talk.turns[0], sources=sources),))])
    assert helped.turns[0].sources[:2] == sources
    assert [found.sources("support")[1]["id"] for found in (plain, helped)] == ["t1", "t2"]


def test_planning_twice_is_planning_once(heal: Index) -> None:
    once = support().plan([TALK])
    assert support().plan(once) == once


def test_the_encoder_sees_each_distinct_text_once(heal: Index) -> None:
    encoder = WordVectors()
    support(encoder=encoder).plan([TALK, replace(TALK, id="again"), conversation(TALK.turns[0].text)])
    assert sorted(encoder.seen) == sorted({TALK.turns[0].text, TALK.turns[2].text})


def test_nothing_is_looked_up_after_a_disclosure(heal: Index) -> None:
    talk = conversation(
        "My exams, and I want to die.", "I am here.", "exams", "Yes?", "night", "Yes?", "sleep", "Yes?", "town"
    )
    planned = support().plan([talk])[0]
    for at in (0, 2, 4):
        assert planned.turns[at].sources == ({"name": "support.filtered", "why": "risk"},)
    assert names(planned.turns[6].sources)[-1] == "support.affect"


def test_a_response_is_not_shown_to_its_own_dialogue(tmp_path: Path) -> None:
    def item(id: str, kind: str, text: str, *origins: str) -> Draft:
        return Draft(item=Item(id=id, kind=kind, text=text, source="toy", origins=origins))

    drafts = [
        item("s0", "stressor", "exams sleep night"), item("a-sad", "affect", "sadness"),
        item("r0", "response", "exams sleep night exactly", "toy/mine", "toy/other"),
        item("r1", "response", "write a list", "toy/other"),
    ]  # fmt: skip
    edges = [Edge("s0", "r0", 5.0), Edge("s0", "r1", 1.0), Edge("s0", "a-sad", 1.0)]
    index = stored(tmp_path / "graph", drafts, edges)
    found = triples(
        index, WordVectors().encode(["exams sleep night"] * 2), origins=["toy/mine", None], floor=-1, answers=1
    )
    assert [chosen[0].answer.id for chosen in found] == ["r1", "r0"]


def stored(folder: Path, drafts: Sequence[Draft], edges: Sequence[Edge]) -> Index:
    """An index of drafts as they are, as one that was made before a rule came."""
    kept = sorted(drafts, key=lambda d: d.item.id)
    about = {"reader": "esc-graph", "data": {}}
    return store(folder, kept, edges, encoder=WordVectors(), about=about, place=folder)


def test_the_plan_says_what_it_depends_on(heal: Index, tmp_path: Path) -> None:
    base = support()
    assert base.fingerprint == support().fingerprint
    assert heal.fingerprint in base.fingerprint
    for change in ({"floor": 0.1}, {"k": 2}, {"stressors": 3}, {"answers": 3}):
        assert support(**change).fingerprint != base.fingerprint
    assert agents.PLANNERS.get("support") is SupportPlanner


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k must be a whole number"),
        ({"floor": 3}, "floor is a cosine"),
        ({"answers": True}, "answers must be"),
    ],
)
def test_wrong_options(heal: Index, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        support(**options)


def test_an_index_that_is_not_there_or_of_other_data(heal: Index, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="heedful knowledge build esc-graph"):
        agents.make(["support"])
    other = write_heal(tmp_path / "other", links=LINKS[:2])
    with pytest.raises(DataError, match="was built from other data"):
        support(data=str(other))
    with pytest.raises(ConfigError, match="cannot be made from these options"):
        agents.make([{"name": "support", "floors": 1}])
    build("heal", out=tmp_path / "words")
    with pytest.raises(ConfigError, match="has no vectors"):
        support(index=str(tmp_path / "words"))


# ------------------------------------------------------------------------------------------------------- cases


def test_cases_of_a_clinic(tmp_path: Path) -> None:
    build(str(write_cases(tmp_path / "cases.jsonl")), encoder=WordVectors())
    talk = conversation("I cannot sleep before exams", "Oh.", "A quarrel with a sister", "Oh.", "xylophone zebra")
    planned = CasesPlanner(index="cases", encoder=WordVectors(), floor=0.4).plan([talk])[0]
    source = planned.turns[0].sources[0]
    assert source["name"] == "case"
    assert source["text"] == CASES[0]["advice"]
    assert (source["id"], source["vetted_by"], source["date"]) == ("c-1", "A. Nurse", "2026-10-01")
    assert planned.turns[2].sources[0]["text"] == "A quarrel with a sister.", "a case without advice speaks for itself"
    assert planned.turns[4].sources == ()
    by_words = CasesPlanner(index="cases", method="bm25", k=2).plan([talk])[0]
    assert [len(turn.sources) for turn in by_words.turns] == [1, 0, 1, 0, 0]
    with pytest.raises(ConfigError, match="bm25 has none"):
        CasesPlanner(index="cases", method="bm25", floor=0.1)
    with pytest.raises(ConfigError, match="method must be one of"):
        CasesPlanner(index="cases", method="tfidf")


def test_a_changed_file_of_cases_is_refused(tmp_path: Path) -> None:
    place = write_cases(tmp_path / "cases.jsonl")
    build(str(place), encoder=WordVectors())
    write_cases(place, CASES[:1])
    with pytest.raises(DataError, match="was built from other data"):
        CasesPlanner(index="cases", encoder=WordVectors())


def test_planners_of_both_kinds_stand_side_by_side(heal: Index, tmp_path: Path) -> None:
    build(str(write_cases(tmp_path / "cases.jsonl")), encoder=WordVectors())
    cases = CasesPlanner(index="cases", encoder=WordVectors(), floor=0.0)
    planned = cases.plan(support().plan([TALK]))[0]
    assert names(planned.before(1).sources())[-1] == "case"
    assert len(planned.before(1).sources("support")) == 3


# ---------------------------------------------------------------------------------------------------- red team


BLOCKED = [(rule.name, text) for rule in load_screen().rules for text in rule.blocks]


def prompt(conv: Conversation) -> str:
    """The input of a format that writes what was looked up, and everything that a trace would keep."""
    from heedful.formats.kemi import KemiFormat

    written = KemiFormat(knowledge="support", budget=512).prompt(conv, tiny_tokenizer())
    return written + json.dumps([dict(source) for source in conv.sources()])


def test_red_team_every_rule_example_is_stopped_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stressor, as a story, as an expectation: none reaches index, search, sources or prompt."""
    told = {f"t{100 + n}": (text, "calm", 99) for n, (_, text) in enumerate(BLOCKED)}
    wanted = {f"i{100 + n}": (text, 99) for n, (_, text) in enumerate(BLOCKED)}
    links = [(f"t{100 + n}", f"i{100 + n}", 99) for n in range(len(BLOCKED))]
    links += [("t1", id, 99) for id in wanted] + [(id, "i1", 99) for id in told]
    write_heal(
        tmp_path / "data" / "kemi" / "heal_kg", stressors={**STRESSORS, **told},
        expectations={**EXPECTATIONS, **wanted}, links=[*LINKS, *links],
    )  # fmt: skip
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path / "data"))
    made = build("heal", encoder=WordVectors())
    index = made.index
    stored = b"".join(path.read_bytes() for path in index.folder.iterdir())
    for id in (*told, *wanted):
        item = index.item(id)
        assert item.why is not None
        assert item.text == ""
        assert index.row(id) is None
    talks = []
    for _, text in BLOCKED:
        assert json.dumps(text, ensure_ascii=False).strip('"').encode() not in stored
        for method in ("bm25", "embedding", "hybrid"):
            assert not {hit.id for hit in index.search(text, method=method, k=99)} & {*told, *wanted}
        talks.append(replace(TALK.before(1), id=text))
    # The query has the words of the blocked text, through commonsense, so that it would be the nearest.
    asked = [
        replace(talk, turns=(replace(talk.turns[0], sources=({"name": "atomic.xWant", "text": text},)),))
        for talk, (_, text) in zip(talks, BLOCKED, strict=True)
    ]
    for planned, (_, text) in zip(support(k=9).plan(asked), BLOCKED, strict=True):
        turn = replace(planned.turns[0], sources=planned.sources("support"))
        assert names(turn.sources)
        assert text not in prompt(replace(planned, turns=(turn,)))
        assert all(load_screen().why(str(source["text"])) is None for source in turn.sources)


@pytest.mark.parametrize(("rule", "text"), BLOCKED)
def test_red_team_a_text_that_came_before_the_rule(tmp_path: Path, rule: str, text: str) -> None:
    """An index can hold what a later rule stops. It comes out without its text, and the whole triple with it."""
    drafts = [
        Draft(item=Item(id=id, kind=kind, text=found, source="toy"))
        for id, kind, found in (("s0", "stressor", text), ("r0", "response", "drink tea"), ("a0", "affect", "sadness"))
    ]
    index = stored(tmp_path / "graph", drafts, [Edge("s0", "r0", 1.0), Edge("s0", "a0", 1.0)])
    assert (index.item("s0").text, index.item("s0").safe) == ("", False)
    planner = SupportPlanner(index=str(index.folder), encoder=WordVectors(), floor=-1)
    planned = planner.plan([TALK.before(1)])[0]
    assert [dict(source) for source in planned.sources()] == [
        {"name": "support.filtered", "id": id, "why": load_screen().why(text)} for id in ("r0", "s0", "a0")
    ]
    assert text not in prompt(planned)


def test_red_team_texts_that_only_together_say_it(tmp_path: Path) -> None:
    drafts = [
        Draft(item=Item(id=id, kind=kind, text=found, source="toy"))
        for id, kind, found in (
            ("s0", "stressor", "my life"),
            ("r0", "response", "how to end"),
            ("a0", "affect", "Sad"),
        )
    ]
    assert load_screen().why(*(draft.item.text for draft in drafts)) is None
    index = stored(tmp_path / "graph", drafts, [Edge("s0", "r0", 1.0), Edge("s0", "a0", 1.0)])
    planned = SupportPlanner(index=str(index.folder), encoder=WordVectors(), floor=-1).plan([TALK.before(1)])[0]
    assert {(s["name"], s["why"]) for s in planned.sources()} == {("support.filtered", "suicide")}


def test_planners_for_a_format_that_writes_nothing_of_it_are_refused(tmp_path: Path) -> None:
    planners = agents.make([{"name": "commonsense", "provider": "precomputed"}])
    for spec in ("chat", "strategy", {"name": "kemi", "knowledge": "none"}):
        with pytest.raises(ConfigError, match="writes none of it into the input"):
            agents.needed(planners, formats.make(spec))
    for spec in ("glhg", {"name": "kemi", "knowledge": "basic"}):
        assert agents.needed(planners, formats.make(spec)) is planners
    nothing = agents.make(["none"])
    assert agents.needed(nothing, formats.make("chat")) is nothing
