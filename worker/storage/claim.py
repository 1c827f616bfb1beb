"""Claiming a job, and opening the usage row of a call before it is made."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import Connection

from worker.storage.statement import Statement


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker owns until its lease runs out; `token` fences every later write.

    `input` is an object unless the row was written by hand. `spent_tokens` and `spent_usd` are what
    its earlier calls used; `newest_release` is the number of the newest prompt release when it was
    claimed, `newest_budget` that of the newest budget.
    """

    id: UUID
    token: UUID
    task: str
    input: Any
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
    service: str | None
    newest_budget: int
    cache: bool = False

    def is_paused(self, model: str) -> str | None:
        """The pause that covers this job if it runs on `model`, as `scope:name`."""
        for scope in ("all:", f"task:{self.task}", f"model:{model}"):
            if scope in self.paused:
                return scope.rstrip(":")
        return None


# The deadline counts from the first claim: a backlog must not make jobs fail.
_TAKE = """
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
WHERE id = :id AND state = 'dispatched' AND NOT cancel_requested"""

_NEWEST_RELEASE = "(SELECT coalesce(max(id), 0) FROM prompt_releases)"

_CLAIMED = f"""
RETURNING id, claim_token, task, input, user_id, prompt_version, model, attempt, max_attempts,
          extract(epoch FROM deadline_at - now())::float AS seconds_left, stream,
          spent.tokens, spent.usd,
          ARRAY(SELECT scope || ':' || name FROM pauses) AS paused,
          {_NEWEST_RELEASE} AS newest_release, service,
          (SELECT coalesce(max(id), 0) FROM budgets) AS newest_budget, cache"""  # noqa: S608

_CLAIM = Statement(_TAKE + _CLAIMED)


class Terms(NamedTuple):
    """Who claims, for how many seconds at a time, and how many the job may take from its first
    claim, unless it was enqueued with a deadline of its own."""

    worker: str
    lease_seconds: float
    deadline_seconds: float


def claim_job(connection: Connection, job_id: UUID, terms: Terms) -> Claim | None:
    """Take a dispatched job; None when somebody else has it, or when there is nothing to take.

    Of any number of messages for one job, one wins this UPDATE.
    """
    row = _CLAIM.row(connection, _taking(job_id, terms))
    return None if row is None else Claim(*row)


def _taking(job_id: UUID, terms: Terms) -> dict[str, Any]:
    return {"id": job_id, "token": uuid4(), **terms._asdict()}


_OPEN_CALL = Statement("""
INSERT INTO usage (job_id, task, user_id, attempt, call, model, prompt, prompt_version,
                   prompt_sha256, variant, schema_sha256, service)
VALUES (:job_id, :task, :user_id, :attempt, 1, :call_model, :prompt, :call_version,
        :prompt_sha256, :variant, :schema_sha256, :service)
RETURNING id
""")


class FirstCall(NamedTuple):
    """What the first call of an attempt is made with, for its usage row."""

    call_model: str
    prompt: str
    call_version: str
    prompt_sha256: str
    variant: str | None = None
    schema_sha256: str | None = None


def open_call(connection: Connection, claim: Claim, call: FirstCall) -> int:
    """Record a call as `in_flight` and return the id of its usage row.

    To be committed before the request is sent: Claude never bills what the table does not know.
    """
    row = {
        "job_id": claim.id,
        "task": claim.task,
        "user_id": claim.user_id,
        "service": claim.service,
        "attempt": claim.attempt,
        **call._asdict(),
    }
    opened = _OPEN_CALL.row(connection, row)
    assert opened is not None  # noqa: S101 – an INSERT has its row
    return int(opened[0])


class Hints(NamedTuple):
    """What the message of a job says of its row: enough to choose what it will run with."""

    task: str
    user_id: str | None
    prompt_version: str | None
    model: str | None


_CLAIM_AND_OPEN = Statement(f"""
WITH claimed AS (
    {_TAKE}
        AND (task, user_id, prompt_version, model)
            IS NOT DISTINCT FROM (:task, :user_id, :prompt_version, :model)
        AND {_NEWEST_RELEASE} = :newest_release
        AND NOT EXISTS (
            SELECT FROM pauses
            WHERE (scope, name) IN (('all', ''), ('task', :task), ('model', :call_model)))
    {_CLAIMED}
), opened AS (
    INSERT INTO usage (job_id, task, user_id, attempt, call, model, prompt, prompt_version,
                       prompt_sha256, variant, schema_sha256, service)
    SELECT id, task, user_id, attempt, 1, :call_model, :prompt, :call_version, :prompt_sha256,
           :variant, :schema_sha256, service
    FROM claimed
    RETURNING id
)
SELECT claimed.*, opened.id FROM claimed, opened
""")  # noqa: S608 – built from the constants above


def claim_and_open(
    connection: Connection,
    job_id: UUID,
    terms: Terms,
    hints: Hints,
    newest_release: int,
    call: FirstCall,
) -> tuple[Claim, int] | None:
    """Both in one statement: the claim, and the id of the call's usage row.

    None, with nothing done, when there is nothing to take – and when `call` may be the wrong one:
    the row is not as the hints have it, a prompt was released after `newest_release`, or there is
    a pause.
    """
    values = {**_taking(job_id, terms), **hints._asdict(), **call._asdict()}
    row = _CLAIM_AND_OPEN.row(connection, {**values, "newest_release": newest_release})
    return None if row is None else (Claim(*row[:-1]), row[-1])
