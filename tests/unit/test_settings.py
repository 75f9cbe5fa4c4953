"""Configuration files: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import Field

from heedful.errors import ConfigError, NotFoundError
from heedful.settings import Settings, apply_overrides, check, home, read_yaml, write_yaml


class Inner(Settings):
    depth: int = 1
    name: str = "x"


class Outer(Settings):
    rate: float = Field(default=0.1, gt=0)
    steps: int = 5
    label: str | None = None
    kind: Literal["a", "b"] = "a"
    inner: Inner = Inner()
    options: dict[str, Any] = Field(default_factory=dict)


def test_a_file_becomes_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 7\nname: Zoë\n1: one\n", "utf-8")
    assert read_yaml(path) == {"seed": 7, "name": "Zoë", "1": "one"}
    path.write_text("# nothing yet\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: [1, 2\nc: 3\n", r"c\.yaml, line 3, column 2: not valid YAML"),
        (b"a: b: c\n", r"c\.yaml, line 1, column 5: not valid YAML"),
        (b"a:\n\t- 1\n", r"c\.yaml, line 2, column 1: not valid YAML"),
        (b"- a\n- b\n", "expected 'key: value' lines, but it holds a list"),
        (b"just words\n", "expected 'key: value' lines, but it holds a str"),
        (b"name: caf\xe9\n", r"is not UTF-8 \(byte 9\); save it as UTF-8"),
        (b"a: \x00\n", "not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"There is no configuration file '.*nope\.yaml'"):
        read_yaml(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match="is a folder; give the YAML file in it"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("values", "words", "expected"),
    [
        ({"a": 1}, ["a=2"], {"a": 2}),
        (
            {},
            ["a=1e-4", "b=1.5", "c=true", "d=null", "e=[1, 2]"],
            {"a": 1e-4, "b": 1.5, "c": True, "d": None, "e": [1, 2]},
        ),
        ({"f": {"name": "chat", "n": 1}}, ["f.n=2"], {"f": {"name": "chat", "n": 2}}),
        ({"f": "chat"}, ["f.system=Be kind"], {"f": {"name": "chat", "system": "Be kind"}}),
        ({}, ["a.b.c=1", "a.b.d=2"], {"a": {"b": {"c": 1, "d": 2}}}),
        ({}, ["a=x=y"], {"a": "x=y"}),
        ({}, ["a="], {"a": None}),
        ({"a": 1}, ["a=2", "a=3"], {"a": 3}),
    ],
)
def test_overrides(values: dict[str, Any], words: list[str], expected: dict[str, Any]) -> None:
    assert apply_overrides(values, words) == expected


def test_overrides_leave_what_they_are_put_on() -> None:
    values = {"f": {"n": 1, "deep": {"m": 1}}}
    apply_overrides(values, ["f.n=2", "f.deep.m=2", "g=1"])
    assert values == {"f": {"n": 1, "deep": {"m": 1}}}


@pytest.mark.parametrize("word", ["seed", "=7", " =7"])
def test_what_is_no_override(word: str) -> None:
    with pytest.raises(ConfigError, match="is no override; write key=value"):
        apply_overrides({}, [word])
    with pytest.raises(ConfigError, match="not valid YAML; quote it"):
        apply_overrides({}, ["a=[1"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"stepz": 1},
            "configuration: unknown key 'stepz'. Did you mean 'steps'? "
            "Known: inner, kind, label, options, rate, steps.",
        ),
        ({"inner": {"dept": 1}}, "configuration: unknown key 'inner.dept'. Did you mean 'depth'? Known: depth, name."),
        (
            {"steps": "many"},
            "configuration: 'steps': Input should be a valid integer, "
            "unable to parse string as an integer, but got 'many'.",
        ),
        ({"rate": 0}, "configuration: 'rate': Input should be greater than 0, but got 0."),
        ({"kind": "c"}, "configuration: 'kind': Input should be 'a' or 'b', but got 'c'."),
        ({"steps": [1]}, "configuration: 'steps': Input should be a valid integer."),
        ({"steps": "x", "rate": -1}, "(1 more problems)"),
        ({"inner": {"depth": None}}, "configuration: 'inner.depth': Input should be a valid integer."),
    ],
)
def test_what_is_refused_and_in_which_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(Outer, values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_other_tools_are_understood_where_we_have_the_thing() -> None:
    pytest.importorskip("torch")
    from heedful.training.rl.config import GRPOConfig

    pairs = {"beta": "kl_coef", "max_completion_length": "max_new_tokens", "lr": "learning_rate"}
    for theirs, ours in pairs.items():
        with pytest.raises(
            ConfigError, match=rf"Here it is '{ours}'\. `heedful config schema` with the method's name lists all"
        ):
            check(GRPOConfig, {"rewards": ["length"], theirs: 1})
    with pytest.raises(ConfigError, match=r"unknown key 'lr'\. Known: depth, name"):
        check(Inner, {"lr": 1})  # nothing of that kind here


@pytest.mark.parametrize(
    ("line", "key", "expected"),
    [
        ("rate: 1e-4", "rate", 1e-4),
        ("rate: 2.5E-4", "rate", 2.5e-4),
        ('rate: "1e-4"', "rate", 1e-4),
        ("steps: 1e3", "steps", 1000),
        ('label: "01"', "label", "01"),
        ('label: "1e5"', "label", "1e5"),
        ("label: 1e5x", "label", "1e5x"),
        ("label: 2026-11-21", "label", "2026-11-21"),
        ("label: 2026-13-45", "label", "2026-13-45"),
    ],
)
def test_numbers_and_texts(tmp_path: Path, line: str, key: str, expected: Any) -> None:
    """YAML 1.1 reads 1e-4 as a text; a text in quotes that looks like a number stays a text where one belongs."""
    (tmp_path / "x.yaml").write_text(line, "utf-8")
    word = f"{key}={line.partition(':')[2].strip()}"
    for values in (read_yaml(tmp_path / "x.yaml"), apply_overrides({}, [word])):
        found = getattr(check(Outer, values), key)
        assert found == expected
        assert type(found) is type(expected)


def test_records_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        check(Outer, {}).steps = 2  # type: ignore[misc]


def test_written_and_read_again(tmp_path: Path) -> None:
    values = {"b": 1, "a": {"name": "Zoë", "n": [1, 2.5, None, True]}}
    write_yaml(tmp_path / "c.yaml", values)
    assert read_yaml(tmp_path / "c.yaml") == values
    assert list(read_yaml(tmp_path / "c.yaml")) == ["b", "a"]
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]
    before = (tmp_path / "c.yaml").read_bytes()
    with pytest.raises(yaml.YAMLError):
        write_yaml(tmp_path / "c.yaml", {"a": object()})
    assert (tmp_path / "c.yaml").read_bytes() == before


def test_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("HEEDFUL_HOME")
    assert home() == Path.home() / ".heedful"
