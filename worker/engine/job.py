"""A handle on a job: what `enqueue` returns."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel

from worker.errors import JobCancelled, JobFailed, WaitTimeout
from worker.storage import read
from worker.storage.control import cancel_jobs
from worker.storage.engine import transaction

if TYPE_CHECKING:
    from worker.engine.task import Task

Output = TypeVar("Output", bound=BaseModel)

#: Seconds between looks at a job: short at first, then rarer.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class Job(Generic[Output]):
    """A job of a task, by id; everything it tells is read from Postgres when asked."""

    def __init__(self, job_id: UUID, task: Task[BaseModel, Output]) -> None:
        self.id = job_id
        self.task = task

    def __repr__(self) -> str:
        return f"<Job {self.task.name} {self.id}>"

    @property
    def state(self) -> str:
        """The job's state now.

        Raises:
            JobNotFound: its transaction has not been committed, or the job was pruned.
        """
        with transaction() as connection:
            return str(read.outcome(connection, self.id)["state"])

    def cancel(self) -> str:
        """Ask for the job to end; returns its state now.

        A queued job is `cancelled` at once, a running one within seconds: its connection to
        Claude is closed, so that nothing more is generated. A final state stays as it is.
        """
        with transaction() as connection:
            states = cancel_jobs(connection, [self.id])
        return states.get(self.id) or self.state

    def wait(self, timeout: float | None = None) -> Output:
        """Wait up to `timeout` seconds (None: for ever) and return the validated output.

        Raises:
            JobFailed: the job failed; its `error` attribute says why, as data.
            JobCancelled: the job was cancelled.
            WaitTimeout: the job has not ended yet; it goes on.
            JobNotFound: its transaction has not been committed, or the job was pruned.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            with transaction() as connection:
                row = read.outcome(connection, self.id)
            if row["state"] == "succeeded":
                return self.task.output.model_validate(row["output"])
            if row["state"] == "failed":
                error = row["error"] or {}
                raise JobFailed(
                    f"{self.task.name} {self.id} failed: {error.get('type')}: "
                    f"{error.get('message')}",
                    error,
                )
            if row["state"] == "cancelled":
                raise JobCancelled(f"{self.task.name} {self.id} was cancelled")
            if deadline is not None and time.monotonic() + pause > deadline:
                raise WaitTimeout(f"{self.task.name} {self.id} is {row['state']} after {timeout} s")
            time.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 – spreads the waiters
            pause = min(pause * 1.5, _LONGEST_PAUSE)
