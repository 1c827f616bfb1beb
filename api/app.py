"""The application: `uvicorn --factory api.app:create_app`, which `claude-jobs api` runs."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from api import batches, catalog, events, jobs, page
from api.access import Keys
from api.body import Bodies
from api.context import Context
from api.database import Database
from api.envelope import Envelope
from api.openapi import document
from api.problems import Problem, handle
from api.rates import Rates
from api.typed import task_router
from api.validity import Validity
from api.waiting import Places, Turns
from api.writer import Writer
from worker import logs
from worker.engine.hearing import HearingLoop
from worker.engine.known import register_tasks
from worker.engine.registry import Registry, load_registry
from worker.errors import ClaudeJobsError
from worker.settings import Settings, get_settings
from worker.storage.engine import get_engine
from worker.storage.schema import require_head

log = structlog.get_logger(__name__)

_DESCRIPTION = """Background jobs for Claude: enqueue, watch, cancel.

Every request needs a key, made by `claude-jobs keys create`, as `Authorization: Bearer cj_…` or in
`X-API-Key`; it sees the jobs of its own service only. Every error is an RFC 9457 problem."""


def create_app() -> FastAPI:
    """The gateway, from the environment's settings; Postgres is asked for when it starts.

    Raises:
        ConfigurationError: a setting, a task or a prompt is wrong.
    """
    settings, registry = get_settings(), load_registry()
    logs.configure(settings.log_level, as_json=settings.environment == "production")
    return _routed(
        registry,
        lifespan=partial(_lifespan, registry, settings),
        middleware=_middleware(settings),
        exception_handlers={
            Problem: handle,
            ClaudeJobsError: handle,
            HTTPException: handle,
            RequestValidationError: handle,
        },
    )


def describe() -> dict[str, Any]:
    """The OpenAPI document, for which no setting and no server is needed.

    Raises:
        ConfigurationError: a task or a prompt is wrong.
    """
    return _routed(load_registry()).openapi()


def _routed(registry: Registry, **options: Any) -> FastAPI:
    app = FastAPI(
        title="claude-jobs",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,  # these would load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        **options,
    )
    typed = [task_router(task) for task in registry.values()]
    for router in (jobs.router, batches.router, events.router, *typed, catalog.router, page.router):
        app.include_router(router)
    _set_openapi(app, registry)
    return app


def _set_openapi(app: FastAPI, registry: Registry) -> None:
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(document(app, registry))
        return made

    app.openapi = openapi  # type: ignore[method-assign]


def _middleware(settings: Settings) -> list[Middleware]:
    layers = [Middleware(Envelope, access_log=settings.api_access_log)]
    if settings.api_cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.api_cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "Authorization",
                "X-API-Key",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
            ],
            expose_headers=["Location", "Retry-After", "RateLimit", "X-Request-Id"],
        )
        layers.append(cors)
    return layers


@asynccontextmanager
async def _lifespan(
    registry: Registry, settings: Settings, app: FastAPI
) -> AsyncIterator[dict[str, Any]]:
    # One connection is left for whoever waits for jobs.
    database = Database(max(settings.database_pool_size - 1, 1))
    await database.run(_prepare, registry)
    stopping = asyncio.Event()
    app.state.context = Context(
        registry=registry,
        models=json.dumps(registry.models()),
        database=database,
        writer=Writer(database),
        places=Places(settings.api_streams),
        bodies=Bodies(settings.api_body_bytes),
        batches=Turns(batches.AT_ONCE),
        slices=asyncio.Lock(),
        validity=Validity(database),
        stopping=stopping,
    )
    app.state.keys = Keys(database)
    app.state.rates = Rates(settings.redis_url)
    app.state.readiness = catalog.Readiness()
    hearing = HearingLoop(settings)
    hearing.start()
    # What is loaded stays: to look through it for garbage would take the loop 50 ms each time.
    gc.collect()
    gc.freeze()
    log.info("the gateway serves", tasks=len(registry))
    # The server's protocol finds it here, and sets it when it is told to stop.
    yield {"stopping": stopping}
    hearing.stop(timeout=0)
    app.state.context.validity.close()
    await app.state.rates.close()
    database.close()
    get_engine().dispose()


def _prepare(connection: Connection, registry: Registry) -> None:
    require_head(connection)
    register_tasks(connection, registry)
