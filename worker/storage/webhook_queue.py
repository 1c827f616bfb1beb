"""What is to be posted now: a look that is fair to services and hosts, and the claim.

A look goes from service to service, in each from host to host, and takes a few deliveries of each:
through an index in that order, so that what else a host has waiting is stepped over and not read.

To claim a delivery is to put it off by a minute: that is committed before anything is sent, so no
transaction is open meanwhile, and should the worker die, another one sends it then.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

#: Seconds for which a claimed delivery is nobody else's: above the longest exchange.
CLAIM_SECONDS = 60.0
#: Hosts of a service that one look goes through; the next one goes on where it ended.
MOST_HOSTS = 100


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that may be claimed; due since `since`."""

    id: UUID
    service: str | None
    host: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Look:
    """What a look found, and for the next one the host at which it begins, by service."""

    due: list[Due]
    resume: dict[str, str]


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


_LOOK = text("""
WITH RECURSIVE services AS (
    (SELECT coalesce(service, '') AS name FROM webhook_deliveries
     WHERE next_attempt_at IS NOT NULL
     ORDER BY coalesce(service, '') LIMIT 1)
    UNION ALL
    SELECT later.* FROM services CROSS JOIN LATERAL (
        SELECT coalesce(service, '') FROM webhook_deliveries
        WHERE next_attempt_at IS NOT NULL AND coalesce(service, '') > services.name
        ORDER BY coalesce(service, '') LIMIT 1) AS later
)
SELECT services.name, hosts.name, hosts.place = :most_hosts, due.id, due.next_attempt_at
FROM services CROSS JOIN LATERAL (
    WITH RECURSIVE hosts AS (
        (SELECT host AS name, 1 AS place FROM webhook_deliveries
         WHERE next_attempt_at IS NOT NULL AND coalesce(service, '') = services.name
           AND host >= coalesce(cast(:resume AS jsonb) ->> services.name, '')
         ORDER BY host LIMIT 1)
        UNION ALL
        SELECT later.host, hosts.place + 1 FROM hosts CROSS JOIN LATERAL (
            SELECT host FROM webhook_deliveries
            WHERE next_attempt_at IS NOT NULL AND coalesce(service, '') = services.name
              AND host > hosts.name
            ORDER BY host LIMIT 1) AS later
        WHERE hosts.place < :most_hosts
    )
    SELECT name, place FROM hosts
) AS hosts LEFT JOIN LATERAL (
    SELECT id, next_attempt_at FROM webhook_deliveries
    WHERE next_attempt_at <= now() AND coalesce(service, '') = services.name
      AND host = hosts.name AND hosts.name <> ALL(:busy)
    ORDER BY next_attempt_at LIMIT :per_host
) AS due ON true
WHERE due.id IS NOT NULL OR hosts.place = :most_hosts
""")


def look(
    connection: Connection,
    *,
    per_host: int,
    busy: Collection[str] = (),
    resume: Mapping[str, str] | None = None,
) -> Look:
    """Up to `per_host` due deliveries of each host and service, none of a `busy` host.

    What it costs does not depend on how many are waiting: it grows with services, and with hosts up
    to `MOST_HOSTS` of each. `resume` is that of the look before.
    """
    values = {
        "per_host": per_host,
        "busy": list(busy),
        "resume": json.dumps(dict(resume or {})),
        "most_hosts": MOST_HOSTS,
    }
    found = Look([], {})
    for service, host, is_last, delivery_id, since in connection.execute(_LOOK, values):
        if is_last:
            found.resume[service] = host
        if delivery_id is not None:
            found.due.append(Due(delivery_id, service or None, host, since))
    return found


_CLAIM = text("""
WITH claimed AS (
    UPDATE webhook_deliveries
    SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => :claim)
    WHERE id IN (
        SELECT id FROM webhook_deliveries
        WHERE id = ANY(:ids) AND next_attempt_at <= now()
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id, url, host, attempts, job_id, service, task, state, finished_at
)
SELECT claimed.*, results.output FROM claimed
LEFT JOIN results ON :with_output AND claimed.state = 'succeeded'
    AND results.job_id = claimed.job_id
""")


def claim(connection: Connection, due: Sequence[Due], *, with_output: bool = False) -> list[Ended]:
    """Those of the deliveries that nobody else has claimed meanwhile."""
    if not due:
        return []
    values = {
        "ids": [each.id for each in due],
        "with_output": with_output,
        "claim": CLAIM_SECONDS,
    }
    return [Ended(*row) for row in connection.execute(_CLAIM, values)]
