"""Results that are served again, and jobs that wait for a request like theirs.

`results.request_sha256` is the key under which a result may be served; a copy of a result has none.
`jobs.waits_for` is the same key on a queued job: it is not dispatched while a job like it makes the
request. The indexes of due jobs leave such jobs out, so a million of them cost a look nothing.

`request_leaders` says which job makes a request now. It is unlogged: an entry costs no write to the
disk, and none is lost that matters. After a crash it is empty, which may cost a second request;
what waits is found through `jobs.waits_for`. No column makes Postgres rewrite a table.
"""

from __future__ import annotations

from importlib import import_module

from alembic import op
from sqlalchemy import text

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

JOBS = """
ALTER TABLE jobs ADD COLUMN cache boolean NOT NULL DEFAULT true, ADD COLUMN waits_for text;

DROP INDEX jobs_due_by_group;
DROP INDEX jobs_due_by_user;
CREATE INDEX jobs_due_by_group ON jobs (task, coalesce(model, ''), priority, run_at)
    WHERE state = 'queued' AND waits_for IS NULL;
CREATE INDEX jobs_due_by_user ON jobs
    (task, coalesce(model, ''), priority, coalesce(user_id, ''), run_at)
    WHERE state = 'queued' AND waits_for IS NULL;
CREATE INDEX jobs_waiting ON jobs (waits_for, priority, run_at)
    WHERE state = 'queued' AND waits_for IS NOT NULL;
"""

RESULTS = """
ALTER TABLE results ADD COLUMN request_sha256 text, ADD COLUMN source_job_id uuid;
CREATE INDEX results_by_request ON results (request_sha256, created_at)
    WHERE request_sha256 IS NOT NULL;
ALTER TABLE usage ADD COLUMN coalesced boolean NOT NULL DEFAULT false;
"""

# Room on each page for the updates that followers make. Never cut short by a vacuum: a plan that is
# made while the table is empty reads it from end to end, and is kept while it fills up.
LEADERS = """
CREATE UNLOGGED TABLE request_leaders (
    request_sha256  text PRIMARY KEY,
    job_id          uuid NOT NULL,
    claim_token     uuid,
    followed        boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, vacuum_truncate = false);
CREATE INDEX request_leaders_by_job ON request_leaders (job_id);
"""

_SQL = import_module("migrations.versions.0011_sql_and_webhooks")

#: `enqueue_job` with a parameter more.
ENQUEUE = (
    _SQL.ENQUEUE.replace(
        "    webhook_url      text        DEFAULT NULL\n",
        "    webhook_url      text        DEFAULT NULL,\n"
        "    cache            boolean     DEFAULT true\n",
    )
    .replace(
        "stream, service,\n                                   webhook_url)",
        "stream, service,\n                                   webhook_url, cache)",
    )
    .replace(
        "coalesce(webhook_url, known.webhook_url))",
        "coalesce(webhook_url, known.webhook_url), coalesce(cache, true))",
    )
)

#: `job_status` without the rows of results that were served: they are no calls.
_COUNT_CALLS = (
    "SELECT count(*) AS calls",
    "SELECT count(*) FILTER (WHERE source <> 'cache') AS calls",
)

_VIEWS = import_module("migrations.versions.0009_prompt_performance_watches")

# All columns by name: a view of `*` would depend on columns that other migrations take away.
_PERFORMANCE = (
    _VIEWS.VIEWS.split("CREATE VIEW prompt_check_failures")[0]
    .replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
    .replace(
        "SELECT *, attempt",
        "SELECT prompt, prompt_version, prompt_sha256, variant, created_at, job_id, attempt,\n"
        "               call, outcome, output_tokens, latency_ms, cost_usd, attempt",
    )
)
_CALLS_ONLY = "WHERE finished_at IS NOT NULL AND source <> 'cache'"

DOWNGRADE = """
DROP TABLE request_leaders;
DROP INDEX jobs_waiting;
DROP INDEX jobs_due_by_group;
DROP INDEX jobs_due_by_user;
ALTER TABLE jobs DROP COLUMN cache, DROP COLUMN waits_for;
ALTER TABLE results DROP COLUMN request_sha256, DROP COLUMN source_job_id;
ALTER TABLE usage DROP COLUMN coalesced;
CREATE INDEX jobs_due_by_group ON jobs (task, coalesce(model, ''), priority, run_at)
    WHERE state = 'queued';
CREATE INDEX jobs_due_by_user ON jobs
    (task, coalesce(model, ''), priority, coalesce(user_id, ''), run_at)
    WHERE state = 'queued';
"""


def upgrade() -> None:
    for statements in (JOBS, RESULTS, LEADERS):
        op.execute(statements)
    op.execute(_PERFORMANCE.replace("WHERE finished_at IS NOT NULL", _CALLS_ONLY))
    _replace_enqueue_job(ENQUEUE)
    _replace_job_status(_SQL.STATUS.replace(*_COUNT_CALLS))


def downgrade() -> None:
    op.execute(_PERFORMANCE)
    _replace_job_status(_SQL.STATUS)
    op.execute(DOWNGRADE)
    _replace_enqueue_job(_SQL.ENQUEUE)


def _replace_enqueue_job(definition: str) -> None:
    """Put another `enqueue_job` in its place; whoever may call this one may call that one."""
    connection = op.get_bind()
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    name = f"{schema}.enqueue_job"
    producers = connection.scalars(
        text("""
        SELECT DISTINCT grantee::regrole::text FROM pg_proc, aclexplode(proacl)
        WHERE pg_proc.oid = cast(:name AS regproc) AND grantee NOT IN (0, proowner)
        """),
        {"name": name},
    ).all()
    op.execute(f"DROP FUNCTION {name}")
    op.execute(definition.replace("{schema}", schema))
    op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
    for producer in producers:
        # Not through `text`: a role may have a colon in its name.
        grant = f"GRANT EXECUTE ON FUNCTION {name} TO {producer}"
        connection.exec_driver_sql(grant.replace("%", "%%"))


def _replace_job_status(definition: str) -> None:
    schema = op.get_bind().scalar(text("SELECT quote_ident(current_schema())"))
    op.execute(definition.replace("CREATE", "CREATE OR REPLACE", 1).replace("{schema}", schema))
