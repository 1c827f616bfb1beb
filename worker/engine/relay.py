"""The relay: a loop in every worker that turns due rows into messages.

New jobs, scheduled jobs, retries and rescued jobs all take this one path. `LISTEN` wakes the
loop; a poll is the fallback, and finds what became due by the clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.errors import StorageUnavailable
from worker.settings import Settings
from worker.storage.dispatch import Dispatched, dispatch_due, recall
from worker.storage.engine import transaction

log = structlog.get_logger(__name__)

CHANNEL = "claude_jobs_due"

#: Messages published per transaction: small, so that an urgent job waits for few others.
_BATCH = 100
#: The pause while the working set is full: workers empty it without telling.
_FULL_PAUSE = 0.05
#: The pause after Postgres or the broker failed.
_OUTAGE_PAUSE = 1.0

#: Publishes the messages in order and returns how many were sent before the broker failed.
Publish = Callable[[Sequence[Dispatched]], int]


class Relay:
    """Dispatches due jobs until it is stopped; survives Postgres and the broker going away."""

    def __init__(self, settings: Settings, publish: Publish) -> None:
        self._settings = settings
        self._publish = publish
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Start the loop in a thread of its own."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the loop; what it has dispatched stays dispatched."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def dispatch(self) -> float:
        """Dispatch one batch; returns the seconds to wait before the next look, at most."""
        with transaction() as connection:
            batch = dispatch_due(connection, working_set=self._settings.working_set, batch=_BATCH)
        sent = self._publish(batch.jobs)
        if unsent := batch.jobs[sent:]:
            with transaction() as connection:
                recall(connection, [job.id for job in unsent])
            log.error("broker unreachable: jobs wait in Postgres", recalled=len(unsent))
            self._stop.wait(_OUTAGE_PAUSE)
            return 0.0
        if len(batch.jobs) == _BATCH:
            return 0.0
        return _FULL_PAUSE if batch.full else self._settings.poll_seconds

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(
                    self._settings.database_url,
                    autocommit=True,
                    application_name="claude-jobs relay",
                    connect_timeout=10,
                ) as listener:
                    listener.execute(f"LISTEN {CHANNEL}")
                    self._relay_until_stopped(listener)
            except (psycopg.Error, SQLAlchemyError, StorageUnavailable) as error:
                log.error("Postgres unreachable: relay waits", error=type(error).__name__)
                self._stop.wait(_OUTAGE_PAUSE)
            except Exception:
                # Without this loop nothing runs: whatever it is, say so and go on.
                log.exception("relay failed")
                self._stop.wait(_OUTAGE_PAUSE)

    def _relay_until_stopped(self, listener: psycopg.Connection) -> None:
        while not self._stop.is_set():
            if pause := self.dispatch():
                for _ in listener.notifies(timeout=pause, stop_after=1):
                    pass
            for _ in listener.notifies(timeout=0):
                pass  # a burst of notifications is one reason to look
