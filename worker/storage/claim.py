"""Claiming a job, and opening the usage row of a call before it is made."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection

from worker.storage.statement import Statement


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker owns until its lease runs out; `token` fences every later write.

    `spent_tokens` and `spent_usd` are what its earlier calls used; `newest_release` is the number
    of the newest prompt release when it was claimed.
    """

    id: UUID
    token: UUID
    task: str
    input: dict[str, Any]
    user_id: str | None
    prompt_version: str | None
    model: str | None
    attempt: int
    max_attempts: int
    seconds_left: float
    stream: bool
    spent_tokens: int
    spent_usd: Decimal
    paused: list[str]
    newest_release: int

    def is_paused(self, model: str) -> str | None:
        """The pause that covers this job if it runs on `model`, as `scope:name`."""
        for scope in ("all:", f"task:{self.task}", f"model:{model}"):
            if scope in self.paused:
                return scope.rstrip(":")
        return None


# The deadline counts from the first claim: a backlog must not make jobs fail.
_CLAIM = Statement("""
UPDATE jobs
SET state = 'running', attempt = attempt + 1, claim_token = :token, worker = :worker,
    lease_expires_at = now() + make_interval(secs => :lease_seconds), started_at = now(),
    deadline_at = coalesce(deadline_at, now() + make_interval(secs => :deadline_seconds))
FROM (
    SELECT coalesce(sum(input_tokens::bigint + cache_read_tokens + cache_write_5m_tokens
                        + cache_write_1h_tokens + output_tokens), 0) AS tokens,
           coalesce(sum(cost_usd), 0) AS usd
    FROM usage WHERE job_id = :id
) AS spent
WHERE id = :id AND state = 'dispatched' AND NOT cancel_requested
RETURNING id, claim_token, task, input, user_id, prompt_version, model, attempt, max_attempts,
          extract(epoch FROM deadline_at - now())::float AS seconds_left, stream,
          spent.tokens, spent.usd,
          ARRAY(SELECT scope || ':' || name FROM pauses) AS paused,
          (SELECT coalesce(max(id), 0) FROM prompt_releases) AS newest_release
""")


def claim_job(
    connection: Connection,
    job_id: UUID,
    *,
    worker: str,
    lease_seconds: float,
    deadline_seconds: float,
) -> Claim | None:
    """Take a dispatched job; None when somebody else has it, or when there is nothing to take.

    Of any number of messages for one job, one wins this UPDATE. `deadline_seconds` is how long
    the job may take from its first claim, unless it was enqueued with a deadline of its own.
    """
    values = {
        "id": job_id,
        "token": uuid4(),
        "worker": worker,
        "lease_seconds": lease_seconds,
        "deadline_seconds": deadline_seconds,
    }
    row = _CLAIM.row(connection, values)
    return None if row is None else Claim(*row)


_OPEN_CALL = Statement("""
INSERT INTO usage (job_id, task, user_id, attempt, call, model, prompt, prompt_version,
                   prompt_sha256, variant, schema_sha256)
VALUES (:job_id, :task, :user_id, :attempt, :call, :model, :prompt, :prompt_version,
        :prompt_sha256, :variant, :schema_sha256)
RETURNING id
""")


def open_call(
    connection: Connection,
    claim: Claim,
    *,
    call: int,
    model: str,
    prompt: str,
    prompt_version: str,
    prompt_sha256: str,
    variant: str | None = None,
    schema_sha256: str | None = None,
) -> int:
    """Record a call as `in_flight` and return the id of its usage row.

    To be committed before the request is sent: Claude never bills what the table does not know.
    """
    row = {
        "job_id": claim.id,
        "task": claim.task,
        "user_id": claim.user_id,
        "attempt": claim.attempt,
        "call": call,
        "model": model,
        "prompt": prompt,
        "prompt_version": prompt_version,
        "prompt_sha256": prompt_sha256,
        "variant": variant,
        "schema_sha256": schema_sha256,
    }
    opened = _OPEN_CALL.row(connection, row)
    assert opened is not None  # noqa: S101 – an INSERT has its row
    return int(opened[0])
