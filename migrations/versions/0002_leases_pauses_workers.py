"""Deadlines, pauses, the workers of the fleet, and the indexes that cancel and retention need."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE = """
ALTER TABLE jobs ADD COLUMN deadline_at timestamptz;

CREATE INDEX jobs_cancelling ON jobs (worker) WHERE state = 'running' AND cancel_requested;
CREATE INDEX jobs_finished ON jobs (state, finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE pauses (
    scope       text NOT NULL,
    name        text NOT NULL,
    reason      text NOT NULL,
    paused_by   text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pauses_pkey PRIMARY KEY (scope, name),
    CONSTRAINT pauses_scope_known CHECK (scope IN ('all', 'task', 'model'))
);

CREATE TABLE workers (
    name           text PRIMARY KEY,
    slots          integer NOT NULL,
    running        integer NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT now(),
    seen_at        timestamptz NOT NULL DEFAULT now(),
    last_claim_at  timestamptz,
    CONSTRAINT workers_counts_not_negative CHECK (slots >= 0 AND running >= 0)
);
"""

DOWNGRADE = """
DROP TABLE workers, pauses;
DROP INDEX jobs_finished, jobs_cancelling;
ALTER TABLE jobs DROP COLUMN deadline_at;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
