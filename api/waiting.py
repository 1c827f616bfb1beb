"""Waiting for jobs to end, and following them: one look into Postgres for all who wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from api.problems import Problem
from worker.engine.completion import get_completions
from worker.engine.events import Delta, Partial, Retrying
from worker.engine.following import afollow
from worker.errors import JobNotFound


@dataclass(frozen=True, slots=True)
class Event:
    """What is told of a job before its end; `id` is where to go on after a lost connection."""

    kind: str
    data: dict[str, Any]
    id: str | None = None


async def ended(job_id: UUID, seconds: float) -> None:
    """Return once the job has ended or is gone, or after so many seconds.

    Raises:
        StorageUnavailable: Postgres cannot be reached.
    """
    with suppress(JobNotFound):
        await get_completions().await_([job_id], seconds)


async def events(job_id: UUID, after: str | None, quiet: float) -> AsyncGenerator[Event | None]:
    """What is written, until the job has ended; None after every `quiet` seconds of silence.

    Raises:
        StorageUnavailable: Postgres cannot be reached.
    """
    with suppress(JobNotFound):
        async with aclosing(afollow(job_id, after=after, quiet=quiet)) as following:
            async for event in following:
                match event:
                    case None:
                        yield None
                    case Delta(id, text):
                        yield Event("delta", {"text": text}, id)
                    case Partial(output):
                        yield Event("partial", {"output": output})
                    case Retrying(id, attempt, reason):
                        yield Event("retrying", {"attempt": attempt, "reason": reason}, id)


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


class Turns:
    """So many at once of each service; the others wait for their turn, and none is refused."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._here: Counter[str] = Counter()

    @asynccontextmanager
    async def one(self, service: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it."""
        turns = self._turns.setdefault(service, asyncio.Semaphore(self._at_once))
        self._here[service] += 1
        try:
            async with turns:
                yield
        finally:
            self._here[service] -= 1
            if not self._here[service]:
                del self._here[service], self._turns[service]
