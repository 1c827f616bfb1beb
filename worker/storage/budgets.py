"""Spending budgets as people set them and look at them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from worker.storage import spending

_WAKE = text("SELECT pg_notify('claude_jobs_due', '')")


@dataclass(frozen=True, slots=True)
class Which:
    """One budget: whose calls, per `day` or `month`, of one lane or of both (None)."""

    scope: str
    name: str
    period: str
    lane: str | None = None

    def __str__(self) -> str:
        return spending.label(self.scope, self.name, self.period, self.lane)

    def values(self) -> dict[str, str | None]:
        """The parameters of a statement with `_THIS`."""
        return {
            "scope": self.scope,
            "name": self.name,
            "period": self.period,
            "lane": self.lane,
        }


_THIS = """scope = :scope AND name = :name AND period = :period
      AND lane IS NOT DISTINCT FROM cast(:lane AS text)"""

_FIND = text(f"SELECT id, amount_usd, hard, alert_at FROM budgets WHERE {_THIS}")  # noqa: S608


def find(connection: Connection, which: Which) -> RowMapping | None:
    """A budget's `id`, `amount_usd`, `hard` and `alert_at`; None where there is none."""
    return connection.execute(_FIND, which.values()).mappings().one_or_none()


# What was told of the old amount is told again of the new one, should it come to that.
_SET = text("""
INSERT INTO budgets (scope, name, period, lane, amount_usd, hard, alert_at, changed_at, changed_by)
VALUES (:scope, :name, :period, :lane, :amount, :hard, cast(:alert_at AS smallint[]),
        clock_timestamp(), :by)
ON CONFLICT (scope, name, period, lane) DO UPDATE
SET amount_usd = excluded.amount_usd, hard = excluded.hard, alert_at = excluded.alert_at,
    changed_at = excluded.changed_at, changed_by = excluded.changed_by
RETURNING id, counted_at IS NULL AND created_at = now() AS new
""")
_TELL_AGAIN = text("""
UPDATE budget_windows SET alerted = '{}', exhausted_at = NULL
WHERE budget_id = :id AND ends_at > now()
""")


def put(
    connection: Connection,
    which: Which,
    amount: Decimal,
    *,
    hard: bool,
    alert_at: Sequence[int],
    by: str,
) -> None:
    """Set a budget, or change the one that there is; jobs that it held are looked at at once.

    What was spent since its window began counts. Every process hears of a new budget within
    seconds, and what it sends until then counts as well.
    """
    spending.lock(connection)
    values = {"amount": amount, "hard": hard, "alert_at": list(alert_at), "by": by}
    budget_id, new = connection.execute(_SET, which.values() | values).one()
    if new:
        spending.count(connection, budget_id)
    else:
        connection.execute(_TELL_AGAIN, {"id": budget_id})
    connection.execute(_WAKE)


_RESERVATIONS = text("DELETE FROM budget_reservations WHERE budget_id = :id")
_REMOVE = text("DELETE FROM budgets WHERE id = :id")


def remove(connection: Connection, which: Which) -> bool:
    """Remove a budget and what was counted for it; False if there was none."""
    spending.lock(connection)
    found = find(connection, which)
    if found is None:
        return False
    connection.execute(_RESERVATIONS, {"id": found["id"]})
    connection.execute(_REMOVE, {"id": found["id"]})
    connection.execute(_WAKE)
    return True


_IDS = text("SELECT id FROM budgets ORDER BY id")


def recount(connection: Connection) -> int:
    """Count what was spent of every budget anew, from the usage table; returns how many.

    For prices that were corrected, and calls of workers that knew nothing of budgets.
    """
    spending.lock(connection)
    ids = connection.execute(_IDS).scalars().all()
    for budget_id in ids:
        spending.count(connection, budget_id)
    connection.execute(_WAKE)
    return len(ids)


_STATUS = text("""
SELECT label, scope, name, subject, period, lane, hard, amount_usd, spent_usd, reserved_usd,
       left_usd, percent, calls, held, alert_at, starts_at, ends_at, changed_at, changed_by
FROM budget_status
WHERE NOT :held OR held
ORDER BY array_position(ARRAY['all', 'task', 'model', 'user'], scope), name, period, lane,
         percent DESC NULLS LAST, subject
LIMIT :limit
""")


def status(connection: Connection, *, held: bool = False, limit: int) -> Sequence[RowMapping]:
    """The budgets as they stand now, those for each `*` once a subject; or those that hold jobs."""
    return connection.execute(_STATUS, {"held": held, "limit": limit}).mappings().all()


# That a hard budget holds jobs says all that 100 % would say.
_CROSSED = text("""
WITH told AS (
    SELECT id, subject, starts_at, exhausted_at IS NULL AND held AS exhausted,
           (SELECT max(each) FROM unnest(alert_at) AS each
            WHERE each <= percent AND NOT (hard AND each >= 100)) AS reached,
           label, amount_usd, spent_usd, reserved_usd, percent, ends_at
    FROM budget_status WHERE alerted IS NOT NULL
), noted AS (
    UPDATE budget_windows AS w
    SET alerted = w.alerted || array_remove(ARRAY[told.reached], NULL),
        exhausted_at = CASE WHEN told.exhausted THEN now() ELSE w.exhausted_at END
    FROM told
    WHERE (w.budget_id, w.starts_at, w.subject) = (told.id, told.starts_at, told.subject)
      AND (told.exhausted OR told.reached > (SELECT coalesce(max(each), 0)
                                             FROM unnest(w.alerted) AS each))
    RETURNING told.*
)
SELECT * FROM noted
""")
_TELLING = text("SELECT pg_try_advisory_xact_lock(:key)")
_TELLING_KEY = 0x636C6A73


def crossed(connection: Connection) -> Sequence[RowMapping]:
    """Windows that came to a threshold or began to hold jobs (`exhausted`), each of these once.

    They count as told once this transaction commits. One worker looks at a time.
    """
    if not connection.execute(_TELLING, {"key": _TELLING_KEY}).scalar_one():
        return []
    return connection.execute(_CROSSED).mappings().all()


#: The budgets that hold a queued job, as a table; `:models` has the model of each task's jobs, as
#: JSON.
HOLDING = """budgets_holding(
    {job}.task, {job}.user_id, coalesce({job}.model, cast(:models AS jsonb) ->> {job}.task),
    {job}.lane, {job}.run_at)"""

_HOLDING = text(f"""
SELECT held.label, held.amount_usd, held.spent_usd, held.reserved_usd, held.ends_at
FROM jobs CROSS JOIN LATERAL {HOLDING.format(job="jobs")} AS held
WHERE jobs.id = :id AND jobs.state = 'queued'
ORDER BY held.ends_at DESC, held.id
""")  # noqa: S608 – built from the constant above


def holding(
    connection: Connection, job_id: UUID, models: Mapping[str, str]
) -> Sequence[RowMapping]:
    """The budgets that hold a queued job, the one that holds it longest first.

    `models` names the model of each task's jobs.
    """
    values = {"id": job_id, "models": json.dumps(dict(models))}
    return connection.execute(_HOLDING, values).mappings().all()


_KEEP_DEADLINES = text(f"""
UPDATE jobs SET deadline_at = now() + make_interval(secs => :ahead)
WHERE state = 'queued' AND deadline_at < now() + make_interval(secs => :ahead)
  AND started_at IS NOT NULL
  AND EXISTS (SELECT FROM {HOLDING.format(job="jobs")})
""")  # noqa: S608


def keep_deadlines(connection: Connection, models: Mapping[str, str], *, ahead: float) -> int:
    """Let no deadline of a held job come nearer than `ahead` seconds; returns how many moved.

    What a job waits for money is not time that it was tried. The deadline of a job that was never
    claimed is not its task's, but its producer's: it stays.
    """
    values = {"models": json.dumps(dict(models)), "ahead": ahead}
    return connection.execute(_KEEP_DEADLINES, values).rowcount


_SPARE_DEADLINE = text("""
UPDATE jobs SET deadline_at = now() + make_interval(secs => :ahead)
WHERE id = :id AND deadline_at < now() + make_interval(secs => :ahead)
""")


def spare_deadline(connection: Connection, job_id: UUID, *, ahead: float) -> None:
    """The same for a job that was put back; whether it is held later does not matter."""
    connection.execute(_SPARE_DEADLINE, {"id": job_id, "ahead": ahead})
