"""The state of the whole fleet: what waits, who works, and whether anything moves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, text

from worker.storage.budgets import HOLDING

# Live jobs are counted through their partial indexes; of the finished ones, an hour's worth.
_COUNTS = text("""
SELECT task, state, count(*) AS jobs FROM (
    SELECT task, state FROM jobs
    WHERE state = 'queued' AND lane = 'interactive' AND waits_for IS NULL
    UNION ALL SELECT task, state FROM jobs WHERE state = 'queued' AND waits_for IS NOT NULL
    UNION ALL
    SELECT task, state FROM jobs WHERE state = 'queued' AND lane = 'batch' AND waits_for IS NULL
    UNION ALL SELECT task, state FROM jobs WHERE state = 'running' AND lane = 'interactive'
    UNION ALL SELECT task, state FROM jobs WHERE state = 'running' AND lane = 'batch') AS live
GROUP BY 1, 2
UNION ALL
SELECT task, state, count(*) FROM jobs WHERE state = 'dispatched' GROUP BY 1, 2
UNION ALL
SELECT task, state, count(*) FROM jobs
WHERE state IN ('succeeded', 'failed', 'cancelled') AND finished_at > now() - interval '1 hour'
GROUP BY 1, 2
ORDER BY 1, 2
""")


def counts(connection: Connection) -> Sequence[RowMapping]:
    """Jobs by task and state; finished ones of the last hour only."""
    return connection.execute(_COUNTS).mappings().all()


_WORKERS = text("""
SELECT name, slots, running, started_at, seen_at, last_claim_at,
       extract(epoch FROM now() - seen_at)::float AS silent
FROM workers ORDER BY name
""")


def workers(connection: Connection) -> Sequence[RowMapping]:
    """The workers that reported themselves, with the seconds since each last did."""
    return connection.execute(_WORKERS).mappings().all()


@dataclass(frozen=True, slots=True)
class Progress:
    """Whether due jobs are being claimed. Ages are seconds; None where there is nothing."""

    oldest_due: float | None
    last_claim: float | None
    live_workers: int
    free_slots: int

    def stalled(self, seconds: float) -> bool:
        """Whether a job has been due for so long while nothing was claimed and slots were free."""
        if self.oldest_due is None or self.oldest_due <= seconds:
            return False
        busy = self.live_workers > 0 and self.free_slots == 0
        return not busy and (self.last_claim is None or self.last_claim > seconds)


# Jobs that are paused, or held by a budget, are due but not expected to move, and those of the
# batch lane take their time. A job waiting in the broker counts as well.
_PROGRESS = text(f"""
SELECT
    (SELECT extract(epoch FROM now() - min(run_at))::float FROM (
         SELECT task, model, user_id, lane, run_at FROM jobs
         WHERE state = 'queued' AND lane = 'interactive' AND waits_for IS NULL AND run_at <= now()
         UNION ALL
         SELECT task, model, user_id, lane, run_at FROM jobs WHERE state = 'dispatched') AS due
     WHERE NOT EXISTS (
         SELECT FROM pauses
         WHERE scope = 'all'
            OR (scope = 'task' AND name = due.task)
            OR (scope = 'model' AND name = due.model))
       AND NOT EXISTS (SELECT FROM {HOLDING.format(job="due")})) AS oldest_due,
    (SELECT extract(epoch FROM now() - max(started_at))::float FROM (
        SELECT max(started_at) AS started_at FROM jobs
        WHERE state = 'running' AND lane = 'interactive'
        UNION ALL SELECT max(last_claim_at) FROM workers) AS claims) AS last_claim,
    (SELECT count(*) FROM workers
     WHERE seen_at > now() - make_interval(secs => :silent)) AS live_workers,
    (SELECT coalesce(sum(greatest(slots - running, 0)), 0) FROM workers
     WHERE seen_at > now() - make_interval(secs => :silent)) AS free_slots
""")  # noqa: S608 – built from the constant


def progress(
    connection: Connection, *, silent: float, models: Mapping[str, str] | None = None
) -> Progress:
    """How old the oldest due job is, and how long ago any job was claimed.

    A worker that has been silent for `silent` seconds does not count as live. `models` names the
    model of each task's jobs, for budgets of models.
    """
    values = {"silent": silent, "models": json.dumps(dict(models or {}))}
    return Progress(*connection.execute(_PROGRESS, values).one())
