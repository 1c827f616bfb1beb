"""Following a job to its end: its stream, if it has one, and beside it what Postgres knows.

The two are independent. The stream shows what is being written, and may stop at any moment: Redis
is flushed, its entries expire, its worker dies. The end – result or error – comes from Postgres
alone, so it comes whatever has become of the stream, and it is never half of one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from sqlalchemy import RowMapping

from worker.engine.completion import get_completions
from worker.engine.events import Delta, Error, JobEvent, Partial, Result, Retrying
from worker.engine.waiter import Watch, seconds_left
from worker.settings import get_settings
from worker.streams.bells import ringer
from worker.streams.partial import NOTHING, PartialJson
from worker.streams.view import View

if TYPE_CHECKING:
    from worker.streams.hub import Subscription

Event = JobEvent[dict[str, Any]]


class Following:
    """What there is to tell of a job since the last time; never waits. `ring` says when to ask.

    A context manager. The stream is subscribed to once it is known that the job has one.
    """

    def __init__(self, job_id: UUID, after: str | None, ring: Callable[[], None]) -> None:
        self._job_id = job_id
        self._ring = ring
        self._partial = PartialJson()
        self._view = View(after, replayed=self._partial.feed)
        self._stack = ExitStack()
        self._watch: Watch
        self._subscription: Subscription | None = None
        #: Whether the last event was told.
        self.ended = False

    def seconds_left(self, deadline: float | None) -> float | None:
        """How much longer to follow, by the monotonic clock; zero or less: the time is up."""
        return seconds_left(deadline, time.monotonic(), [self._watch])

    def collect(self) -> list[Event]:
        """The events since the last call.

        Raises:
            JobNotFound, StorageUnavailable: as for `Watch.row`.
        """
        row = self._watch.row
        events: list[Event] = []
        if self._subscription is not None:
            events = self._streamed(self._subscription)
        elif row is not None and row["stream"] and not row["ended"]:
            # Not before it is needed: who only enqueues need not load Redis's client.
            from worker.streams.hub import get_hub

            hub = get_hub(get_settings().redis_url)
            self._subscription = self._stack.enter_context(hub.subscribe(self._job_id, self._ring))
        if (outcome := self._watch.outcome) is not None:
            events.append(_end(outcome))
            self.ended = True
        return events

    def _streamed(self, subscription: Subscription) -> list[Event]:
        events: list[Event] = []
        for event in self._view.take(subscription.take()):
            match event.kind:
                case "delta":
                    events.append(Delta(event.id, event.text))
                    value = self._partial.feed(event.text)
                    if value is not NOTHING:
                        events.append(Partial(value))
                case "retrying":
                    events.append(Retrying(event.id, event.attempt, event.text))
                    self._partial.clear()
                case "done":
                    self._watch.heard()
        return events

    def __enter__(self) -> Self:
        self._watch = self._stack.enter_context(get_completions().watch(self._job_id, self._ring))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


def _end(row: RowMapping) -> Event:
    if row["state"] == "succeeded":
        return Result(row["output"])
    return Error(row["state"], row["error"] or {})


def follow(
    job_id: UUID,
    *,
    after: str | None = None,
    quiet: float | None = None,
    timeout: float | None = None,
) -> Iterator[Event | None]:
    """The events of a job; the last one is `Result` or `Error`. A reader may be slow.

    Args:
        after: the id of the last event that was seen, to go on behind it.
        quiet: give None, as a sign of life, whenever nothing has happened for so many seconds.
        timeout: give up after so many seconds: no `Result` or `Error` then.

    Raises:
        JobNotFound: its transaction has not been committed, or the job was pruned.
        StorageUnavailable: Postgres could not be reached at the beginning, or for a minute.
    """
    bell = threading.Event()
    deadline = None if timeout is None else time.monotonic() + timeout
    with Following(job_id, after, bell.set) as following:
        while True:
            bell.clear()
            yield from following.collect()
            left = following.seconds_left(deadline)
            if following.ended or (left is not None and left <= 0):
                return
            if left is not None and (quiet is None or left < quiet):
                bell.wait(left)
            elif not bell.wait(quiet):
                yield None


async def afollow(
    job_id: UUID, *, after: str | None = None, quiet: float | None = None
) -> AsyncGenerator[Event | None]:
    """`follow` for asyncio; its bound is a timeout of the task."""
    bell = asyncio.Event()
    with Following(job_id, after, ringer(bell)) as following:
        while True:
            bell.clear()
            for event in following.collect():
                yield event
            if following.ended:
                return
            try:
                await asyncio.wait_for(bell.wait(), quiet)
            except TimeoutError:
                yield None
