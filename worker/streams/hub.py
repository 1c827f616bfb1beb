"""All of a process's readers, behind one connection.

A blocking read for each reader would take a connection each, and wake the process for every entry
of every stream. Here one thread asks for all streams at once, at most every 40 ms: a process with a
thousand readers makes no more round trips than one with a single reader. In between it listens to
the streams whose text has not begun, so that the first piece of each is passed on at once.

A reader that is slow is not asked for: its next entries stay in Redis until it has taken the ones
it has. So it costs a batch of memory, and nobody else a moment.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from uuid import UUID

import redis
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.streams.entries import START, Entry, decode, key_of

log = structlog.get_logger(__name__)

#: Between the beginnings of two reads (seconds).
_INTERVAL = 0.04
#: Between two reads of streams that are new (seconds): of a thousand at most in an interval.
_LEAST_PAUSE, _PAUSE_A_STREAM = 0.005, _INTERVAL / 1000
#: How long Redis waits for an entry; a reader that comes meanwhile waits as long (milliseconds).
_BLOCK_MS = 100
#: Longer, and Redis counts as lost (seconds).
_PATIENCE = 5.0
#: Before a Redis that was lost is tried again (seconds).
_PAUSE = 0.5
#: Entries of one stream in a batch.
_BATCH = 256


class Subscription:
    """One reader's place in one stream. `ring` is called, by the hub's thread, when there is more.

    A context manager: leaving it ends the subscription.
    """

    def __init__(self, hub: Hub, key: str, ring: Callable[[], None]) -> None:
        self._hub = hub
        self.key = key
        self.position = START
        self.ring = ring
        self._batch: list[Entry] = []

    def take(self) -> list[Entry]:
        """What has come since the last time; never waits."""
        batch = self._batch
        if batch:  # else the hub may be about to give one
            self._batch = []
        return batch

    @property
    def is_hungry(self) -> bool:
        """Whether it has taken what it was given."""
        return not self._batch

    @property
    def is_new(self) -> bool:
        """Whether no text has come: nothing, or only that a call begins."""
        return self.position.number == 0

    def give(self, entries: list[Entry]) -> None:
        """Hand over entries, except those that it had already."""
        new = [entry for entry in entries if entry.position > self.position]
        if new:
            self.position = new[-1].position
            self._batch = new
            self.ring()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.leave(self)


class Hub:
    """Reads for all subscriptions of a process, in a thread that starts with the first one."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(
            redis_url,
            protocol=2,
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
            retry=Retry(NoBackoff(), 0),
        )
        self._lock = threading.Lock()
        self._subscriptions: set[Subscription] = set()
        self._any = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = False

    def subscribe(self, job_id: UUID, ring: Callable[[], None]) -> Subscription:
        """Follow a job's stream from its beginning."""
        subscription = Subscription(self, key_of(job_id), ring)
        with self._lock:
            self._subscriptions.add(subscription)
            self._any.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stream-hub", daemon=True)
                self._thread.start()
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """End a subscription; a second call does nothing."""
        with self._lock:
            self._subscriptions.discard(subscription)
            if not self._subscriptions:
                self._any.clear()

    def _run(self) -> None:
        while True:
            self._any.wait()
            until = time.monotonic() + _INTERVAL
            try:
                self._read(_BLOCK_MS)
                while (left := until - time.monotonic()) > 0:
                    asked = self._read(min(_BLOCK_MS, round(left * 1000)), new_only=True)
                    time.sleep(min(left, _LEAST_PAUSE + asked * _PAUSE_A_STREAM) if asked else left)
            except (RedisError, OSError) as error:
                self._note_loss(error)
                time.sleep(_PAUSE)
            except Exception:
                log.exception("streams cannot be read")
                time.sleep(_PAUSE)
            else:
                self._lost = False

    def _read(self, milliseconds: int, *, new_only: bool = False) -> int:
        """Give what comes within so many milliseconds; returns how many streams were asked for."""
        readers: dict[str, list[Subscription]] = {}
        with self._lock:
            for subscription in self._subscriptions:
                if subscription.is_hungry and (subscription.is_new or not new_only):
                    readers.setdefault(subscription.key, []).append(subscription)
        if not readers:
            return 0  # all are busy with what they have
        # Of several readers of a stream, what the one furthest back needs.
        wanted: dict[Any, Any] = {
            key: str(min(one.position for one in each)) for key, each in readers.items()
        }
        answer: Any = self._client.xread(wanted, count=_BATCH, block=max(1, milliseconds))
        for key, rows in answer:
            entries = decode(rows)
            for subscription in readers[key.decode()]:
                subscription.give(entries)
        return len(wanted)

    def _note_loss(self, error: Exception) -> None:
        if not self._lost:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            log.warning("Redis lost: streams stand still until it is back", error=reason)
        self._lost = True


def get_hub(redis_url: str) -> Hub:
    """This process's hub – not its parent's, whose thread a fork does not inherit."""
    return _hub(redis_url, os.getpid())


@lru_cache(maxsize=8)
def _hub(redis_url: str, _pid: int) -> Hub:
    return Hub(redis_url)
