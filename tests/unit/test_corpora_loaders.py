"""Every loader on invented files, so that they are tested where no corpus is at hand."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from corpora_kit import (
    COUNSEL_ROW,
    annomi_row,
    esconv_record,
    hope_rows,
    original,
    psydef_row,
    write_csv,
    write_lines,
)

from heedful import corpora, taxonomy
from heedful.corpora import counsel_chat, esconv
from heedful.corpora.base import check_hashes
from heedful.errors import ConfigError, DataError, LabelError, NotFoundError
from heedful.types import Conversation

# ------------------------------------------------------------------------------------------------- all corpora


@pytest.mark.parametrize("name", corpora.names())
def test_info_is_complete(name: str) -> None:
    info = corpora.get(name).info
    assert info.name == name
    assert info.title
    assert info.url
    assert info.licence
    assert info.citation
    assert info.folders
    example = Conversation.from_dict(info.example)
    assert {t.role for t in example} == {"user", "assistant"}
    assert example.source == name
    # The invented example keeps the rules of the label sets that it shows.
    for label in (*example.labels, *(label for turn in example for label in turn.labels)):
        assert label.set in info.layers
        assert taxonomy.get(label.set).resolve(label.value) == label.value


def test_names_are_frozen() -> None:
    assert corpora.names() == [
        "annomi",
        "commons",
        "counsel_chat",
        "empathetic_dialogues",
        "esconv",
        "hope",
        "mesc",
        "psydef",
    ]


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'esconv'"):
        corpora.load("esconf")


def test_missing_corpus_says_where_to_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEEDFUL_DATA", raising=False)
    with pytest.raises(NotFoundError, match=r"fill in the form .* put its folder at .*corpora/hope, set HEEDFUL_DATA"):
        corpora.load("hope")


def test_places_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, data, own = tmp_path / "home", tmp_path / "data", tmp_path / "own"
    for folder in (home / "corpora" / "mesc", data / "mesc", own):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HEEDFUL_HOME", str(home))
    monkeypatch.delenv("HEEDFUL_DATA", raising=False)
    mesc = corpora.get("mesc")
    assert mesc.locate() == home / "corpora" / "mesc"
    monkeypatch.setenv("HEEDFUL_DATA", str(data))
    assert mesc.locate() == data / "mesc"
    assert mesc.locate(own) == own
    assert mesc.locate(own / "nowhere") is None


def test_unknown_option_and_split(esconv_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no option 'prat'\. Did you mean 'part'"):
        corpora.load("esconv", path=esconv_folder, prat="failed")
    with pytest.raises(NotFoundError, match=r"no split 'tets'\. Did you mean 'test'"):
        corpora.load("esconv", "tets", path=esconv_folder)


# ------------------------------------------------------------------------------------------------------ ESConv


@pytest.fixture
def esconv_folder(tmp_path: Path) -> Path:
    for split, place in (("train", "the mill"), ("valid", "the quay"), ("test", "the fair")):
        write_lines(tmp_path / "zcj_split" / f"{split}.jsonl", [esconv_record(place)])
    return tmp_path


def test_esconv_reads_splits_and_labels(esconv_folder: Path) -> None:
    talks = corpora.load("esconv", path=esconv_folder)
    assert [(c.id, c.split) for c in talks] == [
        ("train-0000", "train"),
        ("valid-0000", "valid"),
        ("test-0000", "test"),
    ]
    (talk,) = corpora.load("esconv", "test", path=esconv_folder)
    assert [t.role for t in talk] == ["user", "assistant", "user"]
    assert talk.turns[1].label("esconv_strategy") == "Question"
    assert talk.survey == {}
    assert [(n.set, n.value, n.source) for n in talk.labels] == [("esconv_emotion", "anger", "gold")]
    assert talk.extra == {}
    assert talk.licence == "CC-BY-NC-4.0"


def test_esconv_joins_survey_by_text_not_by_order(esconv_folder: Path) -> None:
    records = [original("test", "the fair", None), original("train", "the mill", "2")]
    (esconv_folder / "ESConv_reconstructed.json").write_text(json.dumps(records), encoding="utf-8")
    train, valid, test = corpora.load("esconv", path=esconv_folder)
    assert train.survey == {
        "initial_emotion_intensity": 5.0,
        "final_emotion_intensity": 2.0,
        "empathy": 4.0,
        "relevance": None,
    }
    assert train.turns[2].label("feedback") == "3"
    assert train.extra["orig_index"] == 7
    assert valid.survey == {}
    assert test.survey["final_emotion_intensity"] is None


def test_esconv_same_text_in_another_split_is_not_joined(esconv_folder: Path) -> None:
    records = [original("valid", "the mill", "2")]
    (esconv_folder / "ESConv_reconstructed.json").write_text(json.dumps(records), encoding="utf-8")
    assert not any(c.survey for c in corpora.load("esconv", path=esconv_folder))


def test_esconv_failed_part_gets_the_new_names(tmp_path: Path) -> None:
    record = original("", "the mill", "5") | {
        "emotion_type": "fear",
        "problem_type": "other",
        "experience_type": "Current",
    }
    record["dialog"][0]["speaker"] = record["dialog"][2]["speaker"] = "speaker"
    record["dialog"][1] = {"speaker": "listener", "annotation": {"strategy": "Direct Guidance"}, "content": "Walk.\n"}
    (tmp_path / "FailedESConv.json.gz").write_bytes(gzip.compress(json.dumps([record]).encode()))
    (talk,) = corpora.load("esconv", path=tmp_path, part="failed")
    assert talk.split is None
    assert talk.turns[1].label("esconv_strategy") == "Providing Suggestions"
    assert talk.turns[1].text == "Walk."


def test_esconv_names_file_and_line_of_a_wrong_label(esconv_folder: Path) -> None:
    path = esconv_folder / "zcj_split" / "valid.jsonl"
    write_lines(path, [esconv_record("a"), esconv_record("b", strategy="Questioning")])
    with pytest.raises(LabelError, match=r"valid\.jsonl, line 2: .*Did you mean 'Question'"):
        corpora.load("esconv", path=esconv_folder)


def test_esconv_record_without_a_field(esconv_folder: Path) -> None:
    write_lines(esconv_folder / "zcj_split" / "valid.jsonl", [{"dialog": []}])
    with pytest.raises(DataError, match=r"valid\.jsonl, line 1: not an ESConv record"):
        corpora.load("esconv", path=esconv_folder)


def test_validate_finds_wrong_hashes_and_counts(esconv_folder: Path) -> None:
    report = corpora.validate("esconv", path=esconv_folder)
    assert not report.ok
    assert report.files_ok == 0
    assert any("'zcj_split/train.jsonl' is not the file" in p for p in report.problems)
    assert "train dialogues: expected 910, found 1." in report.problems
    json.dumps(report.to_dict())


def test_a_packed_file_with_the_right_content_has_the_right_hash(esconv_folder: Path) -> None:
    path = esconv_folder / "zcj_split" / "train.jsonl"
    content = path.read_bytes()
    path.with_name("train.jsonl.gz").write_bytes(gzip.compress(content))
    path.unlink()
    files = {"zcj_split/train.jsonl": hashlib.sha256(content).hexdigest()}
    assert check_hashes(esconv_folder, replace(esconv.INFO, files=files, optional_files={})) == (1, [], [])


# -------------------------------------------------------------------------------------------------------- HOPE


def test_hope_normalises_acts_and_keeps_the_raw_ones(tmp_path: Path) -> None:
    rows = hope_rows(5, ["ynq", "yna", "YNA ", "cd/id"])
    write_csv(tmp_path / "5.csv", rows[::-1])
    (talk,) = corpora.load("hope", path=tmp_path)
    assert [t.label("hope_act") for t in talk] == ["YNQ", "PA", "NA", "CD"]
    assert [t.labels[0].source for t in talk] == ["gold", "rule", "rule", "gold"]
    assert talk.turns[2].extra["act_raw"] == "YNA "
    assert talk.turns[3].extra["act_alt"] == ["id"]
    assert [t.role for t in talk] == ["assistant", "user", "user", "user"]


def test_hope_act_na_is_a_text(tmp_path: Path) -> None:
    write_csv(tmp_path / "5.csv", hope_rows(5, ["ynq", "NA", "on", "wobble"], column="Dialogue_Act"))
    (talk,) = corpora.load("hope", path=tmp_path)
    assert [t.label("hope_act") for t in talk] == ["YNQ", "NA", "NA", None]
    report = corpora.validate("hope", path=tmp_path)
    assert "Unknown act 'wobble' on 1 utterances; left without an act." in report.warnings


def test_hope_options(tmp_path: Path) -> None:
    write_csv(tmp_path / "5.csv", hope_rows(5, ["ynq", "yna", "op", "wobble"]))
    (merged,) = corpora.load("hope", path=tmp_path, acts="merged_yna")
    assert [t.label("hope_act_merged") for t in merged] == ["YNQ", "YNA", "YNA", None]
    (own,) = corpora.load("hope", path=tmp_path, table={"wobble": "GC"})
    assert own.turns[3].label("hope_act") == "GC"


def test_hope_split_by_folder(tmp_path: Path) -> None:
    for folder, session in (("Train", 1), ("Validation", 2), ("Test", 3)):
        (tmp_path / folder).mkdir()
        write_csv(tmp_path / folder / f"{session}.csv", hope_rows(session, ["gt", "gt"]))
    assert {c.id: c.split for c in corpora.load("hope", path=tmp_path)} == {"1": "train", "2": "valid", "3": "test"}


def test_hope_loose_files_are_divided_by_session(tmp_path: Path) -> None:
    for session in range(10):
        write_csv(tmp_path / f"{session}.csv", hope_rows(session, ["gt", "gt"]))
    first = [c.split for c in corpora.load("hope", path=tmp_path)]
    assert sorted(str(s) for s in first) == ["test"] * 2 + ["train"] * 7 + ["valid"]
    assert [c.split for c in corpora.load("hope", path=tmp_path)] == first
    assert [c.split for c in corpora.load("hope", path=tmp_path, seed=14)] != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ID": "five"}, "ID must be '<session>_<index>'"),
        ({"Type": "X"}, "Type must be T"),
    ],
)
def test_hope_bad_rows(tmp_path: Path, change: dict[str, str], message: str) -> None:
    rows = hope_rows(5, ["gt", "gt"])
    rows[1] |= change
    write_csv(tmp_path / "5.csv", rows)
    with pytest.raises(DataError, match=rf"5\.csv, line 3: {message}"):
        corpora.load("hope", path=tmp_path)


def test_csv_with_a_short_row_and_a_missing_column(tmp_path: Path) -> None:
    (tmp_path / "5.csv").write_text("ID,Type,Utterance,Dialog_Act\n5_0,T,Hello\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"5\.csv, line 2: expected 4 columns, but the row has 3"):
        corpora.load("hope", path=tmp_path)
    (tmp_path / "5.csv").write_text("ID,Type\n5_0,T\n", encoding="utf-8")
    with pytest.raises(DataError, match="these are missing: \\['Utterance'\\]"):
        corpora.load("hope", path=tmp_path)


def test_csv_keeps_rare_line_separators_inside_a_cell(tmp_path: Path) -> None:
    rows = hope_rows(5, ["gt", "gt"])
    rows[0]["Utterance"] = "One\u2028two\x85three"
    write_csv(tmp_path / "5.csv", rows)
    (talk,) = corpora.load("hope", path=tmp_path)
    assert talk.turns[0].text == "One\u2028two\x85three"


def test_csv_that_is_not_utf8_names_line_and_byte(tmp_path: Path) -> None:
    (tmp_path / "5.csv").write_bytes(b"ID,Type,Utterance,Dialog_Act\n5_0,T,caf\xe9,gt\n")
    with pytest.raises(DataError, match=r"5\.csv, line 2, byte 10: not UTF-8"):
        corpora.load("hope", path=tmp_path)


# ------------------------------------------------------------------------------------- the other conversations


def test_empathetic_dialogues(tmp_path: Path) -> None:
    record = {
        "conv_id": "c1",
        "emotion": "proud",
        "split": "valid",
        "split_source": "conflict",
        "situation": "My kite flew.",
        "utterances": [
            {"role": "user", "text": "It flew!", "auto_label": "joyful"},
            {"role": "listener", "text": "How high?", "auto_label": "questioning"},
        ],
    }
    write_lines(
        tmp_path / "ed_dialogues_with_split.jsonl", [record, record | {"conv_id": "c2", "split_source": "moel"}]
    )
    first, _ = corpora.load("empathetic_dialogues", path=tmp_path)
    assert [t.role for t in first] == ["user", "assistant"]
    assert first.turns[1].labels[0].source == "model"
    assert [(n.set, n.value, n.source) for n in first.labels] == [("empathetic_emotion", "proud", "gold")]
    assert first.extra == {"split_source": "conflict"}
    assert [c.id for c in corpora.load("empathetic_dialogues", path=tmp_path, conflicts="drop")] == ["c2"]


def test_counsel_chat_cleans_answers(tmp_path: Path) -> None:
    only_marks = COUNSEL_ROW | {"row": "5", "answerText": "Call me: [phone]"}
    write_csv(tmp_path / "20200325_counsel_chat.csv", [COUNSEL_ROW, only_marks])
    (talk,) = corpora.load("counsel_chat", path=tmp_path)
    assert talk.turns[0].text == "I never learned to swim."
    assert talk.turns[1].text == "It is not late.\nMany learn at sixty!"
    assert (talk.split, talk.group, talk.problem_type) == ("valid", "question-2", "fear")
    raw = corpora.load("counsel_chat", path=tmp_path, text="raw")
    assert [len(c) for c in raw] == [2, 2]
    assert "[therapist]" in raw[0].turns[1].text


@pytest.mark.parametrize(
    ("answer", "clean"),
    [
        ("Rest.\nTake care,\nAnn, PhD", "Rest."),
        ("Take care of your sleep first.", "Take care of your sleep first."),
        ("A PhD will not help here, and that is no loss to you in the least; walk by the sea instead.", None),
        ("See [url] for more. Breathe out slowly.", "Breathe out slowly."),
        ("Peace", ""),
        ("Take care:\na\nb\nc\nd", None),  # in the last four lines only
    ],
)
def test_clean_answer(answer: str, clean: str | None) -> None:
    assert counsel_chat.clean_answer(answer) == (answer if clean is None else clean)


def test_annomi_simple(tmp_path: Path) -> None:
    rows = [
        annomi_row(0, 1, "client", "I might walk.", "n/a", "change"),
        annomi_row(0, 0, "therapist", "What next?", "question", "n/a"),
        annomi_row(3, 0, "therapist", "Just walk.", "other", "n/a"),
    ]
    write_csv(tmp_path / "AnnoMI-simple.csv", rows)
    (tmp_path / "emodynamix_split.json").write_text(json.dumps({"transcripts": {"test": [0]}}), encoding="utf-8")
    high, low = corpora.load("annomi", path=tmp_path)
    assert [t.text for t in high] == ["What next?", "I might walk."]
    assert (high.split, low.split) == ("test", None)
    assert high.turns[0].label("annomi_behaviour") == "question"
    assert high.turns[1].label("annomi_talk") == "change"
    assert high.turns[1].label("annomi_behaviour") is None
    assert high.group == low.group
    assert [c.id for c in corpora.load("annomi", path=tmp_path, quality="high")] == ["0"]


def test_annomi_full_keeps_every_annotator(tmp_path: Path) -> None:
    none = {"therapist_input_subtype": "n/a", "reflection_subtype": "n/a", "question_subtype": "n/a"}
    rows = [
        annomi_row(
            0, 0, "therapist", "So?", "question", "n/a", annotator_id="1", **none | {"question_subtype": "open"}
        ),
        annomi_row(0, 0, "therapist", "So?", "other", "n/a", annotator_id="2", **none),
    ]
    write_csv(tmp_path / "AnnoMI-full.csv", rows)
    (talk,) = corpora.load("annomi", path=tmp_path, version="full")
    assert len(talk) == 1
    assert [(n.set, n.value, n.source) for n in talk.turns[0].labels] == [
        ("annomi_behaviour", "question", "human:1"),
        ("annomi_subtype", "question open", "human:1"),
        ("annomi_behaviour", "other", "human:2"),
    ]


def test_psydef_labels_the_last_turn(tmp_path: Path) -> None:
    write_lines(tmp_path / "psydefconv_train_labelled_partial.jsonl", [psydef_row()])
    test = psydef_row(id="test_1")
    del test["label"]
    (tmp_path / "psydefconv_test_unlabelled.json").write_text(json.dumps([test]), encoding="utf-8")
    (tmp_path / "esconv_map.json").write_text(
        json.dumps({"D1": {"esconv_split": "valid", "esconv_orig_index": 8}}), encoding="utf-8"
    )
    train, unlabelled = corpora.load("psydef", path=tmp_path)
    assert [t.label("dmrs_level") for t in train] == [None, "3"]
    assert unlabelled.turns[-1].labels == ()
    assert (train.group, train.extra["esconv_split"]) == ("D1", "valid")


def test_psydef_refuses_a_row_whose_turn_is_not_the_last(tmp_path: Path) -> None:
    write_lines(tmp_path / "psydefconv_train_labelled_partial.jsonl", [psydef_row(), psydef_row(current_text="Other")])
    with pytest.raises(DataError, match="row 2: the last turn of 'dialogue' must be 'current_text'"):
        corpora.load("psydef", path=tmp_path)
