"""What people see of Message Batches, and what they can do to one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

_LIST = """
SELECT batches.*, members.in_flight, members.settled
FROM batches CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE outcome = 'in_flight') AS in_flight,
           count(*) FILTER (WHERE outcome <> 'in_flight') AS settled
    FROM usage WHERE batch_id = batches.id
) AS members
{where}
ORDER BY created_at DESC LIMIT :limit
"""
_RECENT = text(_LIST.format(where="WHERE created_at >= :since"))
_OPEN = text(_LIST.format(where="WHERE state IN ('intent', 'submitted', 'ended')"))
_ONE = text(_LIST.format(where="WHERE id = :id OR anthropic_id = :name"))


def list_batches(
    connection: Connection, *, since: datetime, only_open: bool, limit: int
) -> Sequence[RowMapping]:
    """Batches, the newest first, with how many of their calls are settled."""
    statement = _OPEN if only_open else _RECENT
    return connection.execute(statement, {"since": since, "limit": limit}).mappings().all()


def find(connection: Connection, batch_id: UUID | None, name: str) -> RowMapping | None:
    """A batch by its id, or by the API's."""
    values: dict[str, Any] = {"id": batch_id, "name": name, "limit": 1}
    return connection.execute(_ONE, values).mappings().one_or_none()


_OUTCOMES = text("""
SELECT usage.task, usage.prompt || '/' || usage.prompt_version AS prompt, usage.outcome,
       count(*) AS calls, sum(usage.cost_usd) AS cost_usd
FROM usage WHERE batch_id = :id GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3
""")


def outcomes(connection: Connection, batch_id: UUID) -> Sequence[RowMapping]:
    """What became of a batch's calls, by task, prompt version and outcome."""
    return connection.execute(_OUTCOMES, {"id": batch_id}).mappings().all()


_CANCEL = text("""
UPDATE batches SET cancel_requested = true, look_at = least(look_at, now())
WHERE id = :id AND sent_at IS NOT NULL AND state IN ('intent', 'submitted')
RETURNING id
""")


def request_cancel(connection: Connection, batch_id: UUID) -> bool:
    """Ask for a batch to be cancelled; False if it has ended, or was not sent yet."""
    return connection.execute(_CANCEL, {"id": batch_id}).first() is not None
