"""What was spent, as views for the weekly review and for other people's tools.

All have a UTC `day`, so that a filter on it reaches the table, where the index below finds the
days. The index is a BRIN one: rows come in the order of their days, so some kilobytes for
millions of them do, and an INSERT pays next to nothing. Building it reads the table once, and
writes wait for it.

Money that was saved is the difference to the full price. Of a row whose cost is known and whose
full price is not (from before 0012, until `claude-jobs usage reprice` has been over it) these views
know no more than what a batch saves, and count it in `without_full_cost`.
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_DAY = "cast(created_at AT TIME ZONE 'UTC' AS date)"

# Every view counts the same things of the same rows. A first call that was refused for a rate
# limit, or interrupted, cost its job no attempt and is made again: the job is counted there.
# Columns are named: a view of `*` would keep every column of the table from being taken away.
_ROWS = f"""
    SELECT job_id, task, prompt, prompt_version, model, user_id, service, source, coalesced,
           outcome, call, complete, input_tokens, cache_read_tokens, cache_write_5m_tokens,
           cache_write_1h_tokens, output_tokens, thinking_tokens, cost_usd, full_cost_usd,
           {_DAY} AS day,
           CASE WHEN cost_usd IS NULL THEN NULL
                ELSE coalesce(full_cost_usd, cost_usd * CASE source WHEN 'batch' THEN 2 ELSE 1 END)
           END AS full_usd,
           source <> 'cache' AS is_call,
           attempt <= 1 AND call <= 1
               AND outcome NOT IN ('rate_limited', 'interrupted') AS begins_job,
           complete AND source <> 'cache' AS is_reply
    FROM usage
"""  # noqa: S608 – built from constants

_COUNTS = """
           count(*) FILTER (WHERE begins_job) AS jobs,
           count(*) FILTER (WHERE is_call) AS calls,
           count(*) FILTER (WHERE is_reply) AS replies,
           count(*) FILTER (WHERE NOT is_call AND NOT coalesced) AS cache_hits,
           count(*) FILTER (WHERE NOT is_call AND coalesced) AS coalesced_jobs,
           count(*) FILTER (WHERE source = 'batch') AS batch_calls"""

_OUTCOMES = """
           count(*) FILTER (WHERE is_call AND outcome = 'ok') AS ok,
           count(*) FILTER (WHERE outcome = 'invalid_output') AS invalid_output,
           count(*) FILTER (WHERE outcome = 'truncated') AS truncated,
           count(*) FILTER (WHERE outcome = 'refused') AS refused,
           count(*) FILTER (WHERE outcome = 'rate_limited') AS rate_limited,
           count(*) FILTER (WHERE outcome IN ('overloaded', 'timeout', 'connection_error',
               'api_error', 'interrupted', 'lost')) AS failed,
           count(*) FILTER (WHERE outcome = 'in_flight') AS in_flight,
           count(*) FILTER (WHERE is_call AND call > 1) AS follow_ups"""

_TOKENS = """
           sum(input_tokens)::bigint AS input_tokens,
           sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_5m_tokens)::bigint AS cache_write_5m_tokens,
           sum(cache_write_1h_tokens)::bigint AS cache_write_1h_tokens,
           sum(output_tokens)::bigint AS output_tokens,
           sum(thinking_tokens)::bigint AS thinking_tokens"""

# A batch costs half of what it would, so it saved what it cost; the rest is the prompt cache's. The
# four add up to full_cost_usd - cost_usd, row by row.
_MONEY = """
           coalesce(sum(cost_usd), 0) AS cost_usd,
           coalesce(sum(full_usd), 0) AS full_cost_usd,
           coalesce(sum(CASE source WHEN 'api' THEN full_usd - cost_usd
                        WHEN 'batch' THEN full_usd - 2 * cost_usd END), 0)
               AS saved_by_prompt_cache_usd,
           coalesce(sum(cost_usd) FILTER (WHERE source = 'batch'), 0) AS saved_by_batch_usd,
           coalesce(sum(full_usd - cost_usd) FILTER (WHERE NOT is_call AND NOT coalesced), 0)
               AS saved_by_cache_usd,
           coalesce(sum(full_usd - cost_usd) FILTER (WHERE NOT is_call AND coalesced), 0)
               AS saved_by_coalescing_usd,
           count(*) FILTER (WHERE is_reply AND cost_usd IS NULL) AS unpriced,
           count(*) FILTER (WHERE complete AND cost_usd IS NOT NULL AND full_cost_usd IS NULL)
               AS without_full_cost"""

VIEWS = f"""
CREATE VIEW usage_daily AS
SELECT day, task, prompt, prompt_version, model, service, source, coalesced,
       {_COUNTS},{_OUTCOMES},{_TOKENS},{_MONEY}
FROM ({_ROWS}) AS counted
GROUP BY day, task, prompt, prompt_version, model, service, source, coalesced;

CREATE VIEW usage_by_prompt AS
SELECT day, prompt, prompt_version,
       {_COUNTS},{_OUTCOMES},{_TOKENS},{_MONEY},
       percentile_disc(0.5) WITHIN GROUP (ORDER BY output_tokens) FILTER (WHERE is_reply)
           AS output_tokens_p50,
       percentile_disc(0.95) WITHIN GROUP (ORDER BY output_tokens) FILTER (WHERE is_reply)
           AS output_tokens_p95,
       max(output_tokens) FILTER (WHERE is_reply) AS output_tokens_max
FROM ({_ROWS}) AS counted
GROUP BY day, prompt, prompt_version;

CREATE VIEW usage_by_user AS
SELECT day, user_id, service, task,
       {_COUNTS},{_TOKENS},{_MONEY}
FROM ({_ROWS}) AS counted
GROUP BY day, user_id, service, task;

CREATE VIEW usage_per_job AS
SELECT day, job_id, task, prompt, prompt_version, user_id, service,
       {_COUNTS},{_TOKENS},{_MONEY}
FROM ({_ROWS}) AS counted
WHERE job_id IS NOT NULL
GROUP BY day, job_id, task, prompt, prompt_version, user_id, service;
"""  # noqa: S608

INDEX = f"CREATE INDEX usage_by_day ON usage USING brin (({_DAY})) WITH (autosummarize = true)"


def upgrade() -> None:
    op.execute(INDEX)
    op.execute(VIEWS)


def downgrade() -> None:
    op.execute("DROP VIEW usage_per_job, usage_by_user, usage_by_prompt, usage_daily")
    op.execute("DROP INDEX usage_by_day")
