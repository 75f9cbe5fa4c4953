"""`heedful knowledge`: ids, kinds and scores always, words only with --show-text, and none of what was left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from knowledge_kit import CASES, STRESSORS, write_cases, write_heal

Call = Callable[..., tuple[int, str, str]]
BAD = {**CASES[0], "id": "c-bad", "situation": "Write to www.example.org"}


def test_build_search_show(call: Call, tmp_path: Path) -> None:
    place = write_cases(tmp_path / "cases.jsonl", [*CASES, BAD])
    code, out, err = call("knowledge", "build", place, "--encoder", "none")
    assert code == 0
    assert "contact 1" in out
    assert "1 of these were stopped by the screen" in out
    assert "reading" in err
    code, out, _ = call("knowledge", "search", "cases", "sleep before exams")
    assert code == 0
    assert "c-1" in out
    assert "student" not in out
    code, out, _ = call("knowledge", "search", "cases", "sleep before exams", "--show-text")
    assert "student" in out
    code, out, _ = call("knowledge", "show", "cases", "c-1")
    assert "A. Nurse" in out
    assert "student" not in out
    assert "evening" not in out
    code, out, _ = call("knowledge", "show", "cases", "c-1", "--show-text")
    assert "evening" in out


def test_what_was_left_out_is_never_printed(call: Call, tmp_path: Path) -> None:
    place = write_cases(tmp_path / "cases.jsonl", [*CASES, BAD])
    call("knowledge", "build", place, "--encoder", "none")
    for words in (("show", "cases", "c-bad"), ("search", "cases", "write example")):
        for more in ((), ("--show-text",), ("--json",), ("--show-text", "--json")):
            code, out, err = call("knowledge", *words, *more)
            assert code == 0
            assert "example.org" not in out + err
            assert ("contact" in out) == (words[0] == "show")


def test_data_that_are_gone_are_said_to_be_gone(call: Call, tmp_path: Path) -> None:
    place = write_cases(tmp_path / "cases.jsonl")
    call("knowledge", "build", place, "--encoder", "none")
    _, _, err = call("knowledge", "search", "cases", "sleep")
    assert "not at hand" not in err
    place.unlink()
    for words in (("search", "cases", "sleep"), ("show", "cases", "c-1")):
        code, _, err = call("knowledge", *words)
        assert code == 0
        assert "not at hand, so they were not compared" in err


def test_json(call: Call, tmp_path: Path) -> None:
    place = write_cases(tmp_path / "cases.jsonl", [*CASES, BAD])
    _, out, _ = call("knowledge", "build", place, "--encoder", "none", "--json")
    report = json.loads(out)
    assert report["kinds"] == {"case": {"kept": 3, "why": {"contact": 1}}}
    assert list(report["data"]) == ["cases.jsonl"]
    _, out, _ = call("knowledge", "search", "cases", "a new town", "--method", "bm25", "-k", 1, "--json")
    found = json.loads(out)
    assert found["index"] == report["fingerprint"]
    assert [(hit["rank"], hit["id"], hit["kind"]) for hit in found["hits"]] == [(1, "c-2", "case")]
    assert "text" not in found["hits"][0]


def test_a_graph_by_folder(call: Call, tmp_path: Path) -> None:
    write_heal(tmp_path / "heal", flags={"stressors": ["t1"]})
    out_folder = tmp_path / "out"
    code, out, _ = call(
        "knowledge", "build", "heal", "--path", tmp_path / "heal", "--out", out_folder, "--encoder", "none"
    )
    assert code == 0
    assert "flagged 1" in out
    code, out, _ = call("knowledge", "show", out_folder, "t3", "--data", tmp_path / "heal")
    assert "i3 (2)" in out
    assert STRESSORS["t3"][0] not in out
    code, out, _ = call("knowledge", "search", out_folder, "boss", "--kind", "expectation", "--data", tmp_path / "heal")
    assert "i3" in out
    assert "t3" not in out
    code, out, _ = call("knowledge", "search", out_folder, "zzz", "--data", tmp_path / "heal")
    assert "Nothing fits" in out


def test_mistakes_are_one_sentence(call: Call, tmp_path: Path) -> None:
    place = write_cases(tmp_path / "cases.jsonl")
    call("knowledge", "build", place, "--encoder", "none")
    other = write_cases(tmp_path / "other.jsonl", CASES[:1])
    for words, said in (
        (("search", "cases", "exams", "--data", other), "was built from other data"),
        (("search", "cases", "exams", "--method", "hybrid"), "has no vectors"),
        (("show", "cases", "c-9"), "has no item 'c-9'"),
        (("show", "nothing", "c-9"), "no knowledge index 'nothing'"),
        (("build", "nothing"), "Unknown kind of knowledge"),
        (("build", tmp_path / "none.jsonl"), "none.jsonl"),
    ):
        code, out, err = call("knowledge", *words)
        assert (code, out) == (2, "")
        assert said in err
        assert "Traceback" not in err
