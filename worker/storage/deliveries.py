"""Alerts on their way to the webhook.

To claim an alert is to put off its next delivery: that is committed before anything is sent, so
no transaction is open meanwhile, and should the worker die, another one sends it when it is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

#: The first pause between two deliveries of an alert, and the longest; each is twice the last.
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 3600.0
#: What could not be delivered for so long is given up.
GIVE_UP_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """An alert to post, for the `attempt`-th time (from 1)."""

    id: UUID
    kind: str
    subject: str
    message: str
    details: dict[str, Any]
    count: int
    first_at: datetime
    last_at: datetime
    attempt: int


# The exponent is bounded before the power is taken.
_CLAIM = text("""
UPDATE alerts
SET delivery_attempts = delivery_attempts + 1,
    next_delivery_at = now() + make_interval(
        secs => least(:longest, :first * 2.0 ^ least(delivery_attempts, 30)))
WHERE id = (
    SELECT id FROM alerts
    WHERE next_delivery_at <= now()
    ORDER BY next_delivery_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING id, kind, subject, message, details, count, first_at, last_at, delivery_attempts
""")


def claim_delivery(connection: Connection) -> Delivery | None:
    """The alert that has been due the longest, for whoever claims it; None when none is due."""
    values = {"first": FIRST_PAUSE, "longest": LONGEST_PAUSE}
    row = connection.execute(_CLAIM, values).one_or_none()
    return None if row is None else Delivery(*row)


_DELIVERED = text("""
UPDATE alerts SET delivered_at = now(), next_delivery_at = NULL, delivery_error = NULL
WHERE id = :id
""")


def delivered(connection: Connection, alert_id: UUID) -> None:
    """Note that the webhook took the alert."""
    connection.execute(_DELIVERED, {"id": alert_id})


# A success of another worker, whose attempt was slow, stands.
_FAILED = text("""
UPDATE alerts SET delivery_error = :error WHERE id = :id AND delivered_at IS NULL
""")


def delivery_failed(connection: Connection, alert_id: UUID, error: str) -> None:
    """Note why the webhook did not take the alert; it is due again when its pause is over."""
    connection.execute(_FAILED, {"id": alert_id, "error": error})


_GIVE_UP = text("""
UPDATE alerts
SET next_delivery_at = NULL,
    delivery_error = coalesce(delivery_error, 'there was no webhook to post it to')
WHERE next_delivery_at <= now() AND first_at < now() - make_interval(secs => :after)
RETURNING id
""")


def give_up(connection: Connection) -> Sequence[UUID]:
    """Stop trying to deliver alerts that are a day old; returns which."""
    return connection.execute(_GIVE_UP, {"after": GIVE_UP_SECONDS}).scalars().all()
