"""Hearing that jobs have ended: one thread and one statement for all who wait in a process.

A thousand waiters that each looked into Postgres would be a thousand statements where one will do.
A job is looked at often at first, then more and more rarely, but at once when somebody has `heard`
of it: from its stream, or from a NOTIFY.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import lru_cache
from uuid import UUID

import structlog
from sqlalchemy import RowMapping
from sqlalchemy.exc import DBAPIError

from worker.engine.waiter import Watch, seconds_left
from worker.errors import ClaudeJobsError, StorageUnavailable
from worker.storage.completion import standing
from worker.storage.engine import transaction
from worker.streams.bells import ringer

log = structlog.get_logger(__name__)

#: Between two statements (seconds): those who come meanwhile share the next one.
_INTERVAL = 0.02


class Completions:
    """Looks for all watches of a process, in a thread that starts with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[UUID, set[Watch]] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, job_id: UUID, ring: Callable[[], None]) -> Watch:
        """Look after a job until it has ended, beginning at once."""
        watch = Watch(self, job_id, ring)
        with self._lock:
            self._watches.setdefault(job_id, set()).add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="completions", daemon=True)
                self._thread.start()
        self._wake.set()
        return watch

    def wait(
        self, job_ids: Collection[UUID], timeout: float | None = None
    ) -> dict[UUID, RowMapping]:
        """Wait up to `timeout` seconds (None: for ever) until all of these jobs have ended.

        Returns what is known of those that have.

        Raises:
            JobNotFound, StorageUnavailable: as for `Watch.row`.
        """
        bell = threading.Event()
        deadline = None if timeout is None else time.monotonic() + timeout
        with ExitStack() as stack:
            watches = [stack.enter_context(self.watch(job_id, bell.set)) for job_id in job_ids]
            while True:
                bell.clear()
                ended = _ended(watches)
                left = seconds_left(deadline, time.monotonic(), watches)
                if len(ended) == len(watches) or (left is not None and left <= 0):
                    return ended
                bell.wait(left)

    async def await_(
        self, job_ids: Collection[UUID], timeout: float | None = None
    ) -> dict[UUID, RowMapping]:
        """`wait` for asyncio."""
        bell = asyncio.Event()
        loop, ring = asyncio.get_running_loop(), ringer(bell)
        deadline = None if timeout is None else loop.time() + timeout
        with ExitStack() as stack:
            watches = [stack.enter_context(self.watch(job_id, ring)) for job_id in job_ids]
            while True:
                bell.clear()
                ended = _ended(watches)
                left = seconds_left(deadline, loop.time(), watches)
                if len(ended) == len(watches) or (left is not None and left <= 0):
                    return ended
                try:
                    await asyncio.wait_for(bell.wait(), left)
                except TimeoutError:
                    continue

    def heard(self, job_id: UUID) -> None:
        """A job is said to have ended: those who wait for it get a look at once."""
        with self._lock:
            watches = self._watches.get(job_id)
            for watch in watches or ():
                watch.hinted, watch.due = True, 0.0
        if watches:
            self._wake.set()

    def leave(self, watch: Watch) -> None:
        """End a watch; a second call does nothing."""
        with self._lock:
            watches = self._watches.get(watch.job_id, set())
            watches.discard(watch)
            if not watches:
                self._watches.pop(watch.job_id, None)

    def _run(self) -> None:
        while True:
            due, pause = self._due()
            if due:
                self._look(due)
                time.sleep(_INTERVAL)
            else:
                self._wake.wait(pause)
                self._wake.clear()

    def _due(self) -> tuple[list[Watch], float | None]:
        """The watches to look at now, or else the seconds until the next one, if there is one.

        Those that are due shortly come along.
        """
        now = time.monotonic()
        with self._lock:
            open_ = [w for each in self._watches.values() for w in each if not w.is_over]
        due = [watch for watch in open_ if watch.due <= now]
        if due:
            return [watch for watch in open_ if watch.due <= now + _INTERVAL], None
        return [], min((watch.due - now for watch in open_), default=None)

    def _look(self, watches: list[Watch]) -> None:
        for watch in watches:
            watch.hinted = False
        try:
            with transaction() as connection:
                rows = standing(connection, list({watch.job_id for watch in watches}))
        except (DBAPIError, ClaudeJobsError) as error:
            told = error if isinstance(error, ClaudeJobsError) else _unavailable(error)
            for watch in watches:
                watch.miss(told)
        except Exception as error:
            log.exception("completions cannot be looked for")
            for watch in watches:
                watch.miss(StorageUnavailable(f"cannot look for jobs: {type(error).__name__}"))
        else:
            for watch in watches:
                watch.see(rows.get(watch.job_id))


def _ended(watches: Collection[Watch]) -> dict[UUID, RowMapping]:
    return {watch.job_id: row for watch in watches if (row := watch.outcome) is not None}


def _unavailable(error: DBAPIError) -> StorageUnavailable:
    line = str(error.orig).strip().partition("\n")[0]
    return StorageUnavailable(f"Postgres: {line}")


def get_completions() -> Completions:
    """This process's – not its parent's, whose thread a fork does not inherit."""
    return _completions(os.getpid())


@lru_cache(maxsize=1)
def _completions(_pid: int) -> Completions:
    return Completions()
