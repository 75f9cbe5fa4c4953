"""`heedful eval steer`: whether a forced plan changes the reply."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heedful.cli.output import Progress, estimate
from heedful.evaluation.steer import SteerConfig, steer
from heedful.settings import apply_overrides, check

ANY = "any label against any other"


@click.command(name="steer")
@click.argument("model")
@click.argument("overrides", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def steer_command(model: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Force each strategy at the same places and say how much the reply changes: greedy, or drawn with the same random
    numbers. MODEL is a run that writes a strategy first.

    \b
    heedful eval steer runs/esconv-joint/joint max_conversations=20
    heedful eval steer runs/esconv-joint/joint do_sample=true dtype=float32 top_p=0.9
    heedful eval steer runs/esconv-joint/joint guidance_scale=2 reader=runs/esconv-strategy-reader
    """
    settings = check(SteerConfig, apply_overrides({"model_name_or_path": model}, overrides), where="eval steer")
    progress = Progress()
    done = steer(settings, say=progress.say, command=shlex.join(["heedful", *sys.argv[1:]]))
    progress.close()
    if as_json:
        click.echo(json.dumps(done.summary))
        return
    show(done.summary)
    click.echo(f"numbers: {done.folder / 'steer.json'}")


def show(summary: Mapping[str, Any]) -> None:
    """One row per label against the model's own choice, and all pairs of labels below."""
    how = "drawn" if summary["other_draw"] else "greedy"
    table = Table(
        title=f"{summary['replies']:,} {how} replies of {summary['conversations']:,} dialogues under each label",
        title_justify="left",
    )
    table.add_column("forced")
    table.add_column("differ by more than half, %", justify="right")
    table.add_column("mean difference, %", justify="right")
    read = summary["read"]
    if read:
        table.add_column("read as that label, %", justify="right")
        table.add_column("not forced, %", justify="right")
    rows = {**summary["against_own"], ANY: summary["all_pairs"]}
    if summary["other_draw"]:
        rows["no label, other random numbers"] = summary["other_draw"]
    for name, found in rows.items():
        shown = [estimate(found["changed"], 1), estimate(found["difference"], 1)]
        if read:
            heard = read["labels"].get(name) or (read["any"] if name == ANY else None)
            plain = read["unforced"].get(name)
            shown += [estimate(heard, 1) if heard else "", estimate(plain, 1) if plain else ""]
            if name == ANY:
                shown[-1] = f"{read['chance']:.1f}"
        table.add_row(escape(name), *shown)
    Console(width=max(Console().width, 132)).print(table)
    click.echo("Rows of one label compare with the model's own choice, which is that label at some places.")
    if read:
        own = read["corpus"]
        beside = f" The corpus' own replies are read rightly in {estimate(own, 1)} %." if own else ""
        line = "Not forced: how often it is read under the model's own choice; over all labels 1 in K, by arithmetic."
        Console(width=132, highlight=False).print(line + beside)
