"""Services that enqueue: whose a job is, who is told of its end, their keys, the tasks there are.

`service` stands on results and usage rows as well, so that a usage row that has outlived its job
still belongs to somebody. Rows from before this migration belong to nobody. Its indexes hold only
rows that have a service: those of Python producers cost nothing more than before.

An idempotency key is unique per service from now on: a service must neither get another one's job
nor learn that the key is taken. Building that index reads the table once, and writes wait for it.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE jobs ADD COLUMN service text, ADD COLUMN webhook_url text;
ALTER TABLE results ADD COLUMN service text;
ALTER TABLE usage ADD COLUMN service text;

CREATE INDEX jobs_by_service ON jobs (service, created_at, id) WHERE service IS NOT NULL;
CREATE INDEX results_by_service ON results (service, created_at) WHERE service IS NOT NULL;
CREATE INDEX usage_by_service ON usage (service, created_at) WHERE service IS NOT NULL;

CREATE UNIQUE INDEX jobs_idempotency_by_service ON jobs (task, idempotency_key, service)
    NULLS NOT DISTINCT WHERE idempotency_key IS NOT NULL;
DROP INDEX jobs_idempotency;
"""

TABLES = """
CREATE TABLE tasks (
    name             text PRIMARY KEY,
    prompt           text NOT NULL,
    input_schema     jsonb NOT NULL,
    output_schema    jsonb NOT NULL,
    max_attempts     integer NOT NULL,
    max_input_bytes  integer NOT NULL,
    webhook_url      text,
    seen_at          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tasks_bounds_positive CHECK (max_attempts > 0 AND max_input_bytes > 0)
);

CREATE TABLE api_keys (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    service              text NOT NULL,
    name                 text NOT NULL DEFAULT '',
    prefix               text NOT NULL,
    sha256               bytea NOT NULL,
    scopes               text[] NOT NULL,
    requests_per_minute  integer,
    created_by           text NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT now(),
    expires_at           timestamptz,
    revoked_at           timestamptz,
    last_used_at         timestamptz,
    CONSTRAINT api_keys_sha256_key UNIQUE (sha256),
    CONSTRAINT api_keys_sha256_whole CHECK (octet_length(sha256) = 32),
    CONSTRAINT api_keys_scopes_known CHECK (
        cardinality(scopes) > 0 AND scopes <@ ARRAY['enqueue', 'read', 'cancel']),
    CONSTRAINT api_keys_rate_positive CHECK (requests_per_minute > 0)
);
"""

# Keys that two services share cannot both stay under the old index: the younger job loses its own.
DOWNGRADE = """
DROP TABLE api_keys, tasks;
UPDATE jobs SET idempotency_key = NULL
FROM jobs AS older
WHERE older.task = jobs.task AND older.idempotency_key = jobs.idempotency_key
  AND (older.created_at, older.id) < (jobs.created_at, jobs.id);
CREATE UNIQUE INDEX jobs_idempotency ON jobs (task, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
DROP INDEX jobs_idempotency_by_service;
ALTER TABLE usage DROP COLUMN service;
ALTER TABLE results DROP COLUMN service;
ALTER TABLE jobs DROP COLUMN service, DROP COLUMN webhook_url;
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(TABLES)


def downgrade() -> None:
    op.execute(DOWNGRADE)
