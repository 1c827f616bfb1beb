"""Ending an attempt: each outcome is one statement, fenced on the claim token.

A worker that lost its claim (it was thought dead, and somebody else has the job now) changes
nothing: every part of a statement hangs on the one UPDATE that checks the token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from worker.storage.claim import Claim
from worker.storage.statement import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """What is known of a call once it is over: the columns of its usage row."""

    outcome: str
    request_id: str | None = None
    model: str | None = None
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cost_usd: Decimal | None = None
    full_cost_usd: Decimal | None = None
    price_version: str | None = None
    stop_reason: str | None = None
    service_tier: str | None = None
    latency_ms: int | None = None
    first_token_ms: int | None = None
    complete: bool = False
    failed_checks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Success:
    """A job was ended; `followed`: others may be waiting for its result."""

    followed: bool


_RECORDED = """
    SET outcome = :outcome, request_id = :request_id, model = coalesce(:model, usage.model),
        input_tokens = :input_tokens, cache_read_tokens = :cache_read_tokens,
        cache_write_5m_tokens = :cache_write_5m_tokens,
        cache_write_1h_tokens = :cache_write_1h_tokens,
        output_tokens = :output_tokens, thinking_tokens = :thinking_tokens,
        cost_usd = :cost_usd, full_cost_usd = :full_cost_usd, price_version = :price_version,
        stop_reason = :stop_reason, service_tier = :service_tier, latency_ms = :latency_ms,
        first_token_ms = :first_token_ms, complete = :complete,
        failed_checks = cast(:failed_checks AS text[]), finished_at = now()
"""

_METERED = f"""
metered AS (
    UPDATE usage {_RECORDED}
    FROM settled
    WHERE usage.id = :usage_id AND usage.job_id = settled.id AND usage.outcome = 'in_flight'
)"""

_HELD = "WHERE id = :job_id AND claim_token = :token AND state = 'running'"

_RESULT = f"""
WITH settled AS (
    UPDATE jobs
    SET state = 'succeeded', finished_at = now(), error = NULL, claim_token = NULL,
        lease_expires_at = NULL
    {_HELD}
    RETURNING id, task, user_id, service
), recorded AS (
    INSERT INTO results (job_id, task, user_id, output, prompt, prompt_version, model, source,
                         warnings, prompt_sha256, variant, service, request_sha256)
    SELECT id, task, user_id, cast(:output AS jsonb), :prompt, :prompt_version, :result_model,
           :source, cast(:warnings AS jsonb), :prompt_sha256, :variant, service,
           cast(:request_sha256 AS text)
    FROM settled
), {_METERED}"""  # noqa: S608 – built from the constants above

_SUCCEED = Statement(f"{_RESULT} SELECT false FROM settled")  # noqa: S608

# Whoever waits for this result either has marked the row by now, or will not find it.
_SUCCEED_LEADING = Statement(f"""{_RESULT}, released AS (
    DELETE FROM request_leaders USING settled
    WHERE request_leaders.request_sha256 = :leads
      AND request_leaders.job_id = settled.id AND request_leaders.claim_token = :token
    RETURNING followed
)
SELECT coalesce((SELECT followed FROM released), true) FROM settled
""")  # noqa: S608

# Locked against a rescue between the check of the token and the INSERT.
_NEXT_CALL = Statement(f"""
WITH settled AS (
    SELECT id, task, user_id, attempt FROM jobs {_HELD} FOR UPDATE
), {_METERED}, opened AS (
    INSERT INTO usage (job_id, task, user_id, attempt, call, model, prompt, prompt_version,
                       prompt_sha256, variant, schema_sha256, service)
    SELECT settled.id, settled.task, settled.user_id, settled.attempt, before.call + 1,
           :next_model, before.prompt, before.prompt_version, before.prompt_sha256,
           before.variant, before.schema_sha256, before.service
    FROM settled JOIN usage AS before ON before.id = :usage_id
    RETURNING id, job_id
), kept AS (
    INSERT INTO follow_ups (usage_id, job_id, model, max_tokens, correction)
    SELECT id, job_id, :next_model, :next_max_tokens, cast(:correction AS json) FROM opened
)
SELECT id FROM opened
""")  # noqa: S608

# A job that was cancelled while its call failed ends here: no claim would take it again. What comes
# back from a Message Batch is an interactive job from here on.
_REQUEUE = Statement(f"""
WITH settled AS (
    UPDATE jobs
    SET state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END,
        finished_at = CASE WHEN cancel_requested THEN now() END,
        run_at = now() + make_interval(secs => :after), dispatched_at = NULL,
        attempt = attempt - :refund, error = coalesce(cast(:error AS jsonb), jobs.error),
        claim_token = NULL, lease_expires_at = NULL, lane = 'interactive'
    {_HELD}
    RETURNING id
), {_METERED}
SELECT id FROM settled
""")  # noqa: S608

_FAIL = Statement(f"""
WITH settled AS (
    UPDATE jobs
    SET state = 'failed', finished_at = now(), error = cast(:error AS jsonb),
        claim_token = NULL, lease_expires_at = NULL
    {_HELD}
    RETURNING id
), {_METERED}
SELECT id FROM settled
""")  # noqa: S608

_CANCEL = Statement(f"""
WITH settled AS (
    UPDATE jobs
    SET state = 'cancelled', finished_at = now(), claim_token = NULL, lease_expires_at = NULL
    {_HELD}
    RETURNING id
), {_METERED}
SELECT id FROM settled
""")  # noqa: S608

#: The usage columns when an attempt ends before any call was opened.
_NO_CALL = CallRecord(outcome="ok")


def _parameters(claim: Claim, usage_id: int | None, call: CallRecord | None) -> dict[str, Any]:
    columns = _columns(call or _NO_CALL)
    return {**columns, "job_id": claim.id, "token": claim.token, "usage_id": usage_id}


def _columns(record: CallRecord) -> dict[str, Any]:
    columns = {field.name: getattr(record, field.name) for field in fields(record)}
    columns["failed_checks"] = list(record.failed_checks)
    return columns


def succeed(
    connection: Connection,
    claim: Claim,
    usage_id: int,
    call: CallRecord,
    *,
    output: str,
    prompt: str,
    prompt_version: str,
    model: str,
    prompt_sha256: str | None = None,
    variant: str | None = None,
    warnings: Sequence[dict[str, str]] = (),
    source: str = "api",
    request_sha256: str | None = None,
    leads: str | None = None,
) -> Success | None:
    """Store the result, complete the usage row and end the job; None when the claim was lost.

    With `request_sha256` the result may be served again, and the job leads that request no longer;
    `leads` is the key that it has led under, if that is another one.
    """
    parameters = _parameters(claim, usage_id, call) | {
        "output": output,
        "prompt": prompt,
        "prompt_version": prompt_version,
        "prompt_sha256": prompt_sha256,
        "variant": variant,
        "result_model": model,
        "source": source,
        "warnings": json.dumps(list(warnings)),
        "request_sha256": request_sha256,
        "leads": leads or request_sha256,
    }
    statement = _SUCCEED if request_sha256 is None else _SUCCEED_LEADING
    row = statement.row(connection, parameters)
    return None if row is None else Success(followed=row[0])


def requeue(
    connection: Connection,
    claim: Claim,
    usage_id: int | None,
    call: CallRecord | None,
    *,
    after: float,
    error: dict[str, Any] | None,
    refund_attempt: bool = False,
) -> bool:
    """Bring the job back in `after` seconds; False when the claim was lost.

    `refund_attempt` makes it a snooze: the attempt is not counted.
    """
    parameters = _parameters(claim, usage_id, call) | {
        "after": after,
        "refund": int(refund_attempt),
        "error": None if error is None else json.dumps(error),
    }
    return _REQUEUE.row(connection, parameters) is not None


def fail(
    connection: Connection,
    claim: Claim,
    usage_id: int | None,
    call: CallRecord | None,
    *,
    error: dict[str, Any],
) -> bool:
    """End the job as failed and keep `error` as data; False when the claim was lost."""
    parameters = _parameters(claim, usage_id, call) | {"error": json.dumps(error)}
    return _FAIL.row(connection, parameters) is not None


def cancel(
    connection: Connection, claim: Claim, usage_id: int | None, call: CallRecord | None
) -> bool:
    """End the job as cancelled; False when the claim was lost."""
    parameters = _parameters(claim, usage_id, call)
    return _CANCEL.row(connection, parameters) is not None


def next_call(
    connection: Connection,
    claim: Claim,
    usage_id: int,
    call: CallRecord,
    *,
    model: str,
    max_tokens: int,
    correction: dict[str, str] | None,
) -> int | None:
    """Complete a call's usage row and open the next call's; None when the claim was lost.

    What the next call says that its prompt does not is kept: `model`, `max_tokens`, `correction`.
    """
    parameters = _parameters(claim, usage_id, call) | {
        "next_model": model,
        "next_max_tokens": max_tokens,
        "correction": None if correction is None else json.dumps(correction),
    }
    opened = _NEXT_CALL.row(connection, parameters)
    return None if opened is None else int(opened[0])


_METER = Statement(
    f"UPDATE usage {_RECORDED} WHERE id = :usage_id AND outcome = 'in_flight' RETURNING id"
)


def meter(connection: Connection, usage_id: int, call: CallRecord) -> bool:
    """Complete the usage row of a call whose job needs it no more; False if that was done."""
    columns = _columns(call) | {"usage_id": usage_id}
    return _METER.row(connection, columns) is not None


_WITHDRAW = Statement("DELETE FROM usage WHERE id = :id AND outcome = 'in_flight' RETURNING id")


def withdraw_call(connection: Connection, usage_id: int) -> None:
    """Remove the row of a call that was opened and then never made."""
    _WITHDRAW.row(connection, {"id": usage_id})
