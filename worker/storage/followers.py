"""Jobs that wait for a request like theirs: what is done with them once it has ended.

Every statement takes a bounded number of rows with SKIP LOCKED and looks at their state again: a
job that somebody is cancelling is left to them. What is skipped is found by the next look.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from worker.storage.finished import say_finished
from worker.storage.lane_leaders import is_lane_key, request_of

#: Jobs per statement: their commit holds up no other one for long.
PIECE = 500

_WAITING = "state = 'queued' AND waits_for = :key"

_CLASS = 0x636C6A66  # of advisory locks: one process at a time looks after a request's followers

_TRY = text("SELECT pg_try_advisory_xact_lock(:class, hashtext(:key))")


def try_lock(connection: Connection, key: str) -> bool:
    """Whether this transaction may look after the request's followers; no other one may then."""
    return bool(connection.execute(_TRY, {"class": _CLASS, "key": key}).scalar_one())


# From each request straight to the next, however many wait for it.
_ORPHANED = text("""
WITH RECURSIVE waited AS (
    (SELECT waits_for AS key FROM jobs WHERE state = 'queued' AND waits_for IS NOT NULL
     ORDER BY waits_for LIMIT 1)
    UNION ALL
    SELECT later.key FROM waited CROSS JOIN LATERAL (
        SELECT waits_for AS key FROM jobs
        WHERE state = 'queued' AND waits_for IS NOT NULL AND waits_for > waited.key
        ORDER BY waits_for LIMIT 1) AS later
)
SELECT key FROM waited
WHERE NOT EXISTS (
    SELECT FROM request_leaders AS leader JOIN jobs ON jobs.id = leader.job_id
    WHERE leader.request_sha256 = key AND jobs.claim_token = leader.claim_token
      AND jobs.state = 'running')
""")


def orphaned(connection: Connection) -> list[str]:
    """The requests that are waited for and that nobody is making at this moment."""
    return list(connection.execute(_ORPHANED).scalars())


_FORGET = text("""
DELETE FROM request_leaders AS leader
WHERE NOT EXISTS (
    SELECT FROM jobs WHERE jobs.id = leader.job_id AND jobs.claim_token = leader.claim_token
      AND jobs.state = 'running')
  AND NOT EXISTS (
    SELECT FROM jobs WHERE state = 'queued' AND waits_for = leader.request_sha256)
""")


def forget_leaders(connection: Connection) -> int:
    """Delete what workers that died left of requests that nobody waits for; returns how many."""
    return connection.execute(_FORGET).rowcount


@dataclass(frozen=True, slots=True)
class Situation:
    """A request that is waited for: one that waits, who leads it, and a result if there is one.

    `leading`: the leader's claim runs; `in_lane`: its job is one of the batch lane. `state` None:
    there is no leader, or its job is gone. `due_in` and `idle`, in seconds: until that job is due;
    since then, and since it was chosen.
    """

    task: str
    input: dict[str, Any]
    leader: UUID | None
    leader_token: UUID | None
    leading: bool
    state: str | None
    waits: bool
    in_lane: bool
    due_in: float
    idle: float
    attempt: int
    max_attempts: int
    rescues: int
    error: dict[str, Any] | None
    result: UUID | None
    output: str | None


_SITUATION = text(f"""
SELECT follower.task, follower.input, leader.job_id AS leader, leader.claim_token AS leader_token,
       coalesce(job.state = 'running' AND job.claim_token = leader.claim_token, false) AS leading,
       job.state, job.waits_for IS NOT NULL AS waits,
       coalesce(job.lane = 'batch', false) AS in_lane,
       coalesce(extract(epoch FROM job.run_at - now())::float, 0) AS due_in,
       coalesce(extract(epoch FROM now() - greatest(job.run_at, leader.created_at))::float, 0)
           AS idle,
       coalesce(job.attempt, 0) AS attempt, coalesce(job.max_attempts, 0) AS max_attempts,
       coalesce(job.rescues, 0) AS rescues, job.error, result.job_id AS result,
       result.output::text AS output
FROM (SELECT task, input FROM jobs WHERE {_WAITING} LIMIT 1) AS follower
LEFT JOIN request_leaders AS leader ON leader.request_sha256 = :key
LEFT JOIN jobs AS job ON job.id = leader.job_id
LEFT JOIN LATERAL (
    SELECT job_id, output FROM results WHERE request_sha256 = :request
    ORDER BY created_at DESC LIMIT 1) AS result ON true
""")  # noqa: S608 – built from the constant above


def situation(connection: Connection, key: str) -> Situation | None:
    """How it stands with a request; None if nobody waits for it."""
    values = {"key": key, "request": request_of(key)}
    row = connection.execute(_SITUATION, values).one_or_none()
    return None if row is None else Situation(*row)


# Who was enqueued before the result came shares it; who came later is served it, within the window.
_COMPLETE = text(f"""
WITH source AS (
    SELECT results.*,
           (SELECT sum(full_cost_usd) FROM usage WHERE usage.job_id = :source) AS full_cost_usd,
           (SELECT max(schema_sha256) FROM usage WHERE usage.job_id = :source) AS schema_sha256
    FROM results WHERE job_id = :source
), due AS (
    SELECT id FROM jobs
    WHERE {_WAITING} AND (
        created_at <= (SELECT created_at FROM source)
        OR (SELECT created_at FROM source) > now() - make_interval(secs => :window))
    ORDER BY priority, run_at LIMIT :limit
    FOR UPDATE SKIP LOCKED
), settled AS (
    UPDATE jobs
    SET state = 'succeeded', finished_at = now(), started_at = coalesce(started_at, now()),
        attempt = attempt + 1, waits_for = NULL, error = NULL
    FROM due WHERE jobs.id = due.id AND jobs.state = 'queued'
    RETURNING jobs.id, jobs.task, jobs.user_id, jobs.service, jobs.attempt,
              CASE WHEN jobs.prompt_version IS NOT NULL THEN 'pinned' END AS pinned
), recorded AS (
    INSERT INTO results (job_id, task, user_id, output, prompt, prompt_version, model, source,
                         warnings, prompt_sha256, variant, service, source_job_id)
    SELECT settled.id, settled.task, settled.user_id, source.output, source.prompt,
           source.prompt_version, source.model, 'cache', source.warnings, source.prompt_sha256,
           coalesce(settled.pinned, nullif(source.variant, 'pinned')), settled.service,
           source.job_id
    FROM settled, source
), metered AS (
    INSERT INTO usage (job_id, task, user_id, attempt, call, outcome, model, prompt, prompt_version,
                       prompt_sha256, cost_usd, full_cost_usd, complete, finished_at, inspected,
                       variant, schema_sha256, service, source, source_job_id, coalesced)
    SELECT settled.id, settled.task, settled.user_id, settled.attempt, 1, 'ok', source.model,
           source.prompt, source.prompt_version, source.prompt_sha256, 0, source.full_cost_usd,
           true, now(), true, coalesce(settled.pinned, nullif(source.variant, 'pinned')),
           source.schema_sha256, settled.service, 'cache', source.job_id, true
    FROM settled, source
)
SELECT id FROM settled
""")  # noqa: S608


def complete(connection: Connection, key: str, source: UUID, *, window: float) -> list[UUID]:
    """End up to `PIECE` followers with copies of the result of the job `source`."""
    values = {"key": key, "source": source, "window": window, "limit": PIECE}
    return _ended(connection, connection.execute(_COMPLETE, values).scalars().all())


_FAIL = text(f"""
WITH due AS (
    SELECT id FROM jobs
    WHERE {_WAITING} AND max_attempts <= cast(:most_attempts AS integer)
    ORDER BY priority, run_at LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET state = 'failed', finished_at = now(), waits_for = NULL,
                error = cast(:error AS jsonb)
FROM due WHERE jobs.id = due.id AND jobs.state = 'queued'
RETURNING jobs.id
""")  # noqa: S608


def fail(
    connection: Connection, key: str, error: dict[str, Any], *, most_attempts: int
) -> list[UUID]:
    """End up to `PIECE` followers that may not have more than `most_attempts` with `error`."""
    values = {
        "key": key,
        "error": json.dumps(error),
        "most_attempts": most_attempts,
        "limit": PIECE,
    }
    return _ended(connection, connection.execute(_FAIL, values).scalars().all())


def _ended(connection: Connection, ids: Any) -> list[UUID]:
    say_finished(connection, ids)
    return list(ids)


_PROMOTE = text(f"""
WITH first AS (
    SELECT id FROM jobs WHERE {_WAITING} AND (lane <> 'batch' OR :in_lane)
    ORDER BY priority, run_at LIMIT 1
    FOR UPDATE SKIP LOCKED
), promoted AS (
    UPDATE jobs
    SET waits_for = NULL, rescues = greatest(rescues, :rescues),
        attempt = greatest(attempt, least(:attempt, max_attempts - 1))
    FROM first WHERE jobs.id = first.id AND jobs.state = 'queued'
    RETURNING jobs.id
), chosen AS (
    INSERT INTO request_leaders (request_sha256, job_id, followed)
    SELECT cast(:key AS text), id, true FROM promoted
    ON CONFLICT (request_sha256) DO UPDATE
    SET job_id = excluded.job_id, claim_token = NULL, followed = true, created_at = now()
    WHERE request_leaders.job_id = cast(:leader AS uuid)
      AND request_leaders.claim_token IS NOT DISTINCT FROM cast(:leader_token AS uuid)
)
SELECT id, pg_notify('claude_jobs_due', '') FROM promoted
""")  # noqa: S608


def promote(
    connection: Connection, key: str, seen: Situation, *, attempt: int, rescues: int
) -> UUID | None:
    """Have the most urgent follower dispatched, in the place of the leader that was seen.

    It takes on the attempts and rescues that the request has cost so far. A job of the batch lane
    goes ahead of others of the lane only.
    """
    values = {
        "key": key,
        "in_lane": is_lane_key(key),
        "leader": seen.leader,
        "leader_token": seen.leader_token,
        "attempt": attempt,
        "rescues": rescues,
    }
    row = connection.execute(_PROMOTE, values).one_or_none()
    return None if row is None else row[0]


_RELEASE = text(f"""
WITH due AS (
    SELECT id FROM jobs WHERE {_WAITING} AND (lane = 'batch' OR NOT :lane_only)
    ORDER BY priority, run_at LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET waits_for = NULL FROM due WHERE jobs.id = due.id AND jobs.state = 'queued'
""")  # noqa: S608

_WAKE = text("SELECT pg_notify('claude_jobs_due', '')")


def release(connection: Connection, key: str, *, lane_only: bool = False) -> int:
    """Let up to `PIECE` followers go on as if they had never waited, or those of the batch lane."""
    values = {"key": key, "limit": PIECE, "lane_only": lane_only}
    released = connection.execute(_RELEASE, values).rowcount
    if released:
        connection.execute(_WAKE)
    return released
