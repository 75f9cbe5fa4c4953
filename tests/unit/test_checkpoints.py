"""A checkpoint counts only if it was written to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from heedful.errors import ConfigError, NotFoundError
from heedful.training.checkpoints import SEAL, is_complete, newest, prune, seal, to_resume, unseal_after


def checkpoint(folder: Path, step: int, *, sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"w" * 10)
    (path / "state").write_text("{}")
    if sealed:
        seal(path)
    return path


def test_a_sealed_checkpoint_is_complete(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 5, sealed=False)
    assert not is_complete(path)
    seal(path)
    assert is_complete(path)
    assert not (path / (SEAL + ".part")).exists()
    seal(path)  # again, beside its own seal
    assert is_complete(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"weights": 10', '{"weights": "10"}', '{"gone": 1}', "7"])
def test_a_wrong_seal_does_not_count(tmp_path: Path, content: str) -> None:
    path = checkpoint(tmp_path, 5)
    (path / SEAL).write_text(content)
    assert not is_complete(path)


@pytest.mark.parametrize("size", [0, 9, 11])
def test_a_file_of_another_size_does_not_count(tmp_path: Path, size: int) -> None:
    path = checkpoint(tmp_path, 5)
    (path / "weights").write_bytes(b"w" * size)
    assert not is_complete(path)


def test_a_seal_that_is_not_text_does_not_count(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 5)
    (path / SEAL).write_bytes(b"\xff\xfe")
    assert not is_complete(path)


def test_newest_is_by_number_not_by_name_or_time(tmp_path: Path) -> None:
    for step in (100, 20, 9):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 200, sealed=False)
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "old-checkpoint-300").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert newest(tmp_path) == tmp_path / "checkpoint-100"
    assert newest(tmp_path / "nowhere") is None
    assert newest(tmp_path / "notes.txt") is None


def test_prune_keeps_the_newest_complete_ones_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 11, sealed=False)
    (tmp_path / "mine").mkdir()
    prune(tmp_path, keep=2, spare=tmp_path / "checkpoint-1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-10", "checkpoint-3", "mine"]
    prune(tmp_path, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "mine"]


def test_unseal_after(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, step) for step in (2, 4, 6)]
    unseal_after(tmp_path, 4)
    assert [is_complete(p) for p in paths] == [True, True, False]
    unseal_after(tmp_path / "nowhere", 0)


def test_to_resume(tmp_path: Path) -> None:
    good, broken = checkpoint(tmp_path, 4), checkpoint(tmp_path, 6, sealed=False)
    assert to_resume(tmp_path, False) is None
    assert to_resume(tmp_path, True) == good
    assert to_resume(tmp_path / "elsewhere", str(good)) == good
    with pytest.raises(ConfigError, match="not written to its end; set resume_from_checkpoint: true"):
        to_resume(tmp_path, str(broken))
    with pytest.raises(NotFoundError, match=r"names '.*nowhere', which is no folder"):
        to_resume(tmp_path, str(tmp_path / "nowhere"))
    with pytest.raises(NotFoundError, match=r"no complete checkpoint in .*; start without --resume"):
        to_resume(tmp_path / "nowhere", True)
