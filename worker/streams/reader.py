"""Reading a job's stream, from a thread or from asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import UUID

from worker.streams.bells import ringer
from worker.streams.hub import get_hub
from worker.streams.view import StreamEvent, View

__all__ = ["StreamEvent", "View", "aread", "read"]

#: How soon a reader notices that it shall stop (seconds).
_LOOK = 0.5


def read(
    redis_url: str,
    job_id: UUID,
    after: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[StreamEvent]:
    """The events of a job's stream, until `stop()`, which is asked twice a second.

    A job that is over has no stream before long, and one that is not streamed never had one: who
    wants to know the end looks at Postgres beside it, as `worker.engine.following` does. While
    Redis is away, nothing comes.
    """
    bell, view = threading.Event(), View(after)
    with get_hub(redis_url).subscribe(job_id, bell.set) as subscription:
        while not stop():
            bell.wait(_LOOK)
            bell.clear()
            yield from view.take(subscription.take())


async def aread(
    redis_url: str,
    job_id: UUID,
    after: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> AsyncIterator[StreamEvent]:
    """The same for asyncio."""
    bell, view = asyncio.Event(), View(after)
    with get_hub(redis_url).subscribe(job_id, ringer(bell)) as subscription:
        while not stop():
            try:
                await asyncio.wait_for(bell.wait(), _LOOK)
            except TimeoutError:
                continue
            bell.clear()
            for event in view.take(subscription.take()):
                yield event
