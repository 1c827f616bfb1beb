"""Gathering: which jobs wait for a batch, and how they get into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from worker.storage.batch_members import CLAIM_COLUMNS, WAKE, worker_of
from worker.storage.claim import Claim, FirstCall
from worker.storage.rescue import MAX_RESCUES

#: Days: Claude keeps results for 29 from a batch's creation.
_LEASE_DAYS = 31
#: A batch's own day does not count towards the seconds that a task gives a job.
_BATCH_HOURS = 24


class Kind(NamedTuple):
    """Jobs of one task and one model; '' is the task's own."""

    task: str
    model: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many jobs of a kind are due, and for how many seconds the oldest of them has been."""

    kind: Kind
    jobs: int
    oldest: float


_WAITING = text("""
WITH RECURSIVE kinds AS (
    (SELECT task, coalesce(model, '') AS model FROM jobs
     WHERE state = 'queued' AND lane = 'batch' AND waits_for IS NULL
     ORDER BY task, coalesce(model, '') LIMIT 1)
    UNION ALL
    SELECT later.* FROM kinds CROSS JOIN LATERAL (
        SELECT task, coalesce(model, '') FROM jobs
        WHERE state = 'queued' AND lane = 'batch' AND waits_for IS NULL
          AND (task, coalesce(model, '')) > (kinds.task, kinds.model)
        ORDER BY task, coalesce(model, '') LIMIT 1) AS later
)
SELECT task, model, due.jobs, due.oldest FROM kinds CROSS JOIN LATERAL (
    SELECT count(*) AS jobs, extract(epoch FROM now() - min(run_at))::float AS oldest FROM (
        SELECT run_at FROM jobs
        WHERE state = 'queued' AND lane = 'batch' AND waits_for IS NULL AND task = kinds.task
          AND coalesce(model, '') = kinds.model AND run_at <= now() AND (
              user_id IS NULL OR user_id <> ALL(cast(:not_of AS text[])))
        ORDER BY run_at LIMIT :most) AS first
) AS due
WHERE due.jobs > 0
""")


def waiting(connection: Connection, most: int, not_of: Sequence[str] = ()) -> list[Waiting]:
    """The kinds of jobs that wait for a batch, but for those of the users in `not_of`.

    Of each kind, no more than `most` are counted.
    """
    rows = connection.execute(_WAITING, {"most": most, "not_of": list(not_of)})
    return [Waiting(Kind(row.task, row.model), row.jobs, row.oldest) for row in rows]


_TAKEN = CLAIM_COLUMNS.replace(
    "jobs.deadline_at",
    f"coalesce(jobs.deadline_at, "
    f"now() + make_interval(hours => {_BATCH_HOURS}, secs => due.seconds))",
)
_TAKE = text(f"""
WITH due AS (
    SELECT first.id, wanted.seconds
    FROM unnest(cast(:tasks AS text[]), cast(:models AS text[]), cast(:seconds AS float[]))
      AS wanted (task, model, seconds)
    CROSS JOIN LATERAL (
        SELECT id FROM jobs
        WHERE state = 'queued' AND lane = 'batch' AND waits_for IS NULL AND task = wanted.task
          AND coalesce(model, '') = wanted.model AND run_at <= now() AND rescues < :suspect
          AND (deadline_at IS NULL OR deadline_at >= now() + make_interval(secs => :safe))
          AND (user_id IS NULL OR user_id <> ALL(cast(:not_of AS text[])))
        ORDER BY run_at LIMIT :limit
        FOR UPDATE SKIP LOCKED) AS first
    LIMIT :limit
)
UPDATE jobs
SET state = 'running', attempt = attempt + 1, claim_token = gen_random_uuid(), worker = 'batch',
    lease_expires_at = now() + make_interval(days => {_LEASE_DAYS}), started_at = now()
FROM due WHERE jobs.id = due.id
RETURNING {_TAKEN}
""")  # noqa: S608


def take(
    connection: Connection,
    kinds: Mapping[Kind, float],
    *,
    safe: float,
    limit: int,
    not_of: Sequence[str] = (),
) -> list[Claim]:
    """Claim up to `limit` due jobs of these kinds for a batch, the oldest of each kind first.

    A kind's value is the seconds that its task gives a job; the day of the batch comes on top. They
    are the job's from `set_deadlines` on. Left out are the users in `not_of`, and what `leave_lane`
    would take, with the same `safe` seconds to the deadline.
    """
    values = {
        "tasks": [kind.task for kind in kinds],
        "models": [kind.model for kind in kinds],
        "seconds": list(kinds.values()),
        "limit": limit,
        "suspect": MAX_RESCUES,
        "safe": safe,
        "not_of": list(not_of),
    }
    return [Claim(*row) for row in connection.execute(_TAKE, values)]


_SET_DEADLINES = text("""
UPDATE jobs SET deadline_at = started_at + make_interval(secs => given.seconds)
FROM unnest(cast(:ids AS uuid[]), cast(:tokens AS uuid[]), cast(:seconds AS float[]))
  AS given (id, token, seconds)
WHERE jobs.id = given.id AND jobs.claim_token = given.token AND jobs.state = 'running'
  AND jobs.deadline_at IS NULL
""")


def set_deadlines(connection: Connection, claims: Sequence[Claim]) -> None:
    """Begin the time of members that have no deadline of their own; to be committed before sending.

    Not when they are claimed: what goes back to wait in the lane has all of its time again.
    """
    values = {
        "ids": [claim.id for claim in claims],
        "tokens": [claim.token for claim in claims],
        "seconds": [claim.seconds_left for claim in claims],
    }
    connection.execute(_SET_DEADLINES, values)


_JOIN = text("""
WITH joining AS (
    SELECT * FROM unnest(
        cast(:ids AS uuid[]), cast(:models AS text[]), cast(:prompts AS text[]),
        cast(:versions AS text[]), cast(:hashes AS text[]), cast(:variants AS text[]),
        cast(:schemas AS text[]))
      AS joining (id, model, prompt, version, sha256, variant, schema_sha256)
), placed AS (
    UPDATE jobs SET worker = :worker FROM joining WHERE jobs.id = joining.id
)
INSERT INTO usage (job_id, task, user_id, service, attempt, call, model, prompt, prompt_version,
                   prompt_sha256, variant, schema_sha256, source, batch_id)
SELECT jobs.id, jobs.task, jobs.user_id, jobs.service, jobs.attempt, 1, joining.model,
       joining.prompt, joining.version, joining.sha256, joining.variant, joining.schema_sha256,
       'batch', :batch_id
FROM joining JOIN jobs ON jobs.id = joining.id
RETURNING job_id, id
""")


def join(
    connection: Connection, batch_id: UUID, members: Sequence[tuple[Claim, FirstCall]]
) -> dict[UUID, int]:
    """Put claimed jobs into a batch and open their calls; returns each job's usage row."""
    calls = [call for _, call in members]
    values = {
        "ids": [claim.id for claim, _ in members],
        "models": [call.call_model for call in calls],
        "prompts": [call.prompt for call in calls],
        "versions": [call.call_version for call in calls],
        "hashes": [call.prompt_sha256 for call in calls],
        "variants": [call.variant for call in calls],
        "schemas": [call.schema_sha256 for call in calls],
        "worker": worker_of(batch_id),
        "batch_id": batch_id,
    }
    return {row.job_id: row.id for row in connection.execute(_JOIN, values)}


_PUT_BACK = text("""
UPDATE jobs
SET state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END,
    finished_at = CASE WHEN cancel_requested THEN now() END, attempt = attempt - 1,
    run_at = now() + make_interval(secs => :after), claim_token = NULL, lease_expires_at = NULL
WHERE id = :id AND claim_token = :token AND state = 'running'
""")


def put_back(connection: Connection, claim: Claim, after: float) -> None:
    """Return a job to the lane, before its call was opened, for `after` seconds at least."""
    connection.execute(_PUT_BACK, {"id": claim.id, "token": claim.token, "after": after})


_MOVE = text("""
WITH moved AS (
    UPDATE usage SET batch_id = :batch_id
    WHERE id = :usage_id AND outcome = 'in_flight' RETURNING job_id
)
UPDATE jobs SET worker = :worker FROM moved
WHERE jobs.id = moved.job_id AND state = 'running' AND claim_token = :token
""")


def move(connection: Connection, claim: Claim, usage_id: int, batch_id: UUID) -> None:
    """Put a member into another batch, before either has been sent."""
    values = {"batch_id": batch_id, "usage_id": usage_id, "token": claim.token}
    connection.execute(_MOVE, values | {"worker": worker_of(batch_id)})


_UNSAFE = text("""
UPDATE jobs SET lane = 'interactive'
FROM (
    SELECT id FROM jobs
    WHERE state = 'queued' AND lane = 'batch' AND waits_for IS NULL
      AND (rescues >= :suspect OR deadline_at < now() + make_interval(secs => :safe))
    LIMIT :limit FOR UPDATE SKIP LOCKED
) AS unsafe
WHERE jobs.id = unsafe.id
""")


_UNSAFE_WAITING = text("""
UPDATE jobs SET lane = 'interactive', waits_for = NULL
FROM (
    SELECT id FROM jobs
    WHERE state = 'queued' AND lane = 'batch' AND waits_for IS NOT NULL
      AND deadline_at < now() + make_interval(secs => :safe)
    LIMIT :limit FOR UPDATE SKIP LOCKED
) AS unsafe
WHERE jobs.id = unsafe.id
""")


def leave_lane(connection: Connection, *, safe: float, limit: int = 1000) -> int:
    """Make jobs interactive that cannot wait for a batch; returns how many.

    Those whose deadline is in less than `safe` seconds, also where they wait for a request like
    theirs, and those that have used up their rescues.
    """
    values = {"safe": safe, "limit": limit}
    moved = connection.execute(_UNSAFE, values | {"suspect": MAX_RESCUES}).rowcount
    moved += connection.execute(_UNSAFE_WAITING, values).rowcount
    if moved:
        connection.execute(WAKE)
    return moved
