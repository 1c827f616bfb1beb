"""Each task's own routes: what any job's do, with the task's input and output in the document."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.access import EnqueueKey, ReadKey
from api.context import context
from api.enqueueing import header_key, parse_for
from api.jobs import IdempotencyKey, Wait, insert, json_response, read_job
from api.openapi import answers, body_of, prefix_of
from worker.engine.registry import AnyTask


def task_router(task: AnyTask) -> APIRouter:
    """The routes below `/v1/tasks/<name>/jobs`."""
    router = APIRouter(prefix=f"/v1/tasks/{task.name}/jobs", tags=[task.name])
    prefix = prefix_of(task)
    resource = f"{prefix}Job"

    @router.post(
        "",
        operation_id=f"enqueue_{task.name}",
        summary=f"Enqueue a job of {task.name}",
        responses=answers({202: resource, 200: resource}, 400, 409, 413, 415, 422),
        openapi_extra=body_of(f"{prefix}Request"),
        status_code=202,
    )
    async def enqueue(
        request: Request, key: EnqueueKey, idempotency_key: IdempotencyKey = None, wait: Wait = 0
    ) -> Response:
        given = header_key(idempotency_key)
        return await insert(
            request, context(request), key, lambda data: parse_for(task, data, key, given), wait
        )

    @router.get(
        "/{job_id:uuid}",
        operation_id=f"read_{task.name}",
        summary=f"Read a job of {task.name}",
        responses=answers({200: resource}, 404, 422),
    )
    async def read(request: Request, key: ReadKey, job_id: UUID, wait: Wait = 0) -> Response:
        return json_response(await read_job(request, key, job_id, wait, task.name))

    return router
