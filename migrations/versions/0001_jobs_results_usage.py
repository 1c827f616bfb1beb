"""Jobs, results and usage.

The checks keep what SQL from elsewhere could break: a state that nobody knows, a running job
without a lease, a negative count. Finished jobs leave every index that the engine's loops read.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JOBS = """
CREATE TABLE jobs (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    task              text NOT NULL,
    input             jsonb NOT NULL,
    state             text NOT NULL DEFAULT 'queued',
    lane              text NOT NULL DEFAULT 'interactive',
    priority          smallint NOT NULL DEFAULT 100,
    user_id           text,
    idempotency_key   text,
    prompt_version    text,
    model             text,
    attempt           integer NOT NULL DEFAULT 0,
    max_attempts      integer NOT NULL DEFAULT 5,
    rescues           integer NOT NULL DEFAULT 0,
    run_at            timestamptz NOT NULL DEFAULT now(),
    dispatched_at     timestamptz,
    claim_token       uuid,
    worker            text,
    lease_expires_at  timestamptz,
    cancel_requested  boolean NOT NULL DEFAULT false,
    stream            boolean NOT NULL DEFAULT false,
    error             jsonb,
    created_at        timestamptz NOT NULL DEFAULT now(),
    started_at        timestamptz,
    finished_at       timestamptz,
    CONSTRAINT jobs_state_known CHECK (
        state IN ('queued', 'dispatched', 'running', 'succeeded', 'failed', 'cancelled')),
    CONSTRAINT jobs_lane_known CHECK (lane IN ('interactive', 'batch')),
    CONSTRAINT jobs_counts_not_negative CHECK (priority >= 0 AND attempt >= 0 AND rescues >= 0),
    CONSTRAINT jobs_max_attempts_positive CHECK (max_attempts > 0),
    CONSTRAINT jobs_running_is_leased CHECK (
        state <> 'running' OR (claim_token IS NOT NULL AND lease_expires_at IS NOT NULL)),
    CONSTRAINT jobs_finished_is_dated CHECK (
        (state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
)
-- Every job changes its state several times: vacuum by count, not by a share of a large table.
WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000);

CREATE INDEX jobs_due ON jobs (priority, run_at) WHERE state = 'queued';
CREATE INDEX jobs_dispatched ON jobs (dispatched_at) WHERE state = 'dispatched';
CREATE INDEX jobs_leased ON jobs (lease_expires_at) WHERE state = 'running';
CREATE UNIQUE INDEX jobs_idempotency ON jobs (task, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_created ON jobs (created_at);
"""

RESULTS = """
CREATE TABLE results (
    job_id          uuid PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    task            text NOT NULL,
    user_id         text,
    output          jsonb NOT NULL,
    prompt          text NOT NULL,
    prompt_version  text NOT NULL,
    model           text NOT NULL,
    source          text NOT NULL DEFAULT 'api',
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT results_source_known CHECK (source IN ('api', 'cache', 'batch'))
);

CREATE INDEX results_by_task ON results (task, created_at);
CREATE INDEX results_by_user ON results (user_id, created_at) WHERE user_id IS NOT NULL;
"""

USAGE = """
CREATE TABLE usage (
    id                     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id                 uuid REFERENCES jobs (id) ON DELETE SET NULL,
    task                   text NOT NULL,
    user_id                text,
    attempt                integer NOT NULL,
    call                   integer NOT NULL,
    outcome                text NOT NULL DEFAULT 'in_flight',
    request_id             text,
    model                  text NOT NULL,
    prompt                 text NOT NULL,
    prompt_version         text NOT NULL,
    prompt_sha256          text NOT NULL,
    input_tokens           integer NOT NULL DEFAULT 0,
    cache_read_tokens      integer NOT NULL DEFAULT 0,
    cache_write_5m_tokens  integer NOT NULL DEFAULT 0,
    cache_write_1h_tokens  integer NOT NULL DEFAULT 0,
    output_tokens          integer NOT NULL DEFAULT 0,
    thinking_tokens        integer NOT NULL DEFAULT 0,
    cost_usd               numeric(14, 8),
    price_version          text,
    stop_reason            text,
    service_tier           text,
    latency_ms             integer,
    first_token_ms         integer,
    complete               boolean NOT NULL DEFAULT false,
    created_at             timestamptz NOT NULL DEFAULT now(),
    finished_at            timestamptz,
    CONSTRAINT usage_outcome_known CHECK (outcome IN (
        'in_flight', 'ok', 'invalid_output', 'truncated', 'refused', 'rate_limited', 'overloaded',
        'timeout', 'connection_error', 'api_error', 'interrupted', 'lost')),
    CONSTRAINT usage_counts_not_negative CHECK (
        attempt >= 0 AND call >= 0 AND input_tokens >= 0 AND cache_read_tokens >= 0
        AND cache_write_5m_tokens >= 0 AND cache_write_1h_tokens >= 0 AND output_tokens >= 0
        AND thinking_tokens >= 0 AND coalesce(cost_usd, 0) >= 0
        AND coalesce(latency_ms, 0) >= 0 AND coalesce(first_token_ms, 0) >= 0)
);

CREATE INDEX usage_by_job ON usage (job_id);
CREATE INDEX usage_by_time ON usage (created_at);
CREATE INDEX usage_in_flight ON usage (job_id) WHERE outcome = 'in_flight';
"""

# One NOTIFY a statement, whoever inserts: Python, SQL, or psql at 3 a.m.
NOTIFY = """
CREATE FUNCTION notify_job_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('claude_jobs_due', '');
    RETURN NULL;
END $$;

CREATE TRIGGER jobs_notify_due AFTER INSERT ON jobs
    FOR EACH STATEMENT EXECUTE FUNCTION notify_job_due();
"""


def upgrade() -> None:
    for statements in (JOBS, RESULTS, USAGE, NOTIFY):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP TABLE usage, results, jobs")
    op.execute("DROP FUNCTION notify_job_due()")
