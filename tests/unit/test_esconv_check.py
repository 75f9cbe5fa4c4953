"""`heedful data check esconv`: every count of the specification on the real files, and what damage it notices."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import Call
from heedful import corpora, taxonomy
from heedful.corpora import esconv_counts
from heedful.corpora.base import Count, figure
from heedful.errors import DataError, LabelError
from heedful.testing import conversation

STRATEGIES = taxonomy.get("esconv_strategy").names


def record(*turns: tuple[str, str, str | None], situation: str = "An invented worry.") -> dict[str, Any]:
    dialog = [{"speaker": who, "text": text, **({"strategy": s} if s else {})} for who, text, s in turns]
    return {"emotion_type": "anxiety", "problem_type": "job crisis", "situation": situation, "dialog": dialog}


TALK = record(
    ("usr", "I cannot sleep.", None),
    ("sys", "Since when?", "Question"),
    ("sys", "You  sound worn out.", "Reflection of feelings"),
)
OPENED = record(
    ("sys", "Hello there.", "Others"),
    ("sys", "Since When?", "Questions"),
    ("usr", "Since May.", None),
    ("sys", "you sound worn out.", "Reflection of feelings"),
    situation="Another worry.",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "zcj_split").mkdir()
    for split, talk in (("train", TALK), ("valid", TALK), ("test", OPENED)):
        (tmp_path / "zcj_split" / f"{split}.jsonl").write_text(json.dumps(talk) + "\n", "utf-8")
    return tmp_path


def counted(folder: Path) -> dict[str, Count]:
    return {c.name: c for c in corpora.get("esconv").check(corpora.load("esconv", path=folder), folder).counts}


def test_counts_by_hand(folder: Path) -> None:
    found = {name: count.found for name, count in counted(folder).items()}
    assert (found["turns"], found["seeker turns"], found["turns per dialogue"]) == (10, 3, 3.3)
    assert (found["test target turns"], found["test target turns with opening"]) == (2, 3)
    assert (found["dialogues opened by the supporter"], found["targets without a seeker turn before them"]) == (1, 1)
    assert found["of these in test"] == 1
    # Targets: two in each of the first talks, two in the opened one; three of six follow a supporter.
    assert found["targets after a supporter turn, %"] == 50.0
    assert found["Question: supporter turns"] == 3
    assert found["Question: share, %"] == 42.9
    assert found["Question: test targets"] == 1
    assert found["distinct situations"] == 2
    assert found["situations in both train and test"] == 0
    # Blanks and case do not count: both test targets are train replies.
    assert found["test replies that are a train reply, %"] == 100.0
    # Three turns do not fill five fifths: nothing is said rather than something invented.
    assert found["Question: share per fifth of train, %"] is None
    assert "talks joined with their survey" not in found
    assert "failed dialogues" not in found


def test_shares_per_fifth() -> None:
    marks = {2 * k + 1: {"esconv_strategy": "Question" if k < 2 else "Others"} for k in range(5)}
    found = esconv_counts.by_fifth([conversation(*"abcdefghij", labels=marks)])
    assert found["Question"] == (100.0, 100.0, 0.0, 0.0, 0.0)
    assert found["Others"] == (0.0, 0.0, 100.0, 100.0, 100.0)


def test_a_wrong_count_is_a_problem_with_both_numbers(folder: Path) -> None:
    report = corpora.validate("esconv", path=folder)
    assert not report.ok
    assert "test target turns: expected 2,801, found 2." in report.problems
    assert "Question: share per fifth of train, %: expected 47.2 19.2 13.0 10.9 5.5, found nothing." in report.problems
    assert "Question: share, %: expected 20.7, found 42.9." in report.problems
    json.dumps(report.to_dict())


def test_figures() -> None:
    assert [figure(v) for v in (18_376, 20.7, (47.2, 5.5), None)] == ["18,376", "20.7", "47.2 5.5", "nothing"]
    assert Count(name="a", found=(1.0, 2.0), expected=(1.0, 2.0)).ok
    assert not Count(name="a", found=None, expected=1).ok
    assert Count(name="a", found=None).ok


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("Questions", "Question"),
        ("Other", "Others"),
        ("Direct Guidance", "Providing Suggestions"),
        ("Approval and Reassurance", "Affirmation and Reassurance"),
        ("Restatement", "Restatement or Paraphrasing"),
        (" [self-disclosure] ", "Self-disclosure"),
    ],
)
def test_old_names_of_strategies_are_brought_to_the_eight(folder: Path, old: str, name: str) -> None:
    talk = record(("usr", "Hm.", None), ("sys", "Hm?", old))
    (folder / "zcj_split" / "test.jsonl").write_text(json.dumps(talk), "utf-8")
    assert corpora.load("esconv", "test", path=folder)[0].turns[1].label("esconv_strategy") == name


def test_an_unknown_strategy_is_refused_with_the_list_and_the_line(folder: Path) -> None:
    talk = record(("usr", "Hm.", None), ("sys", "Hm?", "Hugging"))
    (folder / "zcj_split" / "test.jsonl").write_text(json.dumps(TALK) + "\n" + json.dumps(talk), "utf-8")
    with pytest.raises(
        LabelError, match=r"test\.jsonl, line 2: .*no label 'Hugging'.*Known: Question, Restatement"
    ) as e:
        corpora.load("esconv", path=folder)
    assert all(strategy in str(e.value) for strategy in STRATEGIES)


# ------------------------------------------------------------------------------------------ the other files beside it

ROW = "1.0 0 0 I cannot sleep . EOS 1.0 1 1 [Questions] Since when does that go on , if I may ask ?"


def test_rows_of_the_1053_release(folder: Path) -> None:
    path = folder / "official1053_testWithStrategy_short.tsv"
    path.write_text(f"{ROW}\n1.0 0 0 Hm EOS 1.0 1 1 [Other] Hm\n", "utf-8")
    found = counted(folder)
    assert found["1,053 release, test rows"].found == 2
    assert not found["1,053 release, test rows"].ok
    name = "1,053 release, test replies of 8 words that zcj train holds, %"
    assert found[name].found == 0.0  # the short reply is not asked
    longer = record(("usr", "a", None), ("sys", "Since when does that go on, if I may ask?", "Question"))
    (folder / "zcj_split" / "train.jsonl").write_text(json.dumps(longer), "utf-8")
    assert counted(folder)[name].found == 100.0
    assert "1,053 release, dev rows" not in found


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (ROW.replace(" EOS ", " "), DataError, "line 2: expected pieces"),
        (ROW.replace("[Questions] ", ""), DataError, "line 2: expected pieces"),
        (ROW.replace("1.0 1 1", "1.0 0 1"), DataError, "the last one a supporter's"),
        (ROW.replace("Questions", "Hugging"), LabelError, "line 2: .*no label 'Hugging'.*Known: Question"),
    ],
)
def test_a_damaged_row_names_its_line_and_no_words(
    folder: Path, row: str, error: type[Exception], message: str
) -> None:
    (folder / "official1053_devWithStrategy_short.tsv").write_text(f"{ROW}\n{row}\n", "utf-8")
    with pytest.raises(error, match=message) as caught:
        counted(folder)
    assert "sleep" not in str(caught.value)
    assert any("line 2" in problem for problem in corpora.validate("esconv", path=folder).problems)


def test_tokens_in_another_order_are_a_problem(folder: Path) -> None:
    path = folder / "strategy.json"
    path.write_text(json.dumps([f"[{name}]" for name in STRATEGIES]), "utf-8")
    assert esconv_counts.tokens_in_order(folder) is None
    path.write_text(json.dumps([f"[{name}]" for name in reversed(STRATEGIES)]), "utf-8")
    assert "order of their ids" in str(esconv_counts.tokens_in_order(folder))
    assert any("order of their ids" in p for p in corpora.validate("esconv", path=folder).problems)
    path.write_text("{", "utf-8")
    with pytest.raises(DataError, match=r"strategy\.json: expected a JSON list"):
        esconv_counts.tokens_in_order(folder)


# --------------------------------------------------------------------------------------------------------- real files


@pytest.mark.data("esconv")
def test_every_count_of_the_specification(call: Call) -> None:
    start = time.monotonic()
    code, out, err = call("data", "check", "esconv", "--json")
    spent = time.monotonic() - start
    report = json.loads(out)[0]
    assert (code, report["problems"]) == (0, []), err
    assert report["files_ok"] == 8
    counts = {c["name"]: c for c in report["counts"]}
    assert [c for c in counts.values() if c["expected"] is not None and c["found"] != c["expected"]] == []
    # A few by hand, so that a change of an expected value is no change of the specification.
    for name, value in {
        "Others: supporter turns": 3_341,
        "Affirmation and Reassurance: share per fifth of train, %": [10.7, 18.8, 16.6, 18.5, 15.4],
        "Restatement or Paraphrasing: test targets": 152,
        "dialogues opened by the supporter": 683,
        "targets without a seeker turn before them": 48,
        "of these in test": 7,
        "targets after a supporter turn, %": 17.2,
        "distinct situations": 1_296,
        "test replies that are a train reply, %": 4.5,
        "mean feedback by thirds of the talk": [4.07, 4.31, 4.49],
        "1,053 release, dev rows": 2_985,
        "1,053 release, test rows": 2_775,
        "failed dialogues without final score": 54,
    }.items():
        assert counts[name]["found"] == value, name
    assert spent < 60, "about 4 s on a quiet machine"


@pytest.mark.data("esconv")
def test_one_changed_letter_is_noticed(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "esconv" / "zcj_split", tmp_path / "zcj_split")
    path = tmp_path / "zcj_split" / "valid.jsonl.gz"
    content = gzip.decompress(path.read_bytes()).replace(b'"usr"', b'"sys"', 1)
    path.chmod(0o600)
    path.write_bytes(gzip.compress(content))
    problems = corpora.validate("esconv", path=tmp_path).problems
    assert any("valid.jsonl" in p and "64a641ee1235" in p for p in problems)
    assert "Supporter turns without a strategy exist." in problems
    assert any(p.startswith("seeker turns: expected 19,989, found 19,988") for p in problems)
