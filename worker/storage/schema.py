"""Bringing a database to the schema that this code was written for, and checking that it is."""

from __future__ import annotations

from functools import lru_cache

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from worker.errors import SchemaMismatch
from worker.settings import PROJECT

#: Two processes that migrate at once: the second waits, then finds nothing to do.
_MIGRATION_LOCK = 0x636C6A6D


def _config(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(PROJECT / "migrations"))
    return config


@lru_cache(maxsize=1)
def head() -> str:
    """The newest revision in `migrations/`."""
    return ScriptDirectory.from_config(_config()).get_current_head() or "base"


def current(connection: Connection) -> str | None:
    """The revision that the database is at; None when it was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(connection: Connection, revision: str = "head") -> tuple[str | None, str | None]:
    """Move the database to `revision`, up or down; returns the revisions before and after.

    Raises:
        SchemaMismatch: `revision` is unknown, or the database is ahead of this code.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    before = current(connection)
    config = _config(connection)
    try:
        if revision == "base" or _is_behind(config, revision, before):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)
    except CommandError as error:
        raise SchemaMismatch(f"cannot migrate from {before} to {revision}: {error}") from None
    return before, current(connection)


def _is_behind(config: Config, target: str, current_revision: str | None) -> bool:
    if target == "head" or current_revision is None:
        return False
    script = ScriptDirectory.from_config(config)
    ancestors = {step.revision for step in script.walk_revisions(head=current_revision)}
    return target in ancestors and target != current_revision


def require_head(connection: Connection) -> None:
    """Check that the database is at the newest migration.

    Raises:
        SchemaMismatch: it is not; the message says which command puts it right.
    """
    found = current(connection)
    if found == head():
        return
    known = {step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found is None:
        state, remedy = "has no schema yet", "run `claude-jobs migrate`"
    elif found in known:
        state, remedy = f"is at migration {found}", "run `claude-jobs migrate`"
    else:
        state, remedy = f"is at migration {found}, newer than this code", "deploy the newer code"
    raise SchemaMismatch(f"the database {state}; this code needs {head()}: {remedy}")
