"""Alerts: raised in the transaction that found the reason, kept until somebody has seen them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from worker.storage.retention import delete_old

#: More of the same is counted in the alert that there is, for so long from its first occurrence.
REPEAT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Raised:
    """An alert as it is now; `new` unless it was counted in one that was raised before."""

    id: UUID
    kind: str
    subject: str
    message: str
    count: int
    new: bool


_CLOSE = text("""
UPDATE alerts SET collecting = false
WHERE kind = :kind AND subject = :subject AND collecting
  AND first_at <= now() - make_interval(secs => :repeat)
""")

# `xmax` is 0 in a row that was inserted, and names this transaction in one that was updated.
_RAISE = text("""
INSERT INTO alerts (kind, subject, message, details, count)
VALUES (:kind, :subject, :message, cast(:details AS jsonb), :count)
ON CONFLICT (kind, subject) WHERE collecting DO UPDATE
SET message = excluded.message, details = excluded.details,
    count = alerts.count + excluded.count, last_at = greatest(alerts.last_at, now())
RETURNING id, kind, subject, message, count, xmax = 0 AS new
""")


def raise_alert(
    connection: Connection,
    kind: str,
    subject: str,
    message: str,
    details: Mapping[str, Any],
    *,
    count: int = 1,
    repeat_seconds: float = REPEAT_SECONDS,
) -> Raised:
    """Tell people about something, in the transaction of the caller.

    The alert is in the table when that commits; a worker posts it to the webhook. To have it
    logged, hand what is returned to `worker.engine.alerts.announce` after the commit. Whoever
    raises several in one transaction does so in the order of kind and subject.

    Args:
        kind: a stable word that can be filtered on. Any is allowed.
        subject: what it is about: a task, a model … The same kind and subject within
            `repeat_seconds` is counted in the alert that there is, and posted only once.
        message: one line that says what happened and what to do.
        details: numbers and ids, as JSON. Like the message, never text of a prompt, an input or
            an output: alerts leave the system.
        count: how often it happened.
    """
    values = {
        "kind": kind,
        "subject": subject,
        "message": message,
        "details": json.dumps(dict(details), default=str),
        "count": count,
    }
    key = {"kind": kind, "subject": subject, "repeat": repeat_seconds}
    connection.execute(_CLOSE, key)
    return Raised(*connection.execute(_RAISE, values).one())


# An alert names the pause by when it began, as an interval would lose a pause that followed soon.
_SPEND_PAUSE = text("""
SELECT created_at FROM pauses
WHERE scope = 'all' AND paused_by = 'claude-jobs' AND NOT EXISTS (
    SELECT FROM alerts
    WHERE kind = 'spend_pause'
      AND cast(details ->> 'paused_at' AS timestamptz) = pauses.created_at)
""")


def unreported_spend_pause(connection: Connection) -> datetime | None:
    """When a worker paused everything for a spend limit, if no alert says so yet."""
    found: datetime | None = connection.execute(_SPEND_PAUSE).scalar_one_or_none()
    return found


_LIST = text("""
SELECT id, kind, subject, message, details, count, first_at, last_at, acknowledged_at,
       acknowledged_by, delivered_at, delivery_attempts, delivery_error, next_delivery_at
FROM alerts WHERE last_at >= :since ORDER BY last_at DESC, kind, subject
""")


def list_alerts(connection: Connection, since: datetime) -> Sequence[RowMapping]:
    """Alerts whose last occurrence is not before `since`, the newest first."""
    return connection.execute(_LIST, {"since": since}).mappings().all()


_ACKNOWLEDGE = text("""
UPDATE alerts SET acknowledged_at = now(), acknowledged_by = :by
WHERE acknowledged_at IS NULL AND (cast(:ids AS uuid[]) IS NULL OR id = ANY(:ids))
RETURNING id
""")


def acknowledge(connection: Connection, ids: Sequence[UUID] | None, *, by: str) -> set[UUID]:
    """Note that somebody has seen these alerts (None: all); returns those that were not yet.

    What goes on is counted in the alert all the same, until its hour is over.
    """
    values = {"ids": None if ids is None else list(ids), "by": by}
    return set(connection.execute(_ACKNOWLEDGE, values).scalars())


_PRUNE = delete_old("alerts", "last_at")


def prune(connection: Connection, *, older_than: float, limit: int = 500) -> int:
    """Delete alerts that last occurred `older_than` seconds ago or earlier; returns how many."""
    return connection.execute(_PRUNE, {"older_than": older_than, "limit": limit}).rowcount
