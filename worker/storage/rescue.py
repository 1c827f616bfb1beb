"""What nobody is looking after any more: jobs of dead workers, lost messages, old rows.

Every statement here takes a bounded number of rows with SKIP LOCKED: any number of workers may
run them at any time, and none waits for another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from worker.storage.finished import say_finished
from worker.storage.retention import delete_old

#: A job whose worker died so often is failed: it is probably what kills them.
MAX_RESCUES = 3

_WORKER_LOST = json.dumps(
    {
        "type": "worker_lost",
        "message": f"its worker died {MAX_RESCUES + 1} times while running it",
    }
)


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job whose lease ran out, and what became of it."""

    id: UUID
    task: str
    worker: str | None
    state: str


_BEGIN = text("SELECT now()")


def begin(connection: Connection) -> None:
    """Fix this transaction's `now()`: what a lease is compared with is no later than the answer."""
    connection.execute(_BEGIN)


# Jobs in Message Batches are nobody's to rescue: no worker runs them (worker/batches).
# Right after Postgres was away, leases have run out that their workers had no chance to renew:
# they get `grace` seconds from its start. This is for workers started since: the others notice.
_RESCUE = text("""
WITH expired AS (
    SELECT id FROM jobs
    WHERE state = 'running' AND lane = 'interactive' AND lease_expires_at < now()
      AND now() - pg_postmaster_start_time() > make_interval(secs => :grace)
    ORDER BY lease_expires_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
), rescued AS (
    UPDATE jobs
    SET state = CASE WHEN cancel_requested THEN 'cancelled'
                     WHEN rescues < :max_rescues THEN 'queued' ELSE 'failed' END,
        finished_at = CASE WHEN cancel_requested OR rescues >= :max_rescues THEN now() END,
        error = CASE WHEN rescues < :max_rescues OR cancel_requested THEN error
                     ELSE cast(:worker_lost AS jsonb) END,
        attempt = attempt - 1, rescues = least(rescues + 1, :max_rescues), run_at = now(),
        dispatched_at = NULL, claim_token = NULL, lease_expires_at = NULL
    FROM expired WHERE jobs.id = expired.id
    RETURNING jobs.id, jobs.task, jobs.worker, jobs.state
), lost AS (
    UPDATE usage SET outcome = 'lost', finished_at = now()
    FROM rescued WHERE usage.job_id = rescued.id AND usage.outcome = 'in_flight'
)
SELECT * FROM rescued
""")


def rescue_expired(connection: Connection, *, grace: float, limit: int = 500) -> list[Rescued]:
    """Requeue jobs whose lease ran out; the call they had open becomes `lost`.

    A rescue costs no attempt; after `MAX_RESCUES` the job fails with `worker_lost`.
    """
    values = {
        "grace": grace,
        "limit": limit,
        "max_rescues": MAX_RESCUES,
        "worker_lost": _WORKER_LOST,
    }
    rescued = [Rescued(*row) for row in connection.execute(_RESCUE, values)]
    say_finished(connection, [each.id for each in rescued if each.state != "queued"])
    return rescued


# Messages are taken in the order in which they were sent. So a message is lost if one that was
# sent much later has been claimed – or if slots stand idle and yet nobody claims it.
_LOST = text("""
WITH progress AS (
    SELECT max(dispatched_at) AS newest, max(started_at) AS last_claim
    FROM jobs WHERE state = 'running' AND lane = 'interactive'
), stuck AS (
    SELECT id FROM jobs, progress
    WHERE state = 'dispatched'
      AND (dispatched_at < progress.newest - make_interval(secs => :patience)
           OR (:idle
               AND dispatched_at < now() - make_interval(secs => :patience)
               AND coalesce(progress.last_claim < now() - make_interval(secs => :patience), true)))
    ORDER BY dispatched_at
    LIMIT :limit
    FOR UPDATE OF jobs SKIP LOCKED
)
UPDATE jobs SET state = 'queued', dispatched_at = NULL
FROM stuck WHERE jobs.id = stuck.id
""")


def requeue_lost_messages(
    connection: Connection, *, idle: bool, patience: float, limit: int = 1000
) -> int:
    """Put back dispatched jobs whose message is gone; returns how many.

    `idle`: this worker has had free slots for `patience` seconds. A healthy backlog is left
    alone; where the guess is wrong, a second message loses the claim and is dropped.
    """
    values = {"idle": idle, "patience": patience, "limit": limit}
    return connection.execute(_LOST, values).rowcount


_PRUNE = delete_old("jobs", "finished_at", "state = :state")


def prune(connection: Connection, state: str, *, older_than: float, limit: int = 500) -> int:
    """Delete finished jobs, with their results, that ended `older_than` seconds ago or earlier.

    Their usage rows stay. Returns how many jobs were deleted.
    """
    values = {"state": state, "older_than": older_than, "limit": limit}
    return connection.execute(_PRUNE, values).rowcount


_FORGET = text("DELETE FROM workers WHERE seen_at < now() - make_interval(secs => :silent)")


def forget_workers(connection: Connection, *, silent: float) -> int:
    """Forget workers that have been silent for so many seconds; returns how many."""
    return connection.execute(_FORGET, {"silent": silent}).rowcount
