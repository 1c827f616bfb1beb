"""Who makes a request, and who waits for it: the statements of a job that has just been claimed.

A row of `request_leaders` says which claim makes a request now. It counts as long as that claim
runs, so a row that a dead worker left holds up nobody. Every statement locks a job before it locks
a leader, as those that settle do; so none of them waits in a circle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection

from worker.storage.claim import Claim
from worker.storage.statement import Statement


@dataclass(frozen=True, slots=True)
class Servable:
    """A result that may be served again: the job it is of, and its output as JSON."""

    job_id: UUID
    output: str
    model: str


@dataclass(frozen=True, slots=True)
class Leader:
    """The claim that makes a request; `alive`: it runs. Without a token it was only chosen to."""

    job_id: UUID
    token: UUID | None
    alive: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request stands, seen after this claim tried to lead it.

    `held`: the claim is still ours. `elsewhere`: other requests that this job was chosen to make.
    """

    held: bool
    servable: Servable | None
    leader: Leader | None
    elsewhere: list[str]


_LEAD = Statement("""
INSERT INTO request_leaders (request_sha256, job_id, claim_token) VALUES (:key, :job_id, :token)
ON CONFLICT (request_sha256) DO NOTHING
""")

# A snapshot later than the INSERT's: if that one waited for a leader which has just settled, its
# result is seen here. And where a leader's row is seen, so is the claim that wrote it.
_LOOK = Statement("""
SELECT EXISTS (
           SELECT FROM jobs WHERE id = :job_id AND claim_token = :token AND state = 'running'),
       servable.job_id, servable.output, servable.model,
       leader.job_id, leader.claim_token, job.id IS NOT NULL,
       ARRAY(SELECT request_sha256 FROM request_leaders
             WHERE job_id = :job_id AND request_sha256 <> :key)
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT job_id, output::text, model FROM results
    WHERE request_sha256 = :key AND created_at > now() - make_interval(secs => :window)
    ORDER BY created_at DESC LIMIT 1) AS servable ON true
LEFT JOIN request_leaders AS leader ON leader.request_sha256 = :key
LEFT JOIN jobs AS job ON job.id = leader.job_id
    AND job.claim_token = leader.claim_token AND job.state = 'running'
""")


def enter(connection: Connection, claim: Claim, key: str, window: float) -> Standing:
    """Lead the request `key` unless somebody does, and say how it stands; one round trip.

    A result is servable for `window` seconds.
    """
    row = _LOOK.row_after(_LEAD, connection, _of(claim, key) | {"window": window})
    assert row is not None  # noqa: S101 – of one row there is always one
    held, job_id, output, model, leader, token, alive, elsewhere = row
    return Standing(
        held=held,
        servable=Servable(job_id, output, model) if job_id else None,
        leader=Leader(leader, token, alive) if leader else None,
        elsewhere=elsewhere,
    )


_TAKE_OVER = Statement("""
UPDATE request_leaders SET job_id = :job_id, claim_token = :token
WHERE request_sha256 = :key AND job_id = :leader
  AND claim_token IS NOT DISTINCT FROM cast(:leader_token AS uuid)
RETURNING job_id
""")


def take_over(connection: Connection, claim: Claim, key: str, seen: Leader) -> bool:
    """Lead instead of a leader that does not run; False if somebody else was quicker."""
    return _TAKE_OVER.row(connection, _of(claim, key) | _seen(seen)) is not None


# Whoever lets go of a request takes its row away only if nobody follows, or looks after those who
# do. So the mark is made under the row's lock: who parks is either seen, or finds the row gone.
_PARK = Statement("""
WITH held AS (
    SELECT id FROM jobs WHERE id = :job_id AND claim_token = :token AND state = 'running' FOR UPDATE
), leader AS (
    UPDATE request_leaders SET followed = true
    FROM held
    WHERE request_sha256 = :key AND job_id = :leader AND claim_token = :leader_token
    RETURNING request_sha256
), settled AS (
    UPDATE jobs
    SET state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END,
        finished_at = CASE WHEN cancel_requested THEN now() END,
        waits_for = CASE WHEN NOT cancel_requested THEN leader.request_sha256 END,
        attempt = attempt - 1, dispatched_at = NULL, claim_token = NULL, lease_expires_at = NULL
    FROM held, leader WHERE jobs.id = held.id
    RETURNING jobs.id, jobs.state
), withdrawn AS (
    DELETE FROM usage USING settled
    WHERE usage.id = :usage_id AND usage.job_id = settled.id AND usage.outcome = 'in_flight'
)
SELECT state FROM settled
""")

Parked = Literal["queued", "cancelled"]


def park(
    connection: Connection, claim: Claim, usage_id: int, key: str, seen: Leader
) -> Parked | None:
    """Have the job wait for `seen`, without attempt and call; it is not dispatched meanwhile.

    None, with nothing done, when `seen` leads no longer, or the claim was lost.
    """
    row = _PARK.row(connection, _of(claim, key) | _seen(seen) | {"usage_id": usage_id})
    return None if row is None else row[0]


_LET_GO = Statement("""
DELETE FROM request_leaders
WHERE request_sha256 = :key AND job_id = :job_id AND claim_token = :token AND NOT followed
RETURNING job_id
""")


def let_go(connection: Connection, claim: Claim, key: str) -> bool:
    """Say that a claim has ended without a result; False if somebody may be waiting for one."""
    return _LET_GO.row(connection, _of(claim, key)) is not None


def _of(claim: Claim, key: str) -> dict[str, Any]:
    return {"key": key, "job_id": claim.id, "token": claim.token}


def _seen(leader: Leader) -> dict[str, Any]:
    return {"leader": leader.job_id, "leader_token": leader.token}
