"""`heedful export preferences`: what clinicians decided, as data to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from heedful.cli.opened import database_option, opened
from heedful.review.preferences import export_preferences


@click.command(name="preferences")
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
        done = export_preferences(store, target, by=by, form=form, names=names, plain=plain)
        replaced = ", ".join(f"{kind} {n:,}" for kind, n in done.replaced.items()) or "nothing"
        click.echo(f"{done.path}: {done.lines:,} lines of {done.people:,} people; taken out: {replaced}")
        click.echo(f"{done.without_consent:,} decided drafts were left out: no consent to training", err=True)
