"""Inserts of many requests in one statement.

An INSERT costs its commit. While one of a service is under way, the next requests of that service
wait for it and then go together; with nothing under way, a request goes at once. So a lone request
waits for nobody, and a thousand a second make a few dozen transactions.

A service's jobs never share a transaction with another's: one that holds a lock on an idempotency
key, or sends what Postgres refuses, delays and fails itself alone.
"""

from __future__ import annotations

import asyncio
from collections import deque

from api.database import Database
from worker.errors import StorageUnavailable
from worker.storage.enqueue import Inserted, NewJob, insert_each

#: Jobs in one statement, and bytes of their inputs.
_MOST_JOBS, _MOST_BYTES = 500, 8_000_000

_Waiting = deque[tuple[NewJob, "asyncio.Future[Inserted]"]]


class Writer:
    """Inserts jobs; to be used in one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str | None, _Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def insert(self, job: NewJob) -> Inserted:
        """Insert a job and return what became of it, once that is committed.

        Raises:
            StorageUnavailable: Postgres cannot be reached.
        """
        outcome: asyncio.Future[Inserted] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(job.service)
        if waiting is not None:
            waiting.append((job, outcome))
        else:
            self._waiting[job.service] = deque([(job, outcome)])
            task = asyncio.create_task(self._write(job.service))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await outcome

    async def _write(self, service: str | None) -> None:
        waiting = self._waiting[service]
        while waiting:
            await self._insert(_together(waiting))
        del self._waiting[service]

    async def _insert(self, some: _Waiting) -> None:
        try:
            inserted = await self._database.run(insert_each, [job for job, _ in some])
        except Exception as error:
            # One of them may be to blame: the others should not suffer for it.
            if len(some) == 1 or isinstance(error, StorageUnavailable):
                for _, outcome in some:
                    if not outcome.done():
                        outcome.set_exception(error)
                return
            for each in some:
                await self._insert(deque([each]))
            return
        for (_, outcome), became in zip(some, inserted, strict=True):
            if not outcome.done():  # its client may have gone
                outcome.set_result(became)


def _together(waiting: _Waiting) -> _Waiting:
    """Take the next ones that fit into one statement, at least one."""
    some, size = deque([waiting.popleft()]), 0
    size = len(some[0][0].input)
    while waiting and len(some) < _MOST_JOBS:
        size += len(waiting[0][0].input)
        if size > _MOST_BYTES:
            break
        some.append(waiting.popleft())
    return some
