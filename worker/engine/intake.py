"""Jobs that arrive as a Celery message with their input, from producers that know only Celery."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid5

import structlog

from worker.engine.checks import storable
from worker.engine.registry import AnyTask
from worker.errors import Failure, InvalidInput
from worker.storage.engine import transaction
from worker.storage.enqueue import NewJob, adopt_job, insert_rejected

log = structlog.get_logger(__name__)


#: Celery lets a producer choose any text as task id; a row's id is a uuid.
_FOREIGN_IDS = UUID("8f9f4f0e-6f0e-4d1c-9c53-2f5a7f1f6d11")


def job_id_for(message_id: str) -> UUID:
    """The job id of a Celery task id: itself if it is a uuid, else one derived from it."""
    try:
        return UUID(message_id)
    except ValueError:
        return uuid5(_FOREIGN_IDS, message_id)


def adopt(
    task: AnyTask,
    job_id: UUID,
    args: Sequence[Any],
    values: Mapping[str, Any],
    user_id: object = None,
    cache: bool = True,
) -> Failure | None:
    """Give a message its row in `jobs`; a message that is delivered or sent twice is one job.

    An input that does not fit is kept as a failed job – the sender is gone, and nothing may be
    lost – and its failure is returned.
    """
    user = None if user_id is None else str(storable(str(user_id)))
    try:
        if args:
            raise InvalidInput(f"{task.name}: send the input as keyword arguments (kwargs={{…}})")
        job = replace(task.new_job(values, user_id=user, cache=cache), id=job_id)
    except InvalidInput as error:
        failure = Failure("invalid_input", "invalid input", str(error))
        _keep_failed(task.name, job_id, args, values, failure, user, task)
        return failure
    with transaction() as connection:
        adopt_job(connection, job)
    return None


def keep_unknown_task(
    name: str, job_id: UUID, args: Sequence[Any], values: Mapping[str, Any], known: str
) -> None:
    """Keep a message for a task that this code does not have, as a failed job."""
    failure = Failure("unknown_task", "unknown task", f"unknown task {name!r}; there are {known}")
    _keep_failed(name, job_id, args, values, failure)


def _keep_failed(
    name: str,
    job_id: UUID,
    args: Sequence[Any],
    values: Mapping[str, Any],
    failure: Failure,
    user_id: str | None = None,
    known: AnyTask | None = None,
) -> None:
    document = {**values, "args": list(args)} if args else dict(values)
    job = NewJob(
        task=name,
        input=json.dumps(storable(document)),
        id=job_id,
        user_id=user_id,
        max_attempts=known.max_attempts if known else 1,
        webhook_url=known.webhook_url if known else None,
    )
    with transaction() as connection:
        insert_rejected(connection, job, failure.as_json(attempt=0))
    log.error("job failed", error=failure.type, summary=failure.summary)
