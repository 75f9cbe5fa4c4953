"""`heedful eval monitor`: what GLHG's monitor knows of the seeker's problem."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from heedful.cli.output import Progress, estimate
from heedful.evaluation.monitor import MonitorConfig, monitor
from heedful.settings import apply_overrides, check


@click.command(name="monitor")
@click.argument("model")
@click.argument("overrides", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def monitor_command(model: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """How often the monitor of a run with a graph names the seeker's problem type, with the situation and without it.

    \b
    heedful eval monitor runs/glhg/glhg
    heedful eval monitor runs/glhg/glhg split=valid max_conversations=50
    """
    settings = check(MonitorConfig, apply_overrides({"model_name_or_path": model}, overrides), where="eval monitor")
    progress = Progress()
    done = monitor(settings, say=progress.say, command=shlex.join(["heedful", *sys.argv[1:]]))
    progress.close()
    if as_json:
        click.echo(json.dumps(done.summary))
        return
    show(done.summary)
    click.echo(f"numbers: {done.folder / 'monitor.json'}")


def show(summary: Mapping[str, Any]) -> None:
    """One row per reading and the most frequent type."""
    first = next(iter(summary["causes"].values()))
    table = Table(
        title=f"problem type at {first['n']:,} replies of {first['conversations']:,} dialogues, 95 % intervals",
        title_justify="left",
    )
    for heading in ("read", "accuracy", "macro-F1"):
        table.add_column(heading, justify="left" if heading == "read" else "right")
    rows = {f"{cause}{' (oracle)' if cause == 'situation' else ''}": found["rows"]["monitor"]
            for cause, found in summary["causes"].items()}  # fmt: skip
    if "majority" in first["rows"]:
        rows["most frequent type"] = first["rows"]["majority"]
    for name, found in rows.items():
        table.add_row(name, estimate(found["accuracy"], 1), estimate(found["macro_f1"], 1))
    Console(width=max(Console().width, 90)).print(table)
    click.echo("A high figure says that the global node copies the text; it says nothing about the replies.")
