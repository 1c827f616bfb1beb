"""The rows of Message Batches: from the intent, over what is known of them, to their end.

    intent ──sent──▶ (intent) ──▶ submitted ──▶ ended ──▶ ingested
       └──────────────────┴───────────┴──────────┴─────▶ failed

A batch is sent at most once: `mark_sent` is won by one process, before it sends. Whoever looks
after a batch is its keeper, until `look_at`; every write of a keeper's is fenced on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Connection, RowMapping, text

#: One process gathers at a time, so that batches get as large as they may.
_GATHER_LOCK = 0x636C6A67

_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")
_GATHERING = text("""
SELECT EXISTS (
    SELECT FROM batches WHERE state = 'intent' AND sent_at IS NULL AND look_at > now())
""")


def may_gather(connection: Connection) -> bool:
    """Whether this transaction may begin to gather: nobody else does, or has begun to."""
    if not connection.execute(_TRY_LOCK, {"key": _GATHER_LOCK}).scalar_one():
        return False
    return not connection.execute(_GATHERING).scalar_one()


_BEGIN = text("""
INSERT INTO batches (id, model, keeper, look_at)
VALUES (:id, :model, :keeper, now() + make_interval(secs => :lease_seconds))
""")


def begin(connection: Connection, model: str, keeper: UUID, lease_seconds: float) -> UUID:
    """A new batch, which is being gathered by `keeper`; returns its id."""
    batch_id = uuid4()
    values = {"id": batch_id, "model": model, "keeper": keeper, "lease_seconds": lease_seconds}
    connection.execute(_BEGIN, values)
    return batch_id


_KEEP = text("""
UPDATE batches SET look_at = now() + make_interval(secs => :lease_seconds)
WHERE id = ANY(:ids) AND keeper = :keeper
RETURNING id
""")


def keep(
    connection: Connection, ids: Iterable[UUID], keeper: UUID, lease_seconds: float
) -> set[UUID]:
    """Renew a keeper's lease; those that are not returned are somebody else's now."""
    values = {"ids": list(ids), "keeper": keeper, "lease_seconds": lease_seconds}
    return set(connection.execute(_KEEP, values).scalars())


_DISCARD = text("""
DELETE FROM batches WHERE id = :id AND keeper = :keeper AND state = 'intent' AND sent_at IS NULL
RETURNING id
""")


def discard(connection: Connection, batch_id: UUID, keeper: UUID) -> bool:
    """Forget a batch that was never sent; False if it is not this keeper's."""
    values = {"id": batch_id, "keeper": keeper}
    return connection.execute(_DISCARD, values).first() is not None


_SENT = text("""
UPDATE batches
SET sent_at = now(), requests = :requests, bytes = :bytes,
    look_at = now() + make_interval(secs => :lease_seconds)
WHERE id = :id AND keeper = :keeper AND state = 'intent' AND sent_at IS NULL
RETURNING id
""")


def mark_sent(
    connection: Connection, batch_id: UUID, keeper: UUID, *, requests: int, bytes: int, lease: float
) -> bool:
    """Win the right to send a batch, once and for all; False if it is not this keeper's to send.

    To be committed before anything is sent: what has no `sent_at` does not exist at the API.
    """
    values = {
        "id": batch_id,
        "keeper": keeper,
        "requests": requests,
        "bytes": bytes,
        "lease_seconds": lease,
    }
    return connection.execute(_SENT, values).first() is not None


_SUBMITTED = text("""
UPDATE batches
SET state = 'submitted', anthropic_id = :anthropic_id, submitted_at = now(),
    expires_at = :expires_at, failures = 0,
    look_at = now() + make_interval(secs => :look_after)
WHERE id = :id AND state = 'intent'
RETURNING id
""")


def mark_submitted(
    connection: Connection,
    batch_id: UUID,
    *,
    anthropic_id: str,
    expires_at: datetime,
    look_after: float,
) -> bool:
    """Record that a batch exists; False if it was known already, or was given up."""
    values = {
        "id": batch_id,
        "anthropic_id": anthropic_id,
        "expires_at": expires_at,
        "look_after": look_after,
    }
    return connection.execute(_SUBMITTED, values).first() is not None


@dataclass(frozen=True, slots=True)
class Kept:
    """A batch that a keeper looks after. `age` is of the submission, `sent_ago` of the request.

    Both are seconds. `overdue`: it should have ended an hour ago, and nobody was told yet.
    """

    id: UUID
    model: str
    state: str
    anthropic_id: str | None
    requests: int
    sent_at: datetime | None
    sent_ago: float | None
    age: float | None
    failures: int
    cancel_requested: bool
    overdue: bool


_TAKE = text("""
UPDATE batches
SET keeper = :keeper, look_at = now() + make_interval(secs => :lease_seconds)
FROM (
    SELECT id FROM batches
    WHERE state IN ('intent', 'submitted', 'ended') AND look_at <= now()
    ORDER BY look_at LIMIT 1
    FOR UPDATE SKIP LOCKED
) AS due
WHERE batches.id = due.id
RETURNING batches.id, model, state, anthropic_id, requests, sent_at,
          extract(epoch FROM now() - sent_at)::float,
          extract(epoch FROM now() - submitted_at)::float, failures, cancel_requested,
          coalesce(state = 'submitted' AND NOT reported
                   AND now() > expires_at + interval '1 hour', false)
""")


def take_due(connection: Connection, keeper: UUID, lease_seconds: float) -> Kept | None:
    """Become the keeper of a batch that somebody has to look after now; None if there is none."""
    values = {"keeper": keeper, "lease_seconds": lease_seconds}
    row = connection.execute(_TAKE, values).one_or_none()
    return None if row is None else Kept(*row)


_LATER = text("""
UPDATE batches
SET look_at = now() + make_interval(secs => :after), failures = :failures,
    reported = reported OR :reported
WHERE id = :id AND keeper = :keeper
""")


def look_later(
    connection: Connection,
    batch_id: UUID,
    keeper: UUID,
    *,
    after: float,
    failures: int = 0,
    reported: bool = False,
) -> None:
    """Have somebody look again in `after` seconds; `failures` counts looks in vain in a row."""
    values = {"after": after, "failures": failures, "reported": reported}
    connection.execute(_LATER, values | {"id": batch_id, "keeper": keeper})


_ENDED = text("""
UPDATE batches
SET state = 'ended', ended_at = :ended_at, succeeded = :succeeded, errored = :errored,
    canceled = :canceled, expired = :expired, failures = 0
WHERE id = :id AND keeper = :keeper AND state = 'submitted'
""")


def mark_ended(
    connection: Connection, batch_id: UUID, keeper: UUID, ended_at: datetime, counts: dict[str, int]
) -> None:
    """Record that Claude is done with a batch; `counts` is by result."""
    connection.execute(_ENDED, {"id": batch_id, "keeper": keeper, "ended_at": ended_at, **counts})


_INGESTED = text("""
UPDATE batches
SET state = 'ingested', ingested_at = now(), failures = 0, cost_usd = spent.cost,
    full_cost_usd = spent.full
FROM (SELECT sum(cost_usd) AS cost, sum(full_cost_usd) AS full FROM usage WHERE batch_id = :id)
  AS spent
WHERE id = :id AND keeper = :keeper AND state = 'ended'
RETURNING batches.cost_usd
""")


def mark_ingested(connection: Connection, batch_id: UUID, keeper: UUID) -> RowMapping | None:
    """Record that every member is settled, and what they cost; None if that was done already."""
    values = {"id": batch_id, "keeper": keeper}
    return connection.execute(_INGESTED, values).mappings().one_or_none()


_FAILED = text("""
UPDATE batches SET state = 'failed', error = :error
WHERE id = :id AND keeper = :keeper AND state IN ('intent', 'submitted', 'ended')
RETURNING id
""")


def mark_failed(connection: Connection, batch_id: UUID, keeper: UUID, error: str) -> bool:
    """Give a batch up; its members are released in the same transaction."""
    values = {"id": batch_id, "keeper": keeper, "error": error}
    return connection.execute(_FAILED, values).first() is not None


_KNOWN = text("SELECT anthropic_id FROM batches WHERE anthropic_id = ANY(:ids)")


def known(connection: Connection, anthropic_ids: Sequence[str]) -> set[str]:
    """Those of these batches that have a row."""
    return set(connection.execute(_KNOWN, {"ids": list(anthropic_ids)}).scalars())
