"""`pipeline.json`: what a recipe has done so far, valid whenever the process dies; and the lock beside it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from heedful.errors import ConfigError, DataError, UserError

RECORD, LOCK = "pipeline.json", "pipeline.lock"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stage that has been started.

    Args:
        hash: of method, settings and the hashes of the stages it refers to.
        settings: as `Step.settings`.
        needs: stage -> its hash when this one was started.
        started, finished: ISO times; `finished` is None until the stage's last file was written.
        seconds: wall time of all attempts; of one that was killed, what its run had written down (`summary.json`).
    """

    hash: str
    method: str
    settings: dict[str, Any] = field(repr=False)
    needs: dict[str, str]
    started: str
    finished: str | None = None
    seconds: float = 0.0
    attempts: int = 1
    command: str = ""


@dataclass(frozen=True)
class Record:
    """All stages that have been started, by name."""

    path: Path
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record in `folder`; an empty one if there is none.

        Raises:
            DataError: the file is no record.
        """
        path = folder / RECORD
        try:
            found = json.loads(path.read_text("utf-8"))
            if found["version"] != _VERSION:
                raise DataError(
                    f"{path} is of version {found['version']}, and this heedful reads {_VERSION}; choose another "
                    "output_dir."
                )
            return cls(path, {name: Entry(**entry) for name, entry in found["stages"].items()})
        except FileNotFoundError:
            return cls(path)
        except (ValueError, LookupError, TypeError, AttributeError) as err:
            if isinstance(err, DataError):
                raise
            raise DataError(
                f"{path} is no record of a recipe, or it is damaged; move it away and choose another output_dir."
            ) from err

    def with_entry(self, name: str, entry: Entry) -> Record:
        """The record with one stage put in."""
        return replace(self, entries={**self.entries, name: entry})

    def without(self, names: tuple[str, ...]) -> Record:
        """The record with some stages forgotten."""
        return replace(self, entries={k: v for k, v in self.entries.items() if k not in names})

    def save(self, about: Mapping[str, Any]) -> None:
        """Write it in one step.

        Args:
            about: what the file says besides: recipe, options.
        """
        stages = {name: asdict(entry) for name, entry in self.entries.items()}
        write(self.path, json.dumps({"version": _VERSION, **about, "stages": stages}, indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all, and see it on the disk."""
    scratch = path.with_name(path.name + ".part")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def digest(method: str, settings: Mapping[str, Any], needs: Mapping[str, str]) -> str:
    """Sixteen hex digits over all that decides a stage."""
    said = json.dumps({"method": method, "settings": settings, "needs": needs}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def now() -> str:
    """The time as an ISO text in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------------- lock

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[str]) -> None:
        file.seek(1 << 20)  # a byte that nobody reads: who holds the lock can be read from the others
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold `folder` against other processes; the system lets go of it when the process ends, however it ends.

    Raises:
        ConfigError: another process holds it.
        UserError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"Cannot create output_dir {folder} ({err.strerror}); choose another.") from err
    path = folder / LOCK
    with path.open("a+", encoding="utf-8") as file:
        try:
            _take(file)
        except OSError as err:
            said = path.read_text("utf-8").strip() or "another process"
            raise ConfigError(f"{folder} is in use by {said}; wait for it, or choose another output_dir.") from err
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now()}\n")
        file.flush()
        yield
        file.truncate(0)
