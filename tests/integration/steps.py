"""The steps of a job's life, for tests of the statements behind them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine

from worker.engine.dispatch import Batch, Capacity, Dispatcher, unlimited
from worker.settings import Settings
from worker.storage import settle
from worker.storage.claim import Claim, FirstCall, Terms, claim_job, open_call
from worker.storage.engine import transaction
from worker.storage.enqueue import NewJob, insert_jobs, new_job_id
from worker.storage.settle import CallRecord

ERROR = {"type": "test", "message": "…", "attempt": 1}
TERMS = Terms("w", lease_seconds=30, deadline_seconds=600)
CALL = FirstCall(call_model="m", prompt="p", call_version="1", prompt_sha256="0")
SETTINGS = Settings(DATABASE_URL="postgresql://host/unused", REDIS_URL="redis://host")


def new_job(**options: Any) -> NewJob:
    return NewJob(**{"task": "t", "input": "{}", "id": new_job_id()} | options)


def enqueue(engine: Engine, *jobs: NewJob) -> list[UUID]:
    with transaction(engine) as connection:
        return insert_jobs(connection, jobs or [new_job()])


def claim(connection: Connection, job_id: UUID) -> Claim | None:
    return claim_job(connection, job_id, TERMS)


def open_usage(connection: Connection, claimed: Claim) -> int:
    return open_call(connection, claimed, CALL)


def run(connection: Connection, job: NewJob) -> tuple[Claim, int]:
    """Insert a job, claim it and open its usage row."""
    insert_jobs(connection, [job])
    dispatch(connection)
    taken = claim(connection, job.id)
    assert taken is not None
    return taken, open_usage(connection, taken)


def succeed(
    connection: Connection, taken: Claim, usage_id: int, request_sha256: str | None = None
) -> bool:
    success = settle.succeed(
        connection,
        taken,
        usage_id,
        CallRecord(outcome="ok", input_tokens=5, complete=True),
        output='{"a": 1}',
        prompt="p",
        prompt_version="1",
        model="m",
        request_sha256=request_sha256,
    )
    return success is not None


def requeue(connection: Connection, taken: Claim, usage_id: int) -> bool:
    record = CallRecord(outcome="overloaded")
    return settle.requeue(connection, taken, usage_id, record, after=5, error=ERROR)


def fail(connection: Connection, taken: Claim, usage_id: int) -> bool:
    record = CallRecord(outcome="refused")
    return settle.fail(connection, taken, usage_id, record, error=ERROR)


def cancel(connection: Connection, taken: Claim, usage_id: int) -> bool:
    return settle.cancel(connection, taken, usage_id, CallRecord(outcome="interrupted"))


def dispatcher(capacity: Capacity = unlimited, **settings: Any) -> Dispatcher:
    """A dispatcher of jobs whose task `t` runs on the model `m`."""
    return Dispatcher(SETTINGS.model_copy(update=settings), {"t": "m"}, capacity)


def dispatch(connection: Connection, *, batch: int = 10, **settings: Any) -> Batch:
    """One look of a fresh dispatcher."""
    return dispatcher(**settings).dispatch(connection, batch)
