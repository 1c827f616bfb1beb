"""The statements on a job's way, without SQLAlchemy between them and the driver.

It takes as long to prepare such a statement and to wrap its one row as the driver takes to run it.
Connections, pool and exceptions are SQLAlchemy's as everywhere else.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

_NAME = re.compile(r"(?<!:):([a-z_]\w*)")


class Statement:
    """SQL that returns one row at most; its parameters are `:names`, as in `sqlalchemy.text`."""

    def __init__(self, sql: str) -> None:
        self.sql = _NAME.sub(r"%(\1)s", sql.replace("%", "%%"))

    def row(self, connection: Connection, parameters: dict[str, Any]) -> tuple[Any, ...] | None:
        """Run it and return its row.

        Raises:
            DBAPIError: as SQLAlchemy would raise it, without the parameters.
        """
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)  # noqa: S101 – worker.storage.engine's
        try:
            row: tuple[Any, ...] | None = driver.execute(self.sql, parameters).fetchone()
        except psycopg.Error as error:
            if driver.closed:
                # SQLAlchemy has to notice: what else is in its pool has broken with this one.
                connection.exec_driver_sql("SELECT 1")
            raise DBAPIError.instance(
                self.sql, None, error, psycopg.Error, hide_parameters=True
            ) from error
        return row
