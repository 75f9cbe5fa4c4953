"""`heedful profile`: who checked the jurisdiction profiles of this installation, and when."""

from __future__ import annotations

import click

from heedful.cli.opened import by_option, database_option, opened
from heedful.server import checks
from heedful.server.clinic import profile_of


@click.group(name="profile")
def profile_group() -> None:
    """Jurisdiction profiles: who checked them, and when."""


@profile_group.command(name="show")
@click.argument("names", nargs=-1, required=True)
@database_option
def show_command(names: tuple[str, ...], database: str | None) -> None:
    """Each profile with its citation and its last check; a file of your own by its path.

    Example: heedful profile show eu us-ny
    """
    with opened(database) as store:
        found = checks.applied(store, profile_of(names))
        today = store.clock().date()
    for source in found.sources:
        click.echo(f"{source.name} {source.version} ({source.hash}): {source.citation}")
        if source.checked is None or not source.checker:
            click.echo("  never checked by this installation")
        else:
            old = "; more than 180 days ago" if source.old(today) else ""
            click.echo(f"  checked by {source.checker} on {source.checked}{old}")


@profile_group.command(name="check")
@click.argument("name")
@click.option("--checker", required=True, help="Who compared the profile with the primary text.")
@click.option("--on", "day", required=True, help="The day of it, like 2026-11-22.")
@database_option
@by_option
def check_command(name: str, checker: str, day: str, database: str | None, by: str) -> None:
    """Enter that somebody compared the profile NAME with its law; a file of your own by its path.

    It counts for 180 days, for this very file. The admin's page has a form for the same.

    Example: heedful profile check eu --checker "R. Adeyemi" --on 2026-11-22
    """
    profile = profile_of([name])
    with opened(database) as store:
        for source in profile.sources:
            checks.enter(store, profile, source.name, checker=checker, checked=day, by=by)
            click.echo(f"{source.name} {source.version}: checked by {' '.join(checker.split())} on {day}")
