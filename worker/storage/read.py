"""Reading jobs back: what producers wait for and what the command line shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from worker.errors import JobNotFound

_ENDED = text("""
SELECT jobs.state, jobs.error, results.output
FROM jobs LEFT JOIN results ON results.job_id = jobs.id
WHERE jobs.id = :id
""")


def outcome(connection: Connection, job_id: UUID) -> RowMapping:
    """The state, error and output of a job.

    Raises:
        JobNotFound: there is no such job – it was never committed, or it was pruned.
    """
    row = connection.execute(_ENDED, {"id": job_id}).mappings().one_or_none()
    if row is None:
        raise JobNotFound(f"no job {job_id}: never committed, or pruned after its retention time")
    return row


_JOB = text("""
SELECT jobs.*, results.output, results.model AS result_model,
       results.prompt_version AS result_prompt_version, results.source, results.source_job_id,
       results.variant, results.warnings,
       (SELECT job_id FROM request_leaders WHERE request_sha256 = jobs.waits_for) AS leader
FROM jobs LEFT JOIN results ON results.job_id = jobs.id
WHERE jobs.id = :id
""")

_CALLS = text("SELECT * FROM usage WHERE job_id = :id ORDER BY id")


def job_details(connection: Connection, job_id: UUID) -> tuple[RowMapping, Sequence[RowMapping]]:
    """Everything known of a job, and its calls in order.

    Raises:
        JobNotFound: there is no such job.
    """
    job = connection.execute(_JOB, {"id": job_id}).mappings().one_or_none()
    if job is None:
        raise JobNotFound(f"no job {job_id}: never committed, or pruned after its retention time")
    return job, connection.execute(_CALLS, {"id": job_id}).mappings().all()


_FOLLOW_UP = text("SELECT model, max_tokens, correction FROM follow_ups WHERE usage_id = :id")


def follow_up(connection: Connection, usage_id: int) -> RowMapping | None:
    """What a call said that its prompt does not; None for the first call of an attempt."""
    return connection.execute(_FOLLOW_UP, {"id": usage_id}).mappings().one_or_none()


_LIST = text("""
SELECT jobs.id, jobs.task, jobs.state, jobs.attempt, jobs.user_id, jobs.created_at,
       jobs.finished_at, jobs.error ->> 'type' AS error,
       (SELECT sum(cost_usd) FROM usage WHERE usage.job_id = jobs.id) AS cost_usd
FROM jobs
WHERE (cast(:task AS text) IS NULL OR task = :task)
  AND (cast(:state AS text) IS NULL OR state = :state)
ORDER BY created_at DESC
LIMIT :limit
""")


def recent_jobs(
    connection: Connection, *, task: str | None, state: str | None, limit: int
) -> Sequence[RowMapping]:
    """The newest jobs first."""
    values = {"task": task, "state": state, "limit": limit}
    return connection.execute(_LIST, values).mappings().all()


_STATES = text("""
SELECT state, count(*) AS jobs FROM jobs WHERE id = ANY(:ids) GROUP BY state
""")


def count_states(connection: Connection, ids: Iterable[UUID]) -> dict[str, int]:
    """How many of these jobs are in each state."""
    rows = connection.execute(_STATES, {"ids": list(ids)})
    return {row.state: row.jobs for row in rows}


_SUMMARY = text("""
SELECT jobs.task, jobs.state, coalesce(jobs.error ->> 'type', '') AS error, count(*) AS jobs,
       sum(spent.calls) AS calls, sum(spent.tokens_in) AS input_tokens,
       sum(spent.tokens_out) AS output_tokens, sum(spent.cost) AS cost_usd,
       sum(spent.unpriced) AS unpriced
FROM jobs
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE source <> 'cache') AS calls,
           coalesce(sum(input_tokens + cache_read_tokens + cache_write_5m_tokens
                        + cache_write_1h_tokens), 0) AS tokens_in,
           coalesce(sum(output_tokens), 0) AS tokens_out,
           coalesce(sum(cost_usd), 0) AS cost,
           count(*) FILTER (WHERE cost_usd IS NULL AND outcome = 'ok') AS unpriced
    FROM usage WHERE usage.job_id = jobs.id
) AS spent
WHERE jobs.id = ANY(:ids)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")


def summarize(connection: Connection, ids: Iterable[UUID]) -> Sequence[RowMapping]:
    """Outcomes, tokens and cost of these jobs by task, state and type of error."""
    return connection.execute(_SUMMARY, {"ids": list(ids)}).mappings().all()
