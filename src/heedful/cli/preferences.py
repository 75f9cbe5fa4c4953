"""`heedful export preferences`: what clinicians decided, as data to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from heedful import profiles
from heedful.cli.opened import database_option, opened
from heedful.review.preferences import export_preferences, needed


@click.command(name="preferences")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--form", type=click.Choice(["pairs", "answers"]), default="pairs", show_default=True)
@click.option("--name", "names", multiple=True, help="A name to take out as well; may be given several times.")
@click.option("--plain", is_flag=True, help="Not sealed, for training. A person reads the file first.")
@click.option(
    "--profile",
    "chosen",
    multiple=True,
    default=("strict",),
    show_default=True,
    help="Jurisdiction; several give the stricter. Where it asks for a consent to recording, that has to stand too.",
)
@database_option
@click.option("--by", required=True, help="Id of the clinician, supervisor or admin who exports.")
def preferences_command(
    target: Path,
    form: Any,
    names: tuple[str, ...],
    plain: bool,
    chosen: tuple[str, ...],
    database: str | None,
    by: str,
) -> None:
    """Write edits and rejections of drafts as pairs for DPO and reward models, with consent and without names.

    \b
    heedful export preferences pairs.jsonl --plain --by 3f2a...
    heedful train method=dpo dataset=pairs.jsonl model_name_or_path=runs/demo
    """
    purposes = needed(profiles.combine(*map(profiles.load, chosen)))
    with opened(database) as store:
        done = export_preferences(store, target, by=by, form=form, names=names, plain=plain, purposes=purposes)
        replaced = ", ".join(f"{kind} {n:,}" for kind, n in done.replaced.items()) or "nothing"
        click.echo(f"{done.path}: {done.lines:,} lines of {done.people:,} people; taken out: {replaced}")
        click.echo(
            f"{done.without_consent:,} decided drafts were left out: no consent to {' and '.join(purposes)}", err=True
        )
