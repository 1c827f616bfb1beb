"""Jobs' ends on their way to webhooks: what came of them, and the log of it.

A trigger writes the rows, in the transaction of the end. What fails is due again after a pause that
grows, for a day. What is posted now, and by whom, is `webhook_queue`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from worker.storage.retention import delete_old
from worker.storage.webhook_queue import Ended

_DELIVERED = text("""
UPDATE webhook_deliveries
SET delivered_at = now(), next_attempt_at = NULL, status = :status, error = NULL
WHERE id = :id
""")


def delivered(connection: Connection, delivery_id: UUID, status: int) -> None:
    """Note that the webhook took it."""
    connection.execute(_DELIVERED, {"id": delivery_id, "status": status})


# Only the newest attempt counts: what a slow one has to say is old, and a success stands. Nothing
# is put off beyond its end, so that what is over is found there.
_FAILED = text("""
UPDATE webhook_deliveries
SET status = :status, error = :error,
    next_attempt_at = CASE WHEN cast(:after AS float) IS NOT NULL THEN
        least(now() + make_interval(secs => :after), greatest(now(), give_up_at)) END
WHERE id = :id AND attempts = :attempt AND delivered_at IS NULL
""")


def delivery_failed(
    connection: Connection, ended: Ended, error: str, *, status: int | None, after: float | None
) -> None:
    """Note why the webhook did not take it; due again in `after` seconds (None: given up)."""
    values = {"id": ended.id, "attempt": ended.attempt, "error": error}
    connection.execute(_FAILED, values | {"status": status, "after": after})


_GIVE_UP = text("""
WITH given_up AS (
    UPDATE webhook_deliveries
    SET next_attempt_at = NULL, error = coalesce(error, 'no attempt was made in time')
    WHERE id IN (
        SELECT id FROM webhook_deliveries
        WHERE next_attempt_at <= now() AND give_up_at <= now()
        ORDER BY give_up_at
        LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
    RETURNING host
)
SELECT host, count(*) AS deliveries FROM given_up GROUP BY host ORDER BY host
""")


def give_up(connection: Connection, *, limit: int = 500) -> dict[str, int]:
    """Stop trying what has been tried for a day; returns how many, by host."""
    return {row.host: row.deliveries for row in connection.execute(_GIVE_UP, {"limit": limit})}


_LIST = text("""
SELECT id, job_id, service, task, state, finished_at, url, host, created_at, attempts,
       next_attempt_at, delivered_at, status, error
FROM webhook_deliveries
WHERE created_at >= :since AND (NOT :undelivered OR delivered_at IS NULL)
  AND (cast(:job_id AS uuid) IS NULL OR job_id = :job_id)
ORDER BY created_at DESC LIMIT :limit
""")


def list_deliveries(
    connection: Connection,
    *,
    since: datetime,
    undelivered: bool = False,
    job_id: UUID | None = None,
    limit: int = 100,
) -> Sequence[RowMapping]:
    """Deliveries of jobs that ended since then, the newest first."""
    values = {"since": since, "undelivered": undelivered, "job_id": job_id, "limit": limit}
    return connection.execute(_LIST, values).mappings().all()


_RETRY = text("""
UPDATE webhook_deliveries
SET next_attempt_at = now(), give_up_at = now() + interval '24 hours', attempts = 0,
    delivered_at = NULL
WHERE (cast(:ids AS uuid[]) IS NOT NULL AND id = ANY(:ids))
   OR (cast(:ids AS uuid[]) IS NULL AND next_attempt_at IS NULL AND delivered_at IS NULL
       AND created_at >= :since)
RETURNING id
""")


def retry(connection: Connection, *, ids: Sequence[UUID] | None, since: datetime) -> set[UUID]:
    """Post these once more, for a day: those named, or all that were given up since then."""
    values = {"ids": None if ids is None else list(ids), "since": since}
    return set(connection.execute(_RETRY, values).scalars())


_PRUNE = delete_old("webhook_deliveries", "created_at")


def prune(connection: Connection, *, older_than: float, limit: int = 500) -> int:
    """Delete what is older than so many seconds; returns how many."""
    return connection.execute(_PRUNE, {"older_than": older_than, "limit": limit}).rowcount
