"""The routes of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query
from pydantic import AfterValidator
from pydantic_core import to_json
from sqlalchemy import Connection, RowMapping, text
from starlette.requests import Request
from starlette.responses import Response

from api import waiting
from api.access import CancelKey, EnqueueKey, ReadKey
from api.body import ENVELOPE_BYTES, from_json, read_body
from api.context import Context, context
from api.enqueueing import conflict, header_key, parse_named
from api.openapi import answers, body_of
from api.pins import unknown_pins
from api.problems import not_found
from api.resources import (
    KEY_LENGTH,
    KEY_PATTERN,
    State,
    fresh_resource,
    job_list,
    job_resource,
)
from worker.engine.checks import unstorable
from worker.settings import get_settings
from worker.storage.api_keys import ApiKey
from worker.storage.control import cancel_jobs
from worker.storage.enqueue import NewJob
from worker.storage.listing import Page, Position, find_job, list_jobs

#: What is larger is parsed in a thread, one at a time: as objects it takes up to thirty times its
#: size, and the loop must not stand still for long (bytes).
ASIDE_BYTES = 200_000

_LIST_SECONDS = "10s"


def _stored(value: str) -> str:
    if problem := unstorable(value):
        raise ValueError(problem.removeprefix(": "))
    return value


def _allowed_wait(value: float) -> float:
    return min(value, get_settings().api_wait_seconds)


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_LENGTH,
        pattern=KEY_PATTERN,
        description="The same key and input are the same job, however often it is sent.",
    ),
]
Wait = Annotated[
    float,
    Query(
        ge=0,
        allow_inf_nan=False,
        description="Wait so many seconds at most for the job to end; the gateway has a maximum, "
        "60 unless set otherwise, and more is taken for that.",
    ),
    AfterValidator(_allowed_wait),
]
Filter = Annotated[str | None, Query(min_length=1, max_length=256), AfterValidator(_stored)]

router = APIRouter(prefix="/v1", tags=["jobs"])


def json_response(data: Any, status: int = 200, **headers: str) -> Response:
    """An answer; `headers` with underscores for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(to_json(data), status, headers=named, media_type="application/json")


@router.post(
    "/jobs",
    operation_id="enqueue_job",
    summary="Enqueue a job of any task",
    responses=answers({202: "JobResource", 200: "JobResource"}, 400, 409, 413, 415, 422),
    openapi_extra=body_of("NamedRequest"),
    status_code=202,
)
async def enqueue(
    request: Request, key: EnqueueKey, idempotency_key: IdempotencyKey = None, wait: Wait = 0
) -> Response:
    """202 and the job, which runs as soon as a worker has room.

    200 if the idempotency key is that of an older job, or if the job ended within `wait` seconds.
    """
    here = context(request)
    given = header_key(idempotency_key)
    parse = lambda data: parse_named(data, here.registry, key, given)  # noqa: E731
    return await insert(request, here, key, parse, wait)


async def insert(
    request: Request, here: Context, key: ApiKey, parse: Callable[[Any], NewJob], wait: float
) -> Response:
    """Read a job with `parse`, insert it, and answer with it.

    Raises:
        Problem, InvalidInput, StorageUnavailable: it cannot be one, or not now.
    """
    with here.places.one(key.service) if wait else nullcontext():
        most = get_settings().max_input_bytes + ENVELOPE_BYTES
        with here.bodies.one(key.service) as hold:
            body = await read_body(request, most, hold)
            job = await _parsed(here, body, parse)
            del body  # its job has it now
            for problem in (await unknown_pins(here, [job])).values():
                raise problem
            became = await here.writer.insert(job)
        if not became.same_input:
            raise conflict(job.idempotency_key)
        location = f"/v1/jobs/{became.id}"
        if became.created_at is not None and not wait:
            return json_response(fresh_resource(job, became.created_at), 202, location=location)
        if wait:
            await _wait(request, here, key, became.id, wait)
    found = await _find(here, key, became.id)
    if became.created_at is None:
        return json_response(found, 200, location=location, idempotency_replayed="true")
    return json_response(found, 200 if found["finished_at"] else 202, location=location)


async def _parsed(here: Context, body: bytes, parse: Callable[[Any], NewJob]) -> NewJob:
    def read() -> NewJob:
        return parse(from_json(body))

    return await here.database.aside(read) if len(body) > ASIDE_BYTES else read()


@router.get(
    "/jobs",
    operation_id="list_jobs",
    summary="List jobs, the newest first",
    responses=answers({200: "JobList"}, 422),
)
async def list_(
    request: Request,
    key: ReadKey,
    task: Filter = None,
    state: State | None = None,
    user_id: Filter = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the page before.")
    ] = None,
) -> Response:
    """A page of this service's jobs. Jobs that are enqueued meanwhile shift no page."""
    here = context(request)
    after = Position.from_cursor(cursor) if cursor else None
    wanted = partial(
        list_jobs,
        service=key.service,
        task=task,
        state=state,
        user_id=user_id,
        after=after,
        limit=limit,
        models=here.models,
    )
    page = await here.database.read(_page, wanted)
    return json_response(job_list(page.jobs, page.next.as_cursor() if page.next else None))


@router.get(
    "/jobs/{job_id:uuid}",
    operation_id="read_job",
    summary="Read a job",
    responses=answers({200: "JobResource"}, 404, 422),
)
async def read(request: Request, key: ReadKey, job_id: UUID, wait: Wait = 0) -> Response:
    """The job as it stands, or as it stands once it has ended or `wait` seconds have passed."""
    return json_response(await read_job(request, key, job_id, wait))


@router.delete(
    "/jobs/{job_id:uuid}",
    operation_id="cancel_job",
    summary="Cancel a job",
    responses=answers({200: "JobResource", 202: "JobResource"}, 404, 422),
)
async def cancel(request: Request, key: CancelKey, job_id: UUID) -> Response:
    """200 and the job in its final state: `cancelled`, or the one in which it had ended before.

    202 if it is running: its call to Claude is cut off within a second.
    """
    found = await context(request).database.read(_cancel, job_id, key.service)
    if found is None:
        raise not_found()
    seen = _seen_with(key, job_resource(found))
    return json_response(seen, 200 if found["finished_at"] else 202)


async def read_job(
    request: Request, key: ApiKey, job_id: UUID, wait: float, task: str | None = None
) -> dict[str, Any]:
    """A job as clients see it, after `wait` seconds at most; of `task` only, if that is given.

    Raises:
        Problem: there is no such job.
    """
    here = context(request)
    found = await _find(here, key, job_id)
    if task is not None and found["task"] != task:
        raise not_found()
    if wait and not found["finished_at"]:
        with here.places.one(key.service):
            await _wait(request, here, key, job_id, wait)
        found = await _find(here, key, job_id)
    return found


async def _find(here: Context, key: ApiKey, job_id: UUID) -> dict[str, Any]:
    found = await here.database.read(find_job, job_id, service=key.service, models=here.models)
    if found is None:
        raise not_found()
    return _seen_with(key, job_resource(found))


def _seen_with(key: ApiKey, resource: dict[str, Any]) -> dict[str, Any]:
    """The job without what came of it, if the key may not read: it may enqueue or cancel."""
    return resource if "read" in key.scopes else resource | {"output": None, "error": None}


async def _wait(request: Request, here: Context, key: ApiKey, job_id: UUID, seconds: float) -> None:
    """Wait for the job's end, unless the client goes or the process stops before.

    Raises:
        Problem: 401, the key has ended meanwhile.
    """
    with here.validity.use(key) as ended:
        reasons: list[Awaitable[Any]] = [
            waiting.ended(job_id, seconds),
            _gone(request),
            here.stopping.wait(),
            ended.wait(),
        ]
        tasks = [asyncio.ensure_future(each) for each in reasons]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    await here.validity.check(key)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _page(connection: Connection, list_page: Callable[[Connection], Page]) -> Page:
    # A rare combination of filters may have to read all of a service's jobs.
    connection.execute(text(f"SET LOCAL statement_timeout = '{_LIST_SECONDS}'"))
    return list_page(connection)


def _cancel(connection: Connection, job_id: UUID, service: str) -> RowMapping | None:
    found = find_job(connection, job_id, service=service)
    if found is None or not cancel_jobs(connection, [job_id]):
        return found
    return find_job(connection, job_id, service=service)
