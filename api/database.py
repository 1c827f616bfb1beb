"""The synchronous storage layer, called from asyncio.

Why threads and not an asynchronous driver: there is one storage layer, with one set of statements
and tests, and what the gateway needs of it is short. Nothing waits in a thread: as many threads as
connections take work from a queue, streams and `?wait=` requests hold neither, and the inserts of
many requests share one statement (`api.writer`), so a hop to a thread is not paid for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from worker.errors import StorageUnavailable
from worker.storage.engine import get_engine, transaction

P = ParamSpec("P")
T = TypeVar("T")

#: A lock or a statement that took too long, a server that shuts down or has no connection left.
_PASSING = ("55P03", "57014", "57P", "53", "08", "40")


class Database:
    """Runs functions of `worker.storage`, each in a transaction of its own.

    Args:
        connections: how many at once; the process's pool must have as many.
    """

    def __init__(self, connections: int) -> None:
        get_engine()  # now: two threads that came first would make one each
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="api-database")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="api-aside")

    async def run(
        self,
        function: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `function(connection, …)` and commit.

        Raises:
            StorageUnavailable: Postgres cannot be reached, or did not answer in time. Whether the
                transaction was committed is unknown if the connection broke at that moment.
        """

        def call() -> T:
            with transaction() as connection:
                return function(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._threads, _translated, call)

    async def read(
        self,
        function: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The same for what may be done twice: tried again on a new connection if one was stale."""
        try:
            return await self.run(function, *args, **kwargs)
        except StorageUnavailable:
            return await self.run(function, *args, **kwargs)

    async def aside(self, function: Callable[[], T]) -> T:
        """Run something that takes long, so that other requests go on meanwhile; one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, function)

    def close(self) -> None:
        """End the threads once they have done what they are at."""
        self._aside.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True, cancel_futures=True)


def _translated(call: Callable[[], T]) -> T:
    try:
        return call()
    except PoolTimeout:
        raise StorageUnavailable("no connection was free") from None
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        broken = isinstance(error, OperationalError) and not state
        if error.connection_invalidated or broken or state.startswith(_PASSING):
            raise StorageUnavailable("Postgres did not answer") from None
        raise
