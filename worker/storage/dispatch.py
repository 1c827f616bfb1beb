"""The relay's statements: due rows become messages, and what could not be sent comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from worker.storage.rescue import MAX_RESCUES

_NO_MODELS: Mapping[str, str] = {}

#: Dispatching is serialised over the fleet, so that the working set is an exact bound.
_DISPATCH_LOCK = 0x636C6A72


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What the message of a job says about it."""

    id: UUID
    task: str
    prompt_version: str | None
    user_id: str | None
    attempt: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs to publish, most urgent first; `full` when the working set has no more room."""

    jobs: list[Dispatched]
    full: bool


_LOCK = text("SELECT pg_advisory_xact_lock(:key)")

_WAITING = text("SELECT count(*) FROM jobs WHERE state = 'dispatched'")

# A job that has used up its rescues may be what kills the workers, or may have shared them with it.
# These have their last chance one at a time, so that the killer takes none of the others along.
_DISPATCH = text("""
WITH due AS (
    SELECT id, rescues FROM jobs
    WHERE state = 'queued' AND run_at <= now()
      AND (rescues < :suspect OR NOT EXISTS (
          SELECT FROM jobs AS other WHERE other.state = 'dispatched' AND other.rescues >= :suspect
          UNION ALL
          SELECT FROM jobs AS other WHERE other.state = 'running' AND other.rescues >= :suspect))
      AND NOT EXISTS (
          SELECT FROM pauses
          WHERE scope = 'all'
             OR (scope = 'task' AND name = jobs.task)
             OR (scope = 'model' AND name = coalesce(
                    jobs.model, cast(:models AS jsonb) ->> jobs.task)))
    ORDER BY priority, run_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET state = 'dispatched', dispatched_at = now()
FROM due
WHERE jobs.id = due.id
  AND (due.rescues < :suspect OR due.id = (SELECT id FROM due WHERE rescues >= :suspect LIMIT 1))
RETURNING jobs.id, jobs.task, jobs.prompt_version, jobs.user_id, jobs.attempt,
          jobs.priority, jobs.run_at
""")


def dispatch_due(
    connection: Connection, *, working_set: int, batch: int, models: Mapping[str, str] = _NO_MODELS
) -> Batch:
    """Mark up to `batch` due jobs as dispatched and return them.

    Never lets more than `working_set` jobs be dispatched at once, fleet-wide: the count is read
    after the lock was taken, so two relays do not fill the same room. The messages are to be
    published after the commit: one that arrives before its row says so would be dropped.

    Of the jobs that have used up their rescues, one is in flight at a time. What is paused stays
    where it is; `models` names the model that each task runs on, for jobs that do not choose one
    themselves.
    """
    connection.execute(_LOCK, {"key": _DISPATCH_LOCK})
    room = max(working_set - connection.execute(_WAITING).scalar_one(), 0)
    if room == 0:
        return Batch([], full=True)
    values = {
        "limit": min(room, batch),
        "models": json.dumps(dict(models)),
        "suspect": MAX_RESCUES,
    }
    rows = connection.execute(_DISPATCH, values).all()
    rows = sorted(rows, key=lambda row: (row.priority, row.run_at))
    jobs = [Dispatched(r.id, r.task, r.prompt_version, r.user_id, r.attempt) for r in rows]
    return Batch(jobs, full=len(jobs) == room)


_RECALL = text("""
UPDATE jobs SET state = 'queued', dispatched_at = NULL
WHERE id = ANY(:ids) AND state = 'dispatched'
""")


def recall(connection: Connection, ids: Sequence[UUID]) -> int:
    """Put dispatched jobs back whose message could not be published; returns how many."""
    return connection.execute(_RECALL, {"ids": list(ids)}).rowcount
