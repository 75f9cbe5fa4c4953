"""`heedful chat`: a whole talk through standard input, commands, saving only when asked, leaving in every way."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from heedful import corpora
from heedful.cli import main
from heedful.cli.chat import open_talk
from heedful.models.talk import Talk
from heedful.settings import write_yaml
from heedful.testing import save_tiny

SENTINEL = "quixotry"
Chat = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def chat(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    """Call the verb with lines for standard input; returns exit code, stdout and stderr. The folder is a new one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*lines: str, options: tuple[object, ...] = (), model: Path = tiny) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = 0
        try:
            main(["chat", str(model), "--max-new-tokens", "6", *map(str, options)])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_talk_leaves_no_file(chat: Chat) -> None:
    code, out, err = chat("I slept badly.", "", "Since March.", "/quit", "never read")
    assert code == 0
    assert out.count("    > ") == 2
    assert "not a person, not a therapist" in err
    assert "emergency" in err
    assert "/undo" in err
    assert list(Path().rglob("*")) == []
    assert chat("I slept badly.", "", "Since March.", "/quit")[1] == out  # the same seed


def test_leaving_by_end_of_input_saves(chat: Chat) -> None:
    code, out, err = chat("I slept badly.", "Since March.", options=("--save", "talk.jsonl"))
    assert code == 0
    assert "saved to talk.jsonl" in err
    (found,) = corpora.load("talk.jsonl")
    assert [t.role for t in found] == ["user", "assistant"] * 2
    assert [t.text for t in found if t.role == "user"] == ["I slept badly.", "Since March."]
    for turn in found:
        if turn.role == "assistant":
            assert turn.text in out
    assert [p.name for p in Path().rglob("*")] == ["talk.jsonl"]


def test_nothing_said_is_not_saved(chat: Chat) -> None:
    code, _, err = chat("/save early.jsonl", "/quit", options=("--save", "talk.jsonl"))
    assert code == 0
    assert "nothing to save yet" in err
    assert list(Path().rglob("*")) == []


def test_ctrl_c_ends_the_talk_and_saves_whole_exchanges(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Talk.reply, []

    def reply(self: Talk, on_text: Any = None) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, on_text)

    monkeypatch.setattr(Talk, "reply", reply)
    code, _, err = chat("I slept badly.", "Since March.", "Still here?", options=("--save", "talk.jsonl"))
    assert code == 0
    assert "saved to talk.jsonl" in err
    (found,) = corpora.load("talk.jsonl")
    assert [t.role for t in found] == ["user", "assistant"]


def test_a_folder_that_is_not_there_is_said_before_the_talk(chat: Chat) -> None:
    code, out, err = chat("I slept badly.", options=("--save", "no/such/talk.jsonl"))
    assert code == 2
    assert "you>" not in out
    assert err.count("\n") == 1
    assert "no/such" in err


def test_commands(chat: Chat) -> None:
    words = ["/undo", "I slept badly.", "/save one.jsonl", "/undo", "Only this.", "/save", "/save no/such/x.jsonl"]
    code, out, err = chat(*words, "/wyh", "/save two.jsonl", "/reset", "/why", "/quit")
    assert code == 0
    for part in ("there is nothing to take back", "taken back", "write /save FILE", "not saved:", "Unknown command"):
        assert part in err
    assert "forgotten" in err
    assert [c.turns[0].text for name in ("one", "two") for c in corpora.load(f"{name}.jsonl")] == [
        "I slept badly.",
        "Only this.",
    ]
    shown = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert (shown["prompt"], shown["decoding"]["max_new_tokens"]) == ("", 6)


def test_why_shows_the_prompt(chat: Chat) -> None:
    _, out, _ = chat("I slept badly.", "/why", options=("--temperature", "0", "--seed", "7"))
    shown = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert "I slept badly.<|im_end|>" in shown["prompt"]
    assert (shown["decoding"]["do_sample"], shown["decoding"]["seed"]) == (False, 7)


def test_a_message_that_is_too_long_does_not_end_the_talk(chat: Chat) -> None:
    code, out, err = chat(f"{SENTINEL} " * 2000, "Short.", "/save t.jsonl")
    assert code == 0
    assert "does not fit" in err
    assert SENTINEL not in err
    assert out.count("    > ") == 2
    (found,) = corpora.load("t.jsonl")
    assert found.turns[0].text == "Short."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--top-p", "0"), "top_p"),
        (("--max-new-tokens", "0"), "max_new_tokens"),
        (("--temperature", "-1"), "temperature"),
        (("--temprature", "1"), "No such option"),
    ],
)
def test_wrong_options(chat: Chat, options: tuple[str, ...], said: str) -> None:
    code, out, err = chat("Hello.", options=options)
    assert code == 2
    assert said in err
    assert "Traceback" not in err + out
    assert "you>" not in out


def test_a_model_that_is_not_there(chat: Chat, tmp_path: Path) -> None:
    code, _, err = chat("Hello.", model=tmp_path / "none")
    assert code == 2
    assert err.count("\n") == 1
    assert "no such folder" in err


def test_a_run_talks_in_its_own_format(tiny: Path, tmp_path: Path) -> None:
    run = save_tiny(tmp_path / "run")
    write_yaml(run / "config.resolved.yaml", {"format": {"name": "chat", "system": "Be brief."}, "max_length": 333})
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 0.0, "top_p": 0.9, "seed": 1}
    talk = open_talk(str(run), **options)
    talk.say("Hello.")
    assert talk.max_length == 333
    assert "Be brief." in talk.why()["prompt"]
    assert talk.decoding.do_sample is False
    plain = open_talk(str(tiny), **options)
    assert (plain.fmt.name, plain.max_length) == ("chat", 1024)


def test_through_a_real_pipe(tiny: Path, tmp_path: Path) -> None:
    """As `echo ... | heedful chat`: words stay on stdout and stdin, and input that is no UTF-8 gets one sentence."""
    words = [sys.executable, "-c", "from heedful.cli import main; main()", "chat", str(tiny), "--max-new-tokens", "4"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    text = f"{SENTINEL} caf\u00e9\n/why\n".encode() + b"caf\xe9\n"
    found = subprocess.run(words, input=text, capture_output=True, cwd=tmp_path, env=environment, check=False)
    out, err = found.stdout.decode(), found.stderr.decode()
    assert found.returncode == 2, err
    assert f"{SENTINEL} caf\u00e9" in out  # /why was asked for
    assert SENTINEL not in err
    assert err.rstrip().endswith("set the terminal to UTF-8 and start again.")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
