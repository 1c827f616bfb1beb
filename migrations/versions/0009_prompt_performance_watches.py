"""How prompt versions do: views for people, and what the watchdog remembers of a release."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# A job is counted where its first call is; its later calls add to the cost of the version that made
# them. So sums over days are right, and outlive the jobs that were pruned.
VIEWS = """
CREATE VIEW prompt_performance AS
SELECT *, cost_usd / nullif(jobs, 0) AS cost_usd_per_job
FROM (
    SELECT prompt, prompt_version, prompt_sha256, coalesce(variant, 'unknown') AS variant,
           cast(created_at AT TIME ZONE 'UTC' AS date) AS day,
           count(DISTINCT job_id) FILTER (WHERE first_call)
               + count(*) FILTER (WHERE first_reply AND job_id IS NULL) AS jobs,
           count(*) AS calls,
           count(*) FILTER (WHERE first_reply) AS first_replies,
           count(*) FILTER (WHERE first_reply AND outcome = 'ok') AS first_valid,
           count(*) FILTER (WHERE first_reply AND outcome = 'invalid_output') AS first_invalid,
           count(*) FILTER (WHERE first_reply AND outcome = 'refused') AS first_refused,
           count(*) FILTER (WHERE first_reply AND outcome = 'truncated') AS first_truncated,
           count(*) FILTER (WHERE attempt = 1 AND call = 2) AS asked_again,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY output_tokens)
               FILTER (WHERE first_reply) AS output_tokens_p50,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY output_tokens)
               FILTER (WHERE first_reply) AS output_tokens_p95,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms)
               FILTER (WHERE first_reply) AS latency_ms_p50,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms)
               FILTER (WHERE first_reply) AS latency_ms_p95,
           sum(cost_usd) AS cost_usd
    FROM (
        SELECT *, attempt = 1 AND call = 1 AS first_call,
               attempt = 1 AND call = 1
               AND outcome IN ('ok', 'invalid_output', 'truncated', 'refused') AS first_reply
        FROM usage WHERE finished_at IS NOT NULL
    ) AS ended
    GROUP BY 1, 2, 3, 4, 5
) AS performance;

CREATE VIEW prompt_check_failures AS
SELECT prompt, prompt_version, prompt_sha256, coalesce(variant, 'unknown') AS variant,
       cast(created_at AT TIME ZONE 'UTC' AS date) AS day, failed AS check_name,
       count(*) AS calls, count(*) FILTER (WHERE attempt = 1 AND call = 1) AS first_calls
FROM usage CROSS JOIN LATERAL unnest(failed_checks) AS failed
GROUP BY 1, 2, 3, 4, 5, 6;
"""

TABLES = """
CREATE TABLE recent_replies (
    prompt          text NOT NULL,
    prompt_version  text NOT NULL,
    prompt_sha256   text NOT NULL,
    outcomes        text[] NOT NULL,
    tokens          integer[] NOT NULL,
    costs           bigint[] NOT NULL,
    users           bigint[] NOT NULL,
    seen_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT recent_replies_pkey PRIMARY KEY (prompt, prompt_version, prompt_sha256)
);

CREATE TABLE release_watches (
    release_id  bigint NOT NULL REFERENCES prompt_releases (id),
    prompt      text NOT NULL,
    state       text NOT NULL,
    versions    jsonb NOT NULL,
    baseline    jsonb NOT NULL,
    limits      jsonb NOT NULL,
    progress    jsonb NOT NULL DEFAULT '{}',
    calls       integer NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    looked_at   timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    CONSTRAINT release_watches_pkey PRIMARY KEY (release_id),
    CONSTRAINT release_watches_state_known CHECK (
        state IN ('watching', 'passed', 'superseded', 'rolled_back', 'shared')),
    CONSTRAINT release_watches_counts_not_negative CHECK (calls >= 0),
    CONSTRAINT release_watches_ended_is_dated CHECK ((state = 'watching') = (ended_at IS NULL))
);
CREATE INDEX release_watches_watching ON release_watches (release_id) WHERE state = 'watching';
"""

DOWNGRADE = """
DROP TABLE release_watches, recent_replies;
DROP VIEW prompt_check_failures, prompt_performance;
"""


def upgrade() -> None:
    op.execute(VIEWS)
    op.execute(TABLES)


def downgrade() -> None:
    op.execute(DOWNGRADE)
