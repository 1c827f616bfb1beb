"""Jobs' ends on their way to webhooks; a trigger writes the rows, in the transaction of the end.

To claim a delivery is to put it off by a minute: that is committed before anything is sent, so no
transaction is open meanwhile, and should the worker die, another one sends it then. What fails is
due again after a pause that grows, for a day.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

#: Seconds for which a claimed delivery is nobody else's: above the longest exchange.
CLAIM_SECONDS = 60.0
#: Due deliveries among which those of each host are counted.
_LOOK = 200


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a job, to be posted for the `attempt`-th time (from 1).

    `output` is what the job left, if that was asked for and is still there.
    """

    id: UUID
    url: str
    host: str
    attempt: int
    job_id: UUID
    service: str | None
    task: str
    state: str
    finished_at: datetime
    output: Any


# Of each host a few at a time: one that does not answer must not take every slot.
_CLAIM = text("""
WITH due AS (
    SELECT id, row_number() OVER (PARTITION BY host ORDER BY next_attempt_at) AS nth
    FROM (
        SELECT id, host, next_attempt_at FROM webhook_deliveries
        WHERE next_attempt_at <= now() AND host <> ALL(:busy)
        ORDER BY next_attempt_at
        LIMIT :look
    ) AS oldest
), claimed AS (
    UPDATE webhook_deliveries AS delivery
    SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => :claim)
    WHERE id IN (
        SELECT waiting.id FROM webhook_deliveries AS waiting JOIN due ON due.id = waiting.id
        WHERE waiting.next_attempt_at <= now() AND due.nth <= :per_host
        ORDER BY waiting.next_attempt_at
        LIMIT :limit
        FOR UPDATE OF waiting SKIP LOCKED
    )
    RETURNING id, url, host, attempts, job_id, service, task, state, finished_at
)
SELECT claimed.*, results.output FROM claimed
LEFT JOIN results ON :with_output AND claimed.state = 'succeeded'
    AND results.job_id = claimed.job_id
""")


def claim_deliveries(
    connection: Connection,
    *,
    limit: int,
    per_host: int,
    busy: Collection[str] = (),
    with_output: bool = False,
) -> list[Ended]:
    """Up to `limit` deliveries that are due, `per_host` of each host and none of a `busy` one."""
    values = {
        "limit": limit,
        "per_host": per_host,
        "busy": list(busy),
        "with_output": with_output,
        "claim": CLAIM_SECONDS,
        "look": _LOOK,
    }
    return [Ended(*row) for row in connection.execute(_CLAIM, values)]


_DELIVERED = text("""
UPDATE webhook_deliveries
SET delivered_at = now(), next_attempt_at = NULL, status = :status, error = NULL
WHERE id = :id
""")


def delivered(connection: Connection, delivery_id: UUID, status: int) -> None:
    """Note that the webhook took it."""
    connection.execute(_DELIVERED, {"id": delivery_id, "status": status})


# Only the newest attempt counts: what a slow one has to say is old, and a success stands.
_FAILED = text("""
UPDATE webhook_deliveries
SET status = :status, error = :error,
    next_attempt_at = now() + make_interval(secs => cast(:after AS float))
WHERE id = :id AND attempts = :attempt AND delivered_at IS NULL
""")


def delivery_failed(
    connection: Connection, ended: Ended, error: str, *, status: int | None, after: float | None
) -> None:
    """Note why the webhook did not take it; due again in `after` seconds (None: given up)."""
    values = {"id": ended.id, "attempt": ended.attempt, "error": error}
    connection.execute(_FAILED, values | {"status": status, "after": after})


_GIVE_UP = text("""
UPDATE webhook_deliveries
SET next_attempt_at = NULL, error = coalesce(error, 'no attempt was made in time')
WHERE next_attempt_at <= now() AND give_up_at <= now()
RETURNING id, job_id, host
""")


def give_up(connection: Connection) -> Sequence[RowMapping]:
    """Stop trying what has been tried for a day; returns which."""
    return connection.execute(_GIVE_UP).mappings().all()


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


_PRUNE = text("""
DELETE FROM webhook_deliveries WHERE id IN (
    SELECT id FROM webhook_deliveries
    WHERE created_at < now() - make_interval(secs => :older_than)
    ORDER BY created_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
""")


def prune(connection: Connection, *, older_than: float, limit: int = 500) -> int:
    """Delete what is older than so many seconds; returns how many."""
    return connection.execute(_PRUNE, {"older_than": older_than, "limit": limit}).rowcount
