"""Waiting for jobs to end, and following them: one look into Postgres for all who wait."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Connection, text

from api.database import Database
from api.problems import Problem, log_unexpected
from worker.errors import StorageUnavailable


@dataclass(frozen=True, slots=True)
class Event:
    """What is told of a job before its end; `id` is where to go on after a lost connection."""

    kind: str
    data: dict[str, Any]
    id: str | None = None


class Follow(Protocol):
    """Follows jobs. `worker.engine.following` is to take this place."""

    async def ended(self, job_id: UUID, seconds: float) -> None:
        """Return once the job has ended or is gone, or after so many seconds."""

    def events(self, job_id: UUID, after: str | None, quiet: float) -> AsyncIterator[Event | None]:
        """What is written, until the job has ended; None after every `quiet` seconds of silence."""


class Places:
    """How many streams and waits each service has open."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, service: str) -> Iterator[None]:
        """Hold one place.

        Raises:
            Problem: 429, the service has as many open as it may.
        """
        if self._open[service] >= self._most:
            detail = f"This service has {self._most:,} streams and waits open, which is the limit."
            raise Problem(429, "too-many-streams", detail, headers={"retry-after": "5"})
        self._open[service] += 1
        try:
            yield
        finally:
            self._open[service] -= 1
            if not self._open[service]:
                del self._open[service]


_ENDED = text("""
SELECT asked.id FROM unnest(cast(:ids AS uuid[])) AS asked (id)
LEFT JOIN jobs ON jobs.id = asked.id
WHERE jobs.id IS NULL OR jobs.finished_at IS NOT NULL
""")


def _ended(connection: Connection, ids: list[UUID]) -> set[UUID]:
    return set(connection.execute(_ENDED, {"ids": ids}).scalars())


#: Between two looks at a job, at first and later; and between two statements (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE, _INTERVAL = 0.02, 0.5, 0.02


class Poll:
    """Looks for the end of jobs: often at first, then more rarely, all in one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[asyncio.Future[None], tuple[UUID, float]] = {}
        self._task: asyncio.Task[None] | None = None

    async def ended(self, job_id: UUID, seconds: float) -> None:
        """Return once the job has ended or is gone, or after so many seconds."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[bell] = (job_id, time.monotonic())
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(seconds):
                await bell
        except TimeoutError:
            pass
        finally:
            self._waiting.pop(bell, None)

    async def events(
        self, job_id: UUID, after: str | None, quiet: float
    ) -> AsyncIterator[Event | None]:
        """What is written, until the job has ended; None after every `quiet` seconds of silence."""
        waiting = asyncio.ensure_future(self.ended(job_id, 1e9))
        try:
            while not (await asyncio.wait({waiting}, timeout=quiet))[0]:
                yield None
        finally:
            waiting.cancel()

    async def _run(self) -> None:
        due: dict[asyncio.Future[None], float] = {}
        while self._waiting:
            now = time.monotonic()
            asked = [bell for bell in self._waiting if due.get(bell, 0.0) <= now]
            if asked:
                ids = list({self._waiting[bell][0] for bell in asked})
                ended: set[UUID] = set()
                try:
                    ended = await self._database.run(_ended, ids)
                except StorageUnavailable:
                    pass  # the next look may find it back
                except Exception as error:
                    log_unexpected(error)
                for bell in asked:
                    job_id, since = self._waiting.get(bell, (None, now))
                    if job_id in ended and not bell.done():
                        bell.set_result(None)
                    pause = min(max((now - since) / 3, _FIRST_PAUSE), _LONGEST_PAUSE)
                    due[bell] = now + pause
            due = {bell: at for bell, at in due.items() if bell in self._waiting}
            await asyncio.sleep(_INTERVAL)
