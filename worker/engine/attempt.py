"""One attempt at a job: claim, prepare, call, judge, settle.

No transaction is open while Claude is thinking; every write after the claim is fenced on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import structlog

from worker.claude.call import call_claude
from worker.claude.clients import ClientStack
from worker.claude.failures import CallFailed
from worker.claude.pricing import PRICE_VERSION, cost_usd
from worker.claude.reply import Reply, describe
from worker.engine.judge import Rejected, judge
from worker.engine.policy import decide
from worker.engine.prepare import Prepared, Preparer, Unrunnable
from worker.errors import Fail, Failure, Retry, Snooze
from worker.settings import Settings
from worker.storage import settle
from worker.storage.claim import Claim, claim_job, open_call
from worker.storage.engine import transaction
from worker.storage.settle import CallRecord

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended. `not_ours`: another worker has the job, or it needs no attempt."""

    state: Literal["succeeded", "retry", "snoozed", "failed", "not_ours"]
    failure: Failure | None = None
    after: float | None = None


NOT_OURS = Ended("not_ours")


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A claimed job whose usage row is `in_flight`."""

    claim: Claim
    prepared: Prepared
    usage_id: int


class Attempts:
    """Runs attempts for one worker process; safe to use from any number of threads."""

    def __init__(
        self, settings: Settings, preparer: Preparer, clients: ClientStack, worker: str
    ) -> None:
        self._settings = settings
        self._preparer = preparer
        self._clients = clients
        self._worker = worker

    def run(self, job_id: UUID) -> Ended:
        """Take the job through one attempt and say how it ended."""
        opened = self._claim(job_id)
        if isinstance(opened, Ended):
            return opened
        task = opened.prepared.task
        try:
            reply = call_claude(self._clients, opened.prepared.request, timeout=task.call_timeout)
        except CallFailed as failed:
            record = CallRecord(
                outcome=failed.outcome,
                request_id=failed.failure.request_id,
                latency_ms=failed.latency_ms,
            )
            return self._settle_failure(opened, record, failed.failure, failed.retryable)
        try:
            output = judge(reply, task.output, task.checks, opened.prepared.input)
        except Rejected as rejected:
            record = _record(reply, rejected.outcome)
            return self._settle_failure(opened, record, rejected.failure, rejected.retryable)
        return self._succeed(opened, reply, output.model_dump_json())

    def _claim(self, job_id: UUID) -> OpenCall | Ended:
        with transaction() as connection:
            claim = claim_job(
                connection,
                job_id,
                worker=self._worker,
                lease_seconds=self._settings.lease_seconds,
            )
            if claim is None:
                return NOT_OURS
            try:
                prepared = self._preparer.prepare(claim)
            except Unrunnable as error:
                settle.fail(
                    connection, claim, None, None, error=error.failure.as_json(claim.attempt)
                )
                log.error("job failed", error=error.failure.type, summary=error.failure.summary)
                return Ended("failed", error.failure)
            usage_id = open_call(
                connection,
                claim,
                call=1,
                model=prepared.request.model,
                prompt=prepared.prompt.name,
                prompt_version=prepared.prompt.version,
                prompt_sha256=prepared.prompt.sha256,
            )
        return OpenCall(claim, prepared, usage_id)

    def _succeed(self, opened: OpenCall, reply: Reply, output: str) -> Ended:
        prompt = opened.prepared.prompt
        with transaction() as connection:
            held = settle.succeed(
                connection,
                opened.claim,
                opened.usage_id,
                _record(reply, "ok"),
                output=output,
                prompt=prompt.name,
                prompt_version=prompt.version,
                model=reply.model,
            )
        if not held:
            return _lost_claim()
        log.info("job succeeded", attempt=opened.claim.attempt, **describe(reply))
        return Ended("succeeded")

    def _settle_failure(
        self, opened: OpenCall, record: CallRecord, failure: Failure, retryable: bool
    ) -> Ended:
        claim = opened.claim
        decision = decide(
            retryable=retryable,
            attempt=claim.attempt,
            max_attempts=claim.max_attempts,
            pause=self._settings.retry_seconds,
        )
        error = failure.as_json(claim.attempt)
        facts = {"error": failure.type, "summary": failure.summary, "attempt": claim.attempt}
        with transaction() as connection:
            if isinstance(decision, Fail):
                held = settle.fail(connection, claim, opened.usage_id, record, error=error)
            else:
                held = settle.requeue(
                    connection,
                    claim,
                    opened.usage_id,
                    record,
                    after=decision.after,
                    error=error,
                    refund_attempt=isinstance(decision, Snooze),
                )
        if not held:
            return _lost_claim()
        match decision:
            case Fail():
                log.error("job failed", **facts)
                return Ended("failed", failure)
            case Retry(after):
                log.warning("attempt failed, will retry", after=after, **facts)
                return Ended("retry", failure, after)
            case Snooze(after):
                log.info("job snoozed", after=after, **facts)
                return Ended("snoozed", failure, after)


def _lost_claim() -> Ended:
    log.warning("claim lost: another worker has the job, nothing was written")
    return NOT_OURS


def _record(reply: Reply, outcome: str) -> CallRecord:
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
        cost_usd=cost_usd(reply.model, tokens),
        price_version=PRICE_VERSION,
        stop_reason=reply.stop_reason,
        service_tier=reply.service_tier,
        latency_ms=reply.latency_ms,
        first_token_ms=reply.first_token_ms,
        complete=True,
    )
