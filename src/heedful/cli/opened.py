"""The clinic's store for verbs that work on it while no server runs, or beside one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from heedful.errors import MissingExtraError, NotFoundError
from heedful.settings import check

database_option = click.option("--database", help="As for `heedful serve`; default: store.db in the home folder.")
by_option = click.option("--by", default="operator", show_default=True, help="Who does it, for the audit: a user's id.")


@contextmanager
def opened(database: str | None) -> Iterator[Any]:
    """The store, opened with the keys of the home folder; both are closed at the end.

    Raises:
        NotFoundError: there are no keys yet.
        MissingExtraError: the extra `serve` is not installed.
    """
    try:
        from heedful.cli.serve import ask
        from heedful.server.config import ServeConfig
        from heedful.server.serve import open_keys
        from heedful.store import Store
    except ImportError as err:
        if isinstance(err, MissingExtraError):
            raise
        raise MissingExtraError(f"This needs {err.name}; run: pip install 'heedful[serve]'") from err
    config = check(ServeConfig, {"database": database} if database else {}, where="store")
    if not config.keys_path.exists():
        raise NotFoundError(
            f"There are no keys at '{config.keys_path}', so there is no store to open; `heedful serve` makes both. "
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
