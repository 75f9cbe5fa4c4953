"""Checkpoints that can be trusted: one counts only if it was written to the end.

The trainer writes a dozen files, and a full disk or a kill can stop it between any two. After the last one a seal with
the size of each file is put beside them; resuming takes the newest checkpoint whose seal agrees with the files.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

from heedful.errors import ConfigError, NotFoundError, RunError

SEAL = "heedful-seal.json"
_NAME = re.compile(r"checkpoint-(\d+)$")


def seal(folder: Path) -> None:
    """Mark `folder` as complete."""
    sizes = {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.is_file() and p.name != SEAL}
    scratch = folder / (SEAL + ".part")
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(sizes, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, folder / SEAL)


def is_complete(folder: Path) -> bool:
    """Whether `folder` has a seal and every sealed file still has its size."""
    try:
        sizes = json.loads((folder / SEAL).read_text("utf-8"))
        if not isinstance(sizes, dict) or not sizes:
            return False
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, or None."""
    found = [p for p in _by_step(folder) if is_complete(p)]
    return found[-1] if found else None


def prune(folder: Path, *, keep: int, spare: Path | None = None) -> None:
    """Delete all checkpoints but the newest `keep` complete ones and `spare`, the best so far.

    Ours instead of the trainer's, which deletes the old one before the new one is sealed and counts broken ones.
    """
    everything = _by_step(folder)
    kept = {p.name for p in [p for p in everything if is_complete(p)][-keep:]}
    for path in everything:
        if path.name not in kept and (spare is None or path.name != spare.name):
            shutil.rmtree(path, ignore_errors=True)


def unseal_after(folder: Path, step: int) -> None:
    """Take the seal off checkpoints beyond `step`: a run that goes on from `step` will write them anew."""
    for path in _by_step(folder):
        if int(path.name.rpartition("-")[2]) > step:
            (path / SEAL).unlink(missing_ok=True)


def _by_step(folder: Path) -> list[Path]:
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _NAME.match(p.name))] if folder.is_dir() else []
    return [p for _, p in sorted(found)]


def to_resume(folder: Path, wanted: bool | str) -> Path | None:
    """The checkpoint to go on from: None to start anew.

    Args:
        folder: the run's checkpoint folder.
        wanted: the configuration's `resume_from_checkpoint`; True takes the newest complete one.

    Raises:
        NotFoundError: a checkpoint was asked for and there is none.
        ConfigError: the one that was named is not complete.
    """
    if wanted is False:
        return None
    if wanted is True:
        found = newest(folder)
        if found is None:
            raise NotFoundError(f"There is no complete checkpoint in {folder} to resume from; start without --resume.")
        return found
    path = Path(wanted)
    if not path.is_dir():
        raise NotFoundError(f"resume_from_checkpoint names '{path}', which is no folder.")
    if not is_complete(path):
        raise ConfigError(
            f"The checkpoint {path} was not written to its end; set resume_from_checkpoint: true instead."
        )
    return path


def disk_is_full(err: BaseException) -> bool:
    """Whether this error, of whatever library, means that nothing more can be written."""
    text = str(err)
    # The system's words come from Python and safetensors; torch.save only names the writer that could not go on.
    return (
        getattr(err, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in text or "inline_container" in text
    )


def full_disk(folder: Path) -> RunError:
    """The one sentence for it."""
    return RunError(
        f"The disk is full: nothing more could be written to {folder}; free some space and continue with --resume, "
        "the last complete checkpoint is kept."
    )
