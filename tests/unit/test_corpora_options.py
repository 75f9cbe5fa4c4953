"""Options of corpora: a wrong value is a sentence, never other data in silence and never a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from heedful import corpora
from heedful.corpora.options import check_options
from heedful.errors import ConfigError, NotFoundError


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "mesc",
            {"split_by": "offical"},
            "'split_by' must be 'official' or 'season', but it is 'offical'. Did you mean",
        ),
        (
            "counsel_chat",
            {"text": "Clean"},
            "'text' must be 'clean' or 'raw', but it is 'Clean'. Did you mean 'clean'?",
        ),
        ("annomi", {"quality": "hihg"}, "but it is 'hihg'. Did you mean 'high'?"),
        ("annomi", {"version": None}, "'version' must be 'simple' or 'full', but it is null."),
        ("esconv", {"part": "failled"}, "but it is 'failled'. Did you mean 'failed'?"),
        ("hope", {"acts": "merged"}, "but it is 'merged'. Did you mean 'merged_yna'?"),
        ("hope", {"table": "x"}, "'table' must be a mapping from a text to a text or null or null, but it is 'x'."),
        ("hope", {"table": {"cv": 3}}, "'table' must be a mapping from a text to a text or null or null, but it is an"),
        ("hope", {"seed": "7"}, "'seed' must be a whole number, but it is '7'."),
        ("hope", {"seed": True}, "'seed' must be a whole number, but it is true."),
        ("empathetic_dialogues", {"conflicts": "dorp"}, "Did you mean 'drop'?"),
        ("psydef", {"split_by": "group"}, "The corpus 'psydef' has no option 'split_by'. Known: none."),
    ],
)
def test_a_wrong_value_is_one_sentence(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    # Before the folder is looked at: the folder is empty, and that is not what is said.
    with pytest.raises(ConfigError) as caught:
        corpora.load(name, path=tmp_path, **options)
    assert message in str(caught.value)
    assert f"The corpus '{name}'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mesc", {"split_by": "season"}),
        ("hope", {"acts": "twelve", "table": None, "seed": 3}),
        ("hope", {"table": {"cv": "CD", "xx": None}}),
    ],
)
def test_a_right_value_gets_as_far_as_the_files(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        corpora.load(name, path=tmp_path, **options)


def test_one_sided_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text('{"id": "a", "messages": [{"role": "user", "content": "Nobody came."}]}\n', encoding="utf-8")
    assert len(corpora.load(str(path), one_sided="keep")) == 1
    with pytest.raises(
        ConfigError, match=r"'one_sided' must be 'error' or 'keep', but it is 'kep'\. Did you mean 'keep'"
    ):
        corpora.load(str(path), one_sided="kep")
    with pytest.raises(ConfigError, match=r"has no option 'one_side'\. Did you mean 'one_sided'"):
        corpora.load(str(path), one_side="keep")


def reader(
    folder: Path,
    *,
    strict: bool = False,
    share: float = 0.5,
    name: str | None = None,
    pick: Literal["all", 1] = "all",
    rows: Mapping[str, int] | None = None,
    anything: object = None,
) -> None: ...


@pytest.mark.parametrize(
    "options",
    [{"strict": True}, {"share": 1}, {"name": None}, {"name": "a"}, {"pick": 1}, {"rows": {"a": 1}}, {"anything": []}],
)
def test_hints_accept(options: dict[str, Any]) -> None:
    check_options(reader, options, who="It")


@pytest.mark.parametrize(
    "options", [{"strict": 1}, {"share": True}, {"name": 3}, {"pick": True}, {"rows": {"a": "b"}}, {"rows": [1]}]
)
def test_hints_refuse(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"It: '{next(iter(options))}' must be"):
        check_options(reader, options, who="It")


def test_a_reader_without_hints_takes_any_value() -> None:
    def bare(folder, *, option=1):  # type: ignore[no-untyped-def]
        return []

    def unresolved(folder: Path, *, option: OnlyForTheChecker) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    check_options(bare, {"option": "x"}, who="It")
    check_options(unresolved, {"option": "x"}, who="It")


def test_a_long_value_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="but it is a text of 21 characters"):
        check_options(reader, {"pick": "I cannot sleep at all"}, who="It")
