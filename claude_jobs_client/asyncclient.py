"""The client for asyncio; what it does is in `calls` and `events`, as for threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
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


class AsyncJobsClient:
    """`JobsClient` for asyncio: the same methods, arguments, results and errors."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        timeout: float = 30.0,
        retries: Retries = Retries(),  # noqa: B008 – it is frozen
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        self._gateway = Gateway(base_url, key, timeout, retries)
        self._retries = retries
        self._owned = http is None
        self._http: httpx2.AsyncClient = http or new_http(httpx2.AsyncClient)

    async def enqueue(
        self, task: str, input: Input, *, output: type[T] | None = None, **options: Unpack[Options]
    ) -> Job[T]:
        """As `JobsClient.enqueue`."""
        model = job_model(None, output)
        return await self._run(calls.enqueue(NewJob(task, input, **options), model, self._retries))

    async def enqueue_many(
        self, jobs: Iterable[NewJob], *, idempotency_key: str | None = None
    ) -> Sequence[BatchItem]:
        """As `JobsClient.enqueue_many`."""
        return await self._run(calls.enqueue_many(jobs, idempotency_key, self._retries))

    async def get(self, job: Job[T] | UUID | str, *, output: type[T] | None = None) -> Job[T]:
        """As `JobsClient.get`."""
        return await self._run(calls.read(job, job_model(job, output), self._retries))

    async def list(
        self, *, task: str | None = None, state: State | None = None, user_id: str | None = None
    ) -> AsyncIterator[Job]:
        """As `JobsClient.list`."""
        filters: dict[str, Any] = {"task": task, "state": state, "user_id": user_id, "limit": 200}
        while True:
            page = await self._run(calls.page(filters, JobPage[dict[str, Any]], self._retries))
            for job in page.jobs:
                yield job
            if page.next_cursor is None:
                return
            filters["cursor"] = page.next_cursor

    async def wait(
        self,
        job: Job[T] | UUID | str,
        *,
        output: type[T] | None = None,
        timeout: float | None = None,
    ) -> T:
        """As `JobsClient.wait`."""
        model = job_model(job, output)
        result: T = await self._run(calls.wait(job, model, timeout, self._retries))
        return result

    async def stream(
        self,
        job: Job[T] | UUID | str,
        *,
        output: type[T] | None = None,
        timeout: float | None = None,
        after: str | None = None,
    ) -> AsyncIterator[JobEvent[T]]:
        """As `JobsClient.stream`."""
        following = Following(job, job_model(job, output), self._retries, timeout, after)
        while not following.ended:
            try:
                async with aclosing(self._connect(following)) as events:
                    async for event in events:
                        yield event
            except TemporaryError as error:
                await asyncio.sleep(following.lost(error))

    async def cancel(self, job: Job[T] | UUID | str, *, output: type[T] | None = None) -> Job[T]:
        """As `JobsClient.cancel`."""
        return await self._run(calls.cancel(job, job_model(job, output), self._retries))

    async def tasks(self) -> Sequence[Task]:
        """As `JobsClient.tasks`."""
        return await self._run(calls.tasks(self._retries))

    async def _run(self, call: Call[R]) -> R:
        reply: Reply = None
        while True:
            try:
                step = call.send(reply)
            except StopIteration as end:
                result: R = end.value
                return result
            reply = await self._do(step)

    async def _do(self, step: Step) -> Reply:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.request(**self._gateway.arguments(step))
        except httpx2.RequestError as error:
            return error

    async def _connect(self, following: Following[T]) -> AsyncGenerator[JobEvent[T]]:
        """One connection's events; raises `Unavailable` if it ends before the job does."""
        request = following.request()
        try:
            async with self._http.stream(**self._gateway.arguments(request)) as answer:
                if not answer.is_success:
                    await answer.aread()
                pieces = (following.alive(piece) async for piece in answer.aiter_bytes())
                async for event in following.source(request, answer, pieces):
                    if told := following.take(request, event):
                        yield told
                    if following.ended:
                        return
        except httpx2.RequestError as error:
            raise lost(request, error) from error
        raise following.cut(request)

    async def close(self) -> None:
        """As `JobsClient.close`."""
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
