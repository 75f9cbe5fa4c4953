"""Index: exact and repeatable search, files that belong together, and what cannot be opened."""

from __future__ import annotations

import json
import random
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knowledge_kit import CASES, WordVectors, write_cases, write_heal

from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.knowledge import Index, build
from heedful.knowledge.bm25 import BM25, words
from heedful.knowledge.bm25 import build as build_bm25
from heedful.knowledge.dense import Dense
from heedful.knowledge.keys import best

POOL = (
    "sleep", "exam", "night", "move", "town", "friend", "boss", "work", "hours", "tired", "sister", "quarrel", "phone",
    "march", "walk", "tea",
)  # fmt: skip


def corpus(n: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(POOL, k=draw.randint(1, 9))) for _ in range(n)]


@pytest.fixture
def made(tmp_path: Path) -> Index:
    return build(str(write_cases(tmp_path / "cases.jsonl")), encoder=WordVectors()).index


# ------------------------------------------------------------------------------------------------------ scores


def test_bm25_agrees_with_bm25s() -> None:
    bm25s = pytest.importorskip("bm25s")
    texts = corpus(300)
    peer = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    peer.index([words(text) for text in texts], show_progress=False)
    ours = BM25.of(build_bm25(texts), len(texts))
    for query in ["sleep exam", "tea", "boss work hours tired tired", "unknown words", "quarrel nothing"]:
        expected = peer.get_scores(words(query))
        np.testing.assert_allclose(ours.scores(query), expected, rtol=1e-5, atol=1e-6)


def test_bm25_by_hand() -> None:
    """Two texts of two words and one of one; `tea` stands in one of them."""
    ours = BM25.of(build_bm25(["tea walk", "walk walk", "boss"]), 3)
    norm = 1.5 * (1 - 0.75 + 0.75 * 2 / (5 / 3))
    assert ours.scores("tea")[0] == pytest.approx(np.log(1 + (3 - 1 + 0.5) / (1 + 0.5)) / (1 + norm), rel=1e-6)
    assert ours.scores("tea")[1:].tolist() == [0, 0]
    assert ours.scores("Tea, tea!")[0] == pytest.approx(2 * ours.scores("tea")[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(0, 40))
def test_best_is_a_stable_sort(values: list[int], k: int) -> None:
    scores = np.array(values, dtype=np.float32)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert best(scores, k).tolist() == expected


def test_what_is_masked_is_never_found() -> None:
    assert best(np.array([-np.inf, 1.0, -np.inf]), 3).tolist() == [1]


def test_the_scan_is_exact_whatever_the_batch() -> None:
    """Equal rows have equal scores and stand in the order of their ids, alone, in a batch, and behind a mask."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((503, 48)).astype(np.float32)
    vectors[[7, 100, 501]] = vectors[3]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = np.concatenate([vectors[[3]], vectors[draw.choice(503, 130)]])
    batch = Dense(vectors).top(queries, 5)
    for query, (rows, scores) in zip(queries, batch, strict=True):
        alone_rows, alone = Dense(vectors).top(query[None], 5)[0]
        assert rows.tolist() == alone_rows.tolist()
        assert scores.tolist() == alone.tolist()
        exact = np.array([sum(float(a) * float(b) for a, b in zip(query, v, strict=True)) for v in vectors])
        np.testing.assert_allclose(scores, np.sort(exact)[::-1][:5], atol=1e-12)
    rows, scores = batch[0]
    assert rows[:4].tolist() == [3, 7, 100, 501]
    assert len(set(scores[:4].tolist())) == 1
    mask = np.arange(100, 503) != 501
    assert Dense(vectors).top(queries[:1], 2, begin=100, mask=mask)[0][0][0] == 100


def test_ties_are_ordered_by_id(tmp_path: Path) -> None:
    cases = [{**CASES[0], "id": id} for id in ("z", "m", "a", "b")]
    index = build(str(write_cases(tmp_path / "c.jsonl", cases)), encoder=WordVectors()).index
    for method in ("bm25", "embedding", "hybrid"):
        assert [hit.id for hit in index.search("exams sleep", method=method, k=3)] == ["a", "b", "m"]


def test_methods(made: Index) -> None:
    assert [hit.id for hit in made.search("sleep before exams", method="bm25")] == ["c-1"]  # no common word, no hit
    assert [hit.id for hit in made.search("a new town", method="embedding", k=1)] == ["c-2"]
    assert len(made.search("a new town", method="embedding", k=9)) == 3
    fused = made.search("sleep before exams", method="hybrid")
    assert fused[0].id == "c-1"
    assert fused[0].score == pytest.approx(2 / 61)  # first in both lists
    assert made.search("zzz", method="bm25") == []


def test_kinds_are_a_filter(tmp_path: Path) -> None:
    write_heal(tmp_path / "heal")
    index = build("heal", path=tmp_path / "heal", out=tmp_path / "out", encoder=WordVectors()).index
    for method in ("bm25", "embedding", "hybrid"):
        found = index.search("exams sleep boss friends", method=method, kinds=("expectation", "feedback"))
        assert {hit.kind for hit in found} <= {"expectation", "feedback"}
        assert found
    with pytest.raises(ConfigError, match=r"no items of the kind 'stresor'. Did you mean 'stressor'"):
        index.search("exams", kinds=("stresor",))
    with pytest.raises(ConfigError, match="method must be one of"):
        index.search("exams", method="exact")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="k must be"):
        index.search("exams", k=0)


def test_each_distinct_text_is_encoded_once(tmp_path: Path) -> None:
    encoder = WordVectors()
    index = build(str(write_cases(tmp_path / "c.jsonl")), encoder=encoder).index
    assert len(encoder.seen) == len(set(encoder.seen)) == 3
    encoder.seen.clear()
    index.search_all(["one", "two", "one"], method="hybrid")
    assert sorted(encoder.seen) == ["one", "two"]


# ------------------------------------------------------------------------------------------------------- files


def test_equal_data_give_equal_files(tmp_path: Path) -> None:
    place = str(write_cases(tmp_path / "cases.jsonl"))
    one, two = (build(place, out=tmp_path / n / "cases", encoder=WordVectors()).index for n in "ab")
    assert one.fingerprint == two.fingerprint
    for path in one.folder.iterdir():
        assert path.read_bytes() == (two.folder / path.name).read_bytes()


def test_only_the_owner_may_read_it(made: Index) -> None:
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.folder.iterdir()} == {0o600}


def test_it_opens_by_name_and_by_folder(made: Index) -> None:
    assert made.folder.name == "cases"
    assert Index.open("cases").fingerprint == Index.open(made.folder).fingerprint
    assert "student" not in repr(made)


def test_opening_reads_no_item_and_loads_nothing_heavy(made: Index) -> None:
    code = (
        "import sys\nfrom heedful.knowledge import Index\n"
        f"index = Index.open({str(made.folder)!r})\nindex.search('exams', method='bm25')\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_building_again_replaces_and_spares_what_is_no_index(tmp_path: Path) -> None:
    place = write_cases(tmp_path / "cases.jsonl")
    first = build(str(place)).index
    write_cases(place, CASES[:2])
    second = build(str(place)).index
    assert first.folder == second.folder
    assert (len(first), len(second)) == (3, 2)
    assert [p.name for p in first.folder.parent.iterdir()] == ["cases"], "no scratch folder is left"
    other = tmp_path / "notes"
    other.mkdir()
    (other / "diary.txt").write_text("mine")
    with pytest.raises(ConfigError, match="a folder with something else in it"):
        build(str(place), out=other)
    assert (other / "diary.txt").read_text() == "mine"


def test_a_second_file_of_the_same_name_does_not_take_the_first_ones_index(tmp_path: Path) -> None:
    (tmp_path / "north").mkdir()
    (tmp_path / "south").mkdir()
    north, south = write_cases(tmp_path / "north" / "cases.jsonl"), write_cases(tmp_path / "south" / "cases.jsonl")
    first = build(str(north)).index
    with pytest.raises(ConfigError, match=r"is the index of another file, '.*north.*'\. Name a new folder"):
        build(str(south))
    assert Index.open(first.folder).verify(north)
    assert build(str(south), out=first.folder).index.folder == first.folder, "asked for by name, it is replaced"


def test_an_index_of_other_data_is_refused(tmp_path: Path) -> None:
    place = write_cases(tmp_path / "cases.jsonl")
    index = build(str(place)).index
    assert index.verify()
    assert index.verify(place)
    other = write_cases(tmp_path / "other.jsonl", CASES[:1])
    with pytest.raises(DataError, match=r"was built from other data than .*other.jsonl"):
        index.verify(other)
    write_cases(place, CASES[:2])
    with pytest.raises(DataError, match=r"was built from other data .* Build it again: heedful knowledge build FILE"):
        index.verify()
    place.unlink()
    assert not index.verify(), "nothing to compare with is no mismatch"
    with pytest.raises(NotFoundError):
        index.verify(place)


def test_a_changed_file_is_found(made: Index) -> None:
    path = made.folder / "vectors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"vectors.npy' was changed after the index was built"):
        Index.open(made.folder).verify()


@pytest.mark.parametrize("name", ["items.jsonl", "kinds.npy", "bm25_scores.npy", "vectors.npy"])
def test_a_missing_file_is_one_sentence(made: Index, name: str) -> None:
    (made.folder / name).unlink()
    with pytest.raises(DataError, match="damaged or incomplete"):
        Index.open(made.folder)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("version", 2, "another format"), ("screen", "0" * 16, "screened by other rules"), ("items", "x", "damaged")],
)
def test_another_version_or_other_rules_are_refused(made: Index, key: str, value: Any, words: str) -> None:
    path = made.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(DataError, match=words):
        Index.open(made.folder)


def test_arrays_of_another_index_are_refused(made: Index, tmp_path: Path) -> None:
    more = build(str(write_cases(tmp_path / "few.jsonl", CASES[:2])), encoder=WordVectors()).index
    (made.folder / "vectors.npy").write_bytes((more.folder / "vectors.npy").read_bytes())
    with pytest.raises(DataError, match="damaged or incomplete"):
        Index.open(made.folder)


def test_another_encoder_is_refused(made: Index) -> None:
    with pytest.raises(ConfigError, match="were made by the encoder words"):
        Index.open(made.folder, encoder=WordVectors("salt")).search("exams", method="embedding")


def test_an_index_without_vectors_says_so(tmp_path: Path) -> None:
    index = build(str(write_cases(tmp_path / "cases.jsonl"))).index
    assert index.search("exams", method="bm25")
    with pytest.raises(ConfigError, match="has no vectors"):
        index.search("exams", method="hybrid")


def test_names_that_are_not_there(made: Index, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no knowledge index 'casse'. Did you mean 'cases'"):
        Index.open("casse")
    with pytest.raises(NotFoundError, match="heedful knowledge build heal"):
        Index.open("heal")
    with pytest.raises(NotFoundError, match="is no knowledge index"):
        Index.open(tmp_path)
    with pytest.raises(NotFoundError, match="has no item 'c-9'"):
        made.item("c-9")
    assert made.item("c-1").extra["vetted_by"] == "A. Nurse"
    assert made.item("c-1").source == "cases.jsonl, line 1"
