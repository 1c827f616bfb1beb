"""The loop that looks after jobs which wait for a request like theirs.

It is woken when a request has ended that somebody waits for, and looks by itself every few seconds:
for what a worker that died could not say. Every worker runs it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.engine.fate import Complete, FailAll, Fate, Promote, Wait, fate
from worker.engine.judge import still_accepted
from worker.engine.loops import Loop
from worker.engine.registry import AnyTask, Registry
from worker.engine.sharing import window_of
from worker.errors import UnknownTask
from worker.settings import Settings
from worker.storage import followers
from worker.storage.engine import transaction
from worker.storage.followers import Situation
from worker.storage.lane_leaders import is_lane_key

log = structlog.get_logger(__name__)

#: Told of followers that have ended: their ids, and whether they succeeded.
Told = Callable[[Sequence[UUID], bool], None]


class FollowerLoop(Loop):
    """Completes, fails, promotes or releases the jobs that wait for a request."""

    name = "followers"

    def __init__(self, settings: Settings, registry: Registry) -> None:
        super().__init__()
        self._settings = settings
        self._registry = registry
        self._interval = min(5.0, settings.lease_seconds / 3)
        self._sweep_at = time.monotonic() + random.uniform(0, self._interval)  # noqa: S311
        self._wanted: deque[tuple[str, bool]] = deque()
        self._some = threading.Event()
        #: Set by whoever reports ends to Celery; nobody listens until then.
        self.told: Told = lambda ids, succeeded: None

    def attend(self, key: str) -> None:
        """Have the followers of a request looked after; never waits."""
        self._wanted.append((key, False))
        self._some.set()

    def release(self, key: str) -> None:
        """Have them dispatched as if they had never waited: the request will not be made."""
        self._wanted.append((key, True))
        self._some.set()

    def stop(self, timeout: float = 5.0) -> None:
        self.stopping.set()
        self._some.set()
        super().stop(timeout)

    def step(self) -> float:
        self._some.wait(max(0.0, self._sweep_at - time.monotonic()))
        self._some.clear()
        while self._wanted and not self.stopping.is_set():
            key, release = self._wanted.popleft()
            self._release(key) if release else self._attend(key)
        if time.monotonic() >= self._sweep_at:
            # Spreads the workers: one look in this time, by any of them, would be enough.
            self._sweep_at = time.monotonic() + self._interval * random.uniform(0.7, 1.3)  # noqa: S311
            self._sweep()
        return 0.0

    def _sweep(self) -> None:
        with transaction() as connection:
            keys = followers.orphaned(connection)
            followers.forget_leaders(connection)
        for key in keys:
            if self.stopping.is_set():
                return
            try:
                self._attend(key)
            except DBAPIError as error:
                # What cannot be written for one request must not hold up those of all others.
                log.error("waiting jobs could not be looked after", key=key, error=str(error.orig))

    def _attend(self, key: str) -> None:
        """Piece by piece, as long as some end; each look sees anew how it stands."""
        while not self.stopping.is_set() and self._look_after(key):
            pass

    def _look_after(self, key: str) -> bool:
        with transaction() as connection:
            if not followers.try_lock(connection, key):
                return False
            seen = followers.situation(connection, key)
            if seen is None:
                return False
            try:
                task = self._registry[seen.task]
            except UnknownTask:  # whoever claims one of them knows it, or fails it
                return bool(followers.release(connection, key))
            if not (window := window_of(task, self._settings)):
                return bool(followers.release(connection, key))
            step = fate(seen, servable=_is_servable(seen, task))
            ended = _end(connection, key, seen, step, window)
            if not ended:
                # What could be ended has been: the others need the request to be made.
                step = fate(seen, servable=False, spread=False)
                _promote(connection, key, seen, step)
        if ended:
            succeeded = isinstance(step, Complete)
            log.info("waiting jobs ended", jobs=len(ended), succeeded=succeeded)
            self._tell(ended, succeeded)
        return bool(ended)

    def _tell(self, ended: Sequence[UUID], succeeded: bool) -> None:
        try:
            self.told(ended, succeeded)
        except Exception as error:  # of the broker's client, whichever that is
            log.warning("Flower was not told of them", error=type(error).__name__)

    def _release(self, key: str) -> None:
        released = followers.PIECE
        while released == followers.PIECE and not self.stopping.is_set():
            with transaction() as connection:
                released = followers.release(connection, key)
                if released < followers.PIECE:
                    followers.forget_leaders(connection)


def _is_servable(seen: Situation, task: AnyTask) -> bool:
    if seen.output is None:
        return False
    try:
        given = task.parse_input(seen.input)
    except Exception:  # a validator is the task author's code; it must not stop the loop
        return False
    return still_accepted(seen.output, task.output, task.checks, given)


def _end(
    connection: Connection, key: str, seen: Situation, step: Fate, window: float
) -> list[UUID]:
    match step:
        case Complete():
            assert seen.result is not None  # noqa: S101 – that is what was servable
            return followers.complete(connection, key, seen.result, window=window)
        case FailAll(most_attempts):
            error = (seen.error or {}) | {"of_job": str(seen.leader)}
            return followers.fail(connection, key, error, most_attempts=most_attempts)
        case Wait() | Promote():
            return []


def _promote(connection: Connection, key: str, seen: Situation, step: Fate) -> None:
    if isinstance(step, Promote):
        if not is_lane_key(key):
            # Back to their lane: whether anybody makes the request is seen when they are gathered.
            followers.release(connection, key, lane_only=True)
        promoted = followers.promote(
            connection, key, seen, attempt=step.attempt, rescues=step.rescues
        )
        if promoted is not None:
            log.info("waiting job goes ahead", job=str(promoted))
