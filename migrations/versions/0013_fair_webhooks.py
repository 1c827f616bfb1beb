"""Webhooks in turns: who waits longest no longer comes first, whatever else it has waiting.

A look goes from service to service and from host to host, and takes a few of each; the index in
that order lets it step over the rest of a backlog. The old one, by time alone, is of no use any
more. What is to be given up is found by the time at which that is due.

A host is cut to 255 characters, as no name is longer: a row that fits into no index would undo the
end of its job.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TRIGGER = """
CREATE OR REPLACE FUNCTION {schema}.owe_webhook() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    INSERT INTO {schema}.webhook_deliveries (job_id, service, task, state, finished_at, url, host)
    VALUES (NEW.id, NEW.service, NEW.task, NEW.state, NEW.finished_at, NEW.webhook_url,
            coalesce({host}, ''));
    RETURN NULL;
END
$function$;
"""

HOST = "lower(substring(NEW.webhook_url FROM '^[A-Za-z]+://(?:[^/?#]*@)?([^/?#]*)'))"

UP = """
UPDATE {schema}.webhook_deliveries SET host = left(host, 255) WHERE length(host) > 255;
CREATE INDEX webhook_deliveries_in_turns ON {schema}.webhook_deliveries
    (coalesce(service, ''), host, next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX webhook_deliveries_to_give_up ON {schema}.webhook_deliveries (give_up_at)
    WHERE next_attempt_at IS NOT NULL;
DROP INDEX {schema}.webhook_deliveries_due;
"""

DOWN = """
CREATE INDEX webhook_deliveries_due ON {schema}.webhook_deliveries (next_attempt_at)
    WHERE next_attempt_at IS NOT NULL;
DROP INDEX {schema}.webhook_deliveries_in_turns;
DROP INDEX {schema}.webhook_deliveries_to_give_up;
"""


def upgrade() -> None:
    _execute(TRIGGER.replace("{host}", f"left({HOST}, 255)"))
    _execute(UP)


def downgrade() -> None:
    _execute(TRIGGER.replace("{host}", HOST))
    _execute(DOWN)


def _execute(statements: str) -> None:
    schema = op.get_bind().scalar(text("SELECT quote_ident(current_schema())"))
    op.execute(statements.replace("{schema}", schema))
