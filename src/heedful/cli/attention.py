"""`heedful eval attention`: a picture of where a graph looked for one reply."""

from __future__ import annotations

import click

from heedful.evaluation.attention_page import attention_page
from heedful.evaluation.config import LookConfig
from heedful.settings import apply_overrides, check


@click.command(name="attention")
@click.argument("model")
@click.argument("overrides", nargs=-1)
@click.option("--at", required=True, metavar="CONVERSATION/TURN", help="Which reply.")
def attention_command(model: str, overrides: tuple[str, ...], at: str) -> None:
    """Write a page that shows which tokens the nodes of a run's graph, and the words of one reply, looked at. It holds
    words of the conversation, so only you can read it.

    \b
    heedful eval attention runs/glhg/glhg --at test-0000/4
    """
    settings = check(LookConfig, apply_overrides({"model_name_or_path": model}, overrides), where="eval attention")
    click.echo(f"page: {attention_page(settings, at)}")
