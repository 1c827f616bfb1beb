"""Where a usage row comes from, and what its call would have cost in full.

`full_cost_usd` prices the same tokens outside of batches and without a prompt cache, so what caches
and batches saved is a difference of two columns. Rows from before this migration have none until
`claude-jobs usage reprice` has been over them. No column makes Postgres rewrite the table.
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
ALTER TABLE usage
    ADD COLUMN source text NOT NULL DEFAULT 'api',
    ADD COLUMN source_job_id uuid,
    ADD COLUMN full_cost_usd numeric(14, 8),
    ADD CONSTRAINT usage_source_known CHECK (source IN ('api', 'cache', 'batch')) NOT VALID;
ALTER TABLE usage VALIDATE CONSTRAINT usage_source_known;
""")


def downgrade() -> None:
    op.execute(
        "ALTER TABLE usage DROP COLUMN source, DROP COLUMN source_job_id, DROP COLUMN full_cost_usd"
    )
