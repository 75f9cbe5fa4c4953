"""A real PostgreSQL for tests: a cluster in a temporary folder, owned by an unprivileged user, stopped at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HINT = "needs PostgreSQL: apt-get install postgresql (initdb is looked for in PATH and /usr/lib/postgresql)"
ACCOUNT = "postgres"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, of the newest version that is installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


def _as_nobody_special(command: list[str]) -> list[str]:
    # PostgreSQL refuses to run as root, rightly.
    return ["runuser", "-u", ACCOUNT, "--", *command] if os.geteuid() == 0 else command


@contextmanager
def cluster() -> Iterator[str]:
    """Start a cluster; the value is the address of its server, without the name of a database."""
    folder = programs()
    assert folder is not None, HINT
    home = Path(tempfile.mkdtemp(prefix="hpg"))  # short: the path of a socket has at most 107 characters
    if os.geteuid() == 0:
        shutil.chown(home, ACCOUNT, ACCOUNT)
    data = home / "data"

    def run(program: str, *words: str) -> None:
        command = _as_nobody_special([str(folder / program), *words])
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=home)
        assert done.returncode == 0, done.stderr + done.stdout

    try:
        run("initdb", "-D", str(data), "-U", "heedful", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        # No disk has to survive a power cut here; what we promise about commits does not rest on this switch.
        options = f"-c listen_addresses='' -c unix_socket_directories='{home}' -c fsync=off -c max_connections=60"
        run("pg_ctl", "-D", str(data), "-l", str(home / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql://heedful@/{{name}}?host={home}"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
