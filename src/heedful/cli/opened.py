"""The clinic's store for verbs that work on it while no server runs, or beside one.

Without the extra `serve` importing this says what to install, as `heedful.cli.serve` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from heedful.cli.serve import ask
from heedful.errors import NotFoundError
from heedful.server.config import ServeConfig
from heedful.server.serve import open_keys
from heedful.settings import check
from heedful.store import Store

database_option = click.option("--database", help="As for `heedful serve`; default: store.db in the home folder.")
by_option = click.option("--by", default="operator", show_default=True, help="Who does it, for the audit: a user's id.")


@contextmanager
def opened(database: str | None) -> Iterator[Any]:
    """The store, opened with the keys of the home folder; both are closed at the end.

    Raises:
        NotFoundError: there are no keys yet.
    """
    config = check(ServeConfig, {"database": database} if database else {}, where="store")
    if not config.keys_path.exists():
        raise NotFoundError(
            f"There are no keys at '{config.keys_path}', so there is no store to open. On a new machine, take the keys "
            "out of a backup first: heedful store keys BACKUP. For a new store, `heedful serve` makes both. "
            "HEEDFUL_HOME names another home folder."
        )
    keys = open_keys(config, ask)
    try:
        store = Store.open(config.database_url, keys)
        try:
            yield store
        finally:
            store.close()
    finally:
        keys.close()
