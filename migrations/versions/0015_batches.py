"""The batch lane: Message Batches, the calls that are in them, and deadlines of producers' own.

What the relay and the rescue read leaves the batch lane out: a job that is gathered is `running`
for hours, and neither queued nor running ones of the lane are a worker's business. The other
indexes hold as many rows as before; the lane has two of its own, which are empty where nobody uses
it.

`enqueue_job` is changed as it stands, not replaced: whatever else it has learned stays. It has one
parameter more, so it is created anew, and whoever could call it still can.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE batches (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    model           text NOT NULL,
    state           text NOT NULL DEFAULT 'intent',
    anthropic_id    text,
    requests        integer NOT NULL DEFAULT 0,
    bytes           bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    sent_at         timestamptz,
    submitted_at    timestamptz,
    expires_at      timestamptz,
    ended_at        timestamptz,
    ingested_at     timestamptz,
    succeeded       integer NOT NULL DEFAULT 0,
    errored         integer NOT NULL DEFAULT 0,
    canceled        integer NOT NULL DEFAULT 0,
    expired         integer NOT NULL DEFAULT 0,
    cost_usd        numeric(14, 8),
    full_cost_usd   numeric(14, 8),
    look_at         timestamptz NOT NULL DEFAULT now(),
    keeper          uuid,
    failures        integer NOT NULL DEFAULT 0,
    cancel_requested boolean NOT NULL DEFAULT false,
    reported        boolean NOT NULL DEFAULT false,
    error           text,
    CONSTRAINT batches_anthropic_id_key UNIQUE (anthropic_id),
    CONSTRAINT batches_state_known CHECK (
        state IN ('intent', 'submitted', 'ended', 'ingested', 'failed')),
    CONSTRAINT batches_counts_not_negative CHECK (
        requests >= 0 AND bytes >= 0 AND succeeded >= 0 AND errored >= 0 AND canceled >= 0
        AND expired >= 0 AND failures >= 0)
);
CREATE INDEX batches_open ON batches (look_at) WHERE state IN ('intent', 'submitted', 'ended');
CREATE INDEX batches_by_time ON batches (created_at);

ALTER TABLE usage ADD COLUMN batch_id uuid;
CREATE INDEX usage_by_batch ON usage (batch_id) WHERE batch_id IS NOT NULL;

ALTER TABLE tasks ADD COLUMN batch_deadline_hours double precision NOT NULL DEFAULT 26;
"""

# What was dispatched before the lane was one of its own is an interactive job.
INDEXES = """
UPDATE jobs SET lane = 'interactive'
WHERE lane = 'batch' AND state IN ('dispatched', 'running');

DROP INDEX jobs_due_by_group, jobs_due_by_user, jobs_leased;
CREATE INDEX jobs_due_by_group ON jobs (task, coalesce(model, ''), priority, run_at)
    WHERE state = 'queued' AND lane = 'interactive' AND waits_for IS NULL;
CREATE INDEX jobs_due_by_user ON jobs
    (task, coalesce(model, ''), priority, coalesce(user_id, ''), run_at)
    WHERE state = 'queued' AND lane = 'interactive' AND waits_for IS NULL;
CREATE INDEX jobs_leased ON jobs (lease_expires_at)
    WHERE state = 'running' AND lane = 'interactive';
CREATE INDEX jobs_to_gather ON jobs (task, coalesce(model, ''), run_at)
    WHERE state = 'queued' AND lane = 'batch' AND waits_for IS NULL;
CREATE INDEX jobs_in_batches ON jobs (worker) WHERE state = 'running' AND lane = 'batch';
"""

OLD_INDEXES = """
DROP INDEX jobs_in_batches, jobs_to_gather, jobs_leased, jobs_due_by_user, jobs_due_by_group;
CREATE INDEX jobs_due_by_group ON jobs (task, coalesce(model, ''), priority, run_at)
    WHERE state = 'queued' AND waits_for IS NULL;
CREATE INDEX jobs_due_by_user ON jobs
    (task, coalesce(model, ''), priority, coalesce(user_id, ''), run_at)
    WHERE state = 'queued' AND waits_for IS NULL;
CREATE INDEX jobs_leased ON jobs (lease_expires_at) WHERE state = 'running';
"""

# Jobs in batches go back: their batches will be forgotten, and what they cost with them.
FORGET = """
UPDATE usage SET outcome = 'lost', finished_at = now()
WHERE batch_id IS NOT NULL AND outcome = 'in_flight';
UPDATE jobs SET state = 'queued', claim_token = NULL, lease_expires_at = NULL,
                attempt = greatest(attempt - 1, 0)
WHERE state = 'running' AND lane = 'batch';
ALTER TABLE tasks DROP COLUMN batch_deadline_hours;
ALTER TABLE usage DROP COLUMN batch_id;
DROP TABLE batches;
"""

# Of `enqueue_job`, as Postgres writes it down: what stands there, and what shall.
CHANGES = [
    ("lane text DEFAULT 'interactive'::text", "lane text DEFAULT NULL::text"),
    (
        ")\n RETURNS uuid",
        ", deadline timestamp with time zone DEFAULT NULL::timestamp with time zone)\n"
        " RETURNS uuid",
    ),
    (
        "        WHEN length(model) NOT BETWEEN",
        """        WHEN deadline <= now() THEN format('deadline %s has passed', deadline)
        WHEN deadline <= run_at THEN
            format('deadline %s is not after run_at %s', deadline, run_at)
        WHEN deadline > '9999-12-30 00:00+00' THEN
            format('deadline %s is not between the years 1 and 9999', deadline)
        WHEN length(model) NOT BETWEEN""",
    ),
    (".jobs (task, input, lane,", ".jobs (deadline_at, task, input, lane,"),
    (
        "        VALUES (task, input, coalesce(lane, 'interactive'),",
        """        VALUES (deadline, task, input,
                -- As `Task.new_job` has it: a batch takes a day, and nobody watches it.
                coalesce(lane, CASE
                    WHEN NOT coalesce(stream, false)
                     AND deadline - greatest(now(), run_at)
                         > make_interval(secs => known.batch_deadline_hours * 3600)
                    THEN 'batch' ELSE 'interactive' END),""",
    ),
]


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(INDEXES)
    _change_function(CHANGES)


def downgrade() -> None:
    _change_function([(after, before) for before, after in CHANGES])
    op.execute(OLD_INDEXES)
    op.execute(FORGET)


def _change_function(changes: list[tuple[str, str]]) -> None:
    connection = op.get_bind()
    definition = connection.scalar(text("SELECT pg_get_functiondef('enqueue_job'::regproc)"))
    for before, after in changes:
        if definition.count(before) != 1:
            raise ValueError(f"enqueue_job is not as expected: {before!r}")
        definition = definition.replace(before, after)
    callers = connection.execute(
        text("""
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
        FROM pg_proc, aclexplode(proacl)
        WHERE oid = 'enqueue_job'::regproc AND grantee <> proowner
        """)
    ).scalars()
    granted = list(callers)
    # Not through `text`: the body is full of colons.
    connection.exec_driver_sql("DROP FUNCTION enqueue_job")
    connection.exec_driver_sql(definition.replace("%", "%%"))
    connection.exec_driver_sql("REVOKE ALL ON FUNCTION enqueue_job FROM PUBLIC")
    for caller in granted:
        grant = f"GRANT EXECUTE ON FUNCTION enqueue_job TO {caller}"
        connection.exec_driver_sql(grant.replace("%", "%%"))
