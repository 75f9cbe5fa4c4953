"""Numbered changes of the schema, and how a store gets from any of them to the newest one.

To add one: change `models.py`, write `versions/rNNNN_what.py` with `revision`, `down_revision` and `upgrade()`. A test
compares the tables that migrations make with those of `models.py`, on both back ends.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text

from heedful.errors import ConfigError
from heedful.store import models


def newest() -> str:
    """Number of the newest migration that this heedful knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def current(connection: Connection) -> str | None:
    """Number of the last migration of this database; None = it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: Connection, to: str | None = None) -> None:
    """Run what is missing, inside the caller's transaction: after a crash the old schema stands.

    Raises:
        ConfigError: the database was made by a newer heedful.
    """
    target = to or newest()
    now = current(connection)
    if now is not None and now not in known():
        raise ConfigError(
            f"This store has schema {now}, and this heedful knows only up to {newest()}. Install the newer heedful; "
            "an older one would damage the data."
        )
    if now != target:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, target)


def drop(connection: Connection) -> None:
    """Drop all tables of an empty store, so that it can start at an older schema (`restore` does)."""
    found = MetaData()
    found.reflect(connection)
    found.drop_all(connection)
    if connection.dialect.name == "postgresql":
        connection.execute(text("DROP FUNCTION IF EXISTS heedful_append_only() CASCADE"))


def known() -> tuple[str, ...]:
    """All numbers, oldest first."""
    return tuple(reversed([s.revision for s in ScriptDirectory.from_config(_config()).walk_revisions()]))


def differences(connection: Connection) -> list[object]:
    """What `models.py` has and the database has not, or the other way round; empty = they agree."""
    return list(
        compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), models.User.metadata)
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
