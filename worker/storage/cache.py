"""Serving a result again: one statement, fenced on the claim like all that end an attempt."""

from __future__ import annotations

from sqlalchemy import Connection

from worker.storage.claim import Claim
from worker.storage.leaders import Servable
from worker.storage.statement import Statement

_SERVE = Statement("""
WITH settled AS (
    UPDATE jobs
    SET state = 'succeeded', finished_at = now(), error = NULL, claim_token = NULL,
        lease_expires_at = NULL
    FROM results AS source
    WHERE jobs.id = :job_id AND jobs.claim_token = :token AND jobs.state = 'running'
      AND source.job_id = :source
    RETURNING jobs.id, jobs.task, jobs.user_id, jobs.service
), recorded AS (
    INSERT INTO results (job_id, task, user_id, output, prompt, prompt_version, model, source,
                         warnings, prompt_sha256, variant, service, source_job_id)
    SELECT settled.id, settled.task, settled.user_id, source.output, :prompt, :prompt_version,
           source.model, 'cache', source.warnings, :prompt_sha256, :variant, settled.service,
           source.job_id
    FROM settled JOIN results AS source ON source.job_id = :source
), metered AS (
    UPDATE usage
    SET outcome = 'ok', source = 'cache', source_job_id = :source, model = :model, cost_usd = 0,
        full_cost_usd = (SELECT sum(paid.full_cost_usd) FROM usage AS paid
                         WHERE paid.job_id = :source),
        complete = true, inspected = true, finished_at = now(), batch_id = NULL
    FROM settled
    WHERE usage.id = :usage_id AND usage.job_id = settled.id AND usage.outcome = 'in_flight'
), released AS (
    DELETE FROM request_leaders USING settled
    WHERE request_sha256 = :key AND request_leaders.job_id = settled.id
    RETURNING followed
)
SELECT (SELECT followed FROM released) FROM settled
""")


def serve(
    connection: Connection,
    claim: Claim,
    usage_id: int,
    key: str,
    servable: Servable,
    *,
    prompt: str,
    prompt_version: str,
    prompt_sha256: str,
    variant: str,
) -> bool | None:
    """End the job with a copy of `servable`, without a call; returns whether somebody waits for it.

    None, with nothing done, when the claim was lost, or the other job was deleted.
    """
    values = {
        "key": key,
        "job_id": claim.id,
        "token": claim.token,
        "usage_id": usage_id,
        "source": servable.job_id,
        "model": servable.model,
        "prompt": prompt,
        "prompt_version": prompt_version,
        "prompt_sha256": prompt_sha256,
        "variant": variant,
    }
    row = _SERVE.row(connection, values)
    return None if row is None else bool(row[0])
