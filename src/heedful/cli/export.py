"""`heedful export`: a run as other tools want it, and what clinicians decided, as data to learn from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import click

from heedful.cli.opened import database_option, opened
from heedful.errors import UserError
from heedful.models.causal import CausalModel, load
from heedful.models.gguf import PRECISIONS, export_gguf, merged_copy


@click.group(name="export")
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


@export_group.command(name="preferences")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--form", type=click.Choice(["pairs", "answers"]), default="pairs", show_default=True)
@click.option("--name", "names", multiple=True, help="A name to take out as well; may be given several times.")
@click.option("--plain", is_flag=True, help="Not sealed, for training. A person reads the file first.")
@database_option
@click.option("--by", required=True, help="Id of the clinician, supervisor or admin who exports.")
def preferences_command(
    target: Path, form: Any, names: tuple[str, ...], plain: bool, database: str | None, by: str
) -> None:
    """Write edits and rejections of drafts as pairs for DPO and reward models, with consent and without names.

    \b
    heedful export preferences pairs.jsonl --plain --by 3f2a...
    heedful train method=dpo dataset=pairs.jsonl model_name_or_path=runs/demo
    """
    with opened(database) as store:
        from heedful.review.preferences import export_preferences

        done = export_preferences(store, target, by=by, form=form, names=names, plain=plain)
        replaced = ", ".join(f"{kind} {n:,}" for kind, n in done.replaced.items()) or "nothing"
        click.echo(f"{done.path}: {done.lines:,} lines of {done.people:,} people; taken out: {replaced}")
        click.echo(f"{done.without_consent:,} decided drafts were left out: no consent to training", err=True)


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
