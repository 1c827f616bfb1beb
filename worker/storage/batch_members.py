"""The members of Message Batches: jobs that wait for one, are in one, or come back from one.

A member is a job that is `running` in the lane `batch` with `batch:<id>` as its worker, and has a
usage row `in_flight` with the batch's id. No worker holds it: its lease is longer than Claude keeps
results, and only whoever keeps the batch settles it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from worker.storage.claim import Claim, FirstCall
from worker.storage.finished import say_finished
from worker.storage.rescue import MAX_RESCUES

#: Of `jobs`, in the order of `Claim`.
CLAIM_COLUMNS = """
jobs.id, jobs.claim_token, jobs.task, jobs.input, jobs.user_id, jobs.prompt_version, jobs.model,
jobs.attempt, jobs.max_attempts, extract(epoch FROM jobs.deadline_at - now())::float, jobs.stream,
(SELECT coalesce(sum(input_tokens::bigint + cache_read_tokens + cache_write_5m_tokens
                     + cache_write_1h_tokens + output_tokens), 0)
 FROM usage WHERE usage.job_id = jobs.id),
(SELECT coalesce(sum(cost_usd), 0) FROM usage WHERE usage.job_id = jobs.id),
ARRAY(SELECT scope || ':' || name FROM pauses),
(SELECT coalesce(max(id), 0) FROM prompt_releases), jobs.service,
(SELECT coalesce(max(id), 0) FROM budgets), jobs.cache"""


@dataclass(frozen=True, slots=True)
class Member:
    """An open call of a batch. `claim` is None once its job does not wait for it any more.

    `leads`: it makes the request of that key for other jobs as well.
    """

    usage_id: int
    call: FirstCall
    claim: Claim | None
    leads: str | None = None


_MEMBERS = text(f"""
SELECT usage.id AS usage_id, usage.model AS call_model, usage.prompt,
       usage.prompt_version AS call_version, usage.prompt_sha256, usage.variant,
       usage.schema_sha256,
       (SELECT request_sha256 FROM request_leaders
        WHERE job_id = jobs.id AND request_leaders.claim_token = jobs.claim_token LIMIT 1),
       {CLAIM_COLUMNS}
FROM usage LEFT JOIN jobs
  ON jobs.id = usage.job_id AND jobs.state = 'running' AND jobs.lane = 'batch'
     AND jobs.worker = :worker
WHERE usage.batch_id = :batch_id AND usage.outcome = 'in_flight'
  AND (cast(:ids AS bigint[]) IS NULL OR usage.id = ANY(:ids))
ORDER BY usage.id LIMIT :limit
""")  # noqa: S608


def members(
    connection: Connection, batch_id: UUID, ids: Sequence[int] | None = None, *, limit: int = 1000
) -> list[Member]:
    """The calls of a batch that are open still, of those with these ids, or of all."""
    values = {
        "worker": worker_of(batch_id),
        "batch_id": batch_id,
        "ids": None if ids is None else list(ids),
        "limit": limit,
    }
    found = []
    for row in connection.execute(_MEMBERS, values):
        usage_id, call, leads, claim = row[0], FirstCall(*row[1:7]), row[7], row[8:]
        found.append(Member(usage_id, call, None if claim[0] is None else Claim(*claim), leads))
    return found


_ANY_WANTED = text("""
SELECT EXISTS (SELECT FROM jobs WHERE state = 'running' AND lane = 'batch' AND worker = :worker)
""")


def any_wanted(connection: Connection, batch_id: UUID) -> bool:
    """Whether any job still waits for the batch."""
    found = connection.execute(_ANY_WANTED, {"worker": worker_of(batch_id)}).scalar_one()
    return bool(found)


_ADOPT = text("""
UPDATE jobs
SET lane = 'interactive', worker = :worker,
    lease_expires_at = now() + make_interval(secs => :lease_seconds)
WHERE id = :id AND claim_token = :token AND state = 'running'
""")


def adopt(connection: Connection, claim: Claim, worker: str, lease_seconds: float) -> None:
    """Take a member over as a job of this worker, in the transaction that opens its next call."""
    connection.execute(
        _ADOPT,
        {
            "id": claim.id,
            "token": claim.token,
            "worker": worker,
            "lease_seconds": lease_seconds,
        },
    )


_WITHDRAW = text("DELETE FROM usage WHERE batch_id = :batch_id AND outcome = 'in_flight'")
_LOSE = text("""
UPDATE usage SET outcome = 'lost', finished_at = now()
WHERE batch_id = :batch_id AND outcome = 'in_flight'
""")
_RELEASE = text("""
UPDATE jobs
SET state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END,
    finished_at = CASE WHEN cancel_requested THEN now() END,
    attempt = attempt - 1, rescues = least(rescues + :rescued, :most_rescues),
    run_at = now() + make_interval(secs => :after), dispatched_at = NULL, claim_token = NULL,
    lease_expires_at = NULL, lane = :lane
WHERE state = 'running' AND lane = 'batch' AND worker = :worker
RETURNING id, state
""")
WAKE = text("SELECT pg_notify('claude_jobs_due', '')")


def release(
    connection: Connection,
    batch_id: UUID,
    *,
    lane: str = "batch",
    after: float = 0.0,
    made: bool = False,
    rescued: bool = False,
) -> int:
    """Put all jobs of a batch back that still wait for it; returns how many.

    It costs them no attempt. `made`: their calls may have been made – as far as anybody can know –
    so their usage rows stay, as `lost`; otherwise they are withdrawn. `rescued`: their worker died,
    which is counted.
    """
    values = {
        "worker": worker_of(batch_id),
        "lane": lane,
        "after": after,
        "rescued": int(rescued),
        "most_rescues": MAX_RESCUES,
    }
    released = connection.execute(_RELEASE, values).all()
    connection.execute(_LOSE if made else _WITHDRAW, {"batch_id": batch_id})
    say_finished(connection, [row.id for row in released if row.state == "cancelled"])
    connection.execute(WAKE)
    return len(released)


_CANCELLED = text("""
UPDATE jobs SET state = 'cancelled', finished_at = now()
WHERE state = 'running' AND cancel_requested AND lane = 'batch'
RETURNING id
""")


def end_cancelled(connection: Connection) -> int:
    """Cancel members that somebody wants to end, past `cancel_jobs`; returns how many."""
    ids = list(connection.execute(_CANCELLED).scalars())
    say_finished(connection, ids)
    return len(ids)


def worker_of(batch_id: UUID) -> str:
    """What `jobs.worker` holds for the members of a batch."""
    return f"batch:{batch_id}"
