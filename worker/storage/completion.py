"""Which of many jobs have ended, and how: one statement for all who wait."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

_STANDING = text("""
SELECT jobs.id, jobs.state, jobs.stream, jobs.finished_at IS NOT NULL AS ended, jobs.error,
       results.output
FROM jobs LEFT JOIN results ON results.job_id = jobs.id
WHERE jobs.id = ANY(cast(:ids AS uuid[]))
""")


def standing(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, RowMapping]:
    """How these jobs stand, by id; a job that does not exist is missing."""
    rows = connection.execute(_STANDING, {"ids": list(ids)}).mappings()
    return {row["id"]: row for row in rows}
