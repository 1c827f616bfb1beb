"""Due jobs by task, model and priority – and by user, where users have their bounds.

What may not be sent is not even looked at.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX jobs_due_by_group ON jobs (task, coalesce(model, ''), priority, run_at) "
        "WHERE state = 'queued'"
    )
    op.execute(
        "CREATE INDEX jobs_due_by_user ON jobs "
        "(task, coalesce(model, ''), priority, coalesce(user_id, ''), run_at) "
        "WHERE state = 'queued'"
    )
    op.execute("DROP INDEX jobs_due")


def downgrade() -> None:
    op.execute("CREATE INDEX jobs_due ON jobs (priority, run_at) WHERE state = 'queued'")
    op.execute("DROP INDEX jobs_due_by_group")
    op.execute("DROP INDEX jobs_due_by_user")
