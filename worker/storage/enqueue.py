"""Enqueueing is an INSERT: it can share the producer's own transaction, and needs no broker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from worker.errors import IdempotencyConflict
from worker.storage.finished import say_finished


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job that is about to be inserted; `input` is JSON text that Postgres can store.

    `service` is who produced it, where that is known; `webhook_url` is told when it has ended;
    with `cache` its result may come from another job that makes the same request, or go to one.
    After `deadline_at` it is not tried again; None leaves that to the task, from the first claim.
    """

    task: str
    input: str
    id: UUID
    lane: str = "interactive"
    priority: int = 100
    user_id: str | None = None
    idempotency_key: str | None = None
    prompt_version: str | None = None
    model: str | None = None
    max_attempts: int = 5
    run_at: datetime | None = None
    stream: bool = False
    service: str | None = None
    webhook_url: str | None = None
    cache: bool = True
    deadline_at: datetime | None = None


# One array a column: the statement's text stays the same for one job and for ten thousand. Keys are
# inserted in order, so that two batches with the same keys wait for each other but never deadlock.
_INSERT = text("""
INSERT INTO jobs (id, task, input, lane, priority, user_id, idempotency_key, prompt_version,
                  model, max_attempts, run_at, stream, service, webhook_url, cache, deadline_at)
SELECT id, task, input, lane, priority, user_id, idempotency_key, prompt_version,
       model, max_attempts, coalesce(run_at, now()), stream, service, webhook_url, cache,
       deadline_at
FROM unnest(cast(:id AS uuid[]), cast(:task AS text[]), cast(:input AS jsonb[]),
            cast(:lane AS text[]), cast(:priority AS smallint[]), cast(:user_id AS text[]),
            cast(:idempotency_key AS text[]), cast(:prompt_version AS text[]),
            cast(:model AS text[]), cast(:max_attempts AS integer[]),
            cast(:run_at AS timestamptz[]), cast(:stream AS boolean[]),
            cast(:service AS text[]), cast(:webhook_url AS text[]), cast(:cache AS boolean[]),
            cast(:deadline_at AS timestamptz[]))
  AS new (id, task, input, lane, priority, user_id, idempotency_key, prompt_version,
          model, max_attempts, run_at, stream, service, webhook_url, cache, deadline_at)
ORDER BY task, idempotency_key, service
ON CONFLICT (task, idempotency_key, service) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING id, created_at
""")

_BY_KEY = text("""
SELECT existing.id, asked.place, existing.input = asked.input AS same_input
FROM unnest(cast(:service AS text[]), cast(:task AS text[]), cast(:key AS text[]),
            cast(:input AS jsonb[]))
  WITH ORDINALITY AS asked (service, task, key, input, place)
JOIN jobs AS existing ON existing.task = asked.task AND existing.idempotency_key = asked.key
    AND existing.service IS NOT DISTINCT FROM asked.service
""")


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of a job to be inserted.

    `id` is that of an older job if its idempotency key was taken: `created_at` is None then, and
    `same_input` says whether that job has the same input.
    """

    id: UUID
    created_at: datetime | None
    same_input: bool = True


def insert_jobs(connection: Connection, jobs: Sequence[NewJob]) -> list[UUID]:
    """Insert `jobs` and return their ids, in order.

    A job whose idempotency key exists already – for its task and service – is not inserted; the
    existing job's id takes its place, whatever that job's state.

    Raises:
        IdempotencyConflict: a key exists with a different input.
    """
    inserted = insert_each(connection, jobs)
    for job, became in zip(jobs, inserted, strict=True):
        if not became.same_input:
            raise IdempotencyConflict(
                f"idempotency key {job.idempotency_key!r} of {job.task} belongs to job "
                f"{became.id}, which has a different input: use a new key for a new request"
            )
    return [each.id for each in inserted]


def insert_each(connection: Connection, jobs: Sequence[NewJob]) -> list[Inserted]:
    """Insert `jobs` in one statement and return what became of each, in order.

    One whose idempotency key exists with a different input is left out; the others are inserted.
    """
    if not jobs:
        return []
    columns = NewJob.__dataclass_fields__
    values: dict[str, Any] = {name: [getattr(job, name) for job in jobs] for name in columns}
    values["input"] = _array(values["input"])
    inserted = {row.id: row.created_at for row in connection.execute(_INSERT, values)}
    became = {id_: Inserted(id_, created_at) for id_, created_at in inserted.items()}
    refused = [job for job in jobs if job.id not in inserted]
    became |= _existing(connection, refused) if refused else {}
    # The other job was pruned a moment ago: its key is free again.
    freed = [job for job in refused if job.id not in became]
    became |= zip((job.id for job in freed), insert_each(connection, freed), strict=True)
    return [became[job.id] for job in jobs]


def _existing(connection: Connection, jobs: Sequence[NewJob]) -> dict[UUID, Inserted]:
    asked = {
        "service": [job.service for job in jobs],
        "task": [job.task for job in jobs],
        "key": [job.idempotency_key for job in jobs],
        "input": _array(job.input for job in jobs),
    }
    rows = connection.execute(_BY_KEY, asked)
    return {jobs[row.place - 1].id: Inserted(row.id, None, row.same_input) for row in rows}


def _array(texts: Iterable[str]) -> str:
    """An array as Postgres reads it. The driver would escape character by character: 7 s for 30 MB
    of escapes, 1 s for as much prose."""
    escaped = (each.replace("\\", "\\\\").replace('"', '\\"') for each in texts)
    return '{"' + '","'.join(escaped) + '"}'


_ADOPT = text("""
INSERT INTO jobs (id, task, input, state, user_id, max_attempts, webhook_url, cache, dispatched_at)
VALUES (:id, :task, cast(:input AS jsonb), 'dispatched', :user_id, :max_attempts, :webhook_url,
        :cache, now())
ON CONFLICT DO NOTHING
""")


def adopt_job(connection: Connection, job: NewJob) -> None:
    """Insert a job whose Celery message has arrived already (`send_task` from any producer).

    The id is the message's, so a message that is delivered or sent twice is one job.
    """
    connection.execute(
        _ADOPT,
        {
            "id": job.id,
            "task": job.task,
            "input": job.input,
            "user_id": job.user_id,
            "max_attempts": job.max_attempts,
            "webhook_url": job.webhook_url,
            "cache": job.cache,
        },
    )


_REJECT = text("""
INSERT INTO jobs (id, task, input, state, user_id, max_attempts, webhook_url, error, finished_at)
VALUES (:id, :task, cast(:input AS jsonb), 'failed', :user_id, :max_attempts, :webhook_url,
        cast(:error AS jsonb), now())
ON CONFLICT DO NOTHING
""")


def insert_rejected(connection: Connection, job: NewJob, error: dict[str, object]) -> None:
    """Keep a message whose input cannot be run as a failed job, so that nothing is lost."""
    connection.execute(
        _REJECT,
        {
            "id": job.id,
            "task": job.task,
            "input": job.input,
            "user_id": job.user_id,
            "max_attempts": job.max_attempts,
            "webhook_url": job.webhook_url,
            "error": json.dumps(error),
        },
    )
    say_finished(connection, [job.id])


def new_job_id() -> UUID:
    """A fresh id."""
    return uuid4()
