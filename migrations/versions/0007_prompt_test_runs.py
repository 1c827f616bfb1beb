"""Runs of prompts' cases: what a release can show for a version."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UPGRADE = """
CREATE TABLE prompt_test_runs (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    prompt         text NOT NULL,
    version        text NOT NULL,
    prompt_sha256  text NOT NULL,
    mode           text NOT NULL,
    passed         boolean NOT NULL,
    cases          integer NOT NULL,
    failures       integer NOT NULL,
    skipped        integer NOT NULL,
    cost_usd       numeric(14,8),
    cases_sha256   text NOT NULL,
    report         jsonb NOT NULL,
    run_by         text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT prompt_test_runs_mode_known CHECK (mode IN ('recorded', 'live')),
    CONSTRAINT prompt_test_runs_counts_not_negative CHECK (
        cases >= 0 AND failures >= 0 AND skipped >= 0 AND coalesce(cost_usd, 0) >= 0),
    CONSTRAINT prompt_test_runs_passed_without_failures CHECK (NOT passed OR failures = 0)
);
CREATE INDEX prompt_test_runs_newest ON prompt_test_runs (prompt, prompt_sha256, created_at);
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("DROP TABLE prompt_test_runs")
