"""The connection pool of this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError

from worker.errors import StorageUnavailable
from worker.settings import RUNTIME_FILE, get_settings
from worker.storage.documents import loads

#: A process that is stopped inside a transaction must not hold its locks for ever.
_SESSION_OPTIONS = "-c idle_in_transaction_session_timeout=10s -c lock_timeout=30s"


def build_engine(url: str, **options: Any) -> Engine:
    """An engine on `url` (a libpq-style `postgresql://…`), with the session settings we rely on."""
    driver_url = make_url(url).set(drivername="postgresql+psycopg")
    connect_args = {
        "options": _SESSION_OPTIONS,
        "application_name": f"claude-jobs {os.getpid()}",
        "connect_timeout": 10,
    }
    return create_engine(driver_url, connect_args=connect_args, json_deserializer=loads, **options)


@lru_cache(maxsize=1)
def get_engine() -> Engine:
    """This process's engine, built at the first call – after a fork, never at import."""
    settings = get_settings()
    return build_engine(
        settings.database_url,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_pre_ping=False,
        pool_timeout=60,
    )


@contextmanager
def transaction(engine: Engine | None = None) -> Iterator[Connection]:
    """A connection in a transaction: committed at the end, rolled back on an exception.

    Raises:
        StorageUnavailable: Postgres cannot be reached.
    """
    with _reachable(engine or get_engine()) as connection, connection.begin():
        yield connection


@contextmanager
def autocommit(engine: Engine | None = None) -> Iterator[Connection]:
    """A connection on which each statement is a transaction of its own, at one round trip each.

    Raises:
        StorageUnavailable: Postgres cannot be reached.
    """
    with _reachable(engine or get_engine()) as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def _reachable(engine: Engine) -> Iterator[Connection]:
    try:
        connection = engine.connect()
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        hint = (
            f" (from {RUNTIME_FILE}: is `make up` still running?)" if RUNTIME_FILE.exists() else ""
        )
        where = f"{engine.url.host}:{engine.url.port or 5432}"
        raise StorageUnavailable(f"cannot reach Postgres at {where}{hint}: {reason}") from None
    with connection:
        yield connection
