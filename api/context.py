"""What the routes share: made when the process starts, ended when it stops."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import Request

from api.body import Bodies
from api.database import Database
from api.validity import Validity
from api.waiting import Places, Turns
from api.writer import Writer
from worker.engine.registry import Registry


@dataclass(frozen=True, slots=True)
class Context:
    """What a request works with.

    `stopping` is set when the process has been asked to end; who holds `slices` may keep the loop
    for a few milliseconds; `models` is the model of each task's jobs, as JSON.
    """

    registry: Registry
    models: str
    database: Database
    writer: Writer
    places: Places
    bodies: Bodies
    batches: Turns
    slices: asyncio.Lock
    validity: Validity
    stopping: asyncio.Event


def context(request: Request) -> Context:
    """That of the application which got the request."""
    found: Context = request.app.state.context
    return found
