"""Damaged and swapped files: one sentence with the place, without the words; and every emitted label set is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corpora_kit import (
    COUNSEL_ROW,
    MESC_ROWS,
    annomi_row,
    esconv_record,
    hope_rows,
    original,
    psydef_row,
    write_csv,
    write_lines,
)

from heedful import corpora, taxonomy
from heedful.corpora import hope
from heedful.errors import DataError, LabelError
from heedful.types import Conversation, Label

SECRET = "The heron stood beside my window all night long."


def chain(err: BaseException | None) -> Iterator[BaseException]:
    """The error and all that a traceback would print with it."""
    while err is not None:
        yield err
        err = err.__cause__ or (None if err.__suppress_context__ else err.__context__)


def assert_clean(err: BaseException) -> None:
    for link in chain(err):
        assert not any(word in str(link) for word in ("heron", "window", SECRET)), type(link)


# ------------------------------------------------------------------------------------------------ damaged files


def test_counsel_chat_upvotes(tmp_path: Path) -> None:
    write_csv(tmp_path / "20200325_counsel_chat.csv", [COUNSEL_ROW, COUNSEL_ROW | {"upvotes": "3.0"}])
    with pytest.raises(DataError, match=r"counsel_chat\.csv, line \d+: upvotes must be a whole number or empty\."):
        corpora.load("counsel_chat", path=tmp_path)


def test_esconv_survey_score(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_lines(tmp_path / "zcj_split" / f"{split}.jsonl", [esconv_record("the mill")])
    record = original("test", "the mill", SECRET)
    (tmp_path / "ESConv_reconstructed.json").write_text(json.dumps([record]), encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.jsonl, line 1: each score of the survey must be a number") as caught:
        corpora.load("esconv", path=tmp_path)
    assert_clean(caught.value)


def test_annomi_full_without_its_annotator(tmp_path: Path) -> None:
    write_csv(tmp_path / "AnnoMI-full.csv", [annomi_row(0, 0, "therapist", "So?", "question", "n/a")])
    with pytest.raises(DataError, match="missing: \\['annotator_id'\\]"):
        corpora.load("annomi", path=tmp_path, version="full")


@pytest.mark.parametrize("error", [ValueError, KeyError, IndexError, TypeError, AttributeError])
def test_any_stumble_of_a_reader_is_one_sentence(error: type[Exception], tmp_path: Path) -> None:
    def read(folder: Path) -> list[Conversation]:
        raise error(SECRET)

    corpus = replace(corpora.get("psydef"), read=read)
    with pytest.raises(DataError) as caught:
        corpus.load(path=tmp_path)
    assert f"A file in '{tmp_path}' is not what the corpus 'psydef' expects ({error.__name__} in" in str(caught.value)
    assert_clean(caught.value)
    (problem,) = [p for p in corpus.validate(path=tmp_path).problems if p.startswith("A file in")]
    assert "heron" not in problem


def test_a_bug_that_no_file_can_cause_stays_a_traceback(tmp_path: Path) -> None:
    def read(folder: Path) -> list[Conversation]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        replace(corpora.get("psydef"), read=read).load(path=tmp_path)


# ------------------------------------------------------------------------------------------------ swapped columns


def test_hope_with_swapped_columns_repeats_no_utterance(tmp_path: Path) -> None:
    rows = [r | {"Dialog_Act": r["Utterance"], "Utterance": r["Dialog_Act"]} for r in hope_rows(5, ["ynq", "gt"])]
    rows += [r | {"ID": f"5_{i}", "Dialog_Act": f"{SECRET} {i * 'x'}"} for i, r in enumerate(rows, start=2)]
    rows += [rows[0] | {"ID": "5_9", "Dialog_Act": f"id, {SECRET}"}]
    write_csv(tmp_path / "5.csv", rows)
    report = corpora.validate("hope", path=tmp_path)
    assert_clean(AssertionError(json.dumps(report.to_dict())))
    assert (
        f"Unknown act a text of {len(SECRET) + 3} characters on 1 utterances; left without an act." in report.warnings
    )
    assert {c.name: c.found for c in report.counts}["raw act id"] == 1


def test_hope_lists_no_more_than_twenty_unknown_acts() -> None:
    turns = [{"role": "user", "content": "Aha.", "act_raw": f"w{i}", "act_known": False} for i in range(23)]
    talk = Conversation.from_dict({"id": "1", "messages": turns})
    warnings = hope.check([talk], Path()).warnings
    assert len(warnings) == 21
    assert warnings[-1] == "3 more unknown acts. Is the act column swapped with another one?"


def test_labels_of_a_swapped_column_are_not_repeated(tmp_path: Path) -> None:
    write_csv(tmp_path / "MESC.csv", [MESC_ROWS[0] | {"Emotion": SECRET}])
    (tmp_path / "split.json").write_text('{"train": [0]}', encoding="utf-8")
    with pytest.raises(
        LabelError, match=r"MESC\.csv, dialogue 0, utterance 0: .* no label like a text of 48"
    ) as caught:
        corpora.load("mesc", path=tmp_path)
    assert_clean(caught.value)
    write_csv(tmp_path / "AnnoMI-simple.csv", [annomi_row(0, 0, "therapist", "So?", SECRET, "n/a")])
    with pytest.raises(LabelError, match=r"AnnoMI-simple\.csv, line 2: .* like a text of") as caught:
        corpora.load("annomi", path=tmp_path)
    assert_clean(caught.value)


# ------------------------------------------------------------------------------------------------- emitted sets


def esconv_folder(folder: Path) -> None:
    for split in ("train", "valid", "test"):
        write_lines(folder / "zcj_split" / f"{split}.jsonl", [esconv_record("the mill")])
    records = [original("train", "the mill", "2")]
    (folder / "ESConv_reconstructed.json").write_text(json.dumps(records), encoding="utf-8")
    failed = original("", "the mill", "5") | {"emotion_type": "fear", "problem_type": "other"}
    (folder / "FailedESConv.json").write_text(json.dumps([failed]), encoding="utf-8")


def annomi_folder(folder: Path) -> None:
    rows = [
        annomi_row(0, 0, "therapist", "So?", "question", "n/a", annotator_id="1"),
        annomi_row(0, 1, "client", "I might.", "n/a", "change", annotator_id="1"),
    ]
    names = ("therapist_input_subtype", "reflection_subtype", "question_subtype")
    for row, values in zip(rows, (("advice", "complex", "open"), ("n/a", "n/a", "n/a")), strict=True):
        row.update(dict(zip(names, values, strict=True)))
    write_csv(folder / "AnnoMI-simple.csv", rows)
    write_csv(folder / "AnnoMI-full.csv", rows)


def empathetic_folder(folder: Path) -> None:
    record = {
        "conv_id": "c1",
        "emotion": "proud",
        "split": "valid",
        "split_source": "moel",
        "situation": "My kite flew.",
        "utterances": [{"role": "user", "text": "It flew!", "auto_label": "joyful"}],
    }
    write_lines(folder / "ed_dialogues_with_split.jsonl", [record])


def mesc_folder(folder: Path) -> None:
    write_csv(folder / "MESC.csv", MESC_ROWS)
    (folder / "split.json").write_text('{"train": [0, 1, 2]}', encoding="utf-8")


FOLDERS: dict[str, Callable[[Path], None]] = {
    "annomi": annomi_folder,
    "counsel_chat": lambda folder: write_csv(folder / "20200325_counsel_chat.csv", [COUNSEL_ROW]),
    "empathetic_dialogues": empathetic_folder,
    "esconv": esconv_folder,
    "hope": lambda folder: write_csv(folder / "5.csv", hope_rows(5, ["ynq", "yna", "od"])),
    "mesc": mesc_folder,
    "psydef": lambda folder: write_lines(folder / "psydefconv_train_labelled_partial.jsonl", [psydef_row()]),
}
WAYS: dict[str, list[dict[str, Any]]] = {
    "annomi": [{}, {"version": "full"}],
    "esconv": [{}, {"part": "failed"}],
    "hope": [{}, {"acts": "merged_yna"}],
}


def emitted(talks: list[Conversation]) -> list[Label]:
    return [label for c in talks for label in (*c.labels, *(label for turn in c for label in turn.labels))]


@pytest.mark.parametrize("name", corpora.names())
def test_every_set_that_a_loader_emits_is_known_and_declared(name: str, tmp_path: Path) -> None:
    if name in FOLDERS:
        FOLDERS[name](tmp_path)
    path = tmp_path if name in FOLDERS else None
    labels = [label for way in WAYS.get(name, [{}]) for label in emitted(corpora.load(name, path=path, **way))]
    assert {label.set for label in labels} == set(corpora.get(name).info.layers)
    for label in labels:
        assert label.value in taxonomy.get(label.set).names


@pytest.mark.data("annomi", "counsel_chat", "esconv", "hope_samples", "mesc", "psydef")
@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "empathetic_dialogues"])
def test_every_label_of_the_real_corpora_is_canonical(name: str) -> None:
    labels = [label for way in WAYS.get(name, [{}]) for label in emitted(corpora.load(name, **way))]
    strange = {label.set for label in labels if label.value not in taxonomy.get(label.set).names}
    assert strange == set()


@pytest.mark.slow
@pytest.mark.data("empathetic_dialogues")
def test_every_label_of_empathetic_dialogues_is_canonical() -> None:
    found = {(label.set, label.value) for label in emitted(corpora.load("empathetic_dialogues"))}
    for name, size in (("empathetic_emotion", 32), ("empathetic_intents", 41)):
        assert {value for at, value in found if at == name} == set(taxonomy.get(name).names)
        assert len(taxonomy.get(name)) == size
