"""Enqueueing and asking by SQL, from any language and inside any transaction; webhooks of jobs.

`enqueue_job` runs with its owner's rights, so that a producer needs none on the tables. It finds
nothing by search path: every table is named with its schema, and functions come from pg_catalog.
`job_status` runs with its caller's rights; row-level security, where `claude-jobs grants producer`
has put it, keeps other services' jobs away. Nobody may call either before that is granted.

What is posted when a job has ended is written by triggers: whichever statement ends it – a
worker's, a rescue, a cancellation, somebody's UPDATE in psql – cannot leave it out, and no crash
can come between. A statement that does not set `finished_at` never gets to them, and one that does
is first asked for its `webhook_url`, which takes a microsecond.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# Numbers and depth are held to what every JSON parser takes: Python's, which reads the input at the
# claim, gives up on an integer of 4,300 digits and on a thousand levels.
#
# The acting role is SET ROLE's, or else who logged in: what current_user was before this function
# began. Whoever has the owner's rights is no service.
ENQUEUE = """
CREATE FUNCTION {schema}.enqueue_job(
    task             text,
    input            jsonb,
    idempotency_key  text        DEFAULT NULL,
    priority         integer     DEFAULT 100,
    lane             text        DEFAULT 'interactive',
    run_at           timestamptz DEFAULT NULL,
    user_id          text        DEFAULT NULL,
    prompt_version   text        DEFAULT NULL,
    model            text        DEFAULT NULL,
    stream           boolean     DEFAULT false,
    max_attempts     integer     DEFAULT NULL,
    webhook_url      text        DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    known    {schema}.tasks;
    actor    text := CASE current_setting('role') WHEN 'none' THEN session_user
                     ELSE current_setting('role') END;
    producer text := CASE WHEN NOT pg_has_role(actor, current_user, 'USAGE') THEN actor END;
    document text := input::text;
    problem  text;
    job      uuid;
    same     boolean;
BEGIN
    SELECT * INTO known FROM {schema}.tasks WHERE name = enqueue_job.task;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'JOB01', MESSAGE = format(
            'unknown task %s; there are %s', coalesce(quote_literal(left(task, 100)), 'NULL'),
            coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM {schema}.tasks),
                     'none until a worker has been started'));
    END IF;

    problem := CASE
        WHEN jsonb_typeof(input) IS DISTINCT FROM 'object' THEN
            'input is ' || coalesce('of JSON type ' || jsonb_typeof(input), 'NULL')
            || ': an object is expected'
        WHEN jsonb_path_exists(input, 'strict $.**{151 to last}') THEN
            'input is nested more than 150 levels deep'
        WHEN document ~ '([0-9]{103}){3}' AND jsonb_path_exists(
            input, '$.** ? (@.type() == "number" && (@ >= 1e308 || @ <= -1e308))') THEN
            'input has a number of 1e308 or more'
        WHEN octet_length(idempotency_key) > 2000 THEN 'idempotency_key is longer than 2000 bytes'
        WHEN octet_length(user_id) > 2000 THEN 'user_id is longer than 2000 bytes'
        WHEN priority NOT BETWEEN 0 AND 32767 THEN
            format('priority %s is not between 0 (first) and 32767', priority)
        WHEN lane NOT IN ('interactive', 'batch') THEN
            format('lane %L is neither ''interactive'' nor ''batch''', left(lane, 100))
        WHEN run_at NOT BETWEEN '0001-01-02 00:00+00' AND '9999-12-30 00:00+00' THEN
            format('run_at %s is not between the years 1 and 9999', run_at)
        WHEN length(model) NOT BETWEEN 1 AND 200 THEN
            'model is not between 1 and 200 characters long'
        WHEN max_attempts NOT BETWEEN 1 AND 999 THEN
            format('max_attempts %s is not between 1 and 999', max_attempts)
        WHEN length(webhook_url) > 2048 THEN 'webhook_url has more than 2048 characters'
        WHEN webhook_url COLLATE "C" !~* '^https?://["!$-.0->@-~]+([/?#][!-~]*)?$' THEN
            'webhook_url is malformed; https://host/path is expected, %-encoded'
        WHEN prompt_version !~ '^[^@]+(@[0-9a-f]{12,64})?$' THEN
            format('prompt_version %L is malformed; 1.2 or 1.2@<12 to 64 hexadecimal digits> is '
                   'expected', left(prompt_version, 100))
        WHEN prompt_version IS NOT NULL AND NOT EXISTS (
            SELECT FROM {schema}.prompt_versions AS stored
            WHERE stored.prompt = known.prompt
              AND stored.version = split_part(enqueue_job.prompt_version, '@', 1)
              AND starts_with(stored.sha256, split_part(enqueue_job.prompt_version, '@', 2)))
        THEN
            format('prompt_version: %s has no version %L; there are %s', known.prompt,
                   left(prompt_version, 100),
                   (SELECT string_agg(DISTINCT version, ', ') FROM {schema}.prompt_versions
                    WHERE prompt = known.prompt))
    END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'JOB02', MESSAGE = problem,
            COLUMN = substring(problem FROM '^[a-z_]+');
    END IF;
    IF octet_length(document) > known.max_input_bytes THEN
        RAISE EXCEPTION USING ERRCODE = 'JOB04', COLUMN = 'input', MESSAGE = format(
            'input is %s bytes, the limit is %s (CLAUDE_JOBS_MAX_INPUT_BYTES)',
            octet_length(document), known.max_input_bytes);
    END IF;

    LOOP
        INSERT INTO {schema}.jobs (task, input, lane, priority, user_id, idempotency_key,
                                   prompt_version, model, max_attempts, run_at, stream, service,
                                   webhook_url)
        VALUES (task, input, coalesce(lane, 'interactive'), coalesce(priority, 100), user_id,
                idempotency_key, prompt_version, model, coalesce(max_attempts, known.max_attempts),
                coalesce(run_at, now()), coalesce(stream, false), producer,
                coalesce(webhook_url, known.webhook_url))
        ON CONFLICT (task, idempotency_key, service) WHERE idempotency_key IS NOT NULL DO NOTHING
        RETURNING id INTO job;
        IF FOUND THEN
            RETURN job;
        END IF;
        SELECT existing.id, existing.input = enqueue_job.input INTO job, same
        FROM {schema}.jobs AS existing
        WHERE existing.task = enqueue_job.task
          AND existing.idempotency_key = enqueue_job.idempotency_key
          AND existing.service IS NOT DISTINCT FROM producer;
        IF same THEN
            RETURN job;
        ELSIF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'JOB03', MESSAGE = format(
                'idempotency key %L of %s belongs to job %s, which has a different input: use a '
                'new key for a new request', left(idempotency_key, 100), task, job);
        END IF;
        -- The other job was deleted between the two looks: now the key is free.
    END LOOP;
END
$function$;
"""

STATUS = """
CREATE FUNCTION {schema}.job_status(job uuid) RETURNS TABLE (
    id            uuid,
    task          text,
    state         text,
    output        jsonb,
    error         jsonb,
    attempt       integer,
    max_attempts  integer,
    calls         bigint,
    input_tokens  bigint,
    output_tokens bigint,
    cost_usd      numeric,
    created_at    timestamptz,
    run_at        timestamptz,
    started_at    timestamptz,
    finished_at   timestamptz
)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
BEGIN ATOMIC
    SELECT jobs.id, jobs.task, jobs.state, results.output, jobs.error, jobs.attempt,
           jobs.max_attempts, spent.calls, spent.input_tokens, spent.output_tokens, spent.cost_usd,
           jobs.created_at, jobs.run_at, jobs.started_at, jobs.finished_at
    FROM {schema}.jobs
    LEFT JOIN {schema}.results ON results.job_id = jobs.id
    CROSS JOIN LATERAL (
        SELECT count(*) AS calls,
               coalesce(sum(usage.input_tokens + usage.cache_read_tokens
                            + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens), 0)
                   AS input_tokens,
               coalesce(sum(usage.output_tokens), 0) AS output_tokens,
               coalesce(sum(usage.cost_usd), 0) AS cost_usd
        FROM {schema}.usage WHERE usage.job_id = jobs.id
    ) AS spent
    WHERE jobs.id = job_status.job;
END;
"""

WEBHOOKS = """
CREATE TABLE {schema}.webhook_deliveries (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    job_id           uuid NOT NULL,
    service          text,
    task             text NOT NULL,
    state            text NOT NULL,
    finished_at      timestamptz NOT NULL,
    url              text NOT NULL,
    host             text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    attempts         integer NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz DEFAULT now(),
    give_up_at       timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    delivered_at     timestamptz,
    status           integer,
    error            text,
    CONSTRAINT webhook_deliveries_counts_not_negative CHECK (attempts >= 0)
);
CREATE INDEX webhook_deliveries_due ON {schema}.webhook_deliveries (next_attempt_at)
    WHERE next_attempt_at IS NOT NULL;
CREATE INDEX webhook_deliveries_by_job ON {schema}.webhook_deliveries (job_id);
CREATE INDEX webhook_deliveries_by_time ON {schema}.webhook_deliveries (created_at);

CREATE FUNCTION {schema}.owe_webhook() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    INSERT INTO {schema}.webhook_deliveries (job_id, service, task, state, finished_at, url, host)
    VALUES (NEW.id, NEW.service, NEW.task, NEW.state, NEW.finished_at, NEW.webhook_url,
            coalesce(lower(substring(NEW.webhook_url FROM '^[A-Za-z]+://(?:[^/?#]*@)?([^/?#]*)')),
                     ''));
    RETURN NULL;
END
$function$;
REVOKE ALL ON FUNCTION {schema}.owe_webhook FROM PUBLIC;

CREATE TRIGGER jobs_owe_webhook AFTER UPDATE OF finished_at ON {schema}.jobs FOR EACH ROW
    WHEN (NEW.webhook_url IS NOT NULL AND NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL)
    EXECUTE FUNCTION {schema}.owe_webhook();
CREATE TRIGGER jobs_owe_webhook_at_once AFTER INSERT ON {schema}.jobs FOR EACH ROW
    WHEN (NEW.webhook_url IS NOT NULL AND NEW.finished_at IS NOT NULL)
    EXECUTE FUNCTION {schema}.owe_webhook();
"""

PRIVILEGES = """
REVOKE ALL ON FUNCTION {schema}.enqueue_job, {schema}.job_status FROM PUBLIC;
"""

# A producer must not see more than before once the policies are gone: its grants go first.
DOWNGRADE = """
DO $$
DECLARE found record;
BEGIN
    FOR found IN
        SELECT polname, polrelid::regclass AS relation, polpermissive,
               (SELECT string_agg(quote_ident(rolname), ', ') FROM pg_roles
                WHERE pg_roles.oid = ANY(polroles)) AS roles
        FROM pg_policy
        WHERE polrelid IN ('{schema}.jobs'::regclass, '{schema}.results'::regclass,
                           '{schema}.usage'::regclass)
    LOOP
        IF NOT found.polpermissive THEN
            EXECUTE format('REVOKE ALL ON %s FROM %s', found.relation, found.roles);
        END IF;
        EXECUTE format('DROP POLICY %I ON %s', found.polname, found.relation);
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', found.relation);
    END LOOP;
END $$;
DROP FUNCTION {schema}.enqueue_job, {schema}.job_status;
DROP TRIGGER jobs_owe_webhook ON {schema}.jobs;
DROP TRIGGER jobs_owe_webhook_at_once ON {schema}.jobs;
DROP FUNCTION {schema}.owe_webhook;
DROP TABLE {schema}.webhook_deliveries;
"""


def upgrade() -> None:
    for statements in (ENQUEUE, STATUS, PRIVILEGES, WEBHOOKS):
        _execute(statements)


def downgrade() -> None:
    _execute(DOWNGRADE)


def _execute(statements: str) -> None:
    schema = op.get_bind().scalar(text("SELECT quote_ident(current_schema())"))
    op.execute(statements.replace("{schema}", schema))
