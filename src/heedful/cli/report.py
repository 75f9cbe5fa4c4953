"""`heedful report`: yearly counts, incidents and the dossier. None of them holds a word of a conversation."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from heedful.cli.opened import database_option, opened
from heedful.errors import ConfigError
from heedful.review.reports import incidents, yearly
from heedful.server import dossier as dossiers
from heedful.server import house as houses
from heedful.server.clinic import profile_of
from heedful.server.config import ServeConfig
from heedful.settings import apply_overrides, check, read_yaml

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="report")
def report_group() -> None:
    """Reports that laws ask for, out of the clinic's store."""


@report_group.command(name="yearly")
@click.option("--year", type=click.IntRange(2000, 9999), help="Default: this one.")
@database_option
@json_option
def yearly_command(year: int | None, database: str | None, as_json: bool) -> None:
    """How often crisis lines were shown and the crisis protocol ran, without identifiers.

    Totals are exact. A breakdown in which a part is from 1 to 4 is left out.

    Example: heedful report yearly --year 2026 --json
    """
    with opened(database) as store:
        found = yearly.yearly(store, year or store.clock().year)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    for count in found.counts:
        click.echo(f"{found.year} {count.name}: {count.total}")
        for what, part in (("tier", count.tiers), ("month", count.months)):
            said = "left out, a part is from 1 to 4" if part is None else ", ".join(f"{k} {n}" for k, n in part.items())
            click.echo(f"  by {what}: {said}")


@report_group.command(name="incidents")
@click.option("--since", help="First day, like 2026-01-01.")
@click.option("--until", help="Last day, like 2026-12-31.")
@database_option
@json_option
def incidents_command(since: str | None, until: str | None, database: str | None, as_json: bool) -> None:
    """What the crisis path and its gate did: times, levels, rules with versions, states. CSV, or JSON.

    Example: heedful report incidents --since 2026-01-01 > incidents.csv
    """
    first, last = _day(since, "--since"), _day(until, "--until")
    behind = last.replace(hour=23, minute=59, second=59, microsecond=999999) if last else None
    with opened(database) as store:
        found = incidents.incidents(store, since=first, until=behind)
    if as_json:
        click.echo(json.dumps({"incidents": incidents.as_rows(found)}))
    else:
        click.echo(incidents.as_csv(found), nl=False)


@report_group.command(name="dossier")
@click.argument("words", nargs=-1, metavar="[FILE.yaml] [KEY=VALUE]...")
@click.option("--profile", "profiles", multiple=True, help="As for `heedful serve`.")
@click.option("--model", help="As for `heedful serve`.")
@database_option
@json_option
def dossier_command(
    words: tuple[str, ...], profiles: tuple[str, ...], model: str | None, database: str | None, as_json: bool
) -> None:
    """Model and its licence, training data, crisis evaluation, policy files, privacy, who answers: Markdown, or JSON.

    Give it what `heedful serve` is given. What the installation does not have is named on stderr and stands as missing.

    Example: heedful report dossier --profile us-ut --model runs/demo > dossier.md
    """
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"One configuration file at most, but there are {len(files)}.")
    values = apply_overrides(read_yaml(files[0]) if files else {}, [word for word in words if "=" in word])
    given = {"profiles": list(profiles) or None, "model": model, "database": database}
    values |= {name: value for name, value in given.items() if value is not None}
    config = check(ServeConfig, values, where=files[0] if files else "report")
    house, profile = houses.load(config.folder), profile_of(config.profiles)
    with opened(config.database) as store:
        found = dossiers.dossier(store, config, house, profile)
    click.echo(json.dumps(found) if as_json else dossiers.as_markdown(found))
    for place in dossiers.missing(found):
        click.echo(f"missing: {place}", err=True)


def _day(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as err:
        raise ConfigError(f"{option} is a day like 2026-01-01.") from err
