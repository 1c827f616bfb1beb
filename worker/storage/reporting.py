"""What the weekly review reads: the views of usage, and what happened beside them.

Periods are half open: the first day or moment is in, the last is not. Days are UTC's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from worker.storage.figures import Figures

Rows = Sequence[Row[Any]]

_SUMS = ", ".join(
    f"cast(sum({field.name}) AS {'bigint' if field.type == 'int' else 'numeric'}) AS {field.name}"
    for field in fields(Figures)
)

_DAYS = text(f"""
SELECT day, task, prompt, prompt_version, model, {_SUMS}
FROM usage_daily WHERE day >= :first AND day < :after
GROUP BY day, task, prompt, prompt_version, model
ORDER BY day, task, prompt, prompt_version, model
""")  # noqa: S608 – built from constants, as the next ones


def days(connection: Connection, first: date, after: date) -> Rows:
    """The additive columns of `usage_daily`, by day, task, prompt version and model."""
    return connection.execute(_DAYS, {"first": first, "after": after}).all()


# The dearest few by name, all others in one row. NULL is nobody's, and a row like another.
_USERS = text("""
WITH spent AS (
    SELECT user_id, coalesce(sum(jobs) FILTER (WHERE day >= :first), 0) AS jobs,
           coalesce(sum(jobs) FILTER (WHERE day < :until_before), 0) AS jobs_before,
           coalesce(sum(cost_usd) FILTER (WHERE day >= :first), 0) AS cost_usd,
           coalesce(sum(cost_usd) FILTER (WHERE day < :until_before), 0) AS cost_usd_before,
           coalesce(sum(unpriced) FILTER (WHERE day >= :first), 0) AS unpriced
    FROM usage_by_user
    WHERE day >= :before AND day < :after
    GROUP BY user_id
), ranked AS (
    SELECT *, row_number() OVER (ORDER BY cost_usd DESC, jobs DESC, user_id) AS place
    FROM spent WHERE jobs > 0 OR jobs_before > 0 OR cost_usd > 0 OR cost_usd_before > 0
)
SELECT least(place, :most + 1) AS place,
       CASE WHEN place <= :most THEN user_id END AS user_id,
       count(*) FILTER (WHERE user_id IS NOT NULL) AS users,
       cast(sum(jobs) AS bigint) AS jobs, cast(sum(jobs_before) AS bigint) AS jobs_before,
       sum(cost_usd) AS cost_usd, sum(cost_usd_before) AS cost_usd_before,
       cast(sum(unpriced) AS bigint) AS unpriced
FROM ranked GROUP BY 1, 2 ORDER BY 1
""")


def users(
    connection: Connection, first: date, after: date, before: date, until_before: date, *, most: int
) -> Rows:
    """The users of two periods, by what the later one cost; the rest in a row of place `most` + 1.

    `first` and `after` bound the later period, `before` and `until_before` the earlier one.
    """
    values = {
        "first": first,
        "after": after,
        "before": before,
        "until_before": until_before,
        "most": most,
    }
    return connection.execute(_USERS, values).all()


_BUSIEST = text("""
SELECT DISTINCT ON (task) task, user_id, more
FROM (
    SELECT task, user_id,
           cast(coalesce(sum(jobs) FILTER (WHERE day >= :first), 0)
                - coalesce(sum(jobs) FILTER (WHERE day < :until_before), 0) AS bigint) AS more
    FROM usage_by_user
    WHERE day >= :before AND day < :after AND user_id IS NOT NULL
    GROUP BY task, user_id
) AS changed
ORDER BY task, abs(more) DESC, user_id
""")


def busiest(
    connection: Connection, first: date, after: date, before: date, until_before: date
) -> Rows:
    """For each task the user whose number of jobs changed most: `task`, `user_id`, `more`."""
    values = {"first": first, "after": after, "before": before, "until_before": until_before}
    return connection.execute(_BUSIEST, values).all()


_FIRST_DAY = text("""
SELECT cast(min(created_at) AT TIME ZONE 'UTC' AS date) FROM usage
""")


def first_day(connection: Connection) -> date | None:
    """The first day with any usage; None when there is none."""
    found: date | None = connection.execute(_FIRST_DAY).scalar_one()
    return found


_LENGTHS = text("""
SELECT day, prompt, prompt_version, replies, output_tokens, output_tokens_p50, output_tokens_p95
FROM usage_by_prompt WHERE day >= :first AND day < :after AND replies > 0
ORDER BY prompt, prompt_version, day
""")


def lengths(connection: Connection, first: date, after: date) -> Rows:
    """How long the replies of each prompt version were, day by day."""
    return connection.execute(_LENGTHS, {"first": first, "after": after}).all()


_DEAREST = text("""
SELECT spent.*, jobs.state
FROM (
    SELECT job_id, min(task) AS task, min(user_id) AS user_id,
           array_agg(DISTINCT prompt || '/' || prompt_version) AS versions,
           cast(sum(calls) AS bigint) AS calls,
           cast(sum(output_tokens) AS bigint) AS output_tokens, sum(cost_usd) AS cost_usd
    FROM usage_per_job WHERE day >= :first AND day < :after
    GROUP BY job_id ORDER BY cost_usd DESC, job_id LIMIT :most
) AS spent JOIN jobs ON jobs.id = job_id
WHERE cost_usd > 0
ORDER BY cost_usd DESC, job_id
""")


def dearest_jobs(connection: Connection, first: date, after: date, *, most: int) -> Rows:
    """The jobs that cost most, of those that have not been deleted since."""
    values = {"first": first, "after": after, "most": most}
    return connection.execute(_DEAREST, values).all()


_ENDS = text("""
SELECT task, count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
       count(*) FILTER (WHERE state = 'failed') AS failed,
       count(*) FILTER (WHERE state = 'cancelled') AS cancelled
FROM jobs
WHERE state IN ('succeeded', 'failed', 'cancelled')
  AND finished_at >= :since AND finished_at < :until
GROUP BY task ORDER BY task
""")


def ends(connection: Connection, since: datetime, until: datetime) -> Rows:
    """How the jobs of each task ended that have not been deleted since."""
    return connection.execute(_ENDS, {"since": since, "until": until}).all()


_ALERTS = text("""
SELECT kind, subject, (array_agg(message ORDER BY last_at DESC, id))[1] AS message,
       cast(sum(count) AS bigint) AS count, min(first_at) AS first_at, max(last_at) AS last_at,
       bool_and(acknowledged_at IS NOT NULL) AS acknowledged
FROM alerts WHERE last_at >= :since AND first_at < :until
GROUP BY kind, subject ORDER BY max(last_at) DESC, kind, subject
""")


def alerts(connection: Connection, since: datetime, until: datetime) -> Rows:
    """The alerts that occurred meanwhile, one row a kind and subject, with the newest message."""
    return connection.execute(_ALERTS, {"since": since, "until": until}).all()


_RELEASES = text("""
SELECT * FROM (
    SELECT id, prompt, kind, weights, released_by, reason, created_at,
           coalesce(lag(weights) OVER (PARTITION BY prompt ORDER BY id), '{}') AS weights_before
    FROM prompt_releases
) AS numbered
WHERE created_at >= :since AND created_at < :until
ORDER BY id
""")


def releases(connection: Connection, since: datetime, until: datetime) -> Rows:
    """What was released meanwhile, with the weights that it replaced."""
    return connection.execute(_RELEASES, {"since": since, "until": until}).all()


_LIMITS = text("""
SELECT DISTINCT ON (prompt, version) prompt, version,
       cast(content ->> 'max_tokens' AS bigint) AS max_tokens
FROM prompt_versions ORDER BY prompt, version, first_seen_at DESC
""")


def limits(connection: Connection) -> dict[tuple[str, str], int]:
    """`max_tokens` of every prompt version that was ever used; the newest content's, of several."""
    rows = connection.execute(_LIMITS)
    return {(row.prompt, row.version): row.max_tokens for row in rows if row.max_tokens}
