"""Conversations as JSON Lines: round trip, exact places of errors, whole file or nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heedful import corpora
from heedful.corpora.jsonl import write_objects
from heedful.errors import ConfigError, DataError, LabelError, NotFoundError
from heedful.types import Conversation, Label, Score, Span, Turn

GOOD: dict[str, Any] = {
    "id": "a",
    "messages": [
        {"role": "user", "content": "The tide took my boat."},
        {"role": "assistant", "content": "Was it moored?"},
    ],
    "labels": [{"turn": 1, "set": "esconv_strategy", "value": "question"}],
}


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k not in keys}


# -------------------------------------------------------------------------------------------------- round trip

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
words = st.text(st.characters(exclude_categories=["Cs", "Z", "C"]), min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
labels = st.builds(
    Label,
    set=st.sampled_from(["own_set", "another_set"]),
    value=words,
    source=st.sampled_from(["gold", "rule", "human:7"]),
    confidence=st.none() | st.floats(0, 1),
    evidence=st.none() | words,
    span=st.none(),
)
# Columns that are called like fields must not replace them.
columns = ["clues", "emotion_type", "extra", "id", "messages", "role", "content", "turns", "labels", "merged", "scores"]
extras = st.dictionaries(st.sampled_from(columns), json_values, max_size=3)
scores = st.builds(
    Score,
    name=words,
    value=st.booleans() | st.floats(0, 5) | text,
    reason=st.none() | words,
    explanation=st.none() | text,
    by=st.none() | words,
    at=st.none() | st.just("2026-11-21T10:30:00+00:00"),
    turn=st.none() | st.integers(0, 1),
)


def spanned(turn: Turn, cuts: list[tuple[int, int]]) -> Turn:
    """Labels of `turn` with spans inside its text."""
    places = [Span(start=min(a, b) % len(turn.text), end=len(turn.text)) for a, b in cuts]
    return turn.with_labels(*(Label(set="own_set", value="x", span=place) for place in places))


turn_of = {
    role: st.builds(
        spanned,
        st.builds(
            Turn,
            role=st.just(role),
            text=words,
            labels=st.lists(labels, max_size=2).map(tuple),
            speaker_id=st.none() | words,
            extra=extras,
        ),
        st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=1),
    )
    for role in ("user", "assistant")
}
conversations = st.builds(
    lambda user, assistant, **fields: Conversation(turns=(user, assistant), **fields),
    turn_of["user"],
    turn_of["assistant"],
    id=words,
    source=words,
    licence=st.none() | words,
    split=st.none() | st.sampled_from(["train", "test"]),
    lang=st.sampled_from(["en", "zh-Hans"]),
    situation=st.none() | text,
    survey=st.dictionaries(st.sampled_from(["empathy", "relevance"]), st.none() | st.floats(0, 5)),
    labels=st.lists(labels, max_size=2).map(tuple),
    group=st.none() | words,
    extra=extras,
    known=st.dictionaries(st.sampled_from(["emotion_type", "persona"]), json_values, max_size=2),
    scores=st.lists(scores, max_size=2).map(tuple),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(talks=st.lists(conversations, min_size=1, max_size=3, unique_by=lambda c: c.id), packed=st.booleans())
def test_round_trip(tmp_path: Path, talks: list[Conversation], packed: bool) -> None:
    path = tmp_path / ("talks.jsonl.gz" if packed else "talks.jsonl")
    assert corpora.write_jsonl(path, talks) == len(talks)
    assert corpora.load(str(path)) == talks


def test_labels_become_canonical(tmp_path: Path) -> None:
    (talk,) = corpora.load(str(lines(tmp_path / "a.jsonl", GOOD)))
    assert talk.turns[1].label("esconv_strategy") == "Question"


def test_bom_blank_lines_and_rare_separators(tmp_path: Path) -> None:
    second = GOOD | {"id": "b", "situation": "one\u2028two"}
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\n" + json.dumps(second, ensure_ascii=False).encode()
    )
    assert [c.id for c in corpora.load(str(path))] == ["a", "b"]


def test_missing_ids_are_made_from_the_line(tmp_path: Path) -> None:
    path = lines(tmp_path / "my.jsonl", without(GOOD, "id"), "", without(GOOD, "id"))
    assert [c.id for c in corpora.load(str(path))] == ["my-1", "my-3"]


def test_splits(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD | {"split": "train"}, GOOD | {"id": "b", "split": "test"})
    assert [c.id for c in corpora.load(str(path), "test")] == ["b"]
    with pytest.raises(NotFoundError, match=r"no conversation with split 'tset'\. Did you mean 'test'"):
        corpora.load(str(path), "tset")


# ------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        ('{"id": "b", messages}', DataError, "line 2, column 13: not valid JSON"),
        ('{"id": "b"', DataError, "line 2, column 11: not valid JSON"),
        ("[1]", DataError, "line 2, column 1: expected one JSON object, but it is a list"),
        ('{"id": NaN}', DataError, "line 2: 'NaN' is not allowed in JSON"),
        ("[" * 100_000, DataError, "line 2"),
        ({"id": "b"}, DataError, "line 2: Conversation 'b': 'messages' must be a list"),
        (GOOD, DataError, "line 2: the id 'a' was used before, in line 1"),
        (GOOD | {"id": "b", "messages": [], "labels": []}, DataError, "line 2: the conversation 'b' is empty"),
        (
            {"id": "b", "messages": [{"role": "user", "content": "Hm."}]},
            DataError,
            "line 2: the conversation 'b' has no 'assistant' message",
        ),
        (
            {"id": "b", "messages": [{"role": "user", "content": "  "}, {"role": "assistant", "content": "Go on."}]},
            DataError,
            "line 2: the conversation 'b' has no 'user' message",
        ),
        ({"id": "b", "messages": [{"role": "bot", "content": "x"}]}, DataError, "message 0: 'role' must be one of"),
        (
            GOOD | {"id": "b", "labels": [{"turn": 1, "set": "mesc_emotion", "value": "sadnes"}]},
            LabelError,
            "line 2, label of message 1: .*Did you mean 'sadness'",
        ),
        (
            GOOD | {"id": "b", "labels": [{"turn": 9, "set": "x", "value": "y"}]},
            DataError,
            "label 0: it points to turn 9, but",
        ),
        (
            GOOD | {"id": "b", "survey": 4},
            DataError,
            "line 2: Conversation 'b': 'survey' must be an object, but it is 4",
        ),
        (GOOD | {"id": "b", "labels": 4}, DataError, "line 2: Conversation 'b': 'labels' must be a list of objects"),
        ('{"id": ' + "1" * 5000 + "}", DataError, "line 2: a number has too many digits"),
        (GOOD | {"id": ["a", "b"]}, DataError, "line 2: Conversation a list: 'id' must be a text"),
        (
            GOOD | {"id": "b", "labels": [{"turn": 0, "set": "x", "value": "y", "confidence": "high"}]},
            DataError,
            "line 2: Conversation 'b', label 0: 'confidence' must be a number, but it is 'high'",
        ),
    ],
)
def test_errors_name_the_place(tmp_path: Path, second: Any, error: type[DataError], message: str) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, second)
    with pytest.raises(error, match=message) as caught:
        corpora.load(str(path))
    assert "boat" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_wrong_byte_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"line 2, byte 12: not UTF-8"):
        corpora.load(str(path))


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 50)[:-20])
    with pytest.raises(DataError, match="expected a complete gzip file"):
        corpora.load(str(path))
    path.write_bytes(b"plain text")
    with pytest.raises(DataError, match="expected a complete gzip file"):
        corpora.load(str(path))


def test_other_kinds_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"read from \.jsonl"):
        corpora.load(str(tmp_path / "a.txt"))
    with pytest.raises(NotFoundError, match="There is no file"):
        corpora.load(str(tmp_path / "b.jsonl"))
    with pytest.raises(DataError, match="the file is empty"):
        corpora.load(str(lines(tmp_path / "c.jsonl")))
    with pytest.raises(ConfigError, match="no option 'part'"):
        corpora.load(str(lines(tmp_path / "d.jsonl", GOOD)), part="zcj")


def test_one_sided_can_be_kept(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"id": "b", "messages": [{"role": "user", "content": "Hm."}]})
    assert len(corpora.load(str(path), one_sided="keep")) == 1


def test_reading_is_a_stream(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, "broken")
    assert next(iter(corpora.iter_jsonl(path))).id == "a"


def test_validate_collects(tmp_path: Path) -> None:
    one_sided = {"id": "b", "messages": [{"role": "user", "content": "Hm."}]}
    report = corpora.validate(str(lines(tmp_path / "a.jsonl", GOOD, one_sided, GOOD, "broken", GOOD)))
    assert len(report.problems) == 3
    assert "not checked" in report.problems[-1]
    assert {c.name: c.found for c in report.counts} == {"dialogues": 1, "turns": 2, "target turns": 1}
    assert corpora.validate(str(lines(tmp_path / "b.jsonl", GOOD))).ok


def test_an_id_of_null_is_no_id(tmp_path: Path) -> None:
    assert [c.id for c in corpora.load(str(lines(tmp_path / "my.jsonl", GOOD | {"id": None}, GOOD)))] == ["my-1", "a"]


def test_a_sentence_in_the_wrong_column_is_never_repeated(tmp_path: Path) -> None:
    """Columns get swapped: wherever a short sentence lands, the message describes it."""
    said, swapped = "I am so lonely here", []
    for key in ("id", "licence", "split", "lang", "group", "source", "survey", "messages", "labels", "scores", "known"):
        swapped.append(GOOD | {key: said} | ({"id": said} if key != "id" else {"messages": 3}))
        swapped.append(GOOD | {key: [said]})
    swapped.append(GOOD | {"messages": [{"role": said, "content": "user"}]})
    for key in ("turn", "set", "value", "source", "confidence", "evidence", "span", said):
        swapped.append(GOOD | {"labels": [{"turn": 1, "set": "mesc_emotion", "value": "joy"} | {key: said}]})
        swapped.append(GOOD | {"labels": [{"turn": 1, "set": "mesc_emotion", "value": "joy"} | {key: [said]}]})
    for record in swapped:
        report = corpora.validate(str(lines(tmp_path / "a.jsonl", record, record)))
        assert "lonely" not in json.dumps(report.to_dict()), record
        assert report.problems


def test_unknown_label_sets_are_named(tmp_path: Path) -> None:
    entries = [
        {"turn": 1, "set": "esconv_stategy", "value": "Question"},
        {"turn": 0, "set": "a set of my own", "value": "x"},
        {"turn": None, "set": "a set of my own", "value": "y"},
        {"turn": 1, "set": "esconv_strategy", "value": "Question"},
    ]
    report = corpora.validate(str(lines(tmp_path / "a.jsonl", GOOD | {"labels": entries})))
    assert report.ok
    assert report.warnings == (
        "label set a text of 15 characters is not known (2 labels).",
        "label set 'esconv_stategy' is not known (1 label). Did you mean 'esconv_strategy'?",
    )
    assert corpora.validate(str(lines(tmp_path / "b.jsonl", GOOD))).warnings == ()


# ----------------------------------------------------------------------------------------------------- writing


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD)
    before = path.read_bytes()
    bad = [{"id": "fine"}, {"id": "bad", "value": {1, 2}}]
    with pytest.raises(DataError, match=r"Record 2 \(id 'bad'\) cannot be written"):
        write_objects(path, bad)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_packed_files_are_the_same_each_time(tmp_path: Path) -> None:
    talk = Conversation.from_dict(GOOD)
    corpora.write_jsonl(tmp_path / "a.jsonl.gz", [talk])
    corpora.write_jsonl(tmp_path / "b.jsonl.gz", [talk])
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert packed == (tmp_path / "b.jsonl.gz").read_bytes()
    assert packed[3:8] == bytes(5)  # no file name and no time in the header


def test_writing_nothing_replaces_the_old_file(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD)
    assert corpora.write_jsonl(path, []) == 0
    assert path.read_bytes() == b""


@pytest.mark.parametrize("value", [float("nan"), "\ud800"])
def test_values_that_json_cannot_hold(tmp_path: Path, value: object) -> None:
    with pytest.raises(DataError, match="cannot be written as JSON"):
        write_objects(tmp_path / "a.jsonl", [{"id": "x", "value": value}])


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        write_objects(tmp_path / "no" / "a.jsonl", [])
