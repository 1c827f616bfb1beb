"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from uuid import UUID

import httpx2

from claude_jobs_client import calls
from claude_jobs_client.calls import Call, Pause, Reply, Step, job_model
from claude_jobs_client.errors import TemporaryError
from claude_jobs_client.events import Following, JobEvent
from claude_jobs_client.http import Gateway, lost, new_http
from claude_jobs_client.models import (
    BatchItem,
    Input,
    Job,
    JobPage,
    NewJob,
    Options,
    State,
    T,
    Task,
)
from claude_jobs_client.retries import Retries

R = TypeVar("R")


class JobsClient:
    """Enqueues jobs at a gateway and brings their results. Threads may share one.

    Every method may raise `RequestRefused`, `TemporaryError` or `UnexpectedAnswer`. A `job` is
    named by its id or by a `Job`; its output has the type `output`, or that of the `Job` given.

    Args:
        base_url: the gateway's, such as `https://jobs.example.com`.
        key: what `claude-jobs keys create` printed.
        timeout: for how long the gateway may say nothing (seconds).
        retries: when to try again.
        http: sends the requests, if there is more to be said about proxies or certificates; it is
            left open.

    Raises:
        ValueError: an argument cannot be right.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        timeout: float = 30.0,
        retries: Retries = Retries(),  # noqa: B008 – it is frozen
        http: httpx2.Client | None = None,
    ) -> None:
        self._gateway = Gateway(base_url, key, timeout, retries)
        self._retries = retries
        self._owned = http is None
        self._http: httpx2.Client = http or new_http(httpx2.Client)

    def enqueue(
        self, task: str, input: Input, *, output: type[T] | None = None, **options: Unpack[Options]
    ) -> Job[T]:
        """Enqueue a job; it is enqueued once, however often it has to be sent.

        Raises:
            InvalidRequest: the task is unknown, or the input or an option does not fit.
            IdempotencyConflict: the key was used before, with another input.
        """
        model = job_model(None, output)
        return self._run(calls.enqueue(NewJob(task, input, **options), model, self._retries))

    def enqueue_many(
        self, jobs: Iterable[NewJob], *, idempotency_key: str | None = None
    ) -> Sequence[BatchItem]:
        """Enqueue any number of jobs and tell what became of each, in their order.

        One that is wrong stops no other. After an error, the same jobs sent again with the same
        `idempotency_key` are enqueued as far as they were not.
        """
        return self._run(calls.enqueue_many(jobs, idempotency_key, self._retries))

    def get(self, job: Job[T] | UUID | str, *, output: type[T] | None = None) -> Job[T]:
        """The job as it stands.

        Raises:
            NotFound: there is none.
        """
        return self._run(calls.read(job, job_model(job, output), self._retries))

    def list(
        self, *, task: str | None = None, state: State | None = None, user_id: str | None = None
    ) -> Iterator[Job]:
        """The service's jobs, the newest first; further pages are read as they are needed."""
        filters: dict[str, Any] = {"task": task, "state": state, "user_id": user_id, "limit": 200}
        while True:
            page = self._run(calls.page(filters, JobPage[dict[str, Any]], self._retries))
            yield from page.jobs
            if page.next_cursor is None:
                return
            filters["cursor"] = page.next_cursor

    def wait(
        self,
        job: Job[T] | UUID | str,
        *,
        output: type[T] | None = None,
        timeout: float | None = None,
    ) -> T:
        """Wait up to `timeout` seconds (None: for ever) and return the output.

        Raises:
            JobFailed, JobCancelled: the job did not succeed.
            JobNotEnded: the time is up; the job goes on.
            OutputMismatch: the output is not of the type `output`.
        """
        result: T = self._run(calls.wait(job, job_model(job, output), timeout, self._retries))
        return result

    def stream(
        self,
        job: Job[T] | UUID | str,
        *,
        output: type[T] | None = None,
        timeout: float | None = None,
        after: str | None = None,
    ) -> Iterator[JobEvent[T]]:
        """What is written, as it is written, up to a `Result` or an `Error`.

        A connection that breaks is opened anew, and goes on behind the last event. A job that was
        not enqueued with `stream=True` has only its last event.

        Args:
            timeout: seconds until `JobNotEnded`, noticed up to 15 s late.
            after: the `id` of the last event that was seen before.
        """
        following = Following(job, job_model(job, output), self._retries, timeout, after)
        while not following.ended:
            try:
                with closing(self._connect(following)) as events:
                    yield from events
            except TemporaryError as error:
                time.sleep(following.lost(error))

    def cancel(self, job: Job[T] | UUID | str, *, output: type[T] | None = None) -> Job[T]:
        """Ask for the job to end: at once if it waits, within a second or so if it runs.

        One that had ended before stays as it is.
        """
        return self._run(calls.cancel(job, job_model(job, output), self._retries))

    def tasks(self) -> Sequence[Task]:
        """The kinds of jobs that there are, with their schemas."""
        return self._run(calls.tasks(self._retries))

    def _run(self, call: Call[R]) -> R:
        reply: Reply = None
        while True:
            try:
                step = call.send(reply)
            except StopIteration as end:
                result: R = end.value
                return result
            reply = self._do(step)

    def _do(self, step: Step) -> Reply:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._http.request(**self._gateway.arguments(step))
        except httpx2.RequestError as error:
            return error

    def _connect(self, following: Following[T]) -> Generator[JobEvent[T]]:
        """One connection's events; raises `Unavailable` if it ends before the job does."""
        request = following.request()
        try:
            with self._http.stream(**self._gateway.arguments(request)) as answer:
                if not answer.is_success:
                    answer.read()
                pieces = (following.alive(piece) for piece in answer.iter_bytes())
                for event in following.source(request, answer, pieces):
                    if told := following.take(request, event):
                        yield told
                    if following.ended:
                        return
        except httpx2.RequestError as error:
            raise lost(request, error) from error
        raise following.cut(request)

    def close(self) -> None:
        """End the connections."""
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
