"""`heedful export`: a run as other tools want it, and what clinicians decided, as data to learn from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import click

from heedful.errors import UserError
from heedful.models.causal import CausalModel, load
from heedful.models.gguf import PRECISIONS, export_gguf, merged_copy
from heedful.registry import load_path

LATE = {"preferences": "heedful.cli.preferences:preferences_command"}
"""Commands that need more than the others do, and are imported when they are called."""


class Exports(click.Group):
    """Adds the commands of `LATE`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *LATE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in LATE:
            command: click.Command = load_path(LATE[cmd_name])
            return command
        return super().get_command(ctx, cmd_name)


@click.group(name="export", cls=Exports)
def export_group() -> None:
    """Export a run (one GGUF file, a merged folder), or decisions of the clinic as preferences."""


@export_group.command(name="gguf")
@click.argument("run")
@click.option("--to", "to", type=click.Path(path_type=Path), help="The file; default: RUN/model-<precision>.gguf.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="q8_0", show_default=True)
def gguf_command(run: str, to: Path | None, precision: Any) -> None:
    """Write RUN (a run, a folder, a name) as one GGUF file for llama.cpp, its adapter merged.

    \b
    heedful export gguf runs/demo --to demo.gguf
    """
    target = _free(to or _inside(run) / f"model-{precision}.gguf")
    export_gguf(_loaded(run), target, precision=precision)
    click.echo(str(target))


@export_group.command(name="merge")
@click.argument("run")
@click.option("--to", "to", type=click.Path(path_type=Path), help="The folder; default: RUN/merged.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
def merge_command(run: str, to: Path | None, dtype: str) -> None:
    """Write RUN as an ordinary Hugging Face folder, its adapter merged into the weights.

    \b
    heedful export merge runs/demo --to demo-merged --dtype bfloat16
    """
    import torch

    target = _free(to or _inside(run) / "merged")
    causal = _loaded(run)
    model = merged_copy(causal).to(getattr(torch, dtype))
    scratch = target.with_name(target.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(str(scratch))
    causal.tokenizer.save_pretrained(str(scratch))
    card = Path(run).expanduser() / "README.md"
    if card.is_file():  # what may be done with the weights stays with them
        shutil.copyfile(card, scratch / "README.md")
    os.replace(scratch, target)
    click.echo(str(target))


def _loaded(run: str) -> CausalModel:
    causal = load(run, dtype="float32", device="cpu")
    summary = Path(run).expanduser() / "summary.json"
    try:
        publishable = json.loads(summary.read_text("utf-8")).get("publishable") if summary.is_file() else None
    except (ValueError, AttributeError):
        click.echo(f"{summary} cannot be read, so nothing says whether these weights may be published.", err=True)
    else:
        if publishable is False:
            click.echo("The licence of the training data does not allow these weights to be published.", err=True)
    if causal.note:
        click.echo(f"Note: {causal.note}.", err=True)
    return causal


def _inside(run: str) -> Path:
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise UserError(f"'{run}' is no folder that the export could be put into; name a place with --to.")
    return folder


def _free(target: Path) -> Path:
    if target.exists():
        raise UserError(f"'{target}' is there already; name another place with --to.")
    if not target.absolute().parent.is_dir():
        raise UserError(f"The folder '{target.parent}' does not exist; create it first.")
    return target
