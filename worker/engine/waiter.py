"""One who waits for a job to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

from sqlalchemy import RowMapping

from worker.errors import ClaudeJobsError, JobNotFound

#: Seconds between looks at a job: short at first, then rarer.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
#: Who has been answered before waits through an outage of Postgres for so long (seconds).
_OUTAGE_SECONDS = 60.0
#: Whatever its timeout, a wait includes one look, if Postgres answers within so many seconds.
_FIRST_LOOK_SECONDS = 10.0


class _Owner(Protocol):
    def heard(self, job_id: UUID) -> None: ...
    def leave(self, watch: Watch) -> None: ...


class Watch:
    """One waiter for one job. `ring` is called, by the thread that looks, when there is news.

    A context manager: leaving it ends the wait.
    """

    def __init__(self, owner: _Owner, job_id: UUID, ring: Callable[[], None]) -> None:
        self._owner = owner
        self.job_id = job_id
        self._ring = ring
        self._row: RowMapping | None = None
        self._error: ClaudeJobsError | None = None
        self._since = time.monotonic()
        self._pause = _FIRST_PAUSE
        self.due = 0.0
        #: Whether somebody has heard of the job since the last look began.
        self.hinted = False

    @property
    def row(self) -> RowMapping | None:
        """`state`, `stream`, `ended`, `error`, `output` as last seen; None before the first look.

        Raises:
            JobNotFound: there is no such job – its transaction was not committed, or it was pruned.
            StorageUnavailable: Postgres could not be reached.
        """
        if self._error is not None:
            raise self._error
        return self._row

    @property
    def outcome(self) -> RowMapping | None:
        """The same once the job has ended, and None before; raises as `row` does."""
        row = self.row
        return row if row is not None and row["ended"] else None

    def heard(self) -> None:
        """The job may have ended: have a look now."""
        self._owner.heard(self.job_id)

    def see(self, row: RowMapping | None) -> None:
        """Take what the statement said of the job."""
        now, first = time.monotonic(), self._row is None
        self._row, self._since = row, now
        self.due = now if self.hinted else now + self._pause
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
        if row is None:
            self.fail(
                JobNotFound(
                    f"no job {self.job_id}: never committed, or pruned after its retention time"
                )
            )
        elif first or row["ended"]:
            self._ring()

    def miss(self, error: ClaudeJobsError) -> None:
        """Postgres was not to be reached: who is new hears of it, the others wait a while."""
        now = time.monotonic()
        if self._row is None or now - self._since > _OUTAGE_SECONDS:
            self.fail(error)
        self.due = now + _LONGEST_PAUSE

    def fail(self, error: ClaudeJobsError) -> None:
        """End the wait with an error."""
        self._error = error
        self._ring()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to look for."""
        return self._error is not None or bool(self._row and self._row["ended"])

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._owner.leave(self)


def seconds_left(deadline: float | None, now: float, watches: Iterable[Watch]) -> float | None:
    """How much longer to wait for `watches`; None: for ever. Zero or less: the time is up."""
    if deadline is None:
        return None
    all_seen = all(watch.row is not None for watch in watches)
    return deadline - now + (0.0 if all_seen else _FIRST_LOOK_SECONDS)
