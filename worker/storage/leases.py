"""Leases: who runs what, renewed for all of a worker's jobs in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from worker.storage.claim import Claim

_RENEW = text("""
UPDATE jobs
SET lease_expires_at = now() + make_interval(secs => :lease_seconds)
FROM unnest(cast(:ids AS uuid[]), cast(:tokens AS uuid[])) AS held (id, token)
WHERE jobs.id = held.id AND jobs.claim_token = held.token AND jobs.state = 'running'
RETURNING jobs.claim_token, jobs.cancel_requested
""")


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a worker learned about its claims, as tokens."""

    cancelled: set[UUID]
    lost: set[UUID]


def renew(connection: Connection, claims: Sequence[Claim], *, lease_seconds: float) -> Renewal:
    """Extend the leases of `claims`; those that are not returned belong to somebody else now."""
    values = {
        "ids": [claim.id for claim in claims],
        "tokens": [claim.token for claim in claims],
        "lease_seconds": lease_seconds,
    }
    held = {row.claim_token: row.cancel_requested for row in connection.execute(_RENEW, values)}
    return Renewal(
        cancelled={token for token, cancelled in held.items() if cancelled},
        lost={claim.token for claim in claims} - held.keys(),
    )


_CANCELLING = text("""
SELECT claim_token FROM jobs
WHERE worker = :worker AND state = 'running' AND cancel_requested
""")


def cancelled_claims(connection: Connection, worker: str) -> set[UUID]:
    """The tokens of this worker's claims that somebody wants to end; cheap enough to ask often."""
    return set(connection.execute(_CANCELLING, {"worker": worker}).scalars())


_REPORT = text("""
WITH reported AS (
    INSERT INTO workers (name, slots, running, last_claim_at)
    VALUES (:name, :slots, :running, now() - make_interval(secs => :since_claim))
    ON CONFLICT (name) DO UPDATE
    SET slots = excluded.slots, running = excluded.running, seen_at = now(),
        last_claim_at = coalesce(excluded.last_claim_at, workers.last_claim_at)
)
SELECT count(*) + 1 FROM workers
WHERE name <> :name AND seen_at > now() - make_interval(secs => :lease_seconds)
""")


def report_worker(
    connection: Connection,
    name: str,
    *,
    slots: int,
    running: int,
    since_claim: float | None,
    lease_seconds: float,
) -> int:
    """Say that a worker is alive, and hear how many are, this one included.

    `since_claim` is the seconds since it last claimed a job. One that has been silent for longer
    than a lease is taken for dead.
    """
    values = {
        "name": name,
        "slots": slots,
        "running": running,
        "since_claim": since_claim,
        "lease_seconds": lease_seconds,
    }
    return int(connection.execute(_REPORT, values).scalar_one())


_LEAVE = text("DELETE FROM workers WHERE name = :name")


def remove_worker(connection: Connection, name: str) -> None:
    """Say that a worker has left."""
    connection.execute(_LEAVE, {"name": name})
