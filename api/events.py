"""A job's events, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import waiting
from api.access import ReadKey, unauthorized
from api.context import Context, context
from api.openapi import answers
from api.problems import Problem, not_found
from api.resources import job_resource
from worker.errors import StorageUnavailable
from worker.storage.api_keys import ApiKey
from worker.storage.listing import find_job

#: Between signs of life: shorter than the idle timeout of any proxy (seconds).
HEARTBEAT_SECONDS = 15.0
#: When a browser whose stream broke connects again (milliseconds).
_RETRY = 1000

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.get(
    "/jobs/{job_id:uuid}/events",
    operation_id="follow_job",
    summary="Follow a job",
    response_class=Response,
    responses=answers({}, 404, 422, 429)
    | {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def follow(
    request: Request,
    key: ReadKey,
    job_id: UUID,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=100)] = None,
) -> Response:
    """Events until the job has ended: `delta` {"text"}, `partial` {"output"}, `retrying`
    {"attempt", "reason"} (forget what was written) while it is written, if it was enqueued with
    `stream`; at last `result` or `error`, each with the job."""
    here = context(request)
    if await here.database.read(find_job, job_id, service=key.service) is None:
        raise not_found()
    return _Stream(here, key.service, _events(here, key, job_id, last_event_id))


class _Stream(EventSourceResponse):
    """Holds one of the service's places for as long as it is sent."""

    def __init__(self, here: Context, service: str, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, headers={"x-accel-buffering": "no"})  # nginx: pass it on at once
        self._place = here.places.one(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            await super().__call__(scope, receive, send)


async def _events(
    here: Context, key: ApiKey, job_id: UUID, after: str | None
) -> AsyncIterator[bytes]:
    with here.validity.use(key) as ended, _cancelled_by(here.stopping, ended) as task:
        try:
            yield format_sse_event(comment="the job's events", retry=_RETRY)
            async with aclosing(waiting.events(job_id, after, HEARTBEAT_SECONDS)) as written:
                async for event in written:
                    if event is None:
                        yield KEEPALIVE_COMMENT
                    else:
                        # Claude may write 1e999, which JSON's readers do not take.
                        data = to_json(event.data, inf_nan_mode="null").decode()
                        yield format_sse_event(event=event.kind, data_str=data, id=event.id)
            yield await _end(here, key, job_id)
        except asyncio.CancelledError:
            if not here.stopping.is_set() and not ended.is_set():
                raise
            # The stream ends in order. If the process stops, its client connects to another one.
            task.uncancel()
            if ended.is_set():
                yield _refusal(unauthorized("This key has ended."))
        except StorageUnavailable:
            return  # the client connects again, and is told 503 if it is still so


@contextmanager
def _cancelled_by(*events: asyncio.Event) -> Iterator[asyncio.Task[Any]]:
    """The task that runs this is cancelled once one of the events has happened."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    for wait in waits:
        wait.add_done_callback(lambda done: None if done.cancelled() else task.cancel())
    try:
        yield task
    finally:
        for wait in waits:
            wait.cancel()


async def _end(here: Context, key: ApiKey, job_id: UUID) -> bytes:
    try:
        await here.validity.check(key)
    except Problem as problem:
        return _refusal(problem)
    found = await here.database.read(find_job, job_id, service=key.service)
    if found is None:
        return _refusal(not_found())
    kind = "result" if found["state"] == "succeeded" else "error"
    return format_sse_event(event=kind, data_str=to_json(job_resource(found)).decode())


def _refusal(problem: Problem) -> bytes:
    return format_sse_event(event="error", data_str=to_json(problem.as_json()).decode())
