"""`heedful version`."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

import click


@click.command(name="version")
def version_command() -> None:
    """Print version and, in a checkout, the commit.

    \b
    heedful version
    """
    click.echo(f"heedful {metadata.version('heedful')}{commit()}")


def commit() -> str:
    """` (abc1234)` in a checkout of heedful, else nothing."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return f" ({found.stdout.strip()})" if found.returncode == 0 else ""
