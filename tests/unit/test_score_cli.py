"""`heedful score FILE` on files of every shape that is understood, and its refusals."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from heedful.cli.score import score_command
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.scoring.files import find_columns, load, read

RECORDS = [
    {
        "response": "that sounds hard .",
        "generation": "that sounds very hard .",
        "post": "i lost my job",
        "sample_id": 0,
    },
    {"response": "what happened ?", "generation": "what happened then ?", "post": "it was a bad day", "sample_id": 0},
    {"response": "i am here .", "generation": "you can do it .", "post": None, "sample_id": 1},
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(score_command, [str(a) for a in arguments], catch_exceptions=False)


def as_json(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(result.stdout)
    return record


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "out.json"
    path.write_text(json.dumps(RECORDS))
    return path


def test_table(file: Path) -> None:
    result = run(file, "--metrics", "published,length", "--bootstrap", "50")
    assert result.exit_code == 0
    for part in (
        "3 rows, 2 clusters",
        "generation = generation",
        "bleu4",
        "95 % interval",
        "fixed reply",
        "Signatures",
    ):
        assert part in result.output
    assert "copy of last turn" in result.output


def test_json_holds_floors_columns_and_intervals(file: Path) -> None:
    record = as_json(file, "--metrics", "length,rouge1", "--bootstrap", "20")
    assert record["columns"] == {
        "generation": "generation",
        "reference": "response",
        "context": "post",
        "cluster": "sample_id",
    }
    length = record["scores"][0]
    assert (length["name"], length["value"], length["n"]) == ("length", pytest.approx(14 / 3), 3)
    assert length["low"] <= length["value"] <= length["high"]
    assert record["floors"]["fixed reply"]["length"] == 21.0
    assert "floors" not in as_json(file, "--metrics", "length", "--no-floors")
    assert as_json(file, "--metrics", "length", "--bootstrap", "0")["scores"][0]["low"] is None


@pytest.mark.parametrize("shape", ["list", "columns", "wrapped", "lines", "lines.gz"])
def test_every_shape_gives_the_same_rows(tmp_path: Path, file: Path, shape: str) -> None:
    lines = "\n".join(json.dumps(record) for record in RECORDS) + "\n"
    text = {
        "list": json.dumps(RECORDS),
        "columns": json.dumps({name: [record[name] for record in RECORDS] for name in RECORDS[0]}),
        "wrapped": json.dumps({"model": "m", "rows": RECORDS}),
        "lines": lines,
        "lines.gz": lines,
    }[shape]
    path = tmp_path / f"x.{shape}"
    path.write_bytes(gzip.compress(text.encode()) if shape.endswith("gz") else text.encode())
    assert read(path) == read(file)


def test_columns_by_usual_names_and_by_option() -> None:
    found = find_columns([{"reference": "a", "response": "b"}])
    assert (found.generation, found.reference) == ("response", "reference")
    found = find_columns([{"target": "a", "Prediction": "b", "conversation_id": 3}])
    assert (found.generation, found.reference, found.cluster) == ("Prediction", "target", "conversation_id")
    found = find_columns([{"generation": "a", "response": "b", "x": "c"}], reference="x")
    assert (found.generation, found.reference) == ("generation", "x")
    with pytest.raises(DataError, match=r"no column 'respnse'.*Did you mean 'response'\?.*has: response, y"):
        find_columns([{"response": "a", "y": "b"}], generation="respnse")
    with pytest.raises(DataError, match=r"name it with --generation-column. The file has: a, b"):
        find_columns([{"a": 1, "b": 2}])


def test_lists_and_messages_stand_for_their_last_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    history = [{"role": "user", "content": "first"}, {"role": "user", "content": "last"}]
    path.write_text(json.dumps({"reference": ["one"], "output": "two", "context": history}))
    rows, _ = read(path)
    assert (rows.references, rows.contexts) == (("one",), ("last",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("[]", "holds no rows"),
        ("not json", "neither JSON nor JSON Lines: line 1"),
        ('{"a": 1}\n{"b": ', "line 2"),
        ("[1, 2]", "must hold a list of objects"),
        ('{"generation": ["a"], "reference": []}', "columns of different length"),
        ('[{"generation": 5}]', "Row 0: 'generation' must hold a text, but it holds a int"),
        ('[{"generation": "a", "reference": ["b", "c"]}]', "holds 2 texts, but one reference per row"),
    ],
)
def test_bad_files_are_told_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        run(path)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no file"):
        run(tmp_path / "none.json")
    path = tmp_path / "x.json.gz"
    path.write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        load(path)


def test_against_a_second_file(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"reply": record["response"]}) for record in RECORDS))
    record = as_json(file, "--against", other, "--metrics", "rouge1", "--bootstrap", "30")
    test = record["comparison"][0]
    assert (test["second"], test["n"]) == (100.0, 3)
    assert test["difference"] > 0
    assert "p randomisation" in run(file, "--against", other, "--metrics", "rouge1").output
    other.write_text(json.dumps({"reply": "just one"}))
    with pytest.raises(ConfigError, match="have 3 and 1 rows"):
        run(file, "--against", other)


def test_rows_without_references_still_have_lengths(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"reply": "four words are here"}\n')
    record = as_json(path, "--metrics", "length,bleu1")
    assert [entry["value"] for entry in record["scores"]] == [4.0, None]
    assert record["scores"][1]["reason"] == "no reference"
    assert "unscored (no reference)" in run(path, "--metrics", "length,bleu1").output
