"""`heedful data`: what is printed, what is not, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from heedful import corpora
from heedful.cli.data import data
from heedful.errors import ConfigError, NotFoundError
from heedful.types import Conversation

TALK = Conversation.from_dict(
    {
        "id": "a",
        "split": "train",
        "messages": [
            {"role": "user", "content": "The [red] ferry left without me."},
            {"role": "assistant", "content": "When is the next?"},
        ],
        "labels": [{"turn": 1, "set": "esconv_strategy", "value": "Question", "source": "human:2"}],
    }
)


@pytest.fixture
def file(tmp_path: Path) -> str:
    corpora.write_jsonl(tmp_path / "talks.jsonl", [TALK])
    return str(tmp_path / "talks.jsonl")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEEDFUL_DATA", raising=False)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(data, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_ls() -> None:
    code, out, _ = run("ls")
    assert code == 0
    assert all(name in out for name in ("commons", "esconv", "hope", "on request"))
    rows = json.loads(run("ls", "--json")[1])
    assert [row["name"] for row in rows] == corpora.names()
    assert {row["class"] for row in rows} == {"CC0", "NC", "L", "R*"}


def test_check_of_a_file(file: str) -> None:
    code, out, err = run("check", file)
    assert code == 0
    assert "dialogues" in out
    assert f"checking {file}" in err
    assert "checking" not in out


def test_check_that_fails_exits_with_1(file: str) -> None:
    with open(file, "a", encoding="utf-8") as lines:
        lines.write("broken\n")
    code, out, _ = run("check", file)
    assert code == 1
    assert "problem: " in out
    code, out, _ = run("check", file, "--json")
    assert code == 1
    (report,) = json.loads(out)
    assert report["ok"] is False


def test_wrong_use(file: str, tmp_path: Path) -> None:
    assert run("check")[0] == 2
    with pytest.raises(NotFoundError, match="put its folder at") as missing:
        run("check", "esconv")
    assert missing.value.exit_code == 2
    with pytest.raises(ConfigError, match="one corpus"):
        run("check", "esconv", "mesc", "--path", str(tmp_path))
    with pytest.raises(NotFoundError, match="no conversation 'zz'"):
        run("show", file, "--id", "zz")
    with pytest.raises(NotFoundError, match="does not exist"):
        run("stats", file, "--out", str(tmp_path / "no" / "a.html"))


def test_text_is_shown_only_when_asked(file: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for arguments in (
        ("show", file),
        ("show", file, "--json"),
        ("check", file),
        ("check", file, "--json"),
        ("stats", file, "--out", str(page)),
        ("stats", file, "--json"),
    ):
        code, out, err = run(*arguments)
        assert code == 0
        assert "ferry" not in out + err
    assert "ferry" not in page.read_text(encoding="utf-8")
    assert "[red] ferry" in run("show", file, "--show-text")[1]
    talk = json.loads(run("show", file, "--show-text", "--json")[1])["conversation"]
    assert talk["messages"][0]["content"] == TALK.turns[0].text


def test_show_outlines_turns(file: str) -> None:
    out = run("show", file)[1]
    assert "esconv_strategy: Question (human:2)" in out
    talk = json.loads(run("show", file, "--json")[1])["conversation"]
    assert talk["turns"][0] == {"role": "user", "words": 6, "labels": []}


def test_show_of_a_corpus_that_is_not_here_gives_its_card() -> None:
    code, out, _ = run("show", "hope")
    assert code == 0
    assert "how to ask: The full set is given out on request" in out
    assert "example (invented)" in out
    assert json.loads(run("show", "hope", "--json")[1])["conversation"] is None


def test_stats_json(file: str) -> None:
    found = json.loads(run("stats", file, "--json")[1])
    assert found["turns"] == {"assistant": 1, "user": 1}
    assert found["labels"]["esconv_strategy"]["assistant"] == {"Question": 1}
