"""A handle on a job: what `enqueue` returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel

from worker.engine.completion import get_completions
from worker.engine.events import Delta, Error, JobEvent, Partial, Result, Retrying
from worker.engine.following import follow
from worker.errors import JobCancelled, JobFailed, WaitTimeout
from worker.storage import read
from worker.storage.control import cancel_jobs
from worker.storage.engine import transaction

if TYPE_CHECKING:
    from worker.engine.task import Task

Output = TypeVar("Output", bound=BaseModel)


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

        Any number of threads may wait: one of them all looks into Postgres.

        Raises:
            JobFailed: the job failed; its `error` attribute says why, as data.
            JobCancelled: the job was cancelled.
            WaitTimeout: the job has not ended yet; it goes on.
            JobNotFound: its transaction has not been committed, or the job was pruned.
        """
        row = get_completions().wait([self.id], timeout).get(self.id)
        if row is None:
            raise self._timed_out(timeout)
        if row["state"] == "succeeded":
            return self.task.output.model_validate(row["output"])
        if row["state"] == "cancelled":
            raise JobCancelled(f"{self.task.name} {self.id} was cancelled")
        error = row["error"] or {}
        raise JobFailed(
            f"{self.task.name} {self.id} failed: {error.get('type')}: {error.get('message')}", error
        )

    def stream(self, timeout: float | None = None) -> Iterator[JobEvent[Output]]:
        """Follow the job: what Claude writes, as it writes it, and at last what became of it.

        The last event is `Result`, with the validated output, or `Error`; before it come `Delta`s
        and `Partial`s, and a `Retrying` when what was written so far will not be the result. A
        job that was enqueued without `stream=True`, or that has ended, has only the last one.
        Who begins late is told everything so far; who is slow holds up nobody.

        Raises:
            WaitTimeout: the job has not ended after `timeout` seconds; it goes on.
            JobNotFound: its transaction has not been committed, or the job was pruned.
            StorageUnavailable: Postgres could not be reached at the beginning, or for a minute.
        """
        for event in follow(self.id, timeout=timeout):
            match event:
                case Result(output):
                    yield Result(self.task.output.model_validate(output))
                    return
                case Error():
                    yield event
                    return
                case Delta() | Partial() | Retrying():
                    yield event
        raise self._timed_out(timeout)

    def _timed_out(self, timeout: float | None) -> WaitTimeout:
        return WaitTimeout(f"{self.task.name} {self.id} is {self.state} after {timeout} s")
