"""Waiting for a NOTIFY, on a connection of its own that is made again when it was lost."""

from __future__ import annotations

import psycopg
from psycopg import sql


class Listener:
    """Listens on one channel, for one thread; Postgres shows the connection by `name`."""

    def __init__(self, database_url: str, channel: str, name: str) -> None:
        self._url = database_url
        self._channel = channel
        self._name = f"claude-jobs {name}"
        self._connection: psycopg.Connection | None = None

    def connect(self) -> None:
        """Make sure that nothing said from now on is missed.

        Raises:
            psycopg.Error: Postgres cannot be reached.
        """
        if self._connection is not None and not self._connection.closed:
            return
        self._connection = psycopg.connect(
            self._url,
            autocommit=True,
            application_name=self._name,
            connect_timeout=10,
        )
        self._connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))

    def wait(self, timeout: float) -> list[str]:
        """What was said since the last wait: at once, or after `timeout` seconds at most.

        Raises:
            psycopg.Error: Postgres cannot be reached, or went away meanwhile.
        """
        self.connect()
        assert self._connection is not None  # noqa: S101
        said: list[str] = []
        if timeout:
            said += [
                each.payload for each in self._connection.notifies(timeout=timeout, stop_after=1)
            ]
        # A burst of notifications is one reason to look.
        said += [each.payload for each in self._connection.notifies(timeout=0)]
        return said

    def close(self) -> None:
        """End the connection; whoever waits stops waiting."""
        if self._connection is not None:
            self._connection.close()
