"""`heedful init`: a starter folder that runs as it is."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from heedful.errors import ConfigError, unknown

STARTERS = {
    "quick": "train on the embedded corpus for a few minutes, evaluate, talk",
    "own-data": "the same with your own JSONL file of messages and labels",
}


@click.command(name="init")
@click.argument("folder", default="heedful-start", type=click.Path(path_type=Path))
@click.option("--example", default="quick", show_default=True, help="Which starter.")
@click.option("--list", "list_them", is_flag=True, help="List the starters.")
def init_command(folder: Path, example: str, list_them: bool) -> None:
    """Write a runnable starter into FOLDER (new or empty).

    \b
    heedful init mine && cd mine && heedful train train.yaml
    """
    if list_them:
        for name, text in STARTERS.items():
            click.echo(f"{name:<10} {text}")
        return
    if example not in STARTERS:
        raise unknown("starter", example, STARTERS)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"'{folder}' is {'not empty' if folder.is_dir() else 'a file'}; name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    source = resources.files("heedful.cli").joinpath("starters", example)
    for item in sorted(source.iterdir(), key=lambda p: p.name):
        (folder / item.name).write_bytes(item.read_bytes())
        click.echo(str(folder / item.name))
    click.echo(f"next: cd {folder} && heedful train train.yaml")
