"""`heedful store` and `heedful audit`: backup, restore, new keys, and whether the record of decisions is whole."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import click

from heedful.cli.opened import by_option, database_option, opened
from heedful.errors import GateError, NotFoundError
from heedful.server.config import ServeConfig
from heedful.settings import check
from heedful.store import Unit, audit, rotation
from heedful.store.backup import backup, recover_keys, restore


@click.group(name="store")
def store_group() -> None:
    """The clinic's store: backup, restore, keys."""


@store_group.command(name="backup")
@click.argument("target", type=click.Path(path_type=Path))
@database_option
@by_option
def backup_command(target: Path, database: str | None, by: str) -> None:
    """Write one moment of the whole store to TARGET, sealed; a server may run meanwhile.

    TARGET is a new file, or a folder that gets one named by the time. The key file is inside; it opens with the
    passphrase.

    Example: heedful store backup /media/usb/
    """
    with opened(database) as store:
        done = backup(store, target, by=by)
        click.echo(f"{done.path}: {sum(done.rows.values()):,} rows, audit {done.last}")


@store_group.command(name="restore")
@click.argument("source", type=click.Path(path_type=Path))
@database_option
@by_option
def restore_command(source: Path, database: str | None, by: str) -> None:
    """Put a backup into an empty store, of either kind, and check its audit chain.

    On a new machine write the key file first: heedful store keys SOURCE.

    Example: heedful store restore heedful-2026-11-22T09-00-00.backup
    """
    with opened(database) as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # said below, in one place
        done = restore(store, source, by=by)
    click.echo(f"restored {sum(done.rows.values()):,} rows of {done.made}")
    if done.verdict.state == "broken":
        raise GateError(
            f"The data are restored, but their audit chain is BROKEN at row {done.verdict.broken} "
            f"({done.verdict.why}): somebody changed the store before this backup was made. Compare with an older one."
        )


@store_group.command(name="keys")
@click.argument("source", type=click.Path(path_type=Path))
def keys_command(source: Path) -> None:
    """Write the key file out of a backup into the home folder; it opens with the passphrase of that time.

    Example: heedful store keys heedful-2026-11-22T09-00-00.backup
    """
    path = check(ServeConfig, {}, where="store").keys_path
    recover_keys(source, path)
    click.echo(str(path))


@store_group.command(name="rotate")
@database_option
@by_option
def rotate_command(database: str | None, by: str) -> None:
    """Make a new content key, seal everything with it again, and destroy the old ones.

    After an interruption run it again: it goes on with the key that was made. Backups of before keep their own keys.

    Example: heedful store rotate
    """
    with opened(database) as store:
        # Two keys are an interrupted rotation: it is finished before another one begins.
        if len(store.keys.versions("content")) == 1:
            store.keys.rotate("content")
        moved = rotation.reencrypt(store)
        for version in store.keys.versions("content")[:-1]:
            rotation.retire(store, version, by=by)
        click.echo(f"content key {moved.version}: {moved.fields:,} fields sealed again, older keys destroyed")


@store_group.command(name="confirm")
@click.argument("name")
@database_option
@by_option
def confirm_command(name: str, database: str | None, by: str) -> None:
    """Confirm the account NAME of a clinician, supervisor or annotator, where no colleague is left who could.

    Otherwise a colleague does it, on the page /colleagues. Whoever can type this has the passphrase, and with it
    everything that the account could read.

    Example: heedful store confirm "R. Adeyemi"
    """
    with opened(database) as store:

        def work(unit: Unit) -> str:
            found = unit.users.by_name(name)
            if found is None:
                raise NotFoundError("There is no account of this name; the administrator's page lists those of staff.")
            return unit.users.confirm(found.id, by=by, way="machine").role

        click.echo(f"confirmed: {store.run(work)}")


@click.group(name="audit")
def audit_group() -> None:
    """The record of who did what."""


@audit_group.command(name="verify")
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_command(database: str | None, as_json: bool) -> None:
    """Read the whole chain and say whether it holds; exit code 3 where it does not.

    Write the last hash down somewhere else: an older copy of the whole database, put back by somebody, shows only so.

    Example: heedful audit verify
    """
    with opened(database) as store:
        found = audit.verify(store)
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        click.echo(f"{found.state}: {found.rows:,} rows, last {found.last}")
    if found.state == "broken":
        click.echo(f"heedful: the chain is broken at row {found.broken}: {found.why}", err=True)
        sys.exit(GateError.exit_code)
