"""What there is to call, and whether it can be called: tasks, the document, health."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from api.access import AnyKey
from api.context import context
from api.jobs import json_response
from api.openapi import answers
from api.problems import Problem
from worker.engine.registry import AnyTask
from worker.errors import SchemaMismatch, StorageUnavailable
from worker.settings import get_settings
from worker.storage.schema import require_head

router = APIRouter(tags=["service"])

#: For how long an answer to the question whether Postgres is there is given again (seconds).
_FRESH_SECONDS = 1.0


@router.get(
    "/v1/tasks",
    operation_id="list_tasks",
    summary="List the tasks",
    responses=answers({200: "TaskList"}),
)
async def tasks(request: Request, key: AnyKey) -> Response:
    """The tasks of this gateway, each with the JSON schemas of its input and output."""
    del key
    registry = context(request).registry
    return json_response({"tasks": [_task(registry[name]) for name in sorted(registry)]})


def _task(task: AnyTask) -> dict[str, Any]:
    return {
        "name": task.name,
        "description": _description(task),
        "input_schema": task.input_schema,
        "output_schema": task.output_schema,
        "max_attempts": task.max_attempts,
        "max_input_bytes": get_settings().max_input_bytes,
        "links": {"enqueue": f"/v1/tasks/{task.name}/jobs"},
    }


def _description(task: AnyTask) -> str | None:
    import sys

    module = sys.modules.get(task.input.__module__)
    documented = module.__doc__ if module else None
    return documented.strip().partition("\n")[0] if documented else None


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request, key: AnyKey) -> Response:
    """The OpenAPI document, for those who may call what is in it."""
    del key
    return json_response(request.app.openapi())


@router.get(
    "/healthz",
    operation_id="healthz",
    summary="Whether the process lives",
    responses={200: answers({200: "Health"})[200]},
)
async def healthz() -> Response:
    """It answers. A failure means: restart it."""
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether it can serve",
    responses={name: each for name, each in answers({200: "Health"}).items() if name in (200, 503)},
)
async def readyz(request: Request) -> Response:
    """Postgres can be reached and has the schema of this code. A failure means: send it nothing."""
    readiness: Readiness = request.app.state.readiness
    if (problem := await readiness.problem(request)) is not None:
        raise Problem(503, "not-ready", problem, headers={"retry-after": "2"})
    return json_response({"status": "ok"})


class Readiness:
    """Asks Postgres once a second at most, however often it is asked itself: it needs no key."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._until = 0.0
        self._problem: str | None = None

    async def problem(self, request: Request) -> str | None:
        """Why nothing should be sent here; None when all is well."""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._problem = await _look(request)
                self._until = time.monotonic() + _FRESH_SECONDS
        return self._problem


async def _look(request: Request) -> str | None:
    here = context(request)
    if here.stopping.is_set():
        return "This process is about to stop."
    try:
        await here.database.read(_require_head)
    except StorageUnavailable:
        return "Postgres cannot be reached."
    except SchemaMismatch as error:
        return f"{error}"
    return None


def _require_head(connection: Connection) -> None:
    require_head(connection)
