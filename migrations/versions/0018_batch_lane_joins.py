"""Jobs of the batch lane that wait for a request like theirs, by their deadlines.

One whose deadline comes near leaves the lane. The index is empty where nobody uses it.
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE INDEX jobs_waiting_in_lane ON jobs (deadline_at)
        WHERE state = 'queued' AND lane = 'batch' AND waits_for IS NOT NULL
    """)


def downgrade() -> None:
    op.execute("DROP INDEX jobs_waiting_in_lane")
