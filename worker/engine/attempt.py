"""One attempt at a job: claim, prepare, call, judge, settle.

No transaction is open while Claude is thinking; every write after the claim is fenced on it.
"""

from __future__ import annotations

from uuid import UUID

import structlog

from worker.claude.call import call_claude
from worker.claude.clients import ClientStack
from worker.claude.facts import CallFacts
from worker.claude.failures import CallFailed
from worker.claude.inflight import CallControl, Watchdog
from worker.engine.holdings import Holdings
from worker.engine.judge import Rejected, judge
from worker.engine.patience import persistently
from worker.engine.prepare import Preparer, Unrunnable
from worker.engine.registry import AnyTask
from worker.engine.settling import NOT_OURS, Ended, OpenCall, Settler, record_of
from worker.errors import Failure
from worker.settings import Settings
from worker.storage import settle
from worker.storage.claim import claim_job, open_call
from worker.storage.dispatch import recall
from worker.storage.engine import transaction
from worker.storage.settle import CallRecord

log = structlog.get_logger(__name__)

#: A job that was claimed just before its task was paused; the relay holds it from then on.
_PAUSED_SECONDS = 1.0


class Attempts:
    """Runs attempts for one worker process; safe to use from any number of threads."""

    def __init__(
        self,
        settings: Settings,
        preparer: Preparer,
        clients: ClientStack,
        holdings: Holdings,
        watchdog: Watchdog,
        worker: str,
    ) -> None:
        self._settings = settings
        self._preparer = preparer
        self._clients = clients
        self._holdings = holdings
        self._watchdog = watchdog
        self._settler = Settler(holdings)
        self._worker = worker

    def run(self, task: AnyTask, job_id: UUID) -> Ended:
        """Take the job through one attempt and say how it ended."""
        if self._holdings.draining.is_set():
            return _hand_back(job_id)
        opened = persistently(lambda: self._claim(task, job_id), self._holdings.ending)
        if isinstance(opened, Ended):
            return opened
        control = CallControl()
        with self._holdings.holding(opened.claim, control), self._watchdog.watching(control):
            if self._holdings.ending.is_set():
                control.abort("shutdown")
            return self._call_and_settle(opened, control)

    def _call_and_settle(self, opened: OpenCall, control: CallControl) -> Ended:
        task = opened.prepared.task
        timeout = max(0.0, min(task.call_timeout, opened.seconds_left()))
        try:
            reply = call_claude(
                self._clients, opened.prepared.request, timeout=timeout, control=control
            )
        except CallFailed as failed:
            record = CallRecord(
                outcome=failed.outcome,
                request_id=failed.failure.request_id,
                latency_ms=failed.latency_ms,
            )
            return self._settler.after_failure(opened, record, failed.failure, failed.facts)
        try:
            output = judge(reply, task.output, task.checks, opened.prepared.input)
        except Rejected as rejected:
            record = record_of(reply, rejected.outcome)
            facts = CallFacts("transient" if rejected.retryable else "terminal")
            return self._settler.after_failure(opened, record, rejected.failure, facts)
        return self._settler.succeed(opened, reply, output.model_dump_json())

    def _claim(self, task: AnyTask, job_id: UUID) -> OpenCall | Ended:
        """Claim the job and open its usage row, in one transaction."""
        with transaction() as connection:
            claim = claim_job(
                connection,
                job_id,
                worker=self._worker,
                lease_seconds=self._settings.lease_seconds,
                deadline_seconds=task.deadline,
            )
            if claim is None:
                return NOT_OURS
            try:
                prepared = self._preparer.prepare(claim)
            except Unrunnable as error:
                failure = error.failure
                settle.fail(connection, claim, None, None, error=failure.as_json(claim.attempt))
                log.error("job failed", error=failure.type, summary=failure.summary)
                return Ended("failed", failure)
            if pause := claim.is_paused(prepared.request.model):
                failure = Failure("paused", f"{pause} is paused")
                settle.requeue(
                    connection, claim, None, None, after=0, error=None, refund_attempt=True
                )
                return Ended("snoozed", failure, _PAUSED_SECONDS)
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


def _hand_back(job_id: UUID) -> Ended:
    """Give a job whose message came too late to a worker that is not shutting down."""
    with transaction() as connection:
        recall(connection, [job_id])
    return NOT_OURS
