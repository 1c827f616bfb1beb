"""What people do to jobs: cancel, requeue, pause, resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from worker.storage.finished import say_finished

_CANCEL = text("""
UPDATE jobs
SET state = CASE WHEN state = 'running' AND lane = 'interactive' THEN 'running'
                 ELSE 'cancelled' END,
    finished_at = CASE WHEN state = 'running' AND lane = 'interactive' THEN NULL ELSE now() END,
    cancel_requested = true, waits_for = NULL
WHERE id = ANY(:ids) AND state IN ('queued', 'dispatched', 'running')
RETURNING id, state
""")


def cancel_jobs(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Cancel jobs; returns the new state of each that was not final already.

    A queued job is `cancelled` at once, and so is one in a Message Batch, whose reply will only be
    put on the books; a running one within seconds, by its worker.
    """
    states = {row.id: row.state for row in connection.execute(_CANCEL, {"ids": list(ids)})}
    say_finished(connection, [each for each, state in states.items() if state == "cancelled"])
    return states


@dataclass(frozen=True, slots=True)
class Selection:
    """Which ended jobs: those named, or all of a kind. None of a field means any."""

    ids: Sequence[UUID] | None = None
    task: str | None = None
    error: str | None = None
    since: datetime | None = None

    def values(self) -> dict[str, object]:
        """The parameters of a statement with `_SELECTED`."""
        return {
            "ids": None if self.ids is None else list(self.ids),
            "task": self.task,
            "error": self.error,
            "since": self.since,
        }


_SELECTED = """
    (cast(:ids AS uuid[]) IS NULL OR id = ANY(:ids))
    AND (cast(:task AS text) IS NULL OR task = :task)
    AND (cast(:error AS text) IS NULL OR error ->> 'type' = :error)
    AND (cast(:since AS timestamptz) IS NULL OR finished_at >= :since)
"""

_FAILED = text(f"""
SELECT id, task, user_id, attempt, rescues, finished_at, error ->> 'type' AS error,
       error ->> 'message' AS message
FROM jobs WHERE state = 'failed' AND {_SELECTED}
ORDER BY finished_at DESC LIMIT :limit
""")  # noqa: S608 – built from the constant above


def failed_jobs(
    connection: Connection, selection: Selection, *, limit: int
) -> Sequence[RowMapping]:
    """Failed jobs, the newest first."""
    values = selection.values() | {"limit": limit}
    return connection.execute(_FAILED, values).mappings().all()


_COUNT = text(f"""
SELECT task, error ->> 'type' AS error, count(*) AS jobs
FROM jobs WHERE state IN ('failed', 'cancelled') AND {_SELECTED}
GROUP BY 1, 2 ORDER BY 3 DESC
""")  # noqa: S608

_REQUEUE = text(f"""
UPDATE jobs
SET state = 'queued', run_at = now(), attempt = 0, rescues = 0, cancel_requested = false,
    finished_at = NULL, dispatched_at = NULL, deadline_at = NULL, waits_for = NULL
WHERE state IN ('failed', 'cancelled') AND {_SELECTED}
RETURNING id
""")  # noqa: S608

_WAKE = text("SELECT pg_notify('claude_jobs_due', '')")


def count_requeueable(connection: Connection, selection: Selection) -> Sequence[RowMapping]:
    """How many failed or cancelled jobs `requeue_jobs` would take, by task and error."""
    return connection.execute(_COUNT, selection.values()).mappings().all()


def requeue_jobs(connection: Connection, selection: Selection) -> list[UUID]:
    """Run failed or cancelled jobs again, with all their attempts; their usage rows stay."""
    ids = list(connection.execute(_REQUEUE, selection.values()).scalars())
    connection.execute(_WAKE)
    return ids


_PAUSE = text("""
INSERT INTO pauses (scope, name, reason, paused_by) VALUES (:scope, :name, :reason, :by)
ON CONFLICT (scope, name) DO NOTHING
""")


def pause(connection: Connection, scope: str, name: str, *, reason: str, by: str) -> bool:
    """Pause a task, a model, or `all` (with an empty name); False if it was paused already."""
    values = {"scope": scope, "name": name, "reason": reason, "by": by}
    return bool(connection.execute(_PAUSE, values).rowcount)


_RESUME = text("DELETE FROM pauses WHERE scope = :scope AND name = :name")


def resume(connection: Connection, scope: str, name: str) -> bool:
    """End a pause; False if there was none."""
    ended = connection.execute(_RESUME, {"scope": scope, "name": name}).rowcount
    connection.execute(_WAKE)
    return bool(ended)


_PAUSES = text("SELECT * FROM pauses ORDER BY created_at")


def pauses(connection: Connection) -> Sequence[RowMapping]:
    """What is paused now."""
    return connection.execute(_PAUSES).mappings().all()
