"""Saying at once that jobs have ended, to whoever listens."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from uuid import UUID

from worker.engine.loops import Loop
from worker.storage.engine import transaction
from worker.storage.finished import say_finished_aside

#: Seconds between two commits with a NOTIFY: what ends meanwhile shares the next one.
_GATHER = 0.05
_MOST_UNSAID = 10_000


class Announcer(Loop):
    """Says on `job_finished` which jobs have ended in this process.

    In a transaction of its own, at most twenty times a second: a commit with a NOTIFY waits for all
    others of its kind, and settling must not. See docs/design.md for what that costs.
    """

    name = "announcer"

    def __init__(self) -> None:
        super().__init__()
        self._ended: deque[UUID] = deque(maxlen=_MOST_UNSAID)
        self._some = threading.Event()

    def ended(self, job_id: UUID) -> None:
        """Have it said within moments; never waits."""
        self._ended.append(job_id)
        self._some.set()

    def stop(self, timeout: float = 5.0) -> None:
        self.stopping.set()
        self._some.set()
        super().stop(timeout)
        with suppress(Exception):  # a hint; and who stops has better things to do
            self._say()

    def step(self) -> float:
        self._some.wait()
        self._some.clear()
        self._say()
        return _GATHER

    def _say(self) -> None:
        ids = [self._ended.popleft() for _ in range(len(self._ended))]
        if ids:
            with transaction() as connection:
                say_finished_aside(connection, ids)
