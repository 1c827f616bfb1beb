"""Alerts, and what is needed to find them: a mark on calls that were looked at, and their lengths.

Calls that ended before this migration count as looked at: the default of a column that is added
costs nothing, whatever the size of the table. Building the index reads the table once, though,
and calls that end meanwhile wait for it (their workers try again).
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UPGRADE = """
ALTER TABLE usage ADD COLUMN inspected boolean NOT NULL DEFAULT true;
ALTER TABLE usage ALTER COLUMN inspected SET DEFAULT false;
UPDATE usage SET inspected = false WHERE outcome = 'in_flight';
CREATE INDEX usage_uninspected ON usage (id) WHERE finished_at IS NOT NULL AND NOT inspected;

CREATE TABLE alerts (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    kind               text NOT NULL,
    subject            text NOT NULL,
    message            text NOT NULL,
    details            jsonb NOT NULL,
    count              integer NOT NULL DEFAULT 1,
    first_at           timestamptz NOT NULL DEFAULT now(),
    last_at            timestamptz NOT NULL DEFAULT now(),
    collecting         boolean NOT NULL DEFAULT true,
    acknowledged_at    timestamptz,
    acknowledged_by    text,
    delivered_at       timestamptz,
    delivery_attempts  integer NOT NULL DEFAULT 0,
    delivery_error     text,
    next_delivery_at   timestamptz DEFAULT now(),
    CONSTRAINT alerts_counts_not_negative CHECK (count >= 0 AND delivery_attempts >= 0)
);
CREATE UNIQUE INDEX alerts_collecting ON alerts (kind, subject) WHERE collecting;
CREATE INDEX alerts_undelivered ON alerts (next_delivery_at) WHERE next_delivery_at IS NOT NULL;
CREATE INDEX alerts_by_time ON alerts (last_at);

CREATE TABLE reply_lengths (
    prompt          text NOT NULL,
    prompt_version  text NOT NULL,
    reference       integer[] NOT NULL,
    recent          integer[] NOT NULL,
    calls           bigint NOT NULL,
    seen_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT reply_lengths_pkey PRIMARY KEY (prompt, prompt_version),
    CONSTRAINT reply_lengths_counts_not_negative CHECK (calls >= 0)
);
"""

DOWNGRADE = """
DROP TABLE alerts, reply_lengths;
DROP INDEX usage_uninspected;
ALTER TABLE usage DROP COLUMN inspected;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
