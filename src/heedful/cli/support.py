"""`heedful eval support`: KEMI's four metrics of a study's systems."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heedful.cli.output import Progress, estimate
from heedful.evaluation.support import GOLD, RECORDED, support
from heedful.scoring.support_metrics import NAMES


@click.command(name="support")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--simulator", help="Run with format: seeker; without one Relaxation is unscored.")
@click.option("--systems", help="Which systems, separated by commas; default: all that a model wrote.")
@click.option("--max-conversations", type=click.IntRange(min=1), help="The first so many of the study.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def support_command(
    study: Path, simulator: str | None, systems: str | None, max_conversations: int | None, as_json: bool
) -> None:
    """Proactivity, Information, Repetition and Relaxation of the replies in a finished STUDY, beside the corpus' own.

    What each counts and what it cannot say: docs/initiative.md.

    \b
    heedful eval support runs/compare-esconv
    heedful eval support runs/compare-esconv --simulator runs/seeker --max-conversations 60
    """
    progress = Progress()
    done = support(
        study,
        simulator=simulator,
        systems=[name.strip() for name in systems.split(",")] if systems else (),
        max_conversations=max_conversations,
        command=shlex.join(["heedful", *sys.argv[1:]]),
        say=progress.say,
    )
    progress.close()
    if as_json:
        click.echo(json.dumps(done.summary))
        return
    show(done.summary)
    click.echo(f"numbers: {done.folder / 'support.json'}")


def show(summary: Mapping[str, Any]) -> None:
    """One row per system, the corpus' own replies first."""
    rows = dict(summary["systems"])
    corpus = summary["corpus"]
    table = Table(
        title=f"{escape(corpus['name'])} {corpus['split']}: {summary['replies']:,} replies of "
        f"{summary['conversations']:,} dialogues, 95 % intervals over dialogues",
        title_justify="left",
    )
    table.add_column("who")
    titles = rows[GOLD]["metrics"]
    for name in NAMES:
        table.add_column(titles[name]["title"], justify="right")
    if summary["recorded"]:
        rows = {GOLD: rows.pop(GOLD), RECORDED: summary["recorded"], **rows}
    for who, found in rows.items():
        table.add_row(escape(who), *(_cell(found["metrics"][name], share=name == "proactivity") for name in NAMES))
    Console(width=max(Console().width, 130)).print(table)
    click.echo(
        "Proactivity has no better end: read its distance to the corpus' own. Relaxation is of a simulated seeker."
    )


def _cell(found: Mapping[str, Any], *, share: bool) -> str:
    if found["value"] is None:
        return f"— ({'; '.join(found['reasons'])})" if found["reasons"] else "—"
    return estimate(found, 3 if share else 2)
