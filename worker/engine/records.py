"""What a usage row says of a call, from its reply or its failure."""

from __future__ import annotations

from collections.abc import Sequence

from worker.claude.failures import CallFailed
from worker.claude.pricing import cost_usd, full_cost_usd, price_version
from worker.claude.reply import Reply
from worker.storage.settle import CallRecord


def record_of_failure(failed: CallFailed) -> CallRecord:
    """The usage columns of a call that failed: what had arrived of its reply counts."""
    if failed.partial is not None:
        return record_of(failed.partial, failed.outcome, complete=False)
    return CallRecord(
        outcome=failed.outcome,
        request_id=failed.failure.request_id,
        latency_ms=failed.latency_ms,
    )


def record_of(
    reply: Reply,
    outcome: str,
    *,
    complete: bool = True,
    failed_checks: Sequence[str] = (),
    batch: bool = False,
) -> CallRecord:
    """The usage columns of a call whose reply has arrived.

    One in a `batch` costs half, and how long it took says nothing.
    """
    tokens = reply.tokens
    return CallRecord(
        outcome=outcome,
        request_id=reply.request_id,
        model=reply.model,
        input_tokens=tokens.input,
        cache_read_tokens=tokens.cache_read,
        cache_write_5m_tokens=tokens.cache_write_5m,
        cache_write_1h_tokens=tokens.cache_write_1h,
        output_tokens=tokens.output,
        thinking_tokens=tokens.thinking,
        cost_usd=cost_usd(reply.model, tokens, batch=batch),
        full_cost_usd=full_cost_usd(reply.model, tokens),
        price_version=price_version(),
        stop_reason=reply.stop_reason,
        service_tier=reply.service_tier,
        latency_ms=None if batch else reply.latency_ms,
        first_token_ms=reply.first_token_ms,
        complete=complete,
        failed_checks=failed_checks,
    )
