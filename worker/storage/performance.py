"""What each job of a prompt came to, for comparing two of its versions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, RowMapping, text

# Of jobs that have ended, as the rest would look cheaper than it is; and of those that began within
# the time, as the first calls of the others are missing.
_JOBS = text("""
SELECT job_id, min(made.user_id) AS user_id,
       array_agg(DISTINCT made.prompt_version || '@' || prompt_sha256) AS contents,
       array_agg(DISTINCT coalesce(variant, 'unknown')) AS variants,
       max(outcome) FILTER (WHERE first_reply) AS outcome,
       bool_or(made.attempt = 1 AND call = 2) AS asked_again,
       max(output_tokens) FILTER (WHERE first_reply) AS output_tokens,
       max(latency_ms) FILTER (WHERE first_reply) AS latency_ms,
       max(failed_checks) FILTER (WHERE first_reply) AS failed_checks,
       CASE WHEN bool_and(cost_usd IS NOT NULL OR NOT complete) THEN coalesce(sum(cost_usd), 0) END
           AS cost_usd
FROM (
    SELECT *, attempt = 1 AND call = 1
              AND outcome IN ('ok', 'invalid_output', 'truncated', 'refused') AS first_reply
    FROM usage
    WHERE prompt = :prompt AND created_at >= :since AND finished_at IS NOT NULL
      AND source <> 'cache' AND (:pinned OR variant IS DISTINCT FROM 'pinned')
) AS made
JOIN jobs ON jobs.id = job_id AND jobs.state IN ('succeeded', 'failed', 'cancelled')
GROUP BY job_id
HAVING bool_or(made.prompt_version = ANY(:versions)) AND bool_or(made.attempt = 1 AND call = 1)
ORDER BY max(made.id) DESC
LIMIT :limit
""")


def ended_jobs(
    connection: Connection,
    prompt: str,
    versions: Sequence[str],
    since: datetime,
    *,
    pinned: bool,
    limit: int,
) -> Sequence[RowMapping]:
    """The jobs that ran on one of the `versions` since a time and have ended, the newest first.

    `contents` and `variants` are all that the job's calls ran on: `version@hash`, and why.
    """
    values = {
        "prompt": prompt,
        "versions": list(versions),
        "since": since,
        "pinned": pinned,
        "limit": limit,
    }
    return connection.execute(_JOBS, values).mappings().all()


_SEEN = text("""
SELECT DISTINCT prompt_version FROM usage
WHERE prompt = :prompt AND created_at >= :since AND source <> 'cache'
  AND (:pinned OR variant IS DISTINCT FROM 'pinned')
""")


def versions_seen(
    connection: Connection, prompt: str, since: datetime, *, pinned: bool
) -> set[str]:
    """The versions that a call was made with since a time."""
    values = {"prompt": prompt, "since": since, "pinned": pinned}
    return set(connection.execute(_SEEN, values).scalars())
