"""Prompt versions and their releases as data, and on every row which version it was and why.

`prompt_releases` only grows: what served at any time can be told later. Its rows are numbered in
the order of their commits, so "the newest I know is N" says everything about what a process has
heard of.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE prompt_versions (
    prompt         text NOT NULL,
    version        text NOT NULL,
    sha256         text NOT NULL,
    content        jsonb NOT NULL,
    first_seen_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT prompt_versions_pkey PRIMARY KEY (prompt, version, sha256)
);

CREATE TABLE output_schemas (
    sha256         text NOT NULL,
    schema         text NOT NULL,
    first_seen_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT output_schemas_pkey PRIMARY KEY (sha256)
);

CREATE TABLE prompt_releases (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    prompt       text NOT NULL,
    kind         text NOT NULL,
    weights      jsonb NOT NULL,
    sha256       jsonb NOT NULL,
    allocation   jsonb NOT NULL,
    restores     bigint REFERENCES prompt_releases (id),
    released_by  text NOT NULL,
    reason       text NOT NULL,
    forced       boolean NOT NULL DEFAULT false,
    evidence     jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT prompt_releases_kind_known CHECK (
        kind IN ('release', 'rollback', 'automatic_rollback')),
    CONSTRAINT prompt_releases_forced_has_reason CHECK (NOT forced OR reason <> ''),
    CONSTRAINT prompt_releases_somebody_serves CHECK (jsonb_array_length(allocation) > 0)
);
CREATE INDEX prompt_releases_newest ON prompt_releases (prompt, id);

CREATE TABLE follow_ups (
    usage_id     bigint PRIMARY KEY REFERENCES usage (id) ON DELETE CASCADE,
    job_id       uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    model        text NOT NULL,
    max_tokens   integer NOT NULL,
    correction   json
);
CREATE INDEX follow_ups_by_job ON follow_ups (job_id);

ALTER TABLE usage ADD COLUMN variant text, ADD COLUMN schema_sha256 text,
    ADD COLUMN failed_checks text[] NOT NULL DEFAULT '{}';
ALTER TABLE results ADD COLUMN prompt_sha256 text, ADD COLUMN variant text;
"""

# A lock before the number is drawn: otherwise a lower number could be committed after a higher one
# was read, and a worker that has read the higher one would never look again.
TRIGGERS = """
CREATE FUNCTION order_prompt_releases() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1668049520);
    RETURN NULL;
END $$;

CREATE TRIGGER prompt_releases_ordered BEFORE INSERT ON prompt_releases
    FOR EACH STATEMENT EXECUTE FUNCTION order_prompt_releases();

CREATE FUNCTION keep_prompt_releases() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'prompt_releases is a history: insert a new release instead';
END $$;

CREATE TRIGGER prompt_releases_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON prompt_releases
    FOR EACH STATEMENT EXECUTE FUNCTION keep_prompt_releases();

CREATE FUNCTION notify_prompt_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('claude_jobs_releases', '');
    RETURN NULL;
END $$;

CREATE TRIGGER prompt_releases_notify AFTER INSERT ON prompt_releases
    FOR EACH STATEMENT EXECUTE FUNCTION notify_prompt_release();
"""

DOWNGRADE = """
ALTER TABLE results DROP COLUMN prompt_sha256, DROP COLUMN variant;
ALTER TABLE usage DROP COLUMN variant, DROP COLUMN schema_sha256, DROP COLUMN failed_checks;
DROP TABLE follow_ups, prompt_releases, output_schemas, prompt_versions;
DROP FUNCTION order_prompt_releases(), keep_prompt_releases(), notify_prompt_release();
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(TRIGGERS)


def downgrade() -> None:
    op.execute(DOWNGRADE)
