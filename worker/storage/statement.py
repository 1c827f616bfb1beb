"""The statements on a job's way, without SQLAlchemy between them and the driver.

It takes as long to prepare such a statement and to wrap its one row as the driver takes to run it.
Connections, pool and exceptions are SQLAlchemy's as everywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

_NAME = re.compile(r"(?<!:):([a-z_]\w*)")

Driver = psycopg.Connection[Any]
Row = tuple[Any, ...]


class Statement:
    """SQL that returns one row at most; its parameters are `:names`, as in `sqlalchemy.text`.

    Raises:
        DBAPIError: when run, as SQLAlchemy would raise it, but without the parameters.
    """

    def __init__(self, sql: str) -> None:
        self.sql = _NAME.sub(r"%(\1)s", sql.replace("%", "%%"))

    def row(self, connection: Connection, parameters: Mapping[str, Any]) -> Row | None:
        """Run it and return its row."""
        with _driver_of(connection) as driver:
            return self.execute(driver, parameters).fetchone()

    def row_after(
        self, first: Statement, connection: Connection, parameters: Mapping[str, Any]
    ) -> Row | None:
        """The same after another statement, in one round trip; both take the same parameters.

        It sees what has been committed by the time that the first one ended.
        """
        with _driver_of(connection) as driver, driver.pipeline():
            first.execute(driver, parameters)
            return self.execute(driver, parameters).fetchone()

    def execute(self, driver: Driver, parameters: Mapping[str, Any]) -> psycopg.Cursor[Row]:
        """Run it on a connection of the driver's."""
        return driver.execute(self.sql, parameters)


@contextmanager
def _driver_of(connection: Connection) -> Iterator[Driver]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 – see worker.storage.engine
    try:
        yield driver
    except psycopg.Error as error:
        if driver.closed:
            # SQLAlchemy has to notice: what else is in its pool has broken with this one.
            connection.exec_driver_sql("SELECT 1")
        raise DBAPIError.instance(None, None, error, psycopg.Error) from error
