"""Jobs of the batch lane that a budget has no room for: what is held, and how one is put back."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, text

from worker.storage.claim import Claim
from worker.storage.dispatch import BudgetRoom
from worker.storage.finished import say_finished

# As the relay sees them: of users, of whom there may be many, those who were refused and are held.
_ROOMS = text("""
SELECT scope, subject, held, left_usd, (spent_usd + reserved_usd) / nullif(calls, 0)
FROM (SELECT * FROM budget_status WHERE scope <> 'user'
      UNION ALL
      SELECT * FROM budget_status
      WHERE scope = 'user' AND needed_usd IS NOT NULL AND held) AS telling
WHERE hard AND lane IS DISTINCT FROM 'interactive'
""")


def rooms(connection: Connection) -> list[BudgetRoom]:
    """What the hard budgets leave that concern requests of batches."""
    return [BudgetRoom(*row) for row in connection.execute(_ROOMS)]


# What waits for money keeps its place: `run_at` says since when it has waited.
_HOLD = text("""
UPDATE jobs
SET state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END,
    finished_at = CASE WHEN cancel_requested THEN now() END, attempt = attempt - 1,
    run_at = CASE WHEN :after > 0 THEN now() + make_interval(secs => :after) ELSE run_at END,
    error = cast(:error AS jsonb), claim_token = NULL, lease_expires_at = NULL
WHERE id = :id AND claim_token = :token AND state = 'running'
RETURNING state
""")


def hold(connection: Connection, claim: Claim, *, after: float, error: dict[str, Any]) -> None:
    """Return a job to the lane, without an attempt, for `after` seconds at least.

    Its call is to be withdrawn in the same transaction.
    """
    values = {"id": claim.id, "token": claim.token, "after": after, "error": json.dumps(error)}
    if connection.execute(_HOLD, values).scalar_one_or_none() == "cancelled":
        say_finished(connection, [claim.id])
